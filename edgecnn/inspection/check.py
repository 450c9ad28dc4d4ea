"""What will TensorRT say to a graph? Our rules for each release, and NVIDIA's own parser and builder where they are.

The two may differ: our rules also know releases that are not installed, and what parses and then runs otherwise than
one would think; NVIDIA's words are the last for its own release.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from edgecnn.backends import load_backends
from edgecnn.errors import ArtifactError, DeviceError, EdgecnnError
from edgecnn.limits import what_lacks
from edgecnn.results.finding import Finding, GraphCheck
from edgecnn.targets import Target, dla_mismatch, find_target

DLA_RELEASES = {"10.3": "10.3 to 10.7", "11.4.1": "11.4.1"}
RELEASES = ("10.3", "10.13", "10.16", "11.4")  # the opset that a parser reads is what differs


def check_graph(path: Path, target: str = "gpu", *, dla: bool = False) -> GraphCheck:
    """Everything that is said against the ONNX graph `path`, each finding once.

        import edgecnn as ec
        ec.check_graph("model.int8.onnx").refused

    `target` is a device of `edgecnn targets`; with `dla` what its DLA leaves to the GPU is listed too. Raises
    `DeviceError` for a target without one, `ArtifactError` where there is no such file, and where neither
    onnx nor a TensorRT is installed here to read it.
    """
    path = Path(path)
    if not path.is_file():
        raise ArtifactError(f"{path}: {what_lacks(path)}", "check the path, or export the graph first")
    device = find_target(target)
    asked: list[str] = []
    not_asked: list[str] = []
    found: list[Finding] = []
    if importlib.util.find_spec("onnx") is None:
        not_asked.append("our rules: the package onnx is not installed here")
    else:
        for source, findings in (*_by_rules(path, device.name), *(_by_dla(path, device) if dla else ())):
            asked.append(source)
            found += findings
    for backend in load_backends():
        try:
            said = backend.check_graph(path)
        except EdgecnnError as exc:
            not_asked.append(f"{backend.PROVIDER}: {exc.message}")
            continue
        if said is not None:
            asked.append(said.by)
            found += [replace(finding, sources=(said.by,)) for finding in said.findings]
    if not asked:
        raise ArtifactError(
            f"{path}: nobody here can say anything about it: {'; '.join(not_asked)}",
            "install edgecnn[cpu] for our rules, or edgecnn[rtx] for NVIDIA's parser and builder without a GPU",
        )
    return GraphCheck(str(path), tuple(asked), tuple(not_asked), tuple(_each_once(found)))


def _by_rules(path: Path, target: str) -> Iterator[tuple[str, list[Finding]]]:
    from edgecnn.graph.lint import lint
    from edgecnn.graph.load import load_graph

    device = find_target(target)
    try:
        model = load_graph(path)
    except EdgecnnError as exc:
        yield "our rules", [Finding("error", "graph", exc.message, exc.hint, ("our rules",))]
        return
    if device.kind == "cpu":
        yield (
            "our rules for ONNX Runtime",
            [replace(finding, sources=("our rules for ONNX Runtime",)) for finding in lint(model, device)],
        )
        return
    for release in RELEASES:
        source = f"our rules for TensorRT {release}"
        yield source, [replace(finding, sources=(source,)) for finding in lint(model, device, release)]


def _by_dla(path: Path, device: Target) -> Iterator[tuple[str, list[Finding]]]:
    from edgecnn.graph.dla import find_dla_gaps
    from edgecnn.graph.load import load_graph

    refused = {release: dla_mismatch(device, release) for release in DLA_RELEASES}
    if all(refused.values()):
        raise DeviceError(str(next(iter(refused.values()))), "leave --dla out, or name a device that has one")
    for release, releases in DLA_RELEASES.items():
        if refused[release] is None:
            source = f"NVIDIA's limits of the DLA in TensorRT {releases}"
            found = find_dla_gaps(load_graph(path), release)
            yield source, [replace(finding, sources=(source,)) for finding in found]


def _each_once(found: list[Finding]) -> Iterator[Finding]:
    sources: dict[Finding, list[str]] = {}
    for finding in found:
        sources.setdefault(replace(finding, sources=()), []).extend(finding.sources)
    for finding in sorted(sources, key=lambda f: f.severity):
        yield replace(finding, sources=tuple(dict.fromkeys(sources[finding])))
