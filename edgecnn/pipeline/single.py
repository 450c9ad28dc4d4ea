"""The steps that the command line offers alone and that need more than one part of the project."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from edgecnn.artifact.sidecar import Sidecar, parents_of, read_sidecar, sidecar_path, verified_sidecar
from edgecnn.artifact.write import check_output
from edgecnn.backends import BuildOptions, load_backend, open_engine, require_inference_graph
from edgecnn.data.calibration_set import open_data
from edgecnn.data.preprocess import preprocessing_from_json
from edgecnn.errors import ArtifactError, DeviceError
from edgecnn.graph.decision import decision_threshold, require_logits
from edgecnn.session import Session
from edgecnn.targets import find_target, target_mismatch

VALIDATION_BATCH = 64


def make_reference(source: Path, data: str, output: Path, threads: int | None) -> dict[str, Any]:
    """Predictions of a checkpoint (PyTorch) or a graph (ONNX Runtime) on the test split of `data`.

    Raises `ArtifactError` for another kind of file, and the errors of the data set.
    """
    from edgecnn.measure.predict import write_predictions
    from edgecnn.pipeline.sharing import is_first, predict_shared

    if not source.is_file():
        raise ArtifactError(f"{source}: no such file", "name a checkpoint (.safetensors) or a graph (.onnx)")
    check_output(output, ".npz", source)
    _check_named(source)
    sidecar = verified_sidecar(source) if sidecar_path(source).exists() else Sidecar(kind="graph")
    preprocessing = preprocessing_from_json(sidecar.preprocessing) if sidecar.preprocessing else None
    dataset = open_data(data, preprocessing, "test", sidecar.labels or (), sidecar.wnids or ())
    with open_reference_source(source, threads) as session:
        threshold = decision_threshold(source, sidecar, session.output)
        predictions = predict_shared(session, dataset, batch=VALIDATION_BATCH, threshold=threshold)
    made = dataclasses.replace(
        sidecar,
        kind="predictions",
        made_by=f"edgecnn reference {source.name} --data {data}",
        parents=parents_of(output, source),
        fields={},
        facts={},
    )
    if is_first():
        write_predictions(output, predictions, made)
    return {"output": str(output), "n": len(predictions.ids), "classes": predictions.classes}


def open_reference_source(source: Path, threads: int | None) -> Session:
    """A session of what `--reference` may name: a checkpoint or a graph."""
    if source.suffix == ".onnx":
        return open_engine(source, threads)
    if source.suffix == ".safetensors":
        _check_named(source)
        from edgecnn.pytorch.reference import open_reference

        return open_reference(source, threads)
    raise ArtifactError(f"{source}: not a checkpoint or a graph", "name a .safetensors or an .onnx file")


def _check_named(source: Path) -> None:
    if source.suffix == ".safetensors" and source.is_file() and not sidecar_path(source).exists():
        raise ArtifactError(
            f"{source}: weights without a sidecar {source.name}.json do not say which network they are of",
            f"`edgecnn export NETWORK --checkpoint {source.name}` makes a graph that can be the reference",
        )


def build_engine(graph: Path, backend: str, output: Path | None, options: BuildOptions) -> dict[str, Any]:
    """Build `graph` for a target ("" is the backend's own: cpu, or whatever GPU is here).

    Raises `DeviceError` when this machine is not that target, `GraphError` for a graph exported in training mode.
    """
    module = load_backend(backend)
    if not graph.is_file():
        raise ArtifactError(f"{graph}: no such file", "export it first, or check the path")
    require_inference_graph(graph)
    chosen = find_target(options.target or {"ort": "cpu", "trt": "gpu"}[backend])
    if chosen.backend != backend:
        raise DeviceError(
            f"target {chosen.name} is built with --backend {chosen.backend}, not {backend}",
            f"use --backend {chosen.backend}, or another --target",
        )
    if backend == "trt":
        require_logits(graph, read_sidecar(graph) if sidecar_path(graph).exists() else Sidecar(kind="graph"))
    mismatch = target_mismatch(chosen, module.device(options.threads))
    if mismatch:
        raise DeviceError(mismatch, "build on the device itself, or name the target that this machine is")
    engine = output or graph.with_name(
        f"{graph.stem}.engine{module.SUFFIX}" if backend == "ort" else f"{graph.stem}.plan"
    )
    check_output(engine, ".engine" if backend == "trt" and engine.suffix == ".engine" else module.SUFFIX, graph)
    module.engine_from_onnx(graph, engine, dataclasses.replace(options, target=chosen.name))
    made = read_sidecar(engine)
    return {"engine": str(engine), "target": chosen.name, "sha256": made.sha256, "device": made.device}
