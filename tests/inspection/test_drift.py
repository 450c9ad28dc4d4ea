"""What drift says of logs of which it is known whether they moved."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageFilter

from edgecnn.cli import main
from edgecnn.errors import ArtifactError, MeasurementError
from edgecnn.inspection.drift import LEVEL, Sample, compare_samples, drift
from edgecnn.inspection.monitor import monitor
from edgecnn.inspection.monitor.counts import Batch, no_tally, tally
from edgecnn.inspection.shift import DesignEffect, distribution_shift, share_shift
from edgecnn.measure.input_statistics import STATISTICS, input_statistics
from edgecnn.results.monitor import Network

NETWORK = Network(columns=10)
Arrays = dict[str, np.ndarray]


def simulated(rng: np.random.Generator, n: int) -> Arrays:
    """Logits of ten classes of unequal shares, and four statistics that go together, as those of pictures do."""
    logits = rng.normal(0, 1, (n, 10))
    logits[np.arange(n), rng.choice(10, n, p=np.arange(1, 11) / 55)] += rng.gamma(2, 2, n)
    light = rng.normal(0, 1, n)
    statistics = {name: np.exp(0.5 * light + 0.5 * rng.normal(0, 1, n)) for name in STATISTICS}
    return {"logits": logits.astype(np.float32), **statistics}


def sample(rows: Arrays, name: str = "x") -> Sample:
    n, statistics = len(rows["logits"]), {k: v for k, v in rows.items() if k != "logits"}
    return Sample(name, NETWORK, tally(Batch(rows["logits"], [None] * n, [""] * n, statistics), NETWORK))


def alarms(draw: Callable[[np.random.Generator, int], Arrays], logs: int, n: int) -> int:
    rng = np.random.default_rng(31)
    return sum(compare_samples(sample(draw(rng, n)), sample(draw(rng, n))).verdict == "drift" for _ in range(logs))


def most_alarms(logs: int) -> int:
    """As 32 of 400: 5 % and 2.75 standard deviations."""
    return math.floor(logs * 0.05 + 2.75 * math.sqrt(logs * 0.05 * 0.95))


def test_few_logs_without_drift_alarm() -> None:
    assert most_alarms(400) == 31
    assert alarms(simulated, 30, 300) <= most_alarms(30)


@pytest.mark.slow
@pytest.mark.onnx
def test_400_logs_of_real_images_without_drift(shared: Path, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Photographs that MobileNet was shown, halves against halves; and what a camera changes, found at the stated n."""
    monkeypatch.syspath_prepend(str(root / "benchmarks"))
    benchmark = import_module("drift")
    plain = benchmark.photographs(shared, "none")
    assert benchmark.alarms(plain, 400) <= 32
    for change in ("blur", "noise", "darkening"):
        assert benchmark.found_pct(plain, benchmark.photographs(shared, change), 50, 20) >= 95, change


def video(rng: np.random.Generator, frames: int) -> list[Arrays]:
    """Minutes of a camera: each scene lasts from half a minute to three, and its frames are nearly alike."""
    scenes, left = [], frames
    while left > 0:
        length = min(left, int(rng.integers(30, 180)))
        one = simulated(rng, 1)
        scenes.append({k: np.repeat(v, length, axis=0) for k, v in one.items()})
        left -= length
    whole = {k: np.concatenate([s[k] for s in scenes]) for k in scenes[0]}
    return [{k: v[m : m + 60] for k, v in whole.items()} for m in range(0, frames, 60)]


def timed(minutes: list[Arrays]) -> Sample:
    from edgecnn.inspection.drift import WHOLE, _counts
    from edgecnn.inspection.monitor.counts import BOUNDS

    made = Sample("x", NETWORK, no_tally(NETWORK), {name: DesignEffect() for name in (*WHOLE, *BOUNDS)})
    for minute in minutes:
        part = sample(minute).total
        made.total += part
        for name, effect in made.effects.items():
            effect.add(_counts(part, name))
    return made


