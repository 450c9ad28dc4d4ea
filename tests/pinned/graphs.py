"""FP16 and INT8 graphs of five networks, as hashes that the machine has no part in.

A network is exported with seeded random weights; then every weight is replaced by a formula of its name, and every
range by a formula of its tensor's name, in exact arithmetic. So neither the sums of a forward pass nor the version of a
random generator enters, and what is left is the graph's structure and what quantization makes of given weights and
ranges.
"""

from __future__ import annotations

import base64
import hashlib
import json
import math
import zlib
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, numpy_helper

from tests.pinned.command_line import done

# name -> side of its images: small, where the network takes small ones
NETWORKS = {"lenet5": 32, "resnet20_cifar": 32, "squeezenet1_1": 32, "mobilenet_v2": 32, "shufflenet_v2_x0_5": 32}
# name of a graph -> arguments of `quantize`
GRAPHS: dict[str, tuple[str, ...]] = {
    "fp16": ("--precision", "fp16"),
    "int8 tensorrt minmax": ("--precision", "int8", "--scheme", "tensorrt", "--method", "minmax"),
    "int8 cpu minmax": ("--precision", "int8", "--scheme", "ort-cpu", "--method", "minmax"),
}
# of the small networks, whose weights' scales are cheap to search
MORE: dict[str, tuple[str, ...]] = {
    "int8 tensorrt mse": ("--precision", "int8", "--scheme", "tensorrt", "--method", "mse"),
    "int8 tensorrt fp32 around": ("--precision", "int8", "--scheme", "tensorrt", "--method", "mse", "--around", "fp32"),
    "int8 tensorrt auto without images": ("--precision", "int8", "--scheme", "tensorrt", "--method", "auto"),
    "int8 cpu mse": ("--precision", "int8", "--scheme", "ort-cpu", "--method", "mse"),
    "int8 cpu percentile": ("--precision", "int8", "--scheme", "ort-cpu", "--method", "percentile"),
    "int8 cpu entropy": ("--precision", "int8", "--scheme", "ort-cpu", "--method", "entropy"),
}
SMALL = ("lenet5", "resnet20_cifar")
NORM_TOLERANCE = (
    1e-2  # relative, of an exported weight's norm: BN statistics of random weights differ by machine (3e-4)
)


def pinned_graphs(work: Path) -> dict[str, Any]:
    """network -> its exported graph and each graph made of it."""
    found: dict[str, Any] = {}
    for name, size in NETWORKS.items():
        folder = work / name
        folder.mkdir(parents=True)
        exported = folder / "exported.onnx"
        done("export", name, "--weights", "none", "--size", size, "-o", exported)
        found[name] = {"exported": exported_facts(onnx.load(exported))}
        graph, ranges = with_formulas(exported, folder, size)
        for kind, arguments in {**GRAPHS, **(MORE if name in SMALL else {})}.items():
            made = folder / f"{kind.replace(' ', '-')}.onnx"
            done("quantize", graph, "--ranges", ranges, "-o", made, *arguments)
            found[name][kind] = graph_facts(onnx.load(made))
    return found


def exported_facts(model: onnx.ModelProto) -> dict[str, Any]:
    """Structure and names of a graph whose weights are the machine's own, with the norm of each."""
    bare = onnx.ModelProto()
    bare.CopyFrom(model)
    norms = {}
    for tensor in bare.graph.initializer:
        if _is_weight(tensor):
            value = numpy_helper.to_array(tensor)
            norms[tensor.name] = float(f"{np.linalg.norm(value.astype(np.float64)):.6g}")
            tensor.CopyFrom(numpy_helper.from_array(np.zeros_like(value), tensor.name))
    return {**graph_facts(bare), "norms": norms}


def graph_facts(model: onnx.ModelProto) -> dict[str, Any]:
    """What a graph computes (`graph`), what its nodes and tensors are called (`names`), and parts of it, so that a
    difference tells where it is: operators, weights' codes, scales and zero points of Q/DQ pairs, other constants."""
    constants = {t.name: t for t in model.graph.initializer}
    pairs = [n for n in model.graph.node if n.op_type in ("QuantizeLinear", "DequantizeLinear")]
    scales = [constants[n.input[1]] for n in pairs]
    zeros = [constants[n.input[2]] for n in pairs if len(n.input) > 2 and n.input[2]]
    codes = [constants[n.input[0]] for n in pairs if n.input[0] in constants]
    told = {t.name for t in (*scales, *zeros, *codes)}
    names = [*(n.name for n in model.graph.node), *(o for n in model.graph.node for o in n.output), *constants]
    return {
        "graph": graph_hash(model),
        "names": _digest(*sorted(names)),
        "operators": dict(sorted(Counter(n.op_type for n in model.graph.node).items())),
        "codes": _tensors_hash(codes),
        "scales": _tensors_hash(scales),
        "zero_points": _tensors_hash(zeros),
        "other_constants": _tensors_hash([t for t in model.graph.initializer if t.name not in told]),
    }


