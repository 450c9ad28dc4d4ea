"""What a backend offers, for each of ONNX Runtime's providers."""

from __future__ import annotations

import contextlib
import dataclasses
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from edgecnn.artifact.external import external_files, external_tensors
from edgecnn.artifact.pair import settle
from edgecnn.artifact.sidecar import (
    Sidecar,
    parents_of,
    read_sidecar,
    sha256_of,
    sidecar_path,
    tool_versions,
    verified_sidecar,
)
from edgecnn.artifact.write import write_artifact
from edgecnn.backends import BuildOptions, require_inference_graph
from edgecnn.backends._graph_facts import describe_graph, precision_of_graph, scheme_of_graph
from edgecnn.backends._graph_file import read_structure
from edgecnn.backends.ort.provider import CPU, CUDA, RTX, TENSORRT, Provider
from edgecnn.backends.ort.session import OrtSession, require_classifier
from edgecnn.errors import ArtifactError, BackendError, EdgecnnError, WriteError
from edgecnn.machine.cpu import cpu_device
from edgecnn.recipe.schema import BatchSettings
from edgecnn.results.build_routes import Knob
from edgecnn.results.device import Device
from edgecnn.session import Session

BACKENDS = tuple(provider.backend for provider in (CPU, CUDA, TENSORRT, RTX))
KERNELS_OF_A_CPU = ("integer_kernels", "weighted_nodes")