def test_frames_of_a_video_are_not_independent() -> None:
    rng = np.random.default_rng(1)
    naive = correct = 0
    for _ in range(4):
        ours, theirs = (timed(video(rng, 3600)) for _ in range(2))
        correct += compare_samples(ours, theirs).verdict == "drift"
        naive += compare_samples(*(Sample("x", NETWORK, s.total) for s in (ours, theirs))).verdict == "drift"
    assert naive == 4, "the test would see it"
    assert correct <= most_alarms(4)


def test_independent_rows_keep_their_worth_and_too_short_a_video_is_not_judged() -> None:
    rng = np.random.default_rng(2)
    effect, short = DesignEffect(), DesignEffect()
    for _ in range(256):
        effect.add(rng.multinomial(60, [0.2] * 5))
    assert effect.factor < 1.5
    for _ in range(5):
        short.add(rng.multinomial(60, [0.2] * 5))
    assert short.factor == 60
    short_video = timed(video(rng, 300))
    assert compare_samples(short_video, short_video).verdict == "too few"


def test_p_values_are_those_of_the_exact_tests() -> None:
    rng = np.random.default_rng(3)
    # 2 x 2: Fisher's two-sided p of (8, 2) against (1, 5) is 0.0350 (1934); Kolmogorov's distance is that of the shares
    found = distribution_shift(np.array([8, 2]), np.array([1, 5]), (10, 6))
    assert found.distance == pytest.approx(0.8 - 1 / 6)
    assert found.p == pytest.approx(0.0350, abs=0.012)
    pairs = rng.multinomial(50, [0.1] * 10, (200, 2))
    p = [distribution_shift(ours, theirs, (50, 50)).p for ours, theirs in pairs]
    assert 0.01 <= np.mean(np.array(p) <= 0.05) <= 0.10
    assert distribution_shift(np.array([5, 5]), np.array([5, 5]), (10, 10)).p == 1


def test_the_class_that_moved_is_named() -> None:
    shares = np.full(100, 0.01)
    rng = np.random.default_rng(4)
    ours, theirs = rng.multinomial(4000, shares), rng.multinomial(4000, shares)
    theirs[17] += 120
    found = share_shift(ours, theirs, (ours.sum(), theirs.sum()))
    assert found.moved == (17,)
    assert found.p < 0.01


def photograph(rng: np.random.Generator) -> Image.Image:
    """Shapes with edges, at each scale, on a slope of light."""
    light = np.zeros((64, 64)) + rng.uniform(60, 160) + rng.normal(0, 1, (1, 64)).cumsum(axis=1) * 2
    for _ in range(12):
        y, x, size = *rng.integers(0, 60, 2), rng.integers(3, 24)
        light[y : y + size, x : x + size] += rng.uniform(-60, 60)
    return Image.fromarray(np.clip(light, 0, 255).astype(np.uint8))


