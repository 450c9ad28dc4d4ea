"""`edgecnn sensitivity` as a user calls it: what it writes, prints, goes on from and refuses."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import onnx
import pytest

import edgecnn as ec
from tests.acceptance.nets import Net, normalized, pictures, run, sqnr_db, write_npz

if TYPE_CHECKING:
    from tests.acceptance.channel_pictures import Result

pytestmark = pytest.mark.onnx
NODES = ["stem", "left", "right", "dw", "pw", "logits"]


def network(ends: str = "logits") -> onnx.ModelProto:
    """With a Concat, a residual sum and a depthwise convolution, and no BatchNormalization."""
    net = Net(2)
    x = net.relu(net.conv("stem", "input", (3, 8)))
    sides = [net.relu(net.conv(name, x, (8, 4), kernel=k)) for name, k in (("left", 1), ("right", 3))]
    y = net.relu(net.conv("dw", net.node("Concat", "both", *sides, axis=1), (8, 8), group=8))
    y = net.head(net.relu(net.node("Add", "sum", net.conv("pw", y, (8, 8), kernel=1), x)), gain=8.0)
    return net.model(y if ends == "logits" else net.node(ends, "ends", y, axis=1))


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a graph, its ranges, and images."""
    folder = tmp_path_factory.mktemp("made")
    for name, seed, count in (("train", 1, 48), ("held", 2, 24), ("few", 3, 15)):
        write_npz(folder / f"{name}.npz", normalized(pictures(count, seed=seed)[0]))
    for ends in ("logits", "Softmax", "LogSoftmax"):
        onnx.save(network(ends), folder / f"{ends}.fp32.onnx")
        ec.calibrate(folder / f"{ends}.fp32.onnx", data=folder / "train.npz", threads=1)
    return folder


def asked(folder: Path, *more: object, graph: str = "logits", data: str = "held") -> tuple[object, ...]:
    ranges = folder / f"{graph}.calib.json"
    return ("sensitivity", folder / f"{graph}.fp32.onnx", "--ranges", ranges, "--data", folder / f"{data}.npz", *more)


def test_every_node_is_ranked_twice(edgecnn: Callable[..., Result], made: Path, tmp_path: Path) -> None:
    file, chart = tmp_path / "s.json", tmp_path / "s.svg"
    said = edgecnn(*asked(made, "-o", file, "--svg", chart, "--json"))
    assert said.code == 0, said.said
    found = json.loads(said.out)
    written = json.loads(file.read_text())
    assert written.pop("provenance")["kind"] == "sensitivity"
    assert written == found
    rows = found["rows"]
    parts = {kind: sorted(r["node"] for r in rows if r["part"] == kind) for kind in ("weights", "activation")}
    assert parts == {"weights": sorted(NODES), "activation": sorted([*NODES, "both", "sum"])}
    count = list(range(1, len(rows) + 1))
    assert [r["cost_rank"] for r in rows] == count
    assert sorted(r["gain_rank"] for r in rows) == count
    assert all(r["gain_db"] == pytest.approx(r["without_sqnr_db"] - found["sqnr_db"], abs=1e-3) for r in rows)
    noise = sum(10 ** (-r["alone_sqnr_db"] / 10) for r in rows)
    assert found["predicted_sqnr_db"] == pytest.approx(-10 * math.log10(noise), abs=1e-2)
    assert abs(found["predicted_sqnr_db"] - found["sqnr_db"]) < 3
    int8 = ec.quantize(made / "logits.fp32.onnx", tmp_path / "int8.onnx", precision="int8", method="mse", around="fp32",
                       ranges=made / "logits.calib.json", threads=1)  # fmt: skip
    images = normalized(pictures(24, seed=2)[0])
    whole = sqnr_db(run(network(), images), run(onnx.load(int8), images))
    assert found["sqnr_db"] == pytest.approx(whole, abs=3)  # this one with scales as FP16 holds them
    assert chart.read_text().count("<rect") >= len(rows)
    table = edgecnn(*asked(made, "-o", file))
    assert all(name in table.out for name in NODES)
    assert max(map(len, table.out.splitlines())) <= 80


@pytest.mark.parametrize("ends", ["Softmax", "LogSoftmax"])
def test_logits_are_compared_whatever_the_graph_ends_in(ends: str, made: Path, tmp_path: Path) -> None:
    plain, other = (
        ec.sensitivity(made / f"{name}.fp32.onnx", tmp_path / f"{name}.json", ranges=made / f"{name}.calib.json",
                       data=made / "held.npz", threads=1)
        for name in ("logits", ends)
    )  # fmt: skip
    assert other.rows == plain.rows
    assert (other.sqnr_db, other.kl_nats) == (plain.sqnr_db, plain.kl_nats)


def test_what_is_refused_names_what_is_wrong(edgecnn: Callable[..., Result], made: Path, tmp_path: Path) -> None:
    out = ("-o", tmp_path / "x.json")
    edgecnn(*asked(made, *out, "--node", "rihgt")).refused("'rihgt'", "'right'")
    edgecnn(*asked(made, *out, data="few")).refused("15 images", "16")
    foreign = asked(made, *out)
    edgecnn(*foreign[:3], made / "Softmax.calib.json", *foreign[4:]).refused("Softmax.calib.json", "not of this one")
    edgecnn(*asked(made, "-o", made / "logits.calib.json")).refused("it is read from")
    assert list(tmp_path.iterdir()) == []
    one = edgecnn(*asked(made, "--node", "dw", "--node", "dw", "--json"))
    assert [row["node"] for row in json.loads(one.out)["rows"]] == ["dw", "dw"]
