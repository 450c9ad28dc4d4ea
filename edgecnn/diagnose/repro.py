"""The smallest graph that still fails in NVIDIA's parser or builder, without the weights and names of its owner."""

from __future__ import annotations

import importlib.util
import platform
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from edgecnn.artifact.pair import sync_file
from edgecnn.artifact.sidecar import read_sidecar, sidecar_path
from edgecnn.artifact.temporary import disk_errors, scratch_folder, temporary_folder
from edgecnn.backends import Opinion, load_backend, load_backends
from edgecnn.backends._onnxruntime import onnxruntime_errors, open_session
from edgecnn.diagnose.trials import Trials
from edgecnn.errors import ArtifactError, BackendError, EdgecnnError, GraphError, MissingPackageError, WriteError
from edgecnn.limits import what_lacks
from edgecnn.machine.gpu import driver_description
from edgecnn.machine.packages import missing_package
from edgecnn.results.reproduction import Reproduction
from edgecnn.version import __version__

if TYPE_CHECKING:
    import onnx

TIME_LIMIT_S = 1800
GRAPH, SCRIPT, REPORT = "graph.onnx", "reproduce.py", "REPORT.md"

Progress = Callable[[str], None]


def reduce_failure(
    path: Path, folder: Path | None = None, backend: str = "", progress: Progress | None = None
) -> Reproduction:
    """Write `folder` (X.repro beside X.onnx) with the smallest graph that NVIDIA refuses as it refuses the ONNX graph
    `path`, a script that shows it, and a report with versions and NVIDIA's words.

    The parser and builder of each TensorRT that is installed are asked, or of `backend` alone, in a process of their
    own, so that one that crashes is reduced too. Nothing of the weights is in the folder but what `values_kept` names.
    Raises `GraphError` for a graph against which none of them speaks, `BackendError` where none is installed,
    `WriteError` where the folder exists or cannot be written.
    """
    path = Path(path)
    folder = path.with_suffix(".repro") if folder is None else Path(folder)
    if not path.is_file():
        raise ArtifactError(f"{path}: {what_lacks(path)}", "check the path, or export the graph first")
    if sidecar_path(path).exists():
        read_sidecar(path).require_classes(path)
    if folder.exists():
        raise WriteError(f"{folder}: exists already", "choose another folder with -o, or remove it")
    if importlib.util.find_spec("onnx") is None:
        raise missing_package("onnx", "reducing a graph", "cpu")
    from edgecnn.graph.load import load_graph, naming
    from edgecnn.graph.reduce import operators_of, reduce_nodes, replace_names, replace_values

    model = load_graph(path)
    say = progress or (lambda text: None)
    with scratch_folder() as scratch, Trials() as trials, naming(path):
        name, whole = _refusal(trials, path, backend)
        say(f"{whole.by}: {whole.failures[0]}")
        search = _Search(trials, name, whole.failures[0], scratch / GRAPH, say)
        small = reduce_nodes(model, search.fails, whole.findings[0].where)
        minimal = not search.late
        search.begin()
        small, anonymous = replace_names(small, search.fails)
        search.begin()
        small, kept = replace_values(small, search.fails)
        search.begin()
        if not search.fails(small):
            raise BackendError(f"{path}: fails now and then, not always: it cannot be reduced", "run it again")
    said = " | ".join(finding.what for finding in search.last.findings if finding.severity == "error")
    found = Reproduction(
        path=str(path),
        folder=str(folder),
        by=whole.by,
        failure=whole.failures[0],
        said=said.replace(str(search.file), GRAPH),
        nodes_before=len(model.graph.node),
        operators=operators_of(small.graph.node),
        trials=search.trials,
        minimal=minimal,
        values_kept=kept,
        names_kept=not anonymous,
        onnxruntime=_ask_onnxruntime(small),
    )
    _write(folder, small, found, load_backend(name).reproducing_script())
    return found


def _refusal(trials: Trials, path: Path, backend: str) -> tuple[str, Opinion]:
    """The first backend that refuses the graph, and what it says."""
    taking, absent = list[str](), list[EdgecnnError]()
    for module in [load_backend(backend)] if backend else load_backends():
        try:
            said = trials.ask(module.NAME, path, build=True)
        except MissingPackageError as exc:
            absent.append(exc)
            continue
        except EdgecnnError as exc:
            absent.insert(0, exc)
            continue
        if said is None:
            continue
        if said.failures:
            version = next(iter(module.tools().values()), "")
            return module.NAME, replace(said, by=f"{module.PROVIDER} {version}")
        taking.append(said.by)
    if taking:
        raise GraphError(
            f"{path}: {' and '.join(taking)} have nothing against it: there is no failure to reduce",
            "`edgecnn check` tells warnings and our own rules; a wrong or slow engine is no failure of the builder",
        )
    if not absent:
        raise BackendError(f"{path}: {backend} has no say: NVIDIA's failures are reduced", "--backend trt or trt-rtx")
    if not isinstance(absent[0], MissingPackageError):
        raise absent[0]
    raise BackendError(
        f"{path}: NVIDIA's parser and builder are not installed here: {'; '.join(e.message for e in absent)}",
        "pip install 'edgecnn[rtx]' needs no GPU; TensorRT itself comes with `edgecnn[gpu]` or JetPack",
    )


