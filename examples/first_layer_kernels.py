"""The kernels of a network's first convolution as a picture, with those named that are dead or there twice.

    python examples/first_layer_kernels.py squeezenet1_1 --checkpoint squeezenet1_1.safetensors -o kernels.png
    python examples/first_layer_kernels.py runs/lenet5-digits/model.fp32.onnx -o kernels.png

NETWORK is a graph (.onnx), or what `edgecnn export` takes: a network of the zoo, with its published weights or a
--checkpoint of yours, or FILE.py:FUNCTION with --trust-code and --preprocess. The kernels are read from the float32
graph: batch normalization is folded into them there, so that a filter whose scale has gone to 0 counts as dead too.

A filter is dead where its norm is below `--dead` times the median norm: hardly anything that the image shows moves its
output. Two filters are duplicates where the cosine between them is above `--same`, and opposites where it is below its
negative: behind a ReLU opposites see the two halves of one thing (Shang et al., arXiv:1603.05201), duplicates see one
thing twice. In the picture each kernel has its own range, 0 is mid-gray, dead ones have a red frame, duplicates and
opposites an orange one; kernels of three channels are in color, others have a gray tile for each channel.
"""

from __future__ import annotations

import argparse
import json
import math
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw

import edgecnn as ec
from edgecnn.errors import EdgecnnError, GraphError
from edgecnn.output import print_line, say

DEAD, SAME = 0.02, 0.99
TILE, GAP, LABEL = 64, 6, 12  # pixels
FRAMES = {"dead": (200, 30, 30), "duplicate": (230, 140, 0), "opposite": (230, 140, 0), "": (210, 210, 210)}

Kernels = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Pair:
    """Two filters whose kernels point the same way, or with a negative cosine the opposite one."""

    first: int
    second: int
    cosine: float


@dataclass(frozen=True)
class Findings:
    """Of the `filters` of a layer: their `median_norm`, the `dead` ones, and the pairs among the others."""

    layer: str
    filters: int
    shape: tuple[int, ...]
    median_norm: float
    dead: tuple[int, ...]
    duplicates: tuple[Pair, ...]
    opposites: tuple[Pair, ...]


def read_kernels(graph: Path) -> tuple[str, Kernels]:
    """The name and the weights [filters, channels, height, width] of the first Conv; raises `GraphError` without."""
    import onnx
    from onnx import numpy_helper

    from edgecnn.graph.load import load_graph

    model = load_graph(graph)
    weights = {tensor.name: tensor for tensor in model.graph.initializer}
    for node in model.graph.node:
        if node.op_type == "Conv" and node.input[1] in weights:
            values = numpy_helper.to_array(weights[node.input[1]], str(graph.parent)).astype(np.float32)
            if values.ndim == 4:
                return node.name or node.output[0], values
    raise GraphError(
        f"{graph}: no convolution of images with weights of its own", f"a float32 graph of onnx {onnx.__version__}"
    )


def examine(layer: str, kernels: Kernels, dead: float = DEAD, same: float = SAME) -> Findings:
    """Dead filters, and pairs of the others that are the same up to a factor."""
    flat = kernels.reshape(len(kernels), -1).astype(np.float64)
    norms = np.linalg.norm(flat, axis=1)
    median = float(np.median(norms))
    alive = norms > dead * median
    unit = flat / np.where(norms > 0, norms, 1)[:, None]
    cosines = unit @ unit.T
    pairs = [
        Pair(int(a), int(b), round(float(cosines[a, b]), 4))
        for a, b in np.argwhere(np.triu(np.abs(cosines) > same, 1))
        if alive[a] and alive[b]
    ]
    return Findings(
        layer=layer,
        filters=len(kernels),
        shape=tuple(kernels.shape[1:]),
        median_norm=median,
        dead=tuple(int(k) for k in np.flatnonzero(~alive)),
        duplicates=tuple(pair for pair in pairs if pair.cosine > 0),
        opposites=tuple(pair for pair in pairs if pair.cosine < 0),
    )


