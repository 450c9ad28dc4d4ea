"""From a PyTorch network to an ONNX graph that keeps the contract, proven equal before it is written.

The contract: input `input` float32 NCHW, output `logits` float32 [N, classes], batch axis dynamic and named `batch`,
opset 19, IR version 9; batch normalization folded, nodes named after the network's layers.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
import torch
from torch import nn

from edgecnn.artifact.sidecar import Sidecar, parents_of, sidecar_path, tool_versions, verified_sidecar
from edgecnn.artifact.write import write_artifact
from edgecnn.data.preprocess import preprocessing_from_json
from edgecnn.errors import GraphError, ModelError
from edgecnn.pytorch.export.aten_to_onnx import Translation
from edgecnn.pytorch.export.onnx_writer import session_on, write_onnx
from edgecnn.pytorch.export.operators import OPERATORS
from edgecnn.pytorch.models import build_model
from edgecnn.pytorch.weights import load_weights
from edgecnn.recipe.schema import BatchSettings
from edgecnn.session import Array
from edgecnn.zoo import ModelCard, check_size, find_model, imagenet_classes

OPSET, IR_VERSION = 19, 9
MAX_DIFFERENCE = 1e-4  # of max |logit|


def export_onnx(module: nn.Module, card: ModelCard, output: Path, sidecar: Sidecar, *, max_batch: int) -> Sidecar:
    """Write `module` as the graph `output` with its sidecar; returns the sidecar as written.

    The graph is checked, its shapes are inferred, and ONNX Runtime's logits are compared with the module's at batch 1,
    2 and `max_batch` before `output` is replaced. `sidecar` brings what only the caller knows (labels, parents, recipe
    fields, the source of the weights); what the export establishes is added here. Raises `ModelError` when the
    network cannot take `card.input_shape` or has an operator without translation, `GraphError` when the logits differ.
    """
    started = time.perf_counter()
    was_training = module.training
    module.eval()
    try:
        images = make_probe_images(card.input_shape, max(2, max_batch))
        expected = _compute_logits(module, card, images)
        translation = Translation(trace_program(module, card), module, OPERATORS)
        model = _model_proto(translation, card, expected.shape[1])
        _check(model, translation)
        arrays = {name: t.detach().cpu().numpy() for name, t in translation.initializers.items()}
        done = _complete(sidecar, module, card, len(translation.nodes), expected.shape[1])

        def write(temporary: Path) -> None:
            positions = write_onnx(temporary, model, arrays)
            done.facts["max_difference"] = _difference(
                _loaded(temporary, model, arrays, positions), images, expected, max_batch
            )
            done.facts["seconds"] = round(time.perf_counter() - started, 3)

        return write_artifact(output, write, done)
    finally:
        module.train(was_training)


def export_model(
    name: str,
    output: Path,
    *,
    weights: str = "default",
    classes: int | None = None,
    size: int | None = None,
    labels: Sequence[str] | None = None,
    max_batch: int = BatchSettings.max,
) -> Sidecar:
    """Export a network of the zoo with `weights` (see `load_weights`) for `size` x `size` images.

    `labels` names its classes. Classes, labels and preprocessing that are not given come from the sidecar of a
    checkpoint, else from the zoo. Raises `ModelError`; `ArtifactError` when a checkpoint is not what its sidecar says.
    """
    card, file = find_model(name), Path(weights)
    own = verified_sidecar(file) if sidecar_path(file).exists() else Sidecar(kind="graph")
    if (trained := own.facts.get("model", card.name)) != card.name:
        raise ModelError(f"{file}: a checkpoint of {trained}, not of {card.name}", f"edgecnn export {trained}")
    if own.preprocessing is not None:
        shape = preprocessing_from_json(own.preprocessing).input_shape
        card = dataclasses.replace(card, input_shape=shape, preprocessing=own.preprocessing)
    if size is not None:
        card = resize_card(card, size)
    wanted = classes or own.facts.get("classes") or card.classes
    wnids = own.wnids if labels is None else None
    labels = own.labels if labels is None else labels
    if labels is None and (wanted, card.classes) == (1000, 1000):
        labels, wnids = (list(names) for names in imagenet_classes())
    if labels is not None and len(labels) != max(2, wanted):  # one logit decides between two classes
        raise ModelError(
            f"{card.name}: {len(labels)} labels for {max(2, wanted)} classes", "give one label for each class"
        )
    module = build_model(card.name, wanted)
    info = load_weights(module, card, weights)
    sidecar = Sidecar(
        kind="graph",
        made_by=f"edgecnn export {card.name}",
        parents=parents_of(output, file) if file.is_file() else {},
        preprocessing=preprocessing_from_json(card.preprocessing).to_json(),
        labels=None if labels is None else list(labels),
        wnids=wnids,
        facts=info.facts(),
    )
    return export_onnx(module, card, output, sidecar, max_batch=max_batch)


def resize_card(card: ModelCard, size: int) -> ModelCard:
    """`card` for another input resolution, its preprocessing scaled alike; raises `ModelError` where that cannot be."""
    check_size(card, size, size)
    old = preprocessing_from_json(card.preprocessing)
    new = dataclasses.replace(old, crop=size, resize=round(old.resize * size / old.crop))
    return dataclasses.replace(card, input_shape=(old.channels, size, size), preprocessing=new.to_json())


def make_probe_images(input_shape: tuple[int, int, int], count: int) -> Array:
    """Seeded noise of the variance of normalized images, float32 [count, C, H, W]; no two are alike."""
    return np.random.default_rng(0).standard_normal((count, *input_shape), np.float32)


def trace_program(module: nn.Module, card: ModelCard) -> torch.export.ExportedProgram:
    """`module` as ATen operators with a symbolic batch; raises `ModelError` when it cannot be traced."""
    example = torch.zeros(2, *card.input_shape)
    try:
        with torch.no_grad():
            return torch.export.export(module, (example,), dynamic_shapes=({0: torch.export.Dim("batch")},))
    except Exception as exc:
        raise ModelError(
            f"{card.name}: torch.export cannot trace it with a dynamic batch: {_first_line(exc)}",
            "its forward must not look at values, nor fix the batch: write shapes as x.flatten(1), x.shape[0]",
        ) from exc


def _compute_logits(module: nn.Module, card: ModelCard, images: Array) -> Array:
    floats = {p.dtype for p in module.parameters()}
    if floats - {torch.float32}:
        kinds = ", ".join(sorted(str(d).removeprefix("torch.") for d in floats))
        raise ModelError(f"{card.name}: its parameters are {kinds}", "export from float32: module.float()")
    try:
        with torch.no_grad():
            logits = module(torch.from_numpy(images))
    except RuntimeError as exc:
        if "allocate memory" in str(exc):
            raise ModelError(
                f"{card.name}: not enough memory for the {len(images)} images it is compared on: {_first_line(exc)}",
                "lower batch.max in the recipe, or the resolution",
            ) from exc
        raise ModelError(
            f"{card.name}: cannot take {'x'.join(map(str, card.input_shape))} images: {_first_line(exc)}",
            f"the smallest it takes is {card.min_size}x{card.min_size}",
        ) from exc
    if not isinstance(logits, torch.Tensor) or logits.ndim != 2:
        found = list(logits.shape) if isinstance(logits, torch.Tensor) else type(logits).__name__
        raise ModelError(f"{card.name}: gives {found} in eval mode, not logits [N, classes]", "export a classifier")
    if not bool(torch.isfinite(logits).all()):
        raise ModelError(f"{card.name}: its own logits are not finite", "train it again, or take other weights")
    result: Array = logits.numpy()
    return result


def _model_proto(translation: Translation, card: ModelCard, classes: int) -> onnx.ModelProto:
    value = onnx.helper.make_tensor_value_info
    graph = onnx.helper.make_graph(
        translation.nodes,
        card.name,
        [value("input", onnx.TensorProto.FLOAT, ["batch", *card.input_shape])],
        [value("logits", onnx.TensorProto.FLOAT, ["batch", classes])],
    )
    return onnx.helper.make_model(
        graph,
        opset_imports=[onnx.helper.make_opsetid("", OPSET)],
        ir_version=IR_VERSION,
        producer_name="edgecnn",
    )


def _check(model: onnx.ModelProto, translation: Translation) -> None:
    """The checker and strict shape inference, on the graph without its weights: their shapes are declared instead."""
    light = onnx.ModelProto()
    light.CopyFrom(model)
    for name, tensor in translation.initializers.items():
        if tensor.dtype == torch.int64:
            light.graph.initializer.append(onnx.numpy_helper.from_array(tensor.numpy(), name))
        else:
            declared = onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, list(tensor.shape))
            light.graph.input.append(declared)
    try:
        onnx.checker.check_model(light)
        inferred = onnx.shape_inference.infer_shapes(light, check_type=True, strict_mode=True, data_prop=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as exc:
        raise GraphError(f"the exported graph is not valid: {_first_line(exc)}", _REPORT) from exc
    known = {v.name for v in [*inferred.graph.value_info, *inferred.graph.output]}
    lost = [n for node in model.graph.node for n in node.output if n not in known]
    if lost:
        raise GraphError(f"the exported graph: no shape could be inferred for {lost[0]}", _REPORT)


_REPORT = "this network needs a translation that edgecnn lacks: report its name and this message"


def _loaded(
    path: Path, model: onnx.ModelProto, arrays: dict[str, npt.NDArray[Any]], positions: dict[str, int]
) -> onnxruntime.InferenceSession:
    try:
        return session_on(path, model, arrays, positions)
    except Exception as exc:
        raise GraphError(f"ONNX Runtime refuses the exported graph: {_first_line(exc)}", _REPORT) from exc


def _difference(session: onnxruntime.InferenceSession, images: Array, expected: Array, max_batch: int) -> float:
    """Largest difference at batch 1, 2 and `max_batch`, as a share of max |logit|; raises `GraphError` above 1e-4."""
    worst, scale = 0.0, max(float(np.abs(expected).max()), 1e-30)
    for batch in sorted({1, 2, max_batch}):
        try:
            (found,) = session.run(["logits"], {"input": images[:batch]})
        except Exception as exc:
            raise GraphError(f"the exported graph fails at batch {batch}: {_first_line(exc)}", _REPORT) from exc
        if found.shape != (batch, expected.shape[1]):
            raise GraphError(f"the exported graph gives {list(found.shape)} at batch {batch}", _REPORT)
        difference = float(np.abs(found - expected[:batch]).max()) / scale
        if not difference <= MAX_DIFFERENCE:
            raise GraphError(
                f"the exported graph differs from PyTorch by {difference:.1e} of max |logit| at batch {batch}, "
                f"allowed {MAX_DIFFERENCE:.0e}",
                _REPORT,
            )
        worst = max(worst, difference)
    return worst


def _complete(sidecar: Sidecar, module: nn.Module, card: ModelCard, nodes: int, classes: int) -> Sidecar:
    auxiliary = tuple(f"{name}." for name in getattr(module, "aux_names", ()))  # branches of training alone
    facts = {
        "model": card.name,
        "input_shape": list(card.input_shape),
        "classes": classes,
        "params": sum(p.numel() for name, p in module.named_parameters() if not name.startswith(auxiliary)),
        "nodes": nodes,
        "opset": OPSET,
    }
    return dataclasses.replace(
        sidecar,
        kind="graph",
        precision_requested="fp32",
        precision_obtained="fp32",
        preprocessing=sidecar.preprocessing or card.preprocessing,
        tools={**tool_versions("torch", "onnx", "onnxruntime", "onnxruntime-gpu"), **sidecar.tools},
        facts={**sidecar.facts, **facts},
    )


def _first_line(exc: BaseException) -> str:
    return next((line.strip() for line in str(exc).splitlines() if line.strip()), type(exc).__name__)[:300]
