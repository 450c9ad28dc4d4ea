"""From an ONNX graph to a plan: one path for TensorRT 10.3 to 11.x and TensorRT-RTX 1.x, but for what is implicit.

The network is strongly typed, so that the precision is the graph's and no builder flag can change it. TensorRT's plan
is deserialised once and its layers are read back before it is written: what is not what was asked for is refused.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from edgecnn.artifact.sidecar import Sidecar, parents_of, sidecar_path, tool_versions, verified_sidecar
from edgecnn.artifact.write import write_artifact
from edgecnn.backends import BuildOptions
from edgecnn.backends._cuda import Cuda, load_cuda
from edgecnn.backends.trt.engine import inspected_layers, spec_of
from edgecnn.backends.trt.flavor import Flavor
from edgecnn.backends.trt.implicit import (
    allow_int8,
    make_weakly_typed_network,
    precision_to_ask_for,
    require_implicit,
)
from edgecnn.backends.trt.library import (
    Message,
    device_facts,
    failure,
    load_tensorrt,
    logger_for,
    recording,
    text_of,
    warnings_in,
)
from edgecnn.backends.trt.lock import EngineLock, locked_by, require_locked
from edgecnn.backends.trt.network import macs_by_node, requested_precision
from edgecnn.backends.trt.no_kernel import no_kernel_error
from edgecnn.backends.trt.profiles import add_profiles
from edgecnn.backends.trt.progress import BuildProgress, Interruption, progress_monitor
from edgecnn.backends.trt.routes import set_build_route
from edgecnn.backends.trt.rtx import set_compute_capabilities
from edgecnn.backends.trt.timing import BuildCache, unlocked_hint
from edgecnn.errors import BackendError, DeviceError, GraphError
from edgecnn.machine.cpu import system_name
from edgecnn.machine.jetson import available_memory_bytes
from edgecnn.output import say
from edgecnn.results.device import Device
from edgecnn.results.engine import FREEDOM
from edgecnn.results.layers import EngineLayer, layers_to_json, obtained_precision, share_facts, shares_of
from edgecnn.session import outputs_mismatch
from edgecnn.targets import find_target, target_mismatch

MacsByNode = Mapping[str, int | None]

WORKSPACE_SHARE = 0.75  # of the free memory of a card of its own
WORKSPACE_SHARE_UNIFIED = 0.5  # where the host needs the same memory
TIGHT_MEMORY_BYTES = 2e9
COSTS = {
    "same_compute_capability": "tactics that depend on the GPU's model are left out",
    "ampere_plus": "tactics are those that every GPU from Ampere on has: slower than a plan for one GPU",
    "version_compatible": "the plan carries a lean runtime, is slower, and loads only with --trust (host code)",
}


def engine_from_onnx(flavor: Flavor, graph: Path, output: Path, options: BuildOptions) -> Sidecar:
    """Build the plan `output` from `graph`; returns its sidecar, as written.

    TensorRT builds for this machine's GPU and its layers are read back; TensorRT-RTX needs no GPU, and what its plan
    will compute is settled by the GPU that loads it. Raises `DeviceError` when the machine is not `options.target`,
    `GraphError` for a graph that the parser refuses, `BackendError` or `DeviceError` with TensorRT's own messages when
    the build fails, and KeyboardInterrupt when the user cancels it; then nothing is written.
    """
    _refuse_options_of_the_other(flavor, options)
    implicit = options.implicit
    source = verified_sidecar(graph) if sidecar_path(graph).exists() else Sidecar(kind="graph")
    trt = load_tensorrt(flavor)
    require_implicit(trt, implicit)
    cuda, device = _device(flavor, trt, graph, options)
    lock, options = require_locked(graph, output, source, device, options) if options.locked else (None, options)
    with recording(trt) as messages:
        new = _new_plan(trt, flavor, cuda, device, graph, output, source, options, lock, messages)
        obtained, facts = "", dict[str, object](shares_by="compiled_at_load")
        if new.kept:
            layers = _read_back(trt, new.plan, options, graph, new.requested, new.macs_by_node, messages)
            _refuse_other_precision(graph, new.requested, layers)
            new.kept.require_locked(layers)
            obtained, facts = obtained_precision(layers), {**share_facts(layers), "layers": layers_to_json(layers)}
        sidecar = dataclasses.replace(
            source,
            kind="engine",
            made_by=f"edgecnn build {graph.name} --backend {flavor.backend}",
            backend=flavor.backend,
            provider=flavor.product,
            target=options.target,
            precision_requested=new.requested,
            precision_obtained=obtained,
            scheme="implicit" if implicit else source.scheme,
            parents=parents_of(output, graph, *([implicit.source] if implicit else ())),
            recipe=options.recipe,
            fields=options.fields,
            tools={flavor.module: trt.__version__, **tool_versions("cuda-bindings", "cuda-python", "pycuda")},
            device=device,
            facts={**_facts_of_graph(source), **new.facts, **facts, "warnings": warnings_in(messages)[:20]},
        )

        def write(temporary: Path) -> None:
            temporary.write_bytes(new.plan)
            if new.kept:
                new.kept.write_lock(temporary, graph, source, sidecar.facts, layers)

        return write_artifact(output, write, sidecar)


@dataclasses.dataclass(frozen=True)
class _NewPlan:
    """A plan in the host's memory, and what is known of it without loading it."""

    plan: Any
    requested: str
    macs_by_node: MacsByNode
    facts: dict[str, object]
    kept: BuildCache | None


