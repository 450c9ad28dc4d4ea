"""Latency on sessions whose times are known; clocks from a made-up sysfs and a made-up NVML."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgecnn.errors import ArtifactError, MeasurementError
from edgecnn.machine.clocks import clock_warnings, read_clocks
from edgecnn.machine.load import CpuTime
from edgecnn.measure import comparison, latency
from edgecnn.measure.comparison import compare_latency, find_fp16_engines
from edgecnn.measure.latency import measure_latency
from edgecnn.records import record_from_mapping, to_plain
from edgecnn.results.baseline import BaselineRow
from edgecnn.results.latency import Clocks, Latency
from edgecnn.session import Array, PipelineOptions, Session, SessionInfo, TensorSpec, Timing
from tests.fakes.measurements import TENSORRT, engine

BATCH = np.zeros((4, 3, 2, 2), np.float32)


INFO = SessionInfo((TensorSpec("input", (None, 3, 2, 2), "float32"),), (TensorSpec("logits", (None, 2), "float32"),))


def zeros(inputs: Mapping[str, Array]) -> dict[str, Array]:
    """The logits of INFO."""
    return {"logits": np.zeros((len(inputs["input"]), 2), np.float32)}


@pytest.fixture(autouse=True)
def nothing_else_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Other tests do, beside these."""
    monkeypatch.setattr(latency, "read_cpu_time", lambda: None)


