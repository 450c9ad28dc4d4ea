"""How often does the gate's rule on latencies against a baseline err? An engine is held against its own baseline.

    python benchmarks/latency_baseline.py runs [--engine E] [--runs 20] [--load] [--slower 1.2] [--threads N] [-o F]
    python benchmarks/latency_baseline.py record [--engine E] [--processes 12] [--seconds 8] [--load] -o SERIES.npz
    python benchmarks/latency_baseline.py splits SERIES.npz... [--splits 1000] [--slower 1.2] [-o F]

`runs` measures a baseline and then the same engine again and again, each time in a session of its own: with --load
other processes come and go meanwhile, with --slower every query is stretched by that factor; without --load a
measurement beside which other work ran is made again, and counted. `record` keeps the queries of several processes, in
parts of half a second with the load and the machine's own speed in each; `splits` judges random pairs of windows of
such recordings. Without --engine a ResNet-20 for 32 x 32 images with random weights is
exported and used. `taskset -c 1 chrt -r 1` before it gives it a core of a busy machine (and its loads the same one).
"""

from __future__ import annotations

import argparse
import functools
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from edgecnn.backends import open_engine
from edgecnn.backends.ort import device
from edgecnn.gate.baseline import baseline_of
from edgecnn.gate.judge import judge
from edgecnn.machine.load import other_load_cores, read_cpu_time
from edgecnn.measure.latency import measure_latency
from edgecnn.measure.stability import OTHER_LOAD_CORES, find_instability, median_interval, time_yardstick
from edgecnn.recipe.schema import Tolerances
from edgecnn.records import to_plain
from edgecnn.results.device import Device
from edgecnn.results.engine import CPU_PROVIDER, EngineInfo
from edgecnn.results.latency import Clocks, Latency
from edgecnn.results.report import Measurement
from edgecnn.results.verdict import Check
from edgecnn.session import Array, PipelineOptions, Session, SessionInfo

ENGINE = EngineInfo(
    backend="ort", provider=CPU_PROVIDER, target="cpu", precision_requested="fp32", precision_obtained="fp32"
)
TOLERANCES = Tolerances()
PART_S = 0.5
WINDOW = 6  # parts: as long as a recipe's three seconds
LOADS = """
import random, subprocess, sys, time
rng, burn = random.Random(int(sys.argv[1])), "while True: pass"
while True:
    burning = [subprocess.Popen([sys.executable, "-c", burn]) for _ in range(rng.randint(0, 3))]
    try:
        time.sleep(rng.uniform(0.3, 2.5))
    finally:
        for process in burning:
            process.kill()
            process.wait()
"""


@dataclass(frozen=True)
class Part:
    """Half a second of a recording: latencies in ms, cores that others took, and the time of the yardstick in ms."""

    ms: np.ndarray
    load_cores: float
    yardstick_ms: float


class Slower:
    """A session whose every query takes `factor` times as long."""

    def __init__(self, session: Session, factor: float) -> None:
        self._session, self._factor = session, factor

    @property
    def info(self) -> SessionInfo:
        """That of the session."""
        return self._session.info

    @property
    def input(self) -> object:
        """Its first input."""
        return self._session.input

    def run(self, batch: Array) -> Array:
        """The logits of a batch, later."""
        started = time.perf_counter()
        found = self._session.run(batch)
        end = started + self._factor * (time.perf_counter() - started)
        while time.perf_counter() < end:
            pass
        return found