def _new_plan(
    trt: Any,
    flavor: Flavor,
    cuda: Cuda | None,
    device: Device,
    graph: Path,
    output: Path,
    source: Sidecar,
    options: BuildOptions,
    lock: EngineLock | None,
    messages: Sequence[Message],
) -> _NewPlan:
    """Builder, network with its weights, parser and timing cache are gone when this returns: where GPU and host share
    their memory, reading the plan back needs it."""
    implicit = options.implicit
    builder = make_builder(trt, cuda, messages)
    network = make_weakly_typed_network(trt, builder) if implicit else make_network(trt, builder)
    parser = parse_graph(trt, flavor, network, graph, source, messages)
    requested = precision_to_ask_for(graph, requested_precision(trt, network, graph, source), implicit)
    weighing = macs_by_node(trt, network)
    config, notes = make_config(trt, builder, cuda, options, messages)
    profile = add_profiles(builder, config, network, graph, options.batch, messages)
    calibrator = allow_int8(trt, config, network, profile, graph, implicit) if implicit else None
    kept = BuildCache(trt, config, device, output, options, lock) if flavor.needs_gpu else None
    for note in [*notes, *([kept.said] if kept else [])]:
        say(note)
    plan = build_plan(trt, flavor, builder, network, config, graph, source, messages)
    del parser, calibrator  # both must outlive the build
    facts: dict[str, object] = {
        **_facts(trt, config, options, network),
        "macs_by_node": weighing,
        **({"timing_cache": kept.merged(), "locked_by": locked_by(output)} if kept else {}),
        "notes": notes,
    }
    return _NewPlan(plan, requested, weighing, facts, kept)


def _refuse_options_of_the_other(flavor: Flavor, options: BuildOptions) -> None:
    """Raise `BackendError` for options that this flavor does not have: they would be ignored."""
    enterprise = {
        "hardware compatibility": options.hardware_compatibility != "none",
        "version compatibility": options.version_compatible,
        "a timing cache": options.timing_cache is not None,
        "weak typing": options.implicit is not None,
        "a lock": options.locked,
    }
    foreign = [what for what, asked in enterprise.items() if asked and not flavor.needs_gpu]
    foreign += ["compute capabilities"] if options.compute_capabilities and flavor.needs_gpu else []
    if foreign:
        raise BackendError(
            f"{flavor.product} has no choice of {' or '.join(foreign)}",
            "TensorRT builds for the GPU that is here, TensorRT-RTX (--backend trt-rtx) for those that --sm names",
        )


def _device(flavor: Flavor, trt: Any, graph: Path, options: BuildOptions) -> tuple[Cuda | None, Device]:
    if not flavor.needs_gpu:
        return None, Device(tensorrt=trt.__version__)
    cuda = load_cuda()
    device = device_facts(cuda, trt.__version__)
    if reason := target_mismatch(find_target(options.target), device):
        raise DeviceError(f"{graph}: {reason}", "build on that device, or name this one with --target (gpu: any)")
    if options.hardware_compatibility == "ampere_plus" and cuda.properties().integrated:
        raise DeviceError(
            f"{graph}: hardware compatibility ampere_plus is for cards: {device.board or device.gpu_name} has an "
            "integrated GPU, and JetPack does not support it",
            "build on each kind of Jetson, without --hardware-compatibility",
        )
    return cuda, device


def make_builder(trt: Any, cuda: Cuda | None, messages: Sequence[Message]) -> Any:
    """A builder; raises `BackendError` with what TensorRT said where none can be made."""
    try:
        return trt.Builder(logger_for(trt))
    except TypeError as exc:  # "pybind11::init(): factory function returned nullptr"
        driver = f"the driver is for CUDA {cuda.properties().cuda}, and " if cuda else ""
        hint = f"{driver}a driver must be new enough for the CUDA of its TensorRT: `edgecnn doctor` shows them"
        raise failure("TensorRT's builder cannot be made", messages, hint) from exc