@dataclass
class _Search:
    """Which graphs fail as the whole one does; after the deadline none does, so that the search ends."""

    process: Trials
    backend: str
    failure: str
    file: Path
    say: Progress
    trials: int = 0
    late: bool = False
    last: Opinion = field(default_factory=lambda: Opinion("", ()))  # to the last graph that failed
    smallest: int = sys.maxsize

    def __post_init__(self) -> None:
        self._build = not self.failure.startswith("parser")
        self.begin()

    def begin(self) -> None:
        """Grant another `TIME_LIMIT_S`, and one trial in any case."""
        self._deadline, self._first = time.monotonic() + TIME_LIMIT_S, True

    def fails(self, model: onnx.ModelProto) -> bool:
        """Whether `model` fails alike."""
        import onnx

        if not self._first and time.monotonic() > self._deadline:
            self.late = True
            return False
        self._first = False
        self.trials += 1
        try:
            onnx.save(model, self.file)
        except ValueError:  # of protobuf, for what is larger than a file can be
            return False
        said = self.process.ask(self.backend, self.file, self._build)
        if said is None or self.failure not in said.failures:
            return False
        self.last = said
        if len(model.graph.node) < self.smallest:
            self.smallest = len(model.graph.node)
            self.say(f"still fails with {self.smallest} nodes (trial {self.trials})")
        return True


def _ask_onnxruntime(model: onnx.ModelProto) -> str:
    """What ONNX Runtime says to the graph, which NVIDIA asks for."""
    try:
        with onnxruntime_errors("the reduced graph", error=GraphError):
            open_session(model)
    except MissingPackageError:
        return "was not asked: it is not installed"
    except EdgecnnError as exc:
        return f"does not load it: {exc.message}"
    return "loads it"


def _write(folder: Path, model: onnx.ModelProto, found: Reproduction, script: str) -> None:
    """All files or none."""
    import onnx

    with disk_errors(folder), temporary_folder(folder) as temporary:
        onnx.save(model, temporary / GRAPH)
        (temporary / SCRIPT).write_text(script, encoding="utf-8")
        (temporary / REPORT).write_text(_report(model, found), encoding="utf-8")
        for file in temporary.iterdir():
            sync_file(file)
        temporary.chmod(0o755)
        temporary.rename(folder)


def _report(model: onnx.ModelProto, found: Reproduction) -> str:
    """What NVIDIA asks for in a bug report, in Markdown, to be read before it is sent."""
    import onnx

    from edgecnn.graph.onnx_graph import opset_of

    facts = {key: value for backend in load_backends() for key, value in backend.machine_facts().items()}
    container = any(Path(mark).exists() for mark in ("/.dockerenv", "/run/.containerenv"))
    weights = "random (seeded), none of the original ones"
    if found.values_kept:
        weights = f"random (seeded) but for {', '.join(found.values_kept)}, which the failure needs"
    names = "the original ones, which the failure needs" if found.names_kept else "replaced"
    minimal = "every node is needed" if found.minimal else "not every node was tried within the time"
    return f"""# {found.by}: {found.failure}

## Description

{found.by} fails on this graph ({minimal}; it was cut from one of {found.nodes_before} nodes):

    {" -> ".join(found.operators)}

    {found.said}

Weights: {weights}. Shapes, axes, indices and attributes: the original ones. Names: {names};
those of operators stand.

## Environment

- TensorRT: {found.by}
- GPU: {facts.get("gpu", "unknown")}
- Driver: {driver_description()}
- Operating system: {platform.platform()}
- Python: {platform.python_version()}
- Baremetal or container: {"container" if container else "no mark of a container"}
- ONNX {onnx.__version__}, opset {opset_of(model)}, IR version {model.ir_version}; reduced by edgecnn {__version__}

## Relevant files

`{GRAPH}`, `{SCRIPT}`

## Steps to reproduce

    python {SCRIPT}

ONNX Runtime {found.onnxruntime}.
"""