def draw(kernels: Kernels, found: Findings) -> Image.Image:
    """All kernels in a grid, each with its number."""
    tiles = [_tile(kernel) for kernel in kernels]
    width, height = tiles[0].width + GAP, tiles[0].height + GAP + LABEL
    columns = max(1, math.ceil(math.sqrt(len(tiles) * height / width)))
    sheet = Image.new("RGB", (columns * width + GAP, math.ceil(len(tiles) / columns) * height + GAP), "white")
    pen = ImageDraw.Draw(sheet)
    for k, tile in enumerate(tiles):
        left, top = GAP + k % columns * width, GAP + k // columns * height
        kind = kind_of(k, found)
        pen.rectangle((left - 3, top - 3, left + tile.width + 2, top + tile.height + 2), fill=FRAMES[kind])
        sheet.paste(tile, (left, top))
        pen.text((left, top + tile.height + 1), f"{k} {kind}".strip(), fill="black")
    return sheet


def kind_of(filter_: int, found: Findings) -> str:
    """dead, duplicate, opposite or nothing special."""
    if filter_ in found.dead:
        return "dead"
    if any(filter_ in (pair.first, pair.second) for pair in found.duplicates):
        return "duplicate"
    return "opposite" if any(filter_ in (pair.first, pair.second) for pair in found.opposites) else ""


def _tile(kernel: Kernels) -> Image.Image:
    """0 in the middle of the gray scale; the largest magnitude of the kernel, all channels together, at its end."""
    largest = float(np.abs(kernel).max()) or 1.0
    pixels = np.rint(127.5 + 127.5 * kernel / largest).astype(np.uint8)
    parts = [Image.fromarray(np.moveaxis(pixels, 0, -1))] if len(kernel) == 3 else [Image.fromarray(p) for p in pixels]
    scale = max(1, TILE // max(kernel.shape[1:]))
    size = (scale * kernel.shape[2], scale * kernel.shape[1])
    row = Image.new("RGB", (len(parts) * size[0], size[1]))
    for k, part in enumerate(parts):
        row.paste(part.resize(size, Image.Resampling.NEAREST), (k * size[0], 0))
    return row


def tell(found: Findings) -> None:
    """What was found, in words."""
    shape = " x ".join(map(str, found.shape))
    print_line(f"{found.layer}: {found.filters} filters of {shape}, median norm {found.median_norm:.4g}")
    print_line(f"dead: {len(found.dead)}{': ' if found.dead else ''}{', '.join(map(str, found.dead))}")
    for name, pairs in (("duplicates", found.duplicates), ("opposites", found.opposites)):
        print_line(f"{name}: {len(pairs)} pairs")
        for pair in pairs:
            print_line(f"  {pair.first} and {pair.second}, cosine {pair.cosine:+.4f}")


def main() -> int:
    """Parse, read, examine, draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("network")
    parser.add_argument("--checkpoint", type=Path, help="your weights (default: the published ones)")
    parser.add_argument("--classes", type=int, help="of a checkpoint, where nothing says it")
    parser.add_argument("--preprocess", default="", help="of an own network: a preset or a JSON file")
    parser.add_argument("--trust-code", action="store_true")
    parser.add_argument("--dead", type=float, default=DEAD, help=f"share of the median norm (default {DEAD})")
    parser.add_argument("--same", type=float, default=SAME, help=f"cosine (default {SAME})")
    parser.add_argument("-o", "--output", type=Path, default=Path("kernels.png"))
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    try:
        with tempfile.TemporaryDirectory() as folder:
            graph = Path(options.network)
            if graph.suffix != ".onnx":
                graph = ec.export(
                    options.network,
                    Path(folder) / "network.fp32.onnx",
                    checkpoint=options.checkpoint,
                    classes=options.classes,
                    preprocess=options.preprocess,
                    trust_code=options.trust_code,
                )
            layer, kernels = read_kernels(graph)
    except EdgecnnError as exc:
        say(f"error: {exc.message}")
        say(f"hint: {exc.hint}")
        return 2
    found = examine(layer, kernels, options.dead, options.same)
    draw(kernels, found).save(options.output)
    if options.json:
        print_line(json.dumps(asdict(found)))
    else:
        tell(found)
    say(f"{options.output}: written")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