def make_network(trt: Any, builder: Any) -> Any:
    """An empty strongly typed network. In 10.x the flag is a bit number (the enum itself would mean another bit); 11
    knows no other typing, and may drop the flag."""
    flag = getattr(trt.NetworkDefinitionCreationFlag, "STRONGLY_TYPED", None)
    network = builder.create_network(0 if flag is None else 1 << int(flag))
    if flag is not None and not network.get_flag(flag) and int(trt.__version__.split(".")[0]) < 11:
        raise BackendError(
            f"TensorRT {trt.__version__} did not make a strongly typed network", "report it: precision is not safe"
        )
    return network


def parse_graph(
    trt: Any, flavor: Flavor, network: Any, graph: Path, source: Sidecar, messages: Sequence[Message]
) -> Any:
    """Put a graph into `network`; returns the parser, which must outlive the build. Raises `GraphError`."""
    parser = trt.OnnxParser(network, logger_for(trt))
    if not parser.parse_from_file(str(graph)):
        problems = [_parser_error(parser.get_error(i)) for i in range(parser.num_errors)]
        if not problems:
            raise failure(f"{graph}: the ONNX parser refuses it", messages, "`edgecnn inspect` shows what is in it")
        more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
        raise GraphError(
            f"{graph}: {flavor.product} {trt.__version__} cannot parse it: {problems[0]}{more}",
            "opset 19 is what every supported TensorRT takes: export or import the graph again with edgecnn",
        )
    if source.features or not source.contract.is_plain:
        _require_outputs(network, graph, source)
        return parser
    if network.num_inputs != 1 or network.num_outputs != 1:
        raise GraphError(
            f"{graph}: {network.num_inputs} inputs and {network.num_outputs} outputs; a classifier has one of each",
            "`edgecnn import` makes a foreign graph fit",
        )
    ends = (network.get_input(0), network.get_output(0))
    if any(tensor.dtype != trt.DataType.FLOAT for tensor in ends):
        shown = ", ".join(f"{tensor.name} is {tensor.dtype.name}" for tensor in ends)
        raise GraphError(f"{graph}: {shown}; both must be FLOAT", "`edgecnn import` makes a foreign graph fit")
    return parser


def _require_outputs(network: Any, graph: Path, source: Sidecar) -> None:
    inputs, outputs = (
        [spec_of(t.name, tuple(t.shape), t.dtype) for t in tensors]
        for tensors in (
            map(network.get_input, range(network.num_inputs)),
            map(network.get_output, range(network.num_outputs)),
        )
    )
    if mismatch := outputs_mismatch(source, inputs, outputs):
        raise GraphError(f"{graph}: {mismatch}", "its sidecar is of another file: copy both again, or export again")


def _parser_error(error: Any) -> str:
    name = text_of(error.node_name)
    where = f"node {name!r} ({text_of(error.node_operator)}): " if name else ""
    return where + " ".join(text_of(error.desc).split())


def make_config(
    trt: Any, builder: Any, cuda: Cuda | None, options: BuildOptions, messages: Sequence[Message]
) -> tuple[Any, list[str]]:
    """The builder's settings, and what is to be said about them."""
    config, notes = builder.create_builder_config(), []
    if limit := _workspace(cuda, options):
        config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, limit[0])
        notes.append(f"workspace limit {limit[0] / 1e9:.2f} GB: {limit[1]}")
        if cuda and cuda.properties().integrated and limit[0] < TIGHT_MEMORY_BYTES:
            notes.append(
                "memory is tight: if the build ends with `Killed`, close programs, add swap, or lower batch.max"
            )
    if options.compute_capabilities:
        set_compute_capabilities(trt, config, options.compute_capabilities, messages)
    if options.optimization_level is not None:
        config.builder_optimization_level = options.optimization_level
    notes += set_build_route(trt, config, options.build_route)
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
    config.clear_flag(trt.BuilderFlag.TF32)  # FP32 means FP32: the reference is
    if options.hardware_compatibility != "none":
        level = getattr(trt.HardwareCompatibilityLevel, options.hardware_compatibility.upper(), None)
        if level is None:
            raise BackendError(
                f"TensorRT {trt.__version__} has no hardware compatibility level {options.hardware_compatibility}",
                "it came after 10.7; ampere_plus is older, or build on each device",
            )
        config.hardware_compatibility_level = level
        notes.append(f"{options.hardware_compatibility}: {COSTS[options.hardware_compatibility]}")
    if options.version_compatible:
        config.set_flag(trt.BuilderFlag.VERSION_COMPATIBLE)
        notes.append(f"version compatible: {COSTS['version_compatible']}")
    notes += [FREEDOM] if options.implicit else []
    return config, notes


