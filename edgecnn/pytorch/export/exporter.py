"""From a PyTorch network to an ONNX graph that keeps the tensor contract, proven equal as it is written.

Batch normalization is folded, and nodes are named after the network's layers.
"""

from __future__ import annotations

import contextlib
import dataclasses
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
import torch
from torch import nn

from edgecnn.backends._onnxruntime import onnxruntime_errors
from edgecnn.contract import BATCH, INPUT, IR_VERSION, MAX_DIFFERENCE, OPSET, OUTPUT
from edgecnn.data.preprocess import preprocessing_from_json
from edgecnn.errors import EdgecnnError, GraphError, ModelError, is_out_of_memory
from edgecnn.pytorch.export.aten_to_onnx import Translation
from edgecnn.pytorch.export.call import ADVICE
from edgecnn.pytorch.export.onnx_writer import session_on, write_onnx
from edgecnn.pytorch.export.operators import OPERATORS
from edgecnn.results.export import ExportFacts
from edgecnn.session import Array
from edgecnn.zoo import OWN, ModelCard, check_size

PROBES = 3  # images that PyTorch sees too; a larger batch in ONNX Runtime repeats them


class UntranslatedError(ModelError):
    """A network with an operator that has no translation to ONNX here."""


@dataclass(frozen=True)
class ExportedGraph:
    """A network as a graph without its initializers, these beside it, and what it is proven on: `images`
    [PROBES, C, H, W] and the network's `logits` for them."""

    card: ModelCard
    model: onnx.ModelProto
    initializers: dict[str, npt.NDArray[Any]]
    params: int
    images: Array
    logits: Array
    max_batch: int

    def write(self, path: Path) -> ExportFacts:
        """Write the graph to `path` and compare its logits in ONNX Runtime with the network's, at batch 1 and
        `max_batch` (at least 2); raises `GraphError` when they differ."""
        positions = write_onnx(path, self.model, self.initializers)
        session = load_written(path, self.model, self.initializers, positions)
        return ExportFacts(
            model=self.card.name,
            input_shape=self.card.input_shape,
            classes=self.logits.shape[1],
            params=self.params,
            nodes=len(self.model.graph.node),
            opset=OPSET,
            max_difference=compare_logits(session, self.images, self.logits, self.max_batch),
        )


def export_network(network: nn.Module, card: ModelCard, *, max_batch: int) -> ExportedGraph:
    """`network`, in eval mode, as a graph that is checked and whose shapes are inferred.

    Raises `ModelError` when the network cannot take `card.input_shape`, `UntranslatedError` when it has an operator
    without translation.
    """
    was_training = network.training
    network.eval()
    try:
        images = make_probe_images(card.input_shape, PROBES)
        logits = compute_logits(network, card, images)
        translation, model = translate_network(network, card, {OUTPUT: logits.shape[1:]})
    finally:
        network.train(was_training)
    auxiliary = tuple(f"{name}." for name in getattr(network, "aux_names", ()))  # branches of training alone
    return ExportedGraph(
        card=card,
        model=model,
        initializers={name: t.detach().cpu().numpy() for name, t in translation.initializers.items()},
        params=sum(p.numel() for name, p in network.named_parameters() if not name.startswith(auxiliary)),
        images=images,
        logits=logits,
        max_batch=max_batch,
    )


def translate_network(
    network: nn.Module, card: ModelCard, outputs: Mapping[str, Sequence[int]]
) -> tuple[Translation, onnx.ModelProto]:
    """A network in eval mode that gives these `outputs` [N, *shape]: its translation, and the graph, checked, without
    the initializers that the translation holds. Raises as `export_network` does."""
    translation = _translate(trace_program(network, card), network, tuple(outputs))
    model = _make_model(translation, card, outputs)
    _check(model, translation)
    return translation, model


def _translate(program: torch.export.ExportedProgram, network: nn.Module, outputs: Sequence[str]) -> Translation:
    try:
        return Translation(program, network, OPERATORS, outputs)
    except ModelError as exc:
        raise UntranslatedError(exc.message, exc.hint) from exc
    except Exception as exc:  # of a program unlike any of the zoo's
        raise UntranslatedError(f"no translation to ONNX ({type(exc).__name__}: {_first_line(exc)})", ADVICE) from exc


def resize_card(card: ModelCard, size: int) -> ModelCard:
    """`card` for another input resolution, its preprocessing scaled alike; raises `ModelError` where that cannot be."""
    check_size(card, size, size)
    old = preprocessing_from_json(card.preprocessing)
    new = dataclasses.replace(old, crop=size, resize=round(old.resize * size / max(old.size)))
    return dataclasses.replace(card, input_shape=(old.channels, size, size), preprocessing=new.to_json())


def make_probe_images(input_shape: tuple[int, int, int], count: int) -> Array:
    """Seeded noise of the variance of normalized images, float32 [count, C, H, W]; no two are alike."""
    return np.random.default_rng(0).standard_normal((count, *input_shape), np.float32)


