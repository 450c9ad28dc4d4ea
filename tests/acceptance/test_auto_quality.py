"""What `--method auto` is for: over several draws of images its graph is closer to the float graph than least squared
error's, on images that neither has seen."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import pytest

from tests.fakes.int8 import RESIDUAL, logits, pictures, sqnr_db, uneven

if TYPE_CHECKING:
    from tests.acceptance.channel_pictures import Result

pytestmark = pytest.mark.onnx


@pytest.mark.parametrize(("scheme", "gain_db"), [("tensorrt", 2.0), ("ort-cpu", 1.0)])
def test_auto_keeps_its_gain_over_several_draws(
    scheme: str, gain_db: float, edgecnn: Callable[..., Result], tmp_path: Path
) -> None:
    model, unseen = uneven(RESIDUAL), pictures(400, seed=99)
    graph, exact, gains = tmp_path / "net.onnx", logits(model, unseen), []
    onnx.save(model, graph)
    for draw in range(3):
        data = tmp_path / f"{draw}.npz"
        part = pictures(64, seed=draw)
        np.savez(data, input=np.stack([part.tensor(i) for i in range(64)]))
        reached = {}
        for method in ("mse", "auto"):
            made = tmp_path / f"{draw}.{method}.onnx"
            fed = ("--precision", "int8", "--scheme", scheme, "--around", "fp32", "--data", data, "--images", 64)
            said = edgecnn("quantize", graph, *fed, "--method", method, "-o", made, "--threads", 1, "--json")
            assert said.code == 0, said.said
            reached[method] = sqnr_db(exact, logits(onnx.load(made), unseen))
        candidates: list[dict[str, Any]] = json.loads(said.out)["candidates"]
        taken = next(c for c in candidates if c["taken"])
        assert taken["sqnr_db"] == max(c["sqnr_db"] for c in candidates)
        assert taken["n"] == 16, "judged on images put aside"
        gains.append(reached["auto"] - reached["mse"])
    assert np.mean(gains) >= gain_db, gains
    assert min(gains) > -0.5, gains