def graph_hash(model: onnx.ModelProto) -> str:
    """A hash of what a graph computes: of its outputs, each hashed from its operator, attributes and inputs.

    Neither the order nor the names of nodes, tensors and initializers matter, nor how an initializer is stored; names,
    types and shapes of the graph's inputs and outputs, opset and IR version do.
    """
    known = {t.name: _tensor_digest(t) for t in model.graph.initializer}
    known |= {v.name: _digest("input", v.name, _type(v)) for v in model.graph.input if v.name not in known}
    for node in model.graph.node:
        inputs = [known[name] if name else "" for name in node.input]
        attributes = sorted(_attribute_digest(a) for a in node.attribute)
        for k, name in enumerate(node.output):
            known[name] = _digest("node", node.domain, node.op_type, *attributes, "inputs", *inputs, str(k))
    outputs = [_digest(v.name, _type(v), known[v.name]) for v in model.graph.output]
    opsets = sorted(f"{o.domain}:{o.version}" for o in model.opset_import)
    return _digest(*outputs, *opsets, str(model.ir_version))


def same_norms(old: dict[str, Any], new: dict[str, Any]) -> dict[str, Any]:
    """`new`, with the norms of `old` where they are within the tolerance."""
    made = dict(new)
    for name, found in new.items():
        known = old.get(name, {}).get("exported", {}).get("norms", {})
        norms = {
            tensor: known[tensor] if math.isclose(norm, known.get(tensor, math.inf), rel_tol=NORM_TOLERANCE) else norm
            for tensor, norm in found["exported"]["norms"].items()
        }
        made[name] = {**found, "exported": {**found["exported"], "norms": norms}}
    return made


def with_formulas(exported: Path, folder: Path, size: int) -> tuple[Path, Path]:
    """The exported graph with weights by formula, and ranges by formula of the tensors that `calibrate` names."""
    model = onnx.load(exported)
    channels = model.graph.input[0].type.tensor_type.shape.dim[1].dim_value
    images = uniform("images", 2 * channels * size * size).reshape(2, channels, size, size)
    np.savez(folder / "images.npz", input=images.astype(np.float32))
    done("calibrate", exported, "--data", folder / "images.npz", "-o", folder / "seen.calib.json")
    for tensor in model.graph.initializer:
        if _is_weight(tensor):
            value = weight_by_formula(tensor.name, tuple(tensor.dims))
            tensor.CopyFrom(numpy_helper.from_array(value, tensor.name))
    graph, ranges = folder / "model.onnx", folder / "model.calib.json"
    onnx.save(model, graph)
    content = json.loads((folder / "seen.calib.json").read_text(encoding="utf-8"))
    content["graph_sha256"] = hashlib.sha256(graph.read_bytes()).hexdigest()
    content["images"] = 1
    content["tensors"] = [range_by_formula(t) for t in content["tensors"]]
    ranges.write_text(json.dumps(content), encoding="utf-8")
    return graph, ranges


def weight_by_formula(name: str, shape: tuple[int, ...]) -> npt.NDArray[np.float32]:
    """Bell-shaped multiples of 2^-24, small enough for their fan-in; each channel of axis 0 has a width of its own."""
    count = int(np.prod(shape))
    bell = sum(uniform(f"{name}/{k}", count) for k in range(4)) / 4
    fan_in = count // shape[0]
    width = 2.0 ** -np.round(np.log2(max(fan_in, 1)) / 2) * (1 + np.arange(shape[0]) % 7) / 4
    scaled = bell.reshape(shape) * width.reshape(-1, *[1] * (len(shape) - 1))
    return np.asarray(np.round(scaled * 2.0**24) / 2.0**24, np.float32)