CHANGES: dict[str, tuple[Callable[[Image.Image, np.random.Generator], Any], set[str]]] = {
    "blur": (lambda i, _: np.asarray(i.filter(ImageFilter.GaussianBlur(1))), {"sharpness"}),
    "noise": (lambda i, rng: np.clip(np.asarray(i) + rng.normal(0, 8, (64, 64)), 0, 255), {"noise", "sharpness"}),
    "darkening": (lambda i, _: np.asarray(i) * 0.6, {"brightness", "contrast"}),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_camera_that_changed_is_found_by_what_it_changes(change: str) -> None:
    rng = np.random.default_rng(5)
    changed, expected = CHANGES[change]
    sides: list[dict[str, list[float]]] = [{k: [] for k in STATISTICS} for _ in range(2)]
    for k in range(200):
        picture = photograph(rng)
        pixels = changed(picture, rng) if k % 2 else np.asarray(picture)
        for name, value in input_statistics(pixels).items():
            sides[k % 2][name].append(value)
    logits = simulated(rng, 100)["logits"]
    found = compare_samples(*(sample({"logits": logits, **{k: np.array(v) for k, v in s.items()}}) for s in sides))
    assert found.verdict == "drift"
    assert expected <= set(found.moved)
    assert not {"classes", "confidence"} & set(found.moved)


def written(path: Path, rows: Arrays, *, start: float | None = None, step: float = 1.0, **engine: Any) -> Path:
    lines = [json.dumps({"engine": "m", "columns": 10, **engine})] if engine else []
    for k in range(len(rows["logits"])):
        row: dict[str, Any] = {"logits": rows["logits"][k].tolist(), "image": f"{path.stem}-{k}.png", "time": None}
        row |= {name: float(rows[name][k]) for name in STATISTICS if name in rows}
        lines.append(json.dumps(row if start is None else {**row, "time": start + step * k}))
    source = path.with_suffix(".rows")
    source.write_text("\n".join(lines))
    monitor(str(source), path)
    return path


def test_the_command_and_its_exit_codes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rng = np.random.default_rng(6)
    moved = simulated(rng, 400)
    moved["sharpness"] *= 0.5
    a, b, c, few = (
        written(tmp_path / f"{name}.jsonl", rows)
        for name, rows in [
            ("a", simulated(rng, 400)),
            ("b", simulated(rng, 400)),
            ("c", moved),
            ("d", simulated(rng, 9)),
        ]
    )
    assert [main(["drift", str(a), str(log)]) for log in (b, c, few)] == [0, 1, 3]
    out = capsys.readouterr().out
    assert "no drift (at 5 % for all statistics together)" in out
    assert "drift: sharpness" in out
    assert "too few images to say: 400 and 9" in out
    assert main(["drift", str(a), str(c), "--json"]) == 1
    found = json.loads(capsys.readouterr().out)
    assert found["moved"] == ["sharpness"]
    assert len(found["least_certain"]) == 10
    assert found["level"] == LEVEL


def test_the_last_hours_alone(tmp_path: Path) -> None:
    rng = np.random.default_rng(7)
    log = tmp_path / "log.jsonl"
    rows = simulated(rng, 800)
    rows["brightness"][:400] *= 3
    written(log, rows, start=1_760_000_400.0, step=9.0)
    reference = written(tmp_path / "r.jsonl", simulated(rng, 600))
    assert drift(reference, log).moved == ("brightness",)
    assert drift(reference, log, last_hours=1).moved == ()
    with pytest.raises(ArtifactError, match="no times"):
        drift(log, reference, last_hours=1)


def test_logs_of_two_networks_are_refused(tmp_path: Path) -> None:
    rows, names = simulated(np.random.default_rng(8), 20), [str(k) for k in range(10)]
    log = written(tmp_path / "a.jsonl", rows, labels=names, engine_sha256="aa")
    others: list[dict[str, Any]] = [
        {"labels": names[::-1]},
        {"engine_sha256": "bb"},
        {"engine_sha256": "aa", "preprocessing_sha256": "cc"},
    ]
    for k, other in enumerate(others):
        theirs = written(tmp_path / f"{k}.jsonl", rows, **other)
        if k == 2:
            log = written(tmp_path / "p.jsonl", rows, preprocessing_sha256="dd")
        with pytest.raises(MeasurementError, match="not of one network"):
            drift(log, theirs)
    np.save(tmp_path / "eleven.npy", np.zeros((20, 11), np.float32))
    with pytest.raises(MeasurementError, match="classes 11 and 10"):
        drift(tmp_path / "eleven.npy", log)
    for absent in ("nothing.jsonl", "nothing.npz", "."):
        with pytest.raises(ArtifactError):
            drift(tmp_path / absent, log)


def test_a_log_without_finite_logits_is_told_and_moved(tmp_path: Path) -> None:
    rng = np.random.default_rng(9)
    broken = simulated(rng, 300)
    broken["logits"][:200] = np.nan
    found = compare_samples(sample(simulated(rng, 300)), sample(broken))
    assert "not finite" in found.moved
    broken["logits"][:] = np.nan
    assert "not finite" in compare_samples(sample(simulated(rng, 300)), sample(broken)).moved
    empty = Sample("x", NETWORK, no_tally(NETWORK))
    assert compare_samples(sample(simulated(rng, 300)), empty).verdict == "too few"
