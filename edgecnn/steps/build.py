"""Build an engine for a target."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from edgecnn.artifact.sidecar import Sidecar
from edgecnn.artifact.write import check_output
from edgecnn.backends import BuildOptions, load_backend, require_inference_graph
from edgecnn.errors import ArtifactError, DeviceError
from edgecnn.graph.decision import require_logits
from edgecnn.recipe.schema import fields_of
from edgecnn.steps._provenance import sidecar_of
from edgecnn.targets import CPU, find_target, target_mismatch


def build(
    graph: Path, output: Path | None = None, *, backend: str = "", options: BuildOptions | None = None
) -> tuple[Path, Sidecar]:
    """Build `graph` for `options.target` ("": the backend's own, cpu or whatever GPU is here) with `backend` ("": the
    target's); returns the engine and its sidecar.

    Raises `DeviceError` when this machine is not that target, `GraphError` for a graph exported in training mode, and
    the errors of the backend.
    """
    options = options or BuildOptions()
    module = load_backend(backend or find_target(options.target or CPU).backend)
    if not graph.is_file():
        raise ArtifactError(f"{graph}: no such file", "export it first, or check the path")
    require_inference_graph(graph)
    target = find_target(options.target or module.DEFAULT_TARGET)
    if target.backend != module.NAME:
        raise DeviceError(
            f"target {target.name} is built with --backend {target.backend}, not {module.NAME}",
            f"use --backend {target.backend}, or another --target",
        )
    source = sidecar_of(graph)
    if target.kind == "gpu":
        require_logits(graph, source)
    if mismatch := target_mismatch(target, module.device(options.threads)):
        raise DeviceError(mismatch, "build on the device itself, or name the target that this machine is")
    engine = output or _engine_path(graph, module.SUFFIXES[0])
    check_output(engine, engine.suffix if engine.suffix in module.SUFFIXES else module.SUFFIXES[0], graph)
    fields = {**source.fields, **fields_of("batch", options.batch)}
    made = module.engine_from_onnx(
        graph, engine, dataclasses.replace(options, target=target.name, recipe=source.recipe, fields=fields)
    )
    return engine, made


def _engine_path(graph: Path, suffix: str) -> Path:
    path = graph.with_suffix(suffix)
    return path if path != graph else graph.with_name(f"{graph.stem}.engine{suffix}")