def range_by_formula(seen: dict[str, Any]) -> dict[str, Any]:
    """The entry of one tensor in a calibration file: as many channels as were seen, negative values where some were."""
    channels, bins = len(_unpacked(seen["channel_min"], "<f4")), len(_unpacked(seen["positive"], "<i8"))
    signed = seen["min"] < -1e-3 * max(seen["max"], 0.0)
    high = np.asarray(1 + np.floor(8 * (1 + uniform(f"{seen['name']}/high", channels))) / 4, np.float32)  # 1 to 4.75
    low = np.asarray(-high * 0.75 if signed else np.zeros(channels), np.float32)
    # A bin is the upper half of a float32, counted from 2^-30: counts fall towards the largest value.
    of = (np.arange(bins, dtype=np.uint32) + ((127 - 30) << 7) << 16).astype(np.uint32).view(np.float32)
    sides: dict[str, Any] = {"positive": _counts(of, float(high.max()))}
    sides["negative"] = _counts(of, float(-low.min())) if signed else None
    total = sum(int(c.sum()) for c in sides.values() if c is not None)
    return seen | {
        "counted": total,
        "min": float(low.min()),
        "max": float(high.max()),
        "minmax": float(max(high.max(), -low.min())),
        "channel_min": _packed(low, "<f4"),
        "channel_max": _packed(high, "<f4"),
        **{side: None if c is None else _packed(c, "<i8") for side, c in sides.items()},
    }


def uniform(name: str, count: int) -> npt.NDArray[np.float64]:
    """[count] multiples of 2^-20 in [-1, 1) by SplitMix64 (Steele et al. 2014), from the CRC of `name`; exact."""
    with np.errstate(over="ignore"):
        x = (np.arange(1, count + 1, dtype=np.uint64) + np.uint64(zlib.crc32(name.encode()) << 20)) * np.uint64(
            0x9E3779B97F4A7C15
        )
        x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        x ^= x >> np.uint64(31)
    return np.asarray((x >> np.uint64(43)).astype(np.int64) - (1 << 20), np.float64) / (1 << 20)


def _counts(of: npt.NDArray[np.float32], largest: float) -> npt.NDArray[np.int64]:
    """Counts of a triangular distribution up to `largest`, by bin."""
    inside = of <= largest
    counts = np.zeros(len(of), np.int64)
    width = of.astype(np.float64) * 2.0**-7
    counts[inside] = np.floor(1e6 * (1 - of[inside] / largest) * width[inside]).astype(np.int64)
    counts[0], counts[np.flatnonzero(inside)[-1]] = 1000, 1
    return counts


def _is_weight(tensor: TensorProto) -> bool:
    return tensor.data_type == TensorProto.FLOAT and len(tensor.dims) in (1, 2, 4) and int(np.prod(tensor.dims)) > 1


def _type(value: onnx.ValueInfoProto) -> str:
    kind = value.type.tensor_type
    return f"{kind.elem_type} {[d.dim_param or d.dim_value for d in kind.shape.dim]}"


def _tensor_digest(tensor: TensorProto) -> str:
    value = numpy_helper.to_array(tensor)
    return _digest("constant", str(tensor.data_type), str(list(tensor.dims)), np.ascontiguousarray(value).tobytes())


def _tensors_hash(tensors: list[TensorProto]) -> str:
    """Of a bag of tensors, whatever their order and names; empty of none."""
    return _digest(*sorted(_tensor_digest(t) for t in tensors)) if tensors else ""


def _attribute_digest(attribute: onnx.AttributeProto) -> str:
    value = onnx.helper.get_attribute_value(attribute)
    if attribute.type == onnx.AttributeProto.TENSOR:
        return _digest(attribute.name, _tensor_digest(value))
    if attribute.type in (onnx.AttributeProto.GRAPH, onnx.AttributeProto.GRAPHS):
        raise NotImplementedError(f"attribute {attribute.name}: a graph within a graph")
    plain = value if isinstance(value, (bytes, int, float)) else list(value)
    return _digest(attribute.name, str(attribute.type), repr(plain))


def _digest(*parts: str | bytes) -> str:
    digest = hashlib.sha256()
    for part in parts:
        raw = part.encode() if isinstance(part, str) else part
        digest.update(len(raw).to_bytes(8, "little"))
        digest.update(raw)
    return digest.hexdigest()[:16]


def _packed(array: npt.NDArray[Any], dtype: str) -> str:
    return base64.b64encode(zlib.compress(array.astype(dtype).tobytes())).decode()


def _unpacked(text: str, dtype: str) -> npt.NDArray[Any]:
    return np.frombuffer(zlib.decompress(base64.b64decode(text)), dtype)
