"""What a device says is counted hour by hour, and what moved is told: as its user sees it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jsonschema
import numpy as np
import pytest

import edgecnn as ec

if TYPE_CHECKING:
    from tests.acceptance.channel_pictures import Result

pytestmark = pytest.mark.onnx

SCHEMAS = Path(__file__).resolve().parents[2] / "docs" / "schema"
Command = Callable[..., "Result"]
START = 1_760_000_400.0


def valid(document: Any, schema: str) -> Any:
    jsonschema.validate(document, json.loads((SCHEMAS / f"{schema}.schema.json").read_text()))
    return document


def logits(seed: int, n: int, classes: int = 5, shares: Any = None) -> np.ndarray:
    rng = np.random.default_rng(seed)
    rows = rng.normal(0, 1, (n, classes))
    rows[np.arange(n), rng.choice(classes, n, p=shares)] += rng.gamma(2, 2, n)
    return rows.astype(np.float32)


def put_rows(path: Path, rows: np.ndarray, **engine: Any) -> Path:
    first = [json.dumps({"engine": "m.plan", "columns": rows.shape[1], **engine})] if engine else []
    lines = [json.dumps({"logits": row.tolist(), "time": None, "image": f"{k}.png"}) for k, row in enumerate(rows)]
    path.write_text("\n".join([*first, *lines]) + "\n")
    return path


@pytest.fixture
def counted(edgecnn: Command, tmp_path: Path) -> Callable[..., Path]:
    def make(name: str, rows: np.ndarray, **engine: Any) -> Path:
        log = tmp_path / f"{name}.jsonl"
        assert edgecnn("monitor", put_rows(tmp_path / f"{name}.rows", rows, **engine), "-o", log).code == 0
        return log

    return make


def test_documents_follow_their_schemas(edgecnn: Command, counted: Callable[..., Path], tmp_path: Path) -> None:
    a, b = counted("a", logits(0, 500)), counted("b", logits(1, 500, shares=[0.6, 0.1, 0.1, 0.1, 0.1]))
    found = edgecnn("drift", a, b, "--json")
    assert found.code == 1
    document = valid(json.loads(found.out), "drift")
    assert document["moved"] == ["classes"]
    assert document["classes"][0]["label"] == 0
    assert [s["name"] for s in document["statistics"] if s["moved"]] == document["moved"]
    again = edgecnn("monitor", tmp_path / "a.rows", "-o", a, "--json")
    assert valid(json.loads(again.out), "monitored")["n_new"] == 0
    assert edgecnn("drift", a, a).code == 0, "a log has not moved from itself"
    assert edgecnn("drift", a, counted("few", logits(2, 3))).code == 3


@pytest.mark.parametrize(
    ("header", "told"),
    [
        ({"labels": ["only", "two"]}, "2 labels of 5 columns"),
        ({"labels": list("abcdef")}, "6 labels of 5 columns"),
        ({"columns": -1}, "columns = -1"),
        ({"columns": 10**12}, "columns = 1000000000000"),
    ],
)
def test_a_network_that_cannot_be_is_refused_before_it_is_in_a_log(
    edgecnn: Command, tmp_path: Path, header: dict[str, Any], told: str
) -> None:
    rows = put_rows(tmp_path / "rows", logits(0, 5), **header)
    edgecnn("monitor", rows, "-o", tmp_path / "log.jsonl", "--prometheus", tmp_path / "log.prom").refused(
        told, "predict"
    )
    assert not (tmp_path / "log.jsonl").exists()
    assert not (tmp_path / "log.prom").exists()


@pytest.mark.parametrize("value", [np.inf, -np.inf, 1e305])
def test_statistics_of_an_array_are_finite_or_unknown(edgecnn: Command, tmp_path: Path, value: float) -> None:
    log = tmp_path / "log.jsonl"
    np.savez(tmp_path / "rows.npz", logits=logits(0, 3), noise=np.array([1.0, np.nan, value]))
    edgecnn("monitor", tmp_path / "rows.npz", "-o", log).refused("noise is not finite", "logits [N, classes]")
    np.savez(tmp_path / "rows.npz", logits=logits(0, 3), noise=np.array([1.0, np.nan, 2]))
    assert edgecnn("monitor", tmp_path / "rows.npz", "-o", log).code == 0
    assert edgecnn("drift", log, log).code == 3


def test_a_log_cut_anywhere_is_gone_on_with(edgecnn: Command, counted: Callable[..., Path], tmp_path: Path) -> None:
    log = counted("a", logits(0, 20))
    whole = log.read_bytes()
    for end in {1, 9, 40, 300, whole.index(b"\n"), whole.index(b"\n") + 1, len(whole) - 30, len(whole) - 1}:
        log.write_bytes(whole[:end])
        edgecnn("drift", log, log).refused("is empty", "log")
        found = edgecnn("monitor", tmp_path / "a.rows", "-o", log, "--json")
        assert json.loads(found.out)["n"] == 20, end
        assert log.read_bytes() == whole
    for other in (b'{"kind": "other"', b'{"kind": "edgecnn monitor log"} \n', b"[", b"x"):
        log.write_bytes(other)
        edgecnn("monitor", tmp_path / "a.rows", "-o", log).refused("not that of a log")
        assert log.read_bytes() == other


def monitor_process(log: Path, *words: str, **streams: Any) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "edgecnn", "monitor", "-", "-o", str(log), *words]
    return subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.PIPE, **streams)


def test_pipes_that_are_closed_or_end_within_a_row(tmp_path: Path) -> None:
    log = tmp_path / "log.jsonl"
    closed = monitor_process(log, preexec_fn=lambda: os.close(0))
    half = monitor_process(tmp_path / "half.jsonl", "--classes", "5", stdin=subprocess.PIPE)
    said = half.communicate(bytes(5 * 4 * 30 + 8), timeout=60)[1].decode()
    assert (half.returncode, said.count("error:")) == (2, 1)
    assert "ends within a row of 20 bytes" in said
    assert sum(json.loads(x).get("n", 0) for x in (tmp_path / "half.jsonl").read_text().splitlines()) == 30
    said = closed.communicate(timeout=60)[1].decode()
    assert (closed.returncode, said.splitlines()[0]) == (2, "error: standard input: is closed")


def test_each_minute_of_a_stream_is_a_line(edgecnn: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As a camera sends: a row, and again a row."""
    monkeypatch.setattr("edgecnn.inspection.monitor.rows.ROWS_AT_ONCE", 1)
    text = [json.dumps({"logits": row.tolist(), "time": START + 5 * k}) for k, row in enumerate(logits(0, 60))]
    (tmp_path / "rows").write_text("\n".join(text))
    assert edgecnn("monitor", tmp_path / "rows", "-o", tmp_path / "log.jsonl").code == 0
    lines = [json.loads(line)["n"] for line in (tmp_path / "log.jsonl").read_text().splitlines()[1:]]
    assert lines == [1, 11, 12, 12, 12, 12], "the first row is written at once"