class OrtBackend:
    """The functions of `edgecnn.backends.Backend`, bound to a provider."""

    def __init__(self, provider: Provider) -> None:
        self._provider = provider

    def recognizes(self, path: Path, first_bytes: bytes) -> bool:
        """Whether a file is a graph for this provider. ONNX has no magic number, so its name says that it is a graph,
        and its sidecar for which provider; a graph that is no engine yet is the CPU's."""
        return path.suffix == ".onnx" and _backend_of(path) == self._provider.backend

    def engine_from_onnx(self, graph: Path, output: Path, options: BuildOptions) -> Sidecar:
        """Copy `graph`, with the files of its weights, to the engine `output` after loading it once and running it at
        the largest batch.

        Raises `ArtifactError` for a damaged graph, `BackendError` for one that ONNX Runtime refuses, `DeviceError`
        where it would compute on another provider, `WriteError` where other weights lie in the way.
        """
        _refuse_options_of_tensorrt(self._provider, options)
        weights = _weights_to_copy(graph, output)
        source = verified_sidecar(graph) if sidecar_path(graph).exists() else Sidecar(kind="graph")
        with self._open(graph, options.threads, source, options.batch) as session:
            shape = tuple(n or options.batch.max for n in session.input.shape)
            if shape[0] != options.batch.max and session.input.shape[0] is not None:
                raise BackendError(
                    f"{graph}: its batch is frozen at {shape[0]}, asked for are up to {options.batch.max}",
                    f"export it with a dynamic batch axis, or set batch.max to the frozen one: --max-batch {shape[0]}",
                )
            session.run(np.zeros(shape, session.input.dtype))
            found = self._facts(source, session, options.batch)
        sidecar = dataclasses.replace(
            source,
            kind="engine",
            made_by=f"edgecnn build {graph.name} --backend {self._provider.backend}",
            parents=parents_of(output, graph),
            recipe=options.recipe,
            fields=options.fields,
            tools=self.tools(),
            device=self.device(options.threads),
            backend=self._provider.backend,
            provider=self._provider.name,
            precision_obtained="" if self._provider.compiles else source.precision_obtained,
            target=options.target,
            facts={**found, "threads": options.threads} if self._provider is CPU else found,
        )
        return write_artifact(output, lambda temporary: _copy(graph, weights, temporary, output), sidecar)

    def open_engine(self, path: Path, threads: int | None = None, trust: bool = False) -> Session:
        """Load an engine, or a plain graph (ONNX is data, not code: it needs no sidecar to be loaded).

        `threads` overrides what the sidecar fixed. Raises `ArtifactError` when a sidecar is there and does not match,
        `GraphError` for a graph that was exported in training mode, `BackendError` for a graph of any batch where the
        provider compiles it for some, and `DeviceError` where ONNX Runtime would compute on another provider.
        """
        external_files(path)
        require_inference_graph(path)
        sidecar = verified_sidecar(path) if sidecar_path(path).exists() else Sidecar(kind="graph")
        session = self._open(path, threads or sidecar.facts.get("threads"), sidecar, _batches_of(sidecar))
        return session

    def build_watched(
        self, engine: Path, graph: Path, tensors: Sequence[str] | None, threads: int | None = None
    ) -> Session | None:
        """A session of `graph` that gives `tensors` too, as `engine` is run. None for None: ONNX Runtime has no tensors
        that can be looked at without being outputs."""
        if tensors is None:
            return None
        import onnx

        from edgecnn.artifact.temporary import scratch_folder

        sidecar = read_sidecar(engine) if sidecar_path(engine).exists() else Sidecar(kind="graph")
        model = read_structure(graph)
        onnx.load_external_data_for_model(model, str(graph.parent))
        given = {output.name for output in model.graph.output}
        model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in tensors if name not in given)
        with scratch_folder() as folder:
            onnx.save(model, folder / graph.name)
            return self._session(
                folder / graph.name, threads or sidecar.facts.get("threads"), sidecar, _batches_of(sidecar)
            )

    def device(self, threads: int | None = None) -> Device:
        """The processor and the number of threads, or the GPU, as they stand in a sidecar."""
        if self._provider is CPU:
            return cpu_device(threads)
        from edgecnn.backends._cuda import load_cuda
        from edgecnn.backends.trt.library import device_facts

        tensorrt = next(iter(tool_versions(*TENSORRT.packages[2:]).values()), "") if self._provider is TENSORRT else ""
        return dataclasses.replace(device_facts(load_cuda(), tensorrt), provider=self._provider.name)

    def tools(self) -> dict[str, str]:
        """The versions of ONNX Runtime, by the package that it came in, and of what computes below it."""
        return tool_versions(*self._provider.packages)

    def precision_of(self, path: Path) -> str:
        """int8, fp16 or fp32, as the graph holds it; "" where it cannot be told."""
        return precision_of_graph(path)

    def describe(self, path: Path) -> dict[str, object]:
        """The graph: its inputs, outputs, operators and types, and the files that hold weights of it."""
        beside = {location: f"{file.stat().st_size} bytes" for location, file in external_files(path).items()}
        return describe_graph(path) | ({"external_data": beside} if beside else {})

    def check_graph(self, path: Path, build: bool = True) -> None:
        """ONNX Runtime takes what is valid ONNX: there is nothing to warn of."""

    def build_knobs(self) -> tuple[Knob, ...]:
        """None: nothing is built."""
        return ()

    def reproducing_script(self) -> str:
        """Nothing to reproduce: it is never asked for an opinion."""
        return ""

    def machine_facts(self) -> dict[str, str]:
        """Nothing beside the processor, the GPU and the packages, which are said anyway."""
        return {}

    def free_memory_bytes(self) -> int | None:
        """Of the GPU; None on a CPU, where engines lie in the host's memory with everything else."""
        if self._provider is CPU:
            return None
        from edgecnn.backends._cuda import free_memory_bytes

        return free_memory_bytes()

    def why_not(self) -> str:
        """Why engines cannot be run here by this provider; "" where one was."""
        from edgecnn.backends.ort.trial import run_one_node

        try:
            run_one_node(self._provider)
        except EdgecnnError as exc:
            return exc.reason
        return ""

    def _open(self, path: Path, threads: int | None, sidecar: Sidecar, batch: BatchSettings | None) -> Session:
        session = self._session(path, threads, sidecar, batch)
        with contextlib.ExitStack() as opening:
            opening.push(session)
            require_classifier(path, session.info, sidecar)
            opening.pop_all()
        return session

    def _session(self, path: Path, threads: int | None, sidecar: Sidecar, batch: BatchSettings | None) -> Session:
        if self._provider is CPU:
            scheme = sidecar.scheme if sidecar.sha256 else scheme_of_graph(path)
            return OrtSession(path, threads, simulated=scheme == "tensorrt")
        from edgecnn.backends.ort.gpu_session import GpuSession

        int8 = (sidecar.precision_requested or precision_of_graph(path)) == "int8"
        return GpuSession(path, self._provider, batch, simulated=int8 and self._provider is CUDA)

    def _facts(self, source: Sidecar, session: Session, batch: BatchSettings) -> dict[str, object]:
        """What the graph's sidecar knows and is true of the engine too, and where its nodes were put. Who compiles the
        graph does not tell the precision of what comes out: its INT8 share is what was asked for."""
        if self._provider is CPU:
            return dict(source.facts)
        facts = {key: value for key, value in source.facts.items() if key not in KERNELS_OF_A_CPU}
        if self._provider.compiles:
            shape = session.input.shape[1:]
            sizes = (("min", batch.min), ("opt", batch.opt), ("max", batch.max))
            facts |= {"profiles": [{key: [n, *shape] for key, n in sizes}], "shares_by": "compiled_at_load"}
            if "int8_share_pct" in facts:
                facts["graph_int8_share_pct"] = facts.pop("int8_share_pct")
        return {**facts, "cpu_nodes": session.info.cpu_nodes, "graph_nodes": session.info.graph_nodes, "tf32": False}


