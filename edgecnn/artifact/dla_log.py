"""trtexec's log of a build for a DLA core, as the script of `edgecnn bundle --for trtexec --dla N` keeps it.

TensorRT lists where the layers run: a heading, a line with [DlaLayer] for each loadable, another heading, a line with
[GpuLayer] for each layer that was left to the GPU. The script adds which graph that was, and in which precision.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from edgecnn.errors import ArtifactError
from edgecnn.limits import read_file
from edgecnn.results.dla import DlaBuild

LARGEST_BYTES = 1 << 28  # a verbose log of a large network takes some tens of MB
AGAIN = "take build.log as build-dla.sh wrote it: edgecnn bundle RUN --for trtexec --dla 0 -o DIR"
ON_DLA, ON_GPU = "---------- Layers Running on DLA ----------", "---------- Layers Running on GPU ----------"
GRAPH_LINE, PRECISION_LINE = "edgecnn: graph ", "edgecnn: precision "
LAYER, NAMELESS = re.compile(r" \[(Dla|Gpu)Layer\](.*)$"), "(without a name)"

_Report = tuple[tuple[str, ...], tuple[str, ...]]


def read_dla_log(path: Path) -> DlaBuild:
    """What it reports; raises `ArtifactError` for another file, a build that failed or was for no DLA, a log without
    the report, and one with two that differ."""
    try:
        lines = read_file(path, LARGEST_BYTES).decode(errors="replace").splitlines()
    except OSError as exc:
        raise ArtifactError(f"{path}: cannot be read: {exc.strerror}", AGAIN) from exc
    begun = [line for line in lines if line.startswith("&&&& RUNNING TensorRT.trtexec")]
    command = re.match(r"&&&& RUNNING TensorRT\.trtexec \[TensorRT v(\d+)\].*? # (.*)$", begun[0]) if begun else None
    if command is None:
        raise ArtifactError(f"{path}: no log of trtexec", AGAIN)
    if len(begun) > 1:
        raise ArtifactError(f"{path}: {len(begun)} builds by trtexec in one log", AGAIN)
    if not any(line.startswith("&&&& PASSED TensorRT.trtexec") for line in lines):
        raise ArtifactError(f"{path}: trtexec did not pass: a build that failed says nothing of an engine", AGAIN)
    core = re.search(r"(?:^| )--useDLACore=(\d{1,2})(?= |$)", command[2])
    if core is None:
        raise ArtifactError(f"{path}: a build for no DLA: trtexec was run without --useDLACore=N", AGAIN)
    reports = list(dict.fromkeys(_reports(lines)))
    if not reports:
        raise ArtifactError(f"{path}: TensorRT does not report there which layers run on the DLA", AGAIN)
    if len(reports) > 1:
        raise ArtifactError(f"{path}: {len(reports)} reports of where the layers run, which differ", AGAIN)
    on_dla, on_gpu = reports[0]
    return DlaBuild(
        dla_core=int(core[1]),
        dla_tensorrt=command[1],
        dla_precision=_added(path, lines, PRECISION_LINE, r"fp16|int8"),
        dla_graph_sha256=_added(path, lines, GRAPH_LINE, r"[0-9a-f]{64}"),
        dla_parts=len(on_dla),
        dla_gpu_layers=on_gpu,
    )


def _reports(lines: Sequence[str]) -> Iterator[_Report]:
    """Each list of layers on the DLA with that of layers on the GPU behind it."""
    found: dict[str, list[str]] | None = None
    for line in lines:
        if line.rstrip().endswith(ON_DLA):
            if found is not None:
                yield tuple(found["Dla"]), tuple(found["Gpu"])
            found = {"Dla": [], "Gpu": []}
        elif found is not None and (layer := LAYER.search(line)) and "[TRT]" in line[: layer.start()]:
            found[layer[1]].append(layer[2].strip() or NAMELESS)
    if found is not None and any(line.rstrip().endswith(ON_GPU) for line in lines):
        yield tuple(found["Dla"]), tuple(found["Gpu"])


def _added(path: Path, lines: Sequence[str], what: str, pattern: str) -> str:
    """What the script added; raises `ArtifactError` unless it stands there once."""
    found = {line.removeprefix(what).strip() for line in lines if line.startswith(what)}
    if len(found) != 1 or not re.fullmatch(pattern, only := found.pop()):
        raise ArtifactError(f"{path}: does not say once {what.removeprefix('edgecnn: ').strip()!r}", AGAIN)
    return only
