"""A monitor counts each row once, whatever it is given and however it ends."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgecnn.cli import main
from edgecnn.errors import ArtifactError, DataError, EdgecnnError, MeasurementError
from edgecnn.inspection.drift import read_sample
from edgecnn.inspection.monitor import monitor
from edgecnn.inspection.monitor.counts import BOUNDS, KEPT_UNCERTAIN
from edgecnn.inspection.monitor.log import read_log
from edgecnn.inspection.monitor_line import monitor_line
from edgecnn.measure.input_statistics import STATISTICS, input_statistics

START = 1_760_000_400.0  # 09:00:00 UTC
ENGINE = {"engine": "m.plan", "engine_sha256": "ab", "columns": 3, "labels": ["a", "b", "c"]}


def row(k: int, **changes: Any) -> dict[str, Any]:
    return {"logits": [float(k % 3 == 0), 0.5, -1.0], "time": START + k, "image": f"{k}.png", **changes}


def write(path: Path, *rows: Any) -> Path:
    path.write_text("".join((r if isinstance(r, str) else json.dumps(r)) + "\n" for r in rows), encoding="utf-8")
    return path


@pytest.fixture
def log(tmp_path: Path) -> Path:
    return tmp_path / "log.jsonl"


def test_hours_classes_and_statistics(tmp_path: Path, log: Path) -> None:
    rows = [row(1800 * k, logits=[0.0, k % 2, -9.0], brightness=8.0 * k + 1) for k in range(6)]
    found = monitor(str(write(tmp_path / "rows", ENGINE, *rows)), log)
    assert (found.n, found.n_new, found.hours, found.classes) == (6, 6, 3, 3)
    network, entries = read_log(log)
    assert (network.engine, network.labels) == ("m.plan", ("a", "b", "c"))
    hours: dict[str | None, int] = {}
    for entry in entries:
        hours[entry.line.hour] = hours.get(entry.line.hour, 0) + entry.tally.n
    assert hours == {f"2025-10-09T{h:02}:00:00+00:00": 2 for h in (9, 10, 11)}
    total = read_sample(log).total
    assert total.predicted.tolist() == [3, 3, 0]
    assert total.histograms["brightness"].tolist()[:7] == [1, 1, 1, 1, 1, 1, 0]
    assert total.sums["brightness"] == sum(8 * k + 1 for k in range(6))
    assert not total.histograms["noise"].any()


def test_each_histogram_has_its_bounds() -> None:
    assert set(BOUNDS) == {"confidence", *STATISTICS}
    assert all(list(bounds) == sorted(set(bounds)) for bounds in BOUNDS.values())


SAMPLE = re.compile(r"([a-z_:][a-z0-9_:]*)(?:\{(.*)\})? (\S+)")
LABEL = re.compile(r'([a-z_][a-z0-9_]*)="((?:[^"\\\n]|\\[\\"n])*)"(?:,|$)')


def parsed(text: str) -> dict[str, dict[tuple[tuple[str, str], ...], float]]:
    """Prometheus's text format, strictly: one HELP and one TYPE before a family's samples, each series once."""
    kinds: dict[str, str] = {}
    series: dict[str, dict[tuple[tuple[str, str], ...], float]] = {}
    assert text.endswith("\n")
    for line in text[:-1].split("\n"):
        if line.startswith("#"):
            _, word, name, rest = line.split(" ", 3)
            assert (word == "HELP" and name not in kinds) or (word == "TYPE" and kinds[name] == "")
            kinds[name] = "" if word == "HELP" else rest
            last = name
            continue
        found = SAMPLE.fullmatch(line)
        assert found is not None, line
        name, labels, value = found.groups()
        assert name.removesuffix("_bucket").removesuffix("_sum").removesuffix("_count") == last or name == last
        pairs = LABEL.findall(labels or "")
        assert "".join(f'{k}="{v}",' for k, v in pairs).rstrip(",") == (labels or "")
        key = tuple(pairs)
        assert key not in series.setdefault(name, {})
        series[name][key] = float(value)
    assert {"counter", "histogram", "gauge"} >= set(kinds.values())
    for name, kind in kinds.items():
        if kind == "histogram":
            buckets = list(series[f"{name}_bucket"].items())
            values = [v for _, v in buckets]
            assert values == sorted(values)
            assert dict(buckets[-1][0])["le"] == "+Inf"
            assert values[-1] == next(iter(series[f"{name}_count"].values()))
    return series


def test_prometheus_reads_it(tmp_path: Path, log: Path) -> None:
    names = ['q"uote', "back\\slash", "new\nline \x1b[31m"]
    rows = write(tmp_path / "rows", {**ENGINE, "labels": names}, *(row(k, sharpness=0.3 * k) for k in range(9)))
    prometheus = tmp_path / "m.prom"
    monitor(str(rows), log, prometheus=prometheus)
    series = parsed(prometheus.read_text(encoding="utf-8"))
    assert sum(series["edgecnn_images_total"].values()) == 9
    shown = {dict(labels)["label"]: value for labels, value in series["edgecnn_predicted_total"].items()}
    assert shown == {'q\\"uote': 3, "back\\\\slash": 6, "new\\\\nline \\\\x1b[31m": 0}
    assert sum(series["edgecnn_sharpness_count"].values()) == 9
    assert next(iter(series["edgecnn_sharpness_sum"].values())) == pytest.approx(0.3 * 36)
    assert "edgecnn_noise_count" not in series


def test_a_file_is_counted_once_and_gone_on_with(tmp_path: Path, log: Path) -> None:
    rows, prometheus = tmp_path / "rows", tmp_path / "m.prom"
    write(rows, ENGINE, *map(row, range(5)))
    assert monitor(str(rows), log).n_new == 5
    assert monitor(str(rows), log).n_new == 0
    write(rows, ENGINE, *map(row, range(12)))
    assert monitor(str(rows), log, prometheus=prometheus).n_new == 7
    other = write(tmp_path / "other", ENGINE, *(row(k, image="x") for k in range(5)))
    assert monitor(str(other), log).n == 17, "another file with as many rows is another"
    assert next(iter(parsed(prometheus.read_text())["edgecnn_images_total"].values())) == 12


@pytest.mark.parametrize("suffix", [".npy", ".npz", ".f32"])
def test_arrays_and_bare_floats(suffix: str, tmp_path: Path, log: Path) -> None:
    logits = np.random.default_rng(0).normal(size=(3000, 4)).astype(np.float32)
    logits[7, 2] = np.nan
    path = tmp_path / f"logits{suffix}"
    if suffix == ".npz":
        np.savez(path, logits=logits, time=START + np.arange(3000), noise=np.ones(3000))
    elif suffix == ".npy":
        np.save(path, logits)
    else:
        path.write_bytes(logits.tobytes())
    found = monitor(str(path), log, classes=4 if suffix == ".f32" else None)
    assert (found.n, found.not_finite, found.hours) == (3000, 1, 1 if suffix == ".npz" else 0)
    total = read_sample(log).total
    finite = np.delete(logits, 7, 0)
    assert total.predicted.tolist() == np.bincount(finite.argmax(axis=1)).tolist()
    assert total.histograms["noise"].sum() == (3000 if suffix == ".npz" else 0)


def test_a_clock_that_goes_back_is_counted_and_told(tmp_path: Path, log: Path) -> None:
    rows = [row(0), row(4000), row(3999), row(10), row(5000, time=None), row(5000)]
    found = monitor(str(write(tmp_path / "rows", *rows)), log)
    assert (found.n, found.backwards, found.hours) == (6, 2, 2)
    assert {entry.line.hour for entry in read_log(log)[1]} == {
        "2025-10-09T09:00:00+00:00", "2025-10-09T10:00:00+00:00", None,
    }  # fmt: skip


def test_logits_that_are_not_finite_come_first_in_the_review(tmp_path: Path, log: Path) -> None:
    rows = [row(k, logits=[0.01 * k, 0.0, 0.0]) for k in range(30)]
    rows += [row(99, logits=[None, 0.0, 0.0]), row(98, logits=[1e300, 0.0, 0.0])]
    monitor(str(write(tmp_path / "rows", *rows)), log)
    named = read_sample(log).total.least_certain
    assert len(named) == KEPT_UNCERTAIN
    assert [(i.image, i.confidence) for i in named[:2]] == [("99.png", None), ("98.png", None)]
    assert [i.image for i in named[2:]] == [f"{k}.png" for k in range(8)]


BAD: dict[str, tuple[Any, str]] = {
    "no JSON": ("{", "not valid JSON"),
    "a list": ("[1, 2]", "a JSON object was expected"),
    "no logits": ({"image": "x"}, "logits are not a list"),
    "logits of text": ({"logits": ["1"]}, "logits are not a list"),
    "logits beyond all": ({"logits": [10**400, 1, 2]}, "logits are not a list"),
    "another class count": ({"logits": [1.0, 2.0]}, "2 logits"),
    "an unknown key": (row(1, blur=1), "unknown key 'blur'"),
    "a statistic that is none": (row(1, noise="much"), "noise 'much'"),
    "a time without offset": (row(1, time="2026-01-01T00:00:00"), "is not one"),
    "a time before all": (row(1, time=-1), "is not one"),
    "a time beyond all": (row(1, time=1e300), "is not one"),
    "a time that is none": (row(1, time=float("nan")), "is not one"),
    "a name that is none": (row(1, image=5), "image is not"),
    "a name without end": (row(1, image="x" * 5000), "image is not"),
    "another engine": ({**ENGINE, "engine_sha256": "cd"}, "engine_sha256"),
    "an engine's line with more": ({**ENGINE, "colour": 1}, "colour"),
    "twice the same key": ('{"logits": [1, 2, 3], "logits": [1, 2, 3]}', "stands twice"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_row_that_is_none_is_refused_and_those_before_it_are_counted(name: str, tmp_path: Path, log: Path) -> None:
    bad, told = BAD[name]
    rows = write(tmp_path / "rows", ENGINE, row(0), row(1))
    assert monitor(str(rows), log).n == 2
    write(rows, ENGINE, row(0), row(1), bad)
    with pytest.raises(EdgecnnError, match=re.escape(told)):
        monitor(str(rows), log)
    write(rows, ENGINE, row(0), row(1), row(2))
    found = monitor(str(rows), log)
    assert (found.n, found.n_new) == (3, 1)


def test_iso_times_and_the_end_of_a_file_without_a_new_line(tmp_path: Path, log: Path) -> None:
    rows = write(tmp_path / "rows", row(0, time="2026-11-27T10:59:59Z"), row(0, time="2026-11-27T12:00:00+01:00"))
    rows.write_text(rows.read_text().rstrip("\n"))
    assert monitor(str(rows), log).hours == 2
    with pytest.raises(DataError, match="ends within a row"):
        (tmp_path / "f").write_bytes(bytes(41))
        monitor(str(tmp_path / "f"), tmp_path / "g.jsonl", classes=5)
    assert read_sample(tmp_path / "g.jsonl").total.n == 2


def test_a_log_that_is_not_whole(tmp_path: Path, log: Path) -> None:
    rows = write(tmp_path / "rows", ENGINE, *map(row, range(200)))
    monitor(str(rows), log)
    whole = log.read_bytes()
    for end in range(len(whole) - 40, len(whole)):
        log.write_bytes(whole[:end])
        assert monitor(str(rows), log).n == 200, "what was half written is counted again, and once"
    log.write_bytes(whole.replace(b'"n": 60', b'"n": 61'))
    for use in (lambda: monitor(str(rows), log), lambda: read_sample(log)):
        with pytest.raises(ArtifactError, match="line 2 is damaged"):
            use()
    for content in (b"", b"x", b"{}\n", rows.read_bytes()):
        log.write_bytes(content)
        with pytest.raises(ArtifactError, match="log"):
            read_sample(log)
    assert main(["monitor", str(rows), "-o", str(log)]) == 2
    assert log.read_bytes() == rows.read_bytes(), "what is no log is not written to"


def test_lines_of_one_write_are_read_together_or_not_at_all(tmp_path: Path, log: Path) -> None:
    rows = write(tmp_path / "rows", ENGINE, *(row(3600 * k) for k in range(4)))
    monitor(str(rows), log)
    whole = log.read_bytes()
    assert whole.count(b"\n") == 5
    ends = [m.end() for m in re.finditer(b"\n", whole)]
    for end in ends[1:-1]:
        log.write_bytes(whole[:end])
        assert monitor(str(rows), log).n == 4


def start(log: Path, *words: str) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "edgecnn", "monitor", "-", "-o", str(log), "--classes", "2", *words]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def feed(process: subprocess.Popen[bytes], rows: int) -> None:
    assert process.stdin is not None
    process.stdin.write(np.ones((rows, 2), np.float32).tobytes())
    process.stdin.flush()


def wait_for(condition: Any) -> None:
    end = time.monotonic() + 40
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)


def test_sigterm_writes_what_was_counted_and_a_restart_goes_on(log: Path, tmp_path: Path) -> None:
    process = start(log)
    feed(process, 10)  # written at once, as the first of their minute
    wait_for(lambda: log.exists() and log.stat().st_size)
    feed(process, 990)
    time.sleep(0.5)
    process.send_signal(signal.SIGTERM)
    _, said = process.communicate(timeout=30)
    assert (process.returncode, said) == (143, b"terminated\n")
    assert read_sample(log).total.n == 1000
    again = start(log, "--json")
    feed(again, 10)
    out, _ = again.communicate(timeout=30)
    assert again.returncode == 0
    assert (json.loads(out)["n"], json.loads(out)["n_new"]) == (1010, 10)


def test_a_kill_loses_nothing_that_was_written(log: Path) -> None:
    process = start(log)
    feed(process, 140_000)  # more than one line takes, before or after a minute that ends among them
    wait_for(lambda: log.exists() and log.stat().st_size and read_sample(log).total.n > 65_536)
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    kept = read_sample(log).total.n
    assert kept >= 65_536
    again = start(log)
    feed(again, 1)
    again.communicate(timeout=30)
    assert read_sample(log).total.n == kept + 1


def test_two_monitors_do_not_share_a_log(tmp_path: Path, log: Path) -> None:
    rows = str(write(tmp_path / "rows", row(0)))
    monitor(rows, log)
    with log.open("a+b") as held:
        import fcntl

        fcntl.flock(held, fcntl.LOCK_EX)
        with pytest.raises(MeasurementError, match="another process"):
            monitor(rows, log)


def test_what_a_serving_loop_writes_is_read(tmp_path: Path, log: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (16, 16, 3), dtype=np.uint8)
    lines = [
        monitor_line([0.1, 2.5, float("inf")], pixels, image="evil\n\x1b[31m‮.png", time_s=START),
        monitor_line(np.array([3, 4, 5], np.float32), image="b"),
    ]
    assert all(len(line.splitlines()) == 1 and line.isprintable() for line in lines)
    found = monitor(str(write(tmp_path / "rows", *lines)), log)
    assert (found.n, found.not_finite) == (2, 1)
    assert read_sample(log).total.histograms["noise"].sum() == 1
    for wrong in ([], [[1, 2], [3, 4]], "abc", 5):
        with pytest.raises(DataError, match="logits"):
            monitor_line(wrong)  # type: ignore[arg-type]
    for picture in (np.zeros(5), np.zeros((2, 2)), np.zeros((8, 8, 2)), np.full((8, 8), -1.0), np.full((8, 8), np.nan)):
        with pytest.raises(DataError, match="pixels"):
            monitor_line([1.0], picture)


def test_statistics_of_pictures_that_are_known() -> None:
    flat = input_statistics(np.full((9, 9), 100, np.uint8))
    assert flat == {"brightness": 100.0, "contrast": 0.0, "sharpness": 0.0, "noise": 0.0}
    rng = np.random.default_rng(0)
    noisy = input_statistics(np.clip(rng.normal(128, 10, (200, 200)), 0, 255))
    assert noisy["noise"] == pytest.approx(10, rel=0.03)
    assert noisy["contrast"] == pytest.approx(10, rel=0.03)
    assert noisy["sharpness"] == pytest.approx(20**0.5, rel=0.03), "of white noise: 4 * 4 + 4"
    red = input_statistics(np.full((4, 4, 3), (255, 0, 0), np.uint8))
    assert red["brightness"] == pytest.approx(0.299 * 255)
    picture = rng.integers(0, 256, (64, 64), dtype=np.uint8)
    dark = input_statistics(picture * 0.5)
    assert dark["sharpness"] == pytest.approx(input_statistics(picture)["sharpness"])