def test_a_class_begins_with_zero_for_prometheus(edgecnn: Command, tmp_path: Path) -> None:
    """`increase` does not see the first count of a series that was not there."""
    rows, prom = (
        put_rows(tmp_path / "rows", np.eye(3, dtype=np.float32)[[1, 1]], labels=['"', "\\", "\n"]),
        tmp_path / "m.prom",
    )
    assert edgecnn("monitor", rows, "-o", tmp_path / "log.jsonl", "--prometheus", prom).code == 0
    told = [
        line.rsplit(" ", 1)[1] for line in prom.read_text().splitlines() if line.startswith("edgecnn_predicted_total{")
    ]
    assert told == ["0", "2", "0"]


def test_a_thousand_classes_take_seconds(edgecnn: Command, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    said = rng.choice(1000, (2, 10_000), p=rng.dirichlet(np.full(1000, 0.5)))
    for name, classes in zip("ab", said, strict=True):
        np.save(tmp_path / f"{name}.npy", 6 * np.eye(1000, dtype=np.float32)[classes])
    start = time.process_time()
    assert edgecnn("monitor", tmp_path / "b.npy", "-o", tmp_path / "log.jsonl").code == 0
    assert ec.drift(tmp_path / "a.npy", tmp_path / "log.jsonl").verdict == "no drift"
    assert time.process_time() - start < 5