class Scripted(Session):
    """A session whose events say what they are told to, at once."""

    def __init__(self, compute_ms: Any, h2d_ms: float = 0.5, d2h_ms: float = 0.25) -> None:
        self._compute_ms, self._copies, self.calls = compute_ms, (h2d_ms, d2h_ms), 0

    @property
    def info(self) -> SessionInfo:
        return INFO

    def run_all(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        self.calls += 1
        return zeros(inputs)

    def timed(self, batch: Array) -> Timing:
        self.calls += 1
        return Timing(self._copies[0], self._compute_ms(self.calls), self._copies[1], "cuda events")


def measured(session: Session, **more: Any) -> Any:
    settings: dict[str, Any] = {"warmup_ms": 0, "duration_s": 0, "clocks": Clocks, **more}
    return measure_latency("e", session, BATCH, **settings)


def test_latency_is_h2d_plus_compute_plus_d2h() -> None:
    found = measured(Scripted(lambda k: float(k)), min_queries=11)
    assert found.n_queries == 11
    assert found.latency_ms_p50 == 6 + 0.75
    assert found.latency_ms_mean == 6 + 0.75
    assert (found.compute_ms_p50, found.h2d_ms_p50, found.d2h_ms_p50) == (6, 0.5, 0.25)
    assert found.latency_ms_cov_pct == pytest.approx(100 * np.arange(1, 12).std() / 6.75)
    assert found.clock == "cuda events"
    assert found.transfers


@pytest.mark.parametrize(
    ("n", "carried"), [(63, ""), (64, "p90"), (129, "p90"), (130, "p90 p95"), (661, "p90 p95"), (662, "p90 p95 p99")]
)
def test_percentiles_only_where_the_sample_carries_them(n: int, carried: str) -> None:
    found = measured(Scripted(lambda k: 1.0), min_queries=n)
    assert " ".join(p for p in ("p90", "p95", "p99") if getattr(found, f"latency_ms_{p}") is not None) == carried
    assert found.latency_ms_p50 is not None


def test_warm_up_queries_are_dropped_and_the_duration_is_kept() -> None:
    session = Scripted(lambda k: 1.0)
    found = measured(session, warmup_ms=30, duration_s=0.05)
    assert session.calls > found.n_queries
    assert 0.05 <= found.duration_s < 5
    assert found.throughput_images_per_s == pytest.approx(4 * found.n_queries / found.duration_s)


def test_an_untimed_session_and_throughput_use_the_host_clock() -> None:
    class Untimed(Session):
        """A session without events of its own."""

        info = INFO

        def run_all(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
            return zeros(inputs)

    found = measured(Scripted(lambda k: 1.0), options=PipelineOptions(timed=False))
    assert (found.clock, found.compute_ms_p50, found.mode) == ("host", None, "single-shot")
    assert found.transfers  # the call copies in and out, whoever holds the clock
    found = measured(Untimed())
    assert (found.clock, found.transfers) == ("host", False)


def test_what_a_session_says_of_itself_stands_in_its_latency() -> None:
    class Said(Scripted):
        info = dataclasses.replace(INFO, graph_fallback="the stream refuses", sync="by events", simulated="FP16")

    found = measured(Said(lambda k: 1.0))
    assert (found.graph, found.sync) == (False, "by events")
    assert "not replayed as a CUDA graph: the stream refuses" in found.warnings
    assert "this is a simulation (FP16): its speed says nothing" in found.warnings


def test_a_graph_that_is_replayed_only_after_some_queries_is_said() -> None:
    class Captured(Scripted):
        @property
        def info(self) -> SessionInfo:
            return dataclasses.replace(INFO, graph=self.calls > 2)

    assert measured(Captured(lambda k: 1.0), min_queries=5).graph
    assert not measured(Captured(lambda k: 1.0), min_queries=1).graph


class Clockwork:
    """Time that passes only in queries and readings: the clock of a measurement whose every number is known."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now, self.calls = 100.0, list[str]()
        for module in (latency, comparison):
            monkeypatch.setattr(module, "time", self)

    def perf_counter(self) -> float:
        return self.now

    def perf_counter_ns(self) -> int:
        return round(1e9 * self.now)

    def read(self, seconds: float = 7.0) -> Clocks:
        """A reading of the clocks that takes long."""
        self.now += seconds
        return Clocks()

    def session(self, name: str, seconds: Any) -> Any:
        """A session without events whose query takes `seconds(number of the query)`."""
        outer = self

        class Timed(Scripted):
            def run_all(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
                outer.calls.append(name)
                outer.now += seconds(outer.calls.count(name))
                return zeros(inputs)

        return Timed(lambda k: 1.0)


def test_reading_the_clocks_is_no_part_of_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    time = Clockwork(monkeypatch)
    session = time.session("a", lambda k: 0.25)
    found = measured(session, options=PipelineOptions(timed=False), clocks=time.read, warmup_ms=1000, duration_s=5)
    assert time.calls.count("a") == 4 + 20
    assert (found.n_queries, found.duration_s, found.latency_ms_p50) == (20, pytest.approx(5), pytest.approx(250))
    assert found.throughput_images_per_s == pytest.approx(4 * 20 / 5)


def test_blocks_follow_each_other_forwards_and_backwards(monkeypatch: pytest.MonkeyPatch) -> None:
    time = Clockwork(monkeypatch)
    monkeypatch.setattr(latency, "TimedSession", type("Never", (), {}))
    a, b = time.session("a", lambda k: 1 / 128), time.session("b", lambda k: 1 / 64)
    [found] = compare_latency({"a": a, "b": b}, BATCH, warmup_ms=100, duration_s=1, clocks=time.read).values()
    text = "".join(time.calls)
    assert text.startswith("a" * 13 + "b" * 7 + "aaaaaabbb" + "bbbaaaaaa" + "aaaaaabbb")  # 0.1 s, then blocks of 0.05 s
    assert (found.latency_ratio_rounds, found.latency_ratio) == (20, pytest.approx(2))
    assert len(text) == 20 + 20 * 9
    time.calls.clear()
    slow = time.session("s", lambda k: 1 / 128 if k <= 13 else 1.0)  # a machine that has become a hundred times slower
    [found] = compare_latency({"a": a, "s": slow}, BATCH, warmup_ms=100, duration_s=0.5, clocks=time.read).values()
    assert time.calls.count("s") == 13 + 10  # a block ends after three blocks' time


def test_a_ratio_with_a_session_that_is_starved_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    time = Clockwork(monkeypatch)
    monkeypatch.setattr(latency, "TimedSession", type("Never", (), {}))
    steady = time.session("steady", lambda k: 1 / 128)
    starved = time.session("starved", lambda k: 1 / 128 if k % 5 == 0 else 1 / 32)
    settings: dict[str, Any] = {"warmup_ms": 100, "duration_s": 1, "clocks": time.read}
    for first, second in ((steady, starved), (starved, steady)):
        [found] = compare_latency({"a": first, "b": second}, BATCH, **settings).values()
        (warning,) = found.latency_ratio_warnings
        slow = "a" if first is starved else "b"
        assert warning.startswith(f"{slow}: the median query took 4 times as long as the fastest")
        expected = (1, 4) if slow == "b" else (0.25, 1)  # up to what it were if nobody was starved
        assert found.latency_ratio_ci == pytest.approx(expected)
    [found] = compare_latency({"a": steady, "b": time.session("c", lambda k: 1 / 64)}, BATCH, **settings).values()
    assert found.latency_ratio_warnings == ()


def test_a_timed_session_without_copies_says_so() -> None:
    assert not measured(Scripted(lambda k: 1.0, h2d_ms=0, d2h_ms=0)).transfers


def test_what_was_unstable_and_what_others_took_stand_in_the_latency(monkeypatch: pytest.MonkeyPatch) -> None:
    readings = iter([CpuTime(0.0, 0.0, 0.0), CpuTime(1.0, 1.5, 1.0)])
    monkeypatch.setattr(latency, "read_cpu_time", lambda: next(readings))
    clocks = iter([Clocks(gpu_mhz=210), *[Clocks(gpu_mhz=1300)] * 9])  # idle at first
    found = measured(Scripted(lambda k: 10.0), min_queries=100, clocks=lambda: next(clocks))
    assert found.other_load_cores == 0.5
    assert found.unstable == ("other work took 0.50 cores during the run",)
    assert found.yardstick_ms > 0
    assert found.unstable[0] in found.warnings
    monkeypatch.setattr(latency, "read_cpu_time", lambda: None)
    found = measured(Scripted(lambda k: 10.0), clocks=lambda: Clocks(gpu_mhz=1300, throttled=("heat",)))
    assert found.unstable == ("the GPU was throttled: heat",)


def test_drift_and_instability_are_said() -> None:
    slowing = measured(Scripted(lambda k: 10 + 0.02 * k), min_queries=200)
    assert slowing.drift_pct > 5
    assert any("drift" in w for w in slowing.warnings)
    assert any("coefficient of variation" in w for w in slowing.warnings)
    steady = measured(Scripted(lambda k: 10.0), min_queries=200)
    assert steady.warnings == ()
    copies = measured(Scripted(lambda k: 0.3), min_queries=20)
    assert any("h2d takes as long" in w for w in copies.warnings)


def test_a_clock_that_moved_is_said() -> None:
    readings = iter([Clocks(gpu_mhz=1300, locked=True), *[Clocks(gpu_mhz=918, locked=True)] * 50])
    found = measured(Scripted(lambda k: 1.0), clocks=lambda: next(readings))
    assert any("GPU clock moved between 918 and 1300 MHz" in w for w in found.warnings)
    assert found.clocks == Clocks(gpu_mhz=918, locked=True)


def test_throttling_power_mode_and_unlocked_clocks_are_said() -> None:
    said = clock_warnings(
        [
            Clocks(gpu_mhz=1000, locked=False, power_mode="0 MAXN"),
            Clocks(gpu_mhz=1000, locked=False, power_mode="1 15W", throttled=("hardware thermal slowdown",)),
        ]
    )
    assert len(said) == 3
    assert "thermal" in said[0]
    assert clock_warnings([Clocks(cpu_mhz=2600), Clocks(cpu_mhz=2601)]) == []


def test_interleaved_comparison_gives_the_ratio_with_its_interval() -> None:
    rng = np.random.default_rng(0)
    fast, slow = (Scripted(lambda k, m=m: float(m * rng.lognormal(0, 0.1)), 0, 0) for m in (40, 50))
    [found] = compare_latency({"fp32": slow, "int8": fast}, BATCH, warmup_ms=0, duration_s=4, clocks=Clocks).values()
    assert found.latency_ratio_ci[0] < 0.8 < found.latency_ratio_ci[1]
    assert found.latency_ratio_ci[1] - found.latency_ratio_ci[0] < 0.15
    assert found.latency_reference == "fp32"
    assert 70 <= found.latency_ratio_rounds <= 80


def test_the_interval_covers_when_the_machine_has_slow_phases() -> None:
    """Two equal engines on a machine whose speed changes every few blocks: 1 must lie inside nearly always."""
    hits = 0
    for seed in range(40):
        rng, state = np.random.default_rng(seed), {"speed": 1.0, "calls": 0}

        def query(k: int, rng: Any = rng, state: Any = state) -> float:
            state["calls"] += 1
            if state["calls"] % 7 == 0:
                state["speed"] = float(rng.lognormal(0, 0.2))
            return 20 * state["speed"] * float(rng.lognormal(0, 0.02))

        sessions = {"a": Scripted(query, 0, 0), "b": Scripted(query, 0, 0)}
        [found] = compare_latency(sessions, BATCH, warmup_ms=0, duration_s=1.5, clocks=Clocks, seed=seed).values()
        hits += found.latency_ratio_ci[0] <= 1 <= found.latency_ratio_ci[1]
    assert hits >= 36


def test_what_cannot_overlap_says_so_and_is_not_pretended() -> None:
    session = Scripted(lambda k: 1.0)
    for more, said in (
        ({"mode": "pipelined"}, "mode pipelined: only engines of TensorRT"),
        ({"options": PipelineOptions(streams=2)}, "2 streams: single-shot queries come one at a time"),
        ({"options": PipelineOptions(transfers=False)}, "no transfers: single-shot queries"),
    ):
        with pytest.raises(MeasurementError, match=said):
            measured(session, **more)
    with pytest.raises(MeasurementError, match="mode pipelined"):
        compare_latency({"a": session, "b": session}, BATCH, warmup_ms=0, duration_s=0, mode="pipelined")
    assert session.calls == 0
    assert (measured(session).mode, measured(session).streams) == ("single-shot", 1)


def test_latencies_of_earlier_versions_were_single_shot() -> None:
    plain = to_plain(measured(Scripted(lambda k: 1.0)))
    for key in ("streams", "enqueue_ms_p50"):
        del plain[key]
    for earlier in ("latency", "throughput"):
        found = record_from_mapping(Latency, {**plain, "mode": earlier}, "latency.json", "")
        assert (found.mode, found.streams) == ("single-shot", 1)
    with pytest.raises(ArtifactError, match="mode"):
        record_from_mapping(Latency, {**plain, "mode": "speed"}, "latency.json", "")
    old = record_from_mapping(BaselineRow, {"mode": "latency", "batch": 1}, "baseline", "")
    assert old == BaselineRow(mode="single-shot", batch=1)


def test_one_engine_is_no_comparison() -> None:
    with pytest.raises(MeasurementError, match="two engines"):
        compare_latency({"a": Scripted(lambda k: 1.0)}, BATCH, warmup_ms=0, duration_s=0)


def write(root: Path, **files: str) -> None:
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)


def test_clocks_of_a_jetson(tmp_path: Path) -> None:
    files = {
        "sys/devices/system/cpu/cpu0/cpufreq/scaling_cur_freq": "1510400\n",
        "sys/devices/system/cpu/cpu1/cpufreq/scaling_cur_freq": "1510400\n",
        "sys/devices/system/cpu/cpu0/cpufreq/scaling_governor": "schedutil\n",
        "sys/class/devfreq/17000000.gpu/cur_freq": "624750000\n",
        "sys/class/devfreq/17000000.gpu/min_freq": "306000000\n",
        "sys/class/devfreq/17000000.gpu/max_freq": "624750000\n",
        "sys/class/devfreq/15340000.vic/cur_freq": "1\n",
        "sys/class/thermal/thermal_zone0/type": "cpu-thermal\n",
        "sys/class/thermal/thermal_zone0/temp": "40000\n",
        "sys/class/thermal/thermal_zone1/type": "gpu-thermal\n",
        "sys/class/thermal/thermal_zone1/temp": "45500\n",
        "var/lib/nvpmodel/status": "pmode:0001\n",
        "etc/nvpmodel.conf": "< POWER_MODEL ID=0 NAME=15W >\n< POWER_MODEL ID=1 NAME=7W >\nCPU_ONLINE CORE_0 1\n",
    }
    write(tmp_path, **files)
    found = read_clocks(tmp_path)
    assert found == Clocks(1510.4, "schedutil", 624.75, None, 45.5, "7W", False, ())
    write(tmp_path, **{"sys/class/devfreq/17000000.gpu/min_freq": "624750000"})
    assert read_clocks(tmp_path).locked is True


def test_clocks_of_a_machine_that_tells_nothing(tmp_path: Path) -> None:
    assert read_clocks(tmp_path) == Clocks()
    assert to_plain(Clocks()) == {}
    write(tmp_path, **{"proc/cpuinfo": "processor : 0\ncpu MHz\t\t: 2600.5\ncpu MHz : 2599.5\n"})
    assert read_clocks(tmp_path).cpu_mhz == 2600


@pytest.mark.parametrize("order", [("fp32", "fp16", "int8"), ("fp16", "int8"), ("int8", "fp16")])
@pytest.mark.parametrize(("int8_ms", "slower"), [(60, True), (50, False), (40, False)])
def test_int8_is_held_against_fp16_and_a_slower_one_is_a_warning(
    order: tuple[str, ...], int8_ms: int, slower: bool
) -> None:
    rng = np.random.default_rng(0)
    ms = {"fp32": 80, "fp16": 50, "int8": int8_ms}
    sessions = {name: Scripted(lambda k, m=ms[name]: float(m * rng.lognormal(0, 0.05)), 0, 0) for name in order}
    engines = {name: engine(name, **TENSORRT) for name in order}
    found = compare_latency(
        sessions, BATCH, warmup_ms=0, duration_s=2, clocks=Clocks, fp16_of=find_fp16_engines(engines)
    )
    [told] = [row for row in found.values() if row.int8_vs_fp16_ratio is not None]
    assert told.fp16_reference == "fp16"
    assert told.int8_vs_fp16_ratio_ci is not None
    low, high = told.int8_vs_fp16_ratio_ci
    assert low < int8_ms / 50 < high
    assert [w for w in told.latency_ratio_warnings if "INT8 is slower than FP16" in w] == [told.why_not_int8] * slower
    if order[0] == "fp16":
        assert told.int8_vs_fp16_ratio_ci == told.latency_ratio_ci


def test_a_simulation_is_not_what_int8_is_held_against() -> None:
    on_cpu = {"fp16": engine("fp16"), "int8": engine("int8")}
    assert find_fp16_engines(on_cpu) == {}
    on_gpu = {"pytorch": None, "fp16": engine("fp16", **TENSORRT), "int8": engine("int8", **TENSORRT)}
    assert find_fp16_engines(on_gpu) == {"int8": "fp16"}
    assert find_fp16_engines({**on_gpu, "fp16": engine("fp32", **TENSORRT)}) == {}, "a name says nothing"
