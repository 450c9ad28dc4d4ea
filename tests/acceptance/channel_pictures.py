"""Pictures whose colour says what a network will answer, and the graphs that read it: every right figure is known.

A graph reads one channel of a picture of one colour: its value, spread evenly over 0..255, is the class. So the red
channel can hold what the reference says of a picture and the green one what the engine says.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

from edgecnn.cli import main

SIDE = 8
PREPROCESSING = {"resize": SIDE, "crop": SIDE, "mean": [0.0] * 3, "std": [1.0] * 3, "channels": 3}
RED, GREEN, BLUE = 0, 1, 2


@dataclass(frozen=True)
class Result:
    """Exit code and both streams of one command."""

    code: int
    out: str
    err: str

    @property
    def said(self) -> str:
        """Both streams."""
        return self.out + self.err

    def refused(self, *named: str) -> None:
        """Require exit code 2, one `error:` line with `named` in the message, one hint, no traceback."""
        lines = self.err.splitlines()
        assert self.code == 2, f"exit {self.code}: {self.said}"
        assert "Traceback" not in self.err
        assert len([line for line in lines if line.startswith("error: ")]) == 1, self.err
        assert len([line for line in lines if line.startswith("hint: ") and len(line) > 8]) == 1, self.err
        for name in named:
            assert name in self.err, f"{name!r} is not named: {self.err}"


def call(capfd: pytest.CaptureFixture[str], *arguments: object) -> Result:
    """The command line in this process."""
    capfd.readouterr()
    code = main([str(a) for a in arguments])
    captured = capfd.readouterr()
    return Result(code, captured.out, captured.err)


def level(k: int, classes: int) -> int:
    """The grey value that stands for class k."""
    return round(255 * (k + 0.5) / classes)


def save_color(path: Path, color: Sequence[int]) -> Path:
    """A picture of one colour."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (SIDE, SIDE), tuple(color)).save(path)
    return path


def make_model(
    nodes: Sequence[onnx.NodeProto],
    arrays: dict[str, np.ndarray],
    output: Sequence[int | str],
    *,
    channels: int = 3,
    side: int = SIDE,
) -> onnx.ModelProto:
    """A graph from `input` [batch, channels, side, side] to `logits`."""
    made = helper.make_graph(
        list(nodes),
        "colors",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, ["batch", channels, side, side])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, list(output))],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in arrays.items()],
    )
    model = helper.make_model(made, ir_version=9, opset_imports=[helper.make_opsetid("", 19)])
    onnx.checker.check_model(model)
    return model


def class_model(classes: int, channel: int, channels: int = 3, gain: float = 40.0) -> onnx.ModelProto:
    """logits_k = gain * (2 v level_k - level_k ** 2) of the mean v of a channel: largest at the nearest level."""
    levels = np.array([level(k, classes) for k in range(classes)]) / 255
    weight = np.zeros((classes, channels))
    weight[:, channel] = 2 * gain * levels
    arrays = {"w": weight.astype(np.float32), "b": (-gain * levels**2).astype(np.float32)}
    return make_model(
        [*pooled(), helper.make_node("Gemm", ["f", "w", "b"], ["logits"], "fc", transB=1)],
        arrays,
        ["batch", classes],
        channels=channels,
    )


def pooled() -> list[onnx.NodeProto]:
    """input [batch, channels, side, side] -> f [batch, channels], the mean of each channel."""
    return [
        helper.make_node("GlobalAveragePool", ["input"], ["p"], "pool"),
        helper.make_node("Flatten", ["p"], ["f"], "flatten"),
    ]


def write_json(path: Path, content: Any) -> Path:
    """A JSON file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))
    return path


def import_model(
    capfd: pytest.CaptureFixture[str],
    model: onnx.ModelProto,
    output: Path,
    labels: Sequence[str] = (),
    preprocessing: dict[str, Any] | None = None,
) -> Path:
    """`edgecnn import` of a graph with its preprocessing and labels; the imported graph."""
    source = output.with_name(f"{output.stem}-source.onnx")
    output.parent.mkdir(parents=True, exist_ok=True)
    onnx.save(model, str(source))
    more: list[object] = [
        "--preprocess",
        write_json(output.with_name(f"{output.stem}-pre.json"), preprocessing or PREPROCESSING),
    ]
    if labels:
        names = output.with_name(f"{output.stem}-labels.txt")
        names.write_text("\n".join(labels) + "\n", encoding="utf-8")
        more += ["--labels", names]
    result = call(capfd, "import", source, *more, "-o", output)
    assert result.code == 0, result.said
    return output


def sidecar(path: Path) -> dict[str, Any]:
    """What stands beside an artifact."""
    found: dict[str, Any] = json.loads(path.with_name(f"{path.name}.json").read_text(encoding="utf-8"))
    return found