def _refuse_options_of_tensorrt(provider: Provider, options: BuildOptions) -> None:
    """Raise `BackendError` for options that ONNX Runtime does not have: they would be ignored. On a CPU, whatever the
    profiles of a recipe's other targets are, every batch is served."""
    if options.locked:
        raise BackendError("ONNX Runtime times no kernels: there is nothing to lock", "leave --locked out")
    theirs = {
        "--profile": options.batch.profiles is not None and provider is not CPU,
        "--workspace-mb": options.workspace_mb is not None,
        "--optimization-level": options.optimization_level is not None,
        "--build-route": bool(options.build_route),
        "--hardware-compatibility": options.hardware_compatibility != "none",
        "--version-compatible": options.version_compatible,
        "--timing-cache": options.timing_cache is not None,
        "--sm": bool(options.compute_capabilities),
        "--weakly-typed": options.implicit is not None,
    }
    if asked := [option for option, given in theirs.items() if given]:
        raise BackendError(
            f"{' and '.join(asked)}: only builders of plans have that choice, and this engine is ONNX Runtime's",
            f"leave {' and '.join(asked)} out, or build a plan: --backend trt or trt-rtx",
        )


def _backend_of(path: Path) -> str:
    with contextlib.suppress(ArtifactError):  # whoever opens it says what is wrong with its sidecar
        if sidecar_path(path).exists() and (named := read_sidecar(path).backend) in BACKENDS:
            return named
    return CPU.backend


def _batches_of(sidecar: Sidecar) -> BatchSettings | None:
    """The batches that an engine was compiled for; None for a graph, which serves any."""
    sizes: Iterator[dict[str, list[int]]] = iter(sidecar.facts.get("profiles") or [])
    profile = next(sizes, None)
    if profile is None:
        return None
    return BatchSettings(min=profile["min"][0], opt=profile["opt"][0], max=profile["max"][0])


def _weights_to_copy(graph: Path, output: Path) -> dict[str, Path]:
    """The files of weights of `graph`, by where each is to lie beside `output`; raises `WriteError` for one that is
    there with other content, and not of the engine that is replaced."""
    with contextlib.suppress(OSError):  # what cannot be completed is refused when it is written
        settle(output)
    replaced = {t.location for t in external_tensors(output)} if output.is_file() else set()
    for other in output.parent.glob("*.onnx"):
        if replaced and not (other.name == output.name or other.samefile(graph)):
            replaced -= {t.location for t in external_tensors(other)}
    found = external_files(graph)
    for location, file in found.items():
        target = output.parent / location
        if target.exists() and location not in replaced and not _are_equal(target, file):
            raise WriteError(
                f"{target}: would be overwritten: {graph} keeps its weights in a file of this name",
                "choose another folder with -o",
            )
    return found


def _are_equal(one: Path, other: Path) -> bool:
    return one.samefile(other) or sha256_of(one) == sha256_of(other)


def _copy(graph: Path, weights: Mapping[str, Path], temporary: Path, output: Path) -> None:
    """The graph, with its files of weights beside it; one that lies beside `output` already is linked."""
    shutil.copyfile(graph, temporary)
    for location, file in weights.items():
        (temporary.parent / location).parent.mkdir(parents=True, exist_ok=True)
        target = output.parent / location
        if target.exists() and target.samefile(file):
            with contextlib.suppress(OSError):  # a file system without links
                (temporary.parent / location).hardlink_to(file)
                continue
        shutil.copyfile(file, temporary.parent / location)