def _workspace(cuda: Cuda | None, options: BuildOptions) -> tuple[int, str] | None:
    """The limit in bytes with its reason; None leaves it to the builder, where no GPU is there to be shared."""
    if options.workspace_mb is not None:
        return round(options.workspace_mb * 1e6), "as locked" if options.locked else "as asked"
    if cuda is None:
        return None
    free, total = cuda.memory_info()
    share = WORKSPACE_SHARE
    if cuda.properties().integrated:
        free, share = min(free, available_memory_bytes() or free), WORKSPACE_SHARE_UNIFIED
    return int(free * share), f"{100 * share:.0f} % of {free / 1e9:.2f} GB free of {total / 1e9:.2f}"


def build_plan(
    trt: Any,
    flavor: Flavor,
    builder: Any,
    network: Any,
    config: Any,
    graph: Path,
    source: Sidecar,
    messages: Sequence[Message],
) -> Any:
    """The plan in the host's memory; raises as `engine_from_onnx` does."""
    progress, interruption = BuildProgress(), Interruption()
    monitor = progress_monitor(trt, progress, interruption)
    config.progress_monitor = monitor
    with interruption.watching(), progress.shown():
        plan = builder.build_serialized_network(network, config)
    if interruption.asked:
        raise KeyboardInterrupt
    if plan is None:
        what = f"{graph}: {flavor.product} cannot build it"
        if error := no_kernel_error(what, trt, network, graph, source, messages):
            raise error
        raise failure(what, messages, unlocked_hint(trt, config) or "the message above is TensorRT's own")
    return plan


def _read_back(
    trt: Any,
    plan: Any,
    options: BuildOptions,
    graph: Path,
    requested: str,
    weighing: MacsByNode,
    messages: Sequence[Message],
) -> list[EngineLayer]:
    """Layers of the plan that was just built, at its optimal batch; of several profiles, of the one that has least of
    the precision `requested`."""
    runtime = trt.Runtime(logger_for(trt))
    runtime.engine_host_code_allowed = options.version_compatible  # our own plan, made a moment ago
    engine = runtime.deserialize_cuda_engine(plan)
    if engine is None:
        raise failure(f"{graph}: the plan just built cannot be loaded", messages, "report it with TensorRT's version")
    found = [inspected_layers(trt, engine, opt, weighing, messages) for _, opt, _ in options.batch.all_profiles]
    return min(found, key=lambda layers: shares_of(layers).pct(requested, "layers") or 0.0)


def _refuse_other_precision(graph: Path, requested: str, layers: Sequence[EngineLayer]) -> None:
    """An engine of which no layer has the precision asked for is never written; smaller shares are the gate's."""
    shares = shares_of(layers)
    known = 100.0 - (shares.unknown_layers_pct or 0.0)
    if not shares.compute_layers or not known or shares.pct(requested, "layers"):
        return
    raise BackendError(
        f"{graph}: {requested} was asked for, and none of the engine's {shares.compute_layers:.0f} Conv and Gemm "
        f"layers is {requested}: obtained is {obtained_precision(layers)}",
        "this TensorRT has no such kernels for this graph on this GPU: build for another precision",
    )


def _facts_of_graph(source: Sidecar) -> dict[str, object]:
    """What the graph's sidecar knows; its INT8 share is what was asked for, and not the engine's."""
    facts = dict(source.facts)
    if "int8_share_pct" in facts:
        facts["graph_int8_share_pct"] = facts.pop("int8_share_pct")
    return facts


def _facts(trt: Any, config: Any, options: BuildOptions, network: Any) -> dict[str, object]:
    shape = tuple(network.get_input(0).shape)[1:]
    return {
        "profiles": [
            {key: [n, *shape] for key, n in zip(("min", "opt", "max"), sizes, strict=True)}
            for sizes in options.batch.all_profiles
        ],
        "workspace_bytes": config.get_memory_pool_limit(trt.MemoryPoolType.WORKSPACE),
        "optimization_level": config.builder_optimization_level,
        **({"build_route": options.build_route} if options.build_route else {}),
        "system": system_name(),
        "hardware_compatibility": options.hardware_compatibility,
        "version_compatible": options.version_compatible,
        "tf32": False,
        **({"weakly_typed": True} if options.implicit else {}),
        **({"compute_capabilities": list(options.compute_capabilities)} if options.compute_capabilities else {}),
    }
