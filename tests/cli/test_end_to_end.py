"""End to end on ONNX Runtime: the command, several processes, and the stream of a real engine."""

from __future__ import annotations

import json
import re
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from PIL import Image

from edgecnn.artifact.sidecar import Sidecar, read_json
from edgecnn.artifact.write import write_artifact
from edgecnn.data.preprocess import Preprocessing
from edgecnn.errors import BackendError, MeasurementError
from edgecnn.measure.end_to_end import WallClock, collect_frames, periodic, summarize
from edgecnn.results.device import Device
from edgecnn.results.latency import Clocks
from edgecnn.steps import end_to_end
from edgecnn.steps.end_to_end import EndToEndSettings, bench_end_to_end

if TYPE_CHECKING:  # imported before the first test of this file
    from edgecnn.backends import open_engine
    from tests.fakes.tiny import SIZE, tiny_graph

pytestmark = pytest.mark.onnx


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny engine with its sidecar, and three pictures."""
    folder = tmp_path_factory.mktemp("end-to-end")
    preprocessing = Preprocessing(SIZE, SIZE, (0.5,) * 3, (0.25,) * 3)
    for name, batch in (("m.onnx", None), ("frozen.onnx", 4)):
        content = tiny_graph("fp32", batch).SerializeToString()
        known = Sidecar(kind="graph", preprocessing=preprocessing.to_json(), labels=list("abcde"))
        write_artifact(folder / name, lambda temporary, content=content: temporary.write_bytes(content), known)
    (folder / "pictures").mkdir()
    for k in range(3):
        noise = np.random.default_rng(k).integers(0, 255, (60, 80, 3), dtype=np.uint8)
        Image.fromarray(noise).save(folder / "pictures" / f"{k}.jpg")
    np.savez(folder / "arrays.npz", input=np.zeros((2, 3, SIZE, SIZE), np.float32))
    return folder


@pytest.fixture
def bench(made: Path, edgecnn: Callable[..., Any]) -> Callable[..., Any]:
    def run(*more: object, engine: str = "m.onnx", data: str = "pictures") -> Any:
        return edgecnn("bench", "--engine", made / engine, "--end-to-end", "--data", made / data, *more)

    return run


def test_the_command(bench: Callable[..., Any], tmp_path: Path) -> None:
    done = bench("--fps", 200, "--duration", 0.3, "--warmup", 10, "-o", tmp_path / "e.json", "--json")
    assert done.code == 0, done.err
    row = json.loads(done.out)
    assert row["stream"]["n_offered"] == 60
    assert row["stream"]["deadline_ms"] == 5
    assert [s["name"] for s in row["stages"]] == ["wait", "decode", "resize", "normalize", "compute", "other"]
    assert sum(s["ms_mean"] for s in row["stages"]) == pytest.approx(row["latency_ms_mean"])
    kept = read_json(tmp_path / "e.json")
    assert kept["provenance"]["fields"]["bench.fps"] == 200
    assert kept["latency_ms_p50"] == row["latency_ms_p50"]
    done = bench("--batch", 2, "--duration", 0.1, "--warmup", 0)
    assert done.code == 0, done.err
    assert "queries of 2" in done.out
    assert "decode" in done.out


def test_a_soak_says_what_heat_costs(bench: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(end_to_end, "collect_frames", lambda *given, **more: collect_frames(given[0], 0.5, given[2]))
    done = bench("--soak", 1, "--warmup", 0)
    assert done.code == 0, done.err
    assert re.search(r"^burst \(0 to 0 s\): p50 [\d.]+ ms(, p99 [\d.]+ ms)?$", done.out, re.MULTILINE)
    assert re.search(r"^heat-soaked / burst: [\d.]+$", done.out, re.MULTILINE)


def test_mistakes(bench: Callable[..., Any], made: Path, edgecnn: Callable[..., Any]) -> None:
    for more, how, said in (
        (("--vs", "other.onnx"), {}, "--vs"),
        (("--batch", "1,2"), {}, "several sizes"),
        (("--soak", 1, "--duration", 3), {}, "both say how long"),
        (("--fps", 0), {}, "0"),
        ((), {"engine": "frozen.onnx"}, "frozen at 4"),
        ((), {"data": "arrays.npz"}, "no pictures to decode"),
        ((), {"data": "absent"}, "absent"),
        (("--processes", 2), {"data": "absent"}, "absent"),
    ):
        assert said in bench(*more, **how).refused(), more
    assert "without --data" in edgecnn("bench", "--engine", made / "m.onnx", "--end-to-end").refused()
    assert "belong to --end-to-end" in edgecnn("bench", "--engine", made / "m.onnx", "--fps", 3).refused()


@pytest.mark.cpu_s(20)
def test_processes_run_at_once(made: Path) -> None:
    settings = EndToEndSettings(duration_s=0.4, warmup_ms=10, processes=2, fps=50)
    found = bench_end_to_end(made / "m.onnx", data=str(made / "pictures"), settings=settings)
    assert found.processes == 2
    assert found.stream is not None
    assert found.stream.n_offered == 40
    assert found.duration_s < 1.0


def _dies(*unused: object) -> None:
    signal.raise_signal(signal.SIGKILL)


def test_a_process_that_dies_is_an_error(made: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(end_to_end, "_work", _dies)
    with pytest.raises(BackendError, match="exit code -9"):
        bench_end_to_end(made / "m.onnx", data=str(made / "pictures"), settings=EndToEndSettings(processes=2))


def test_no_frame_within_the_time(made: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(end_to_end, "periodic", lambda fps: iter([10.0, 11.0]))
    settings = EndToEndSettings(duration_s=0.05, warmup_ms=0, fps=1)
    with pytest.raises(MeasurementError, match="no frame was served"):
        bench_end_to_end(made / "m.onnx", data=str(made / "pictures"), settings=settings)


class Throttled:
    """Queries of a real engine, each held until its time is over."""

    def __init__(self, engine: Path, service_s: Callable[[int], float]) -> None:
        self.session = open_engine(engine, 1, False)
        self.service_s = service_s

    def __call__(self, number: int) -> tuple[float, ...]:
        start = time.perf_counter()
        self.session.run(np.zeros((1, 3, SIZE, SIZE), np.float32))
        WallClock().sleep_until(start + self.service_s(number))
        return (0.0, 0.0, 0.0, 0.0, 1000 * (time.perf_counter() - start), 0.0)


def test_a_real_stream_is_the_queue_that_its_services_make(made: Path) -> None:
    """Lindley 1952: a frame begins when it has come and the one before is done. By the machine's clock, of services as
    they were on however busy a machine: none begins earlier, and the wait adds up but for the time to wake."""
    arrivals = iter(np.cumsum(np.random.default_rng(0).exponential(0.008, 20_000)).tolist())
    run = collect_frames(Throttled(made / "m.onnx", lambda _: 0.005), 1.0, Clocks, arrivals)
    arrival, start, end = (np.array(x) for x in (run.arrival, run.start, run.end))
    assert len(start) > 20
    free = np.maximum(arrival, np.concatenate([[0.0], end[:-1]]))
    assert (start >= free - 1e-6).all()
    assert np.median(start - free) < 0.002
    assert (end - start >= 0.005).all()
    assert start.max() < 1.0 <= run.duration_s + 1e-6
    assert (
        len(run.arrival) + len(run.waiting) == (np.cumsum(np.random.default_rng(0).exponential(0.008, 999)) < 1).sum()
    )


@pytest.mark.slow
def test_the_wait_of_a_real_engine_is_that_of_m_d_1(made: Path) -> None:
    """By the machine's clock: 120 s of Poisson arrivals at a load of 0.5, service held at 20 ms. What the machine adds
    to the service is in the formula (Pollaczek-Khinchine with the moments as served); for it alone, 20 ms."""
    service, load, rng = 0.02, 0.5, np.random.default_rng(0)
    arrivals = iter(np.cumsum(rng.exponential(service / load, 20_000)).tolist())
    run = collect_frames(Throttled(made / "m.onnx", lambda _: service), 120.0, Clocks, arrivals)
    arrival, start, end = (np.array(x) for x in (run.arrival, run.start, run.end))
    wait, served, rate = start - arrival, end - start, len(arrival) / 120.0
    means = np.array([part.mean() for part in np.array_split(wait, 20)])
    half = 2.093 * means.std(ddof=1) / 20**0.5
    theory = rate * (served**2).mean() / (2 * (1 - rate * served.mean()))
    ideal = rate * service**2 / (2 * (1 - rate * service))
    print(
        f"{len(wait)} frames: wait {1e3 * wait.mean():.2f} +- {1e3 * half:.2f} ms, M/D/1 {1e3 * ideal:.2f}, as served "
        f"{1e3 * theory:.2f}; service {1e3 * served.mean():.2f} ms (deviation {1e3 * served.std():.2f})"
    )
    if served.std() > 0.05 * service:  # stalls come in bunches, and the formula wants independent services
        pytest.skip(f"this machine is too busy: a service of 20 ms deviates by {1e3 * served.std():.1f} ms")
    assert abs(wait.mean() - theory) <= half


@pytest.mark.slow
def test_a_throttled_engine_misses_what_it_must(made: Path) -> None:
    """At 5 frames/s a query of 300 ms is late itself, one of 480 ms makes the next one late as well."""
    for slow_s, missed in ((0.3, 1), (0.48, 2)):
        query = Throttled(made / "m.onnx", lambda n, slow_s=slow_s: slow_s if n % 10 == 4 else 0.005)
        run = collect_frames(query, 20.0, Clocks, periodic(5))
        found = summarize("x", Device(cpu="here"), [run], 1, fps=5)
        assert found.stream is not None
        assert found.stream.n_offered == 100
        stalls = sum(e - s > 0.1 for n, (s, e) in enumerate(zip(run.start, run.end, strict=True)) if n % 10 != 4)
        assert 10 * missed <= found.stream.deadline_missed <= 10 * missed + 2 * stalls  # by the machine's other work