def trace_program(module: nn.Module, card: ModelCard) -> torch.export.ExportedProgram:
    """`module` as ATen operators with a symbolic batch; raises `ModelError` when it cannot be traced."""
    example = torch.zeros(2, *card.input_shape)
    try:
        with torch.no_grad(), contextlib.redirect_stderr(io.StringIO()):  # it logs pages before it raises
            return torch.export.export(module, (example,), dynamic_shapes=({0: torch.export.Dim("batch")},))
    except Exception as exc:
        raise ModelError(
            f"{card.name}: torch.export cannot trace it with a dynamic batch: {_first_line(exc)}",
            "its forward must not look at values, nor fix the batch: write shapes as x.flatten(1), x.shape[0]",
        ) from exc


def compute_logits(module: nn.Module, card: ModelCard, images: Array) -> Array:
    """The logits [N, classes] of `images` [N, C, H, W]; raises `ModelError` for a network that cannot take them, that
    gives something else, or that is not float32."""
    floats = {p.dtype for p in module.parameters()}
    if floats - {torch.float32}:
        kinds = ", ".join(sorted(str(d).removeprefix("torch.") for d in floats))
        raise ModelError(f"{card.name}: its parameters are {kinds}", "export from float32: module.float()")
    try:
        with torch.no_grad():
            logits = module(torch.from_numpy(images))
    except EdgecnnError:
        raise
    except (Exception, SystemExit) as exc:  # a network of one's own raises what it likes
        if is_out_of_memory(exc):
            raise ModelError(
                f"{card.name}: not enough memory for the {len(images)} images it is compared on: {_first_line(exc)}",
                "lower the resolution, or export where there is more",
            ) from exc
        smallest = f"the smallest it takes is {card.min_size}x{card.min_size}"
        raise ModelError(
            f"{card.name}: cannot take {'x'.join(map(str, card.input_shape))} images: {_first_line(exc)}",
            "say what it takes: size, channels and layout of [input]" if card.family == OWN else smallest,
        ) from exc
    if not isinstance(logits, torch.Tensor) or logits.ndim != 2 or len(logits) != len(images):
        found = list(logits.shape) if isinstance(logits, torch.Tensor) else type(logits).__name__
        raise ModelError(f"{card.name}: gives {found} in eval mode, not logits [N, classes]", "export a classifier")
    if logits.dtype != torch.float32:
        kind = str(logits.dtype).removeprefix("torch.")
        raise ModelError(f"{card.name}: gives logits of {kind}, not float32", "return logits.float()")
    if not bool(torch.isfinite(logits).all()):
        raise ModelError(f"{card.name}: its own logits are not finite", "train it again, or take other weights")
    result: Array = logits.numpy()
    return result


def _make_model(translation: Translation, card: ModelCard, outputs: Mapping[str, Sequence[int]]) -> onnx.ModelProto:
    value = onnx.helper.make_tensor_value_info
    graph = onnx.helper.make_graph(
        translation.nodes,
        card.name,
        [value(INPUT, onnx.TensorProto.FLOAT, [BATCH, *card.input_shape])],
        [value(name, onnx.TensorProto.FLOAT, [BATCH, *shape]) for name, shape in outputs.items()],
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
        raise GraphError(f"the exported graph is not valid: {_first_line(exc)}", REPORT) from exc
    known = {v.name for v in [*inferred.graph.value_info, *inferred.graph.output]}
    lost = [n for node in model.graph.node for n in node.output if n not in known]
    if lost:
        raise GraphError(f"the exported graph: no shape could be inferred for {lost[0]}", REPORT)


REPORT = "this network needs a translation that edgecnn lacks: report its name and this message"


def load_written(
    path: Path, model: onnx.ModelProto, arrays: dict[str, npt.NDArray[Any]], positions: dict[str, int]
) -> onnxruntime.InferenceSession:
    """A session on a graph that was just written; raises `GraphError`."""
    with onnxruntime_errors("the exported graph", hint=REPORT, error=GraphError):
        return session_on(path, model, arrays, positions)


def compare_logits(session: onnxruntime.InferenceSession, images: Array, expected: Array, max_batch: int) -> float:
    """Largest difference at batch 1 and `max_batch` (at least 2), as a share of max |logit|; raises `GraphError` beyond
    the contract's.

    The first of a batch are `images` [N, C, H, W], of which no two are alike; the rest are the same again in other
    orders, so that rows that are mixed up differ.
    """
    worst, scale = 0.0, max(float(np.abs(expected).max()), 1e-30)
    for batch in (1, max(max_batch, 2)):
        rows = np.arange(batch)
        rows = (rows + rows // len(images)) % len(images)
        with onnxruntime_errors("the exported graph", f"fails at batch {batch}", REPORT, GraphError):
            (found,) = session.run([OUTPUT], {INPUT: images[rows]})
        if found.shape != (batch, expected.shape[1]):
            raise GraphError(f"the exported graph gives {list(found.shape)} at batch {batch}", REPORT)
        difference = float(np.abs(found - expected[rows]).max()) / scale
        if not difference <= MAX_DIFFERENCE:
            raise GraphError(
                f"the exported graph differs from PyTorch by {difference:.1e} of max |logit| at batch {batch}, "
                f"allowed {MAX_DIFFERENCE:.0e}",
                REPORT,
            )
        worst = max(worst, difference)
    return worst


def _first_line(exc: BaseException) -> str:
    return next((line.strip() for line in str(exc).splitlines() if line.strip()), type(exc).__name__)[:300]
