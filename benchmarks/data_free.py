"""What ranges without images lose: `calibrate --data-free` beside 64 images of the right kind, by range method.

    python benchmarks/data_free.py [NETWORK ...] [--keep FOLDER] [--shared DIR]

ResNet-20 is calibrated by the command. The MobileNets of the shared folder came as graphs whose batch normalization was
folded long ago: behind each convolution one is put back that changes nothing and keeps mean and variance of what comes
out on the photographs that are not measured on, as training would have left it there, and the images are made of it.
SQNR = 10 log10(sum f^2 / sum (f - q)^2) over the logits of images that are in no set, agreement = same top-1 as the
float graph; the graphs are those for TensorRT, FP16 around INT8. `made_s` are CPU seconds of making the images.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from _result import ROOT, Recorder
from calibration_sets import NETWORKS, _prepare, choose_images

if TYPE_CHECKING:
    from torch import nn

    from edgecnn.data.preprocess import Preprocessing

MEASURED = ("resnet20_cifar", "mobilenet_v1_0.5", "mobilenet_v2")
METHODS = ("minmax", "entropy", "mse")
SETTLED = 64  # images that the statistics put back are of


def main() -> None:
    """Measure, print and file one row for each network."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("networks", nargs="*", default=list(MEASURED))
    parser.add_argument("--keep", type=Path, help="where graphs and decoded images are kept between runs")
    parser.add_argument("--shared", type=Path, default=Path(os.environ.get("EDGECNN_SHARED", ROOT / ".." / "shared")))
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = (options.keep or Path(temporary)).resolve()
        folder.mkdir(parents=True, exist_ok=True)
        for network in options.networks:
            recorder = Recorder(
                "data_free", f"python benchmarks/data_free.py {network}", tools=("torch", "onnxruntime")
            )
            _prepare(network, folder, options.shared.resolve())
            if NETWORKS[network] is None:
                _export(network, folder, options.shared.resolve())
            found = _measure(network, folder)
            recorder.add({"network": network}, found)


def _export(network: str, folder: Path, shared: Path) -> None:
    """The same graph, from a file of weights that its sidecar names."""
    weights = next((shared / "weights").glob(f"{network.partition('_')[0]}_*.safetensors"))
    words = [sys.executable, "-m", "edgecnn", "export", network, "--checkpoint", weights]
    words += ["-o", folder / f"{network}.fp32.onnx"]
    subprocess.run([str(word) for word in words], check=True, stdout=subprocess.DEVNULL)


def _measure(network: str, folder: Path) -> dict[str, Any]:
    from int8_vs_peers import _dataset, logits

    from edgecnn.graph.calibration.collect import collect_ranges
    from edgecnn.graph.calibration.file import read_ranges

    graph = folder / f"{network}.fp32.onnx"
    held_out = np.load(folder / f"{network}.held_out.npy")
    good = choose_images("good64", 0, lambda kind: np.load(folder / f"{network}.{kind}.npy", mmap_mode="r"))
    exact = logits(graph, held_out)
    started = _cpu_s()
    if NETWORKS[network] is None:
        ranges = folder / f"{network}.data-free.calib.json"
        command = [sys.executable, "-m", "edgecnn", "calibrate", graph, "--data-free", "-o", ranges]
        subprocess.run([str(word) for word in command], check=True, stdout=subprocess.DEVNULL)
        made = read_ranges(ranges)
    else:
        made = collect_ranges(graph, _dataset(_make_images(network, graph, good)))
    row: dict[str, Any] = {"n": len(held_out), "made_s": round(_cpu_s() - started, 1)}
    row |= {f"made_{method}": _score(graph, made, method, None, held_out, exact) for method in METHODS}
    seen = collect_ranges(graph, _dataset(good))
    row |= {f"real_{method}": _score(graph, seen, method, None, held_out, exact) for method in METHODS}
    return row | {
        "made_auto": _score(graph, made, "auto", None, held_out, exact),
        "real_auto": _score(graph, seen, "auto", good, held_out, exact),
    }


def _cpu_s() -> float:
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


def _score(
    graph: Path, ranges: Any, method: str, images: np.ndarray | None, held_out: np.ndarray, exact: np.ndarray
) -> dict[str, float]:
    import onnx
    from int8_vs_peers import _dataset, logits

    from edgecnn.backends._half import rounded_to_fp16
    from edgecnn.graph.ptq.quantize import quantize_int8
    from edgecnn.graph.serving import load_body

    data = None if images is None else _dataset(images)
    made = graph.with_name(f"{os.getpid()}.onnx")
    onnx.save(
        rounded_to_fp16(quantize_int8(load_body(graph), ranges, "tensorrt", method=method, data=data).model), made
    )
    found = logits(made, held_out)
    made.unlink()
    noise = np.square(exact.astype(np.float64) - found).sum()
    return {
        "sqnr_db": round(float(10 * np.log10(np.square(exact, dtype=np.float64).sum() / noise)), 2),
        "agreement_pct": round(float(100 * (found.argmax(1) == exact.argmax(1)).mean()), 2),
    }


def _make_images(network: str, graph: Path, settled: np.ndarray) -> np.ndarray:
    from edgecnn.data.preprocess import preprocessing_from_json
    from edgecnn.pytorch.data_free import make_images
    from edgecnn.pytorch.threads import torch_threads
    from edgecnn.steps._data_free import IMAGES, STEPS
    from edgecnn.zoo import presets

    preprocessing: Preprocessing = preprocessing_from_json(presets()[NETWORKS[network] or ""])
    with torch_threads(1):
        return make_images(_with_norms(graph, settled[:SETTLED]), preprocessing, IMAGES, steps=STEPS)


def _with_norms(graph: Path, settled: np.ndarray) -> nn.Module:
    """The graph as a module with a batch normalization behind each convolution that changes nothing."""
    import torch
    from onnx import numpy_helper
    from torch import nn

    from edgecnn.graph.serving import load_body
    from edgecnn.pytorch.qat.network import attributes_of
    from edgecnn.pytorch.qat.operators import OPERATORS

    body = load_body(graph).graph
    constants = {t.name: torch.from_numpy(numpy_helper.to_array(t).copy()) for t in body.initializer}

    class Network(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norms = nn.ModuleDict()
            for node in body.node:
                if node.op_type == "Conv":
                    self.norms[str(len(self.norms))] = nn.BatchNorm2d(len(constants[node.input[1]]), momentum=None)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            values, norms = {**constants, body.input[0].name: x}, iter(self.norms.values())
            for node in body.node:
                made = OPERATORS[node.op_type](attributes_of(node), *(values.get(name) for name in node.input))
                made = next(norms)(made) if node.op_type == "Conv" else made
                values |= (
                    {node.output[0]: made}
                    if isinstance(made, torch.Tensor)
                    else dict(zip(node.output, made, strict=True))
                )
            return values[body.output[0].name]

    network = Network()
    with torch.no_grad():
        hooks = [n.register_forward_hook(_keep) for n in network.norms.values()]
        for part in np.array_split(settled, max(1, len(settled) // 16)):
            network(torch.from_numpy(part))
        for hook in hooks:
            hook.remove()
        for norm in network.norms.values():
            norm.weight.copy_((norm.running_var + norm.eps).sqrt())
            norm.bias.copy_(norm.running_mean)
    return network.eval().requires_grad_(False)


def _keep(norm: Any, inputs: Any, _: Any) -> Any:
    """What goes into `norm`, which has seen it, instead of what comes out."""
    return inputs[0]


if __name__ == "__main__":
    main()