def main() -> None:
    """Measure and print one JSON document."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["runs", "record", "splits"])
    parser.add_argument("series", type=Path, nargs="*")
    parser.add_argument("--engine", type=Path)
    parser.add_argument("--threads", type=int)
    parser.add_argument("--runs", type=int, default=20)
    parser.add_argument("--load", action="store_true", help="Let other processes come and go meanwhile.")
    parser.add_argument("--slower", type=float, default=1.0, help="Stretch every query by this factor.")
    parser.add_argument("--duration", type=float, default=3.0, help="Seconds of each measurement.")
    parser.add_argument("--processes", type=int, default=12)
    parser.add_argument("--seconds", type=float, default=8.0, help="Seconds of each process of a recording.")
    parser.add_argument("--splits", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("-o", "--output", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        if options.what == "splits":
            parts = [part for path in options.series for part in read_series(path)]
            result: Mapping[str, object] = judge_splits(parts, options.splits, options.seed, options.slower)
        else:
            engine = options.engine or _default_engine(Path(folder))
            if options.what == "record" and options.processes == 1:
                record(engine, options)
                return
            result = record_processes(engine, options) if options.what == "record" else judge_runs(engine, options)
    text = json.dumps(result, indent=1)
    print(text)
    if options.output and options.what != "record":
        options.output.write_text(text + "\n")


def judge_runs(engine: Path, options: argparse.Namespace) -> dict[str, object]:
    """The verdicts on as many measurements as asked for, each against one baseline that was measured before."""

    def one(factor: float) -> Measurement:
        with open_engine(engine, options.threads) as session:
            images = _noise(session)
            asked = Slower(session, factor) if factor > 1 else session
            by_host = PipelineOptions(timed=False)
            found = measure_latency(
                "engine", asked, images, warmup_ms=200, duration_s=options.duration, options=by_host
            )
        return Measurement(name="engine", engine=ENGINE, latency=found)

    disturbed = 0

    def alone(factor: float) -> Measurement:
        """A measurement beside which nothing else ran."""
        nonlocal disturbed
        while ((found := one(factor)).figure("other_load_cores") or 0.0) > OTHER_LOAD_CORES:
            disturbed += 1
        return found

    baseline, checks = alone(1.0), []
    loads = _start_loads(options.seed) if options.load else None
    try:
        for _ in range(options.runs):
            (check,) = _checks(baseline, (one if options.load else alone)(options.slower))
            checks.append(check)
    finally:
        _stop(loads)
    return {
        "device": to_plain(device(options.threads)),
        "load": options.load,
        "slower": options.slower,
        "runs": options.runs,
        "measured_again_because_other_work_ran": disturbed,
        **Counter(check.verdict for check in checks),
        "baseline_unstable": list(baseline.latency.unstable) if baseline.latency else [],
        "evidence": [f"{check.verdict}: {check.evidence}" for check in checks],
    }


def _checks(baseline: Measurement, now: Measurement) -> Sequence[Check]:
    here = Device(cpu="here")
    found = judge(TOLERANCES, [now], baseline=baseline_of([baseline], here), device=here).checks
    return [check for check in found if check.tolerance == "baseline latency_ms_p50"]


def _start_loads(seed: int) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-c", LOADS, str(seed)], start_new_session=True)


def _stop(loads: subprocess.Popen[bytes] | None) -> None:
    if loads is not None:
        os.killpg(loads.pid, signal.SIGKILL)
        loads.wait()


def record_processes(engine: Path, options: argparse.Namespace) -> dict[str, object]:
    """A recording of several processes into one file."""
    parts: list[Part] = []
    for k in range(options.processes):
        loads = _start_loads(options.seed + k) if options.load else None
        one = options.output.with_suffix(f".{k}.npz")
        command = [sys.executable, __file__, "record", "--engine", str(engine), "--processes", "1", "-o", str(one)]
        command += ["--seconds", str(options.seconds)]
        try:
            subprocess.run(command + (["--threads", str(options.threads)] if options.threads else []), check=True)
        finally:
            _stop(loads)
        parts += read_series(one)
        one.unlink()
    write_series(options.output, parts)
    return {"device": to_plain(device(options.threads)), "parts": len(parts), "queries": sum(len(p.ms) for p in parts)}


def record(engine: Path, options: argparse.Namespace) -> None:
    """A recording in this process."""
    parts: list[Part] = []
    with open_engine(engine, options.threads) as session:
        images = _noise(session)
        warm = time.perf_counter() + 0.3
        while time.perf_counter() < warm:
            session.run(images)
        while len(parts) * PART_S < options.seconds:
            yardstick_ms, before, ms = time_yardstick(), read_cpu_time(), list[float]()
            end = time.perf_counter() + PART_S
            while time.perf_counter() < end:
                start = time.perf_counter_ns()
                session.run(images)
                ms.append((time.perf_counter_ns() - start) / 1e6)
            parts.append(Part(np.array(ms), other_load_cores(before, read_cpu_time()) or 0.0, yardstick_ms))
    write_series(options.output, parts)


def write_series(path: Path, parts: Sequence[Part]) -> None:
    """Latencies as whole microseconds."""
    np.savez_compressed(
        path,
        us=np.concatenate([np.rint(1000 * p.ms).astype(np.int32) for p in parts]),
        counts=np.array([len(p.ms) for p in parts], np.int32),
        load_cores=np.array([p.load_cores for p in parts], np.float32),
        yardstick_ms=np.array([p.yardstick_ms for p in parts], np.float32),
    )


def read_series(path: Path) -> list[Part]:
    """The parts of a recording, in the order in which they were measured."""
    with np.load(path) as file:
        ms = np.split(file["us"] / 1000, np.cumsum(file["counts"])[:-1])
        rows = zip(ms, file["load_cores"].tolist(), file["yardstick_ms"].tolist(), strict=True)
        return [Part(*row) for row in rows]


def judge_splits(parts: Sequence[Part], splits: int, seed: int = 0, slower: float = 1.0) -> dict[str, object]:
    """Random pairs of disjoint windows of one recording: one is the baseline, by which the other, `slower` by a factor,
    is judged."""
    rng, outcomes, stable = np.random.default_rng(seed), Counter[str](), 0
    windows = len(parts) - WINDOW + 1

    @functools.cache
    def window(first: int, factor: float) -> Measurement:
        return _window(parts[first : first + WINDOW], factor)

    while sum(outcomes.values()) < splits:
        a, b = (int(k) for k in rng.integers(0, windows, 2))
        if abs(a - b) < WINDOW:
            continue
        before, now = window(a, 1.0), window(b, slower)
        (check,) = _checks(before, now)
        outcomes[check.verdict] += 1
        stable += not (before.latency and before.latency.unstable) and not (now.latency and now.latency.unstable)
    return {"splits": splits, "slower": slower, **outcomes, "both_stable": stable}


def _window(parts: Sequence[Part], factor: float) -> Measurement:
    ms = factor * np.concatenate([p.ms for p in parts])
    load = float(np.mean([p.load_cores for p in parts]))
    found = replace(
        TEMPLATE,
        latency_ms_p50=float(np.median(ms)),
        latency_ms_p50_ci=median_interval(ms),
        yardstick_ms=float(np.median([p.yardstick_ms for p in parts])),
        other_load_cores=load,
        unstable=tuple(find_instability(ms, load)),
    )
    return Measurement(name="engine", engine=ENGINE, latency=found)


TEMPLATE = Latency(
    name="engine",
    mode="single-shot",
    clock="host",
    batch=1,
    n_queries=1000,
    warmup_ms=0.0,
    duration_s=3.0,
    latency_ms_mean=1.0,
    latency_ms_min=1.0,
    latency_ms_max=1.0,
    latency_ms_p50=1.0,
    latency_ms_p50_ci=(1.0, 1.0),
    latency_ms_p90=None,
    latency_ms_p95=None,
    latency_ms_p99=None,
    latency_ms_p99_ci=None,
    latency_ms_cov_pct=0.0,
    h2d_ms_p50=None,
    compute_ms_p50=None,
    d2h_ms_p50=None,
    throughput_images_per_s=1.0,
    drift_pct=None,
    graph=False,
    transfers=False,
    sync="synchronous call",
    clocks=Clocks(),
    warnings=(),
)


def _noise(session: Session) -> Array:
    shape = tuple(n or 1 for n in session.input.shape)
    return np.random.default_rng(0).standard_normal(shape, np.float32)


def _default_engine(folder: Path) -> Path:
    from edgecnn.steps.export import export

    path = folder / "resnet20_cifar.fp32.onnx"
    export("resnet20_cifar", path, weights="none")
    return path


if __name__ == "__main__":
    main()
