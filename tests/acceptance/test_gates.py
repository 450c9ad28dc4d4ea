"""What the gate says of a later run: of its accuracy and latency against what was accepted, of shares, of decisions,
and of targets that nobody measured; and that every report of one verdict tells the same.

A picture is one color: its red channel holds what the reference says of it, the green one what the first engine says,
the blue one the second engine. So each verdict can be worked out from a table of counts.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest

from tests.acceptance.channel_pictures import BLUE, GREEN, RED, SIDE, Result, class_model, import_model, level

pytestmark = pytest.mark.torch

Command = Callable[..., Result]
Row = tuple[int, int, int, int, int]  # label, what the reference, first and second engine say, how many pictures
RECIPE = """
title = "colors"
precisions = ["fp32"]
targets = {targets}
[model]
name = "lenet5"
[data]
source = "images.npz"
[bench]
duration_s = 0.3
{more}
[tolerances]
"""
PASS, FAIL, INCONCLUSIVE = 0, 1, 3
CLASSES = 4


@pytest.fixture(scope="module")
def graphs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Folder of the graphs that were imported so far, by channel and gain."""
    return {"folder": tmp_path_factory.mktemp("graphs")}


class Bench:
    """A recipe, and runs of its engines on pictures of a table."""

    def __init__(self, edgecnn: Command, capfd: pytest.CaptureFixture[str], graphs: dict[str, Any], root: Path) -> None:
        self.edgecnn, self.capfd, self.graphs, self.root, self.made = edgecnn, capfd, graphs, root, 0
        self.data = root / "images.npz"

    def graph(self, channel: int, gain: float = 40.0) -> Path:
        key = f"{channel}-{gain:g}"
        if key not in self.graphs:
            names = [f"class{k}" for k in range(CLASSES)]
            model = class_model(CLASSES, channel, gain=gain)
            self.graphs[key] = import_model(self.capfd, model, self.graphs["folder"] / key / "fp32.onnx", names)
        found: Path = self.graphs[key]
        return found

    def pictures(self, rows: Sequence[Row], labelled: bool = True) -> None:
        colors, labels = [], []
        for label, *said, count in rows:
            colors += [[level(k, CLASSES) / 255 for k in said]] * count
            labels += [label] * count
        images = np.broadcast_to(np.array(colors, np.float32)[:, :, None, None], (len(labels), 3, SIDE, SIDE))
        arrays: dict[str, Any] = {"input": images, **({"label": np.array(labels)} if labelled else {})}
        np.savez(self.data, **arrays)

    def recipe(self, targets: Sequence[str] = ("cpu",), more: str = "", **tolerances: float | str) -> Path:
        path = self.root / "colors.toml"
        text = RECIPE.format(targets=json.dumps(list(targets)), more=more)
        path.write_text(text + "".join(f"{key} = {json.dumps(value)}\n" for key, value in tolerances.items()))
        return path

    def measured(self, channel: int, *options: object, gain: float = 40.0) -> Path:
        """A new run folder with the accuracy of the engine that reads a channel."""
        self.made += 1
        run = self.root / f"run{self.made}"
        output = run / "cpu" / "fp32.accuracy.json"
        output.parent.mkdir(parents=True)
        arguments = ["--reference", self.graph(RED), "--data", self.data, "-o", output, *options]
        result = self.edgecnn("validate", self.graph(channel, gain), *arguments)
        assert result.code == 0, result.said
        return run

    def timed(self, run: Path) -> None:
        """Beside its accuracy, its latency on this machine."""
        if "latency" not in self.graphs:
            output = self.graphs["folder"] / "latency.json"
            arguments = ["--engine", self.graph(GREEN), "--duration", 0.3, "--threads", 1, "-o", output]
            result = self.edgecnn("bench", *arguments)
            assert result.code == 0, result.said
            self.graphs["latency"] = output.read_text()
        (run / "cpu" / "latency.json").write_text(self.graphs["latency"])

    def gate(self, run: Path, *options: object) -> Result:
        return self.edgecnn("gate", run, "--recipe", self.root / "colors.toml", *options)

    def checks(self, run: Path) -> dict[str, dict[str, Any]]:
        """The checks of a run's verdict by their tolerance."""
        verdict = json.loads((run / "cpu" / "verdict.json").read_text())
        return {check["tolerance"]: check for check in verdict["checks"]}


@pytest.fixture
def bench(edgecnn: Command, capfd: pytest.CaptureFixture[str], graphs: dict[str, Any], tmp_path: Path) -> Bench:
    """See `Bench`."""
    return Bench(edgecnn, capfd, graphs, tmp_path)


def table(lost: int = 0, gained: int = 0, each: int = 100) -> list[Row]:
    """Four classes of `each` pictures; the first engine is right on all but `gained`, the second loses `lost`."""
    rows = [(k, k, k, k, each) for k in range(1, CLASSES)]
    return [*rows, (0, 0, 0, 1, lost), (0, 0, 1, 0, gained), (0, 0, 0, 0, each - lost - gained)]


def recorded(bench: Bench, **tolerances: Any) -> None:
    bench.recipe(**tolerances)
    run = bench.measured(GREEN)
    bench.timed(run)
    result = bench.gate(run, "--record")
    assert result.code == PASS, result.said


LOOSE: dict[str, Any] = {"top1_drop_pp_max": 20.0}


def test_a_loss_since_the_baseline_fails_by_its_interval(bench: Bench) -> None:
    """20 of 400 lost: Tango's interval is [3.3, 7.6] pp, whatever the reference allows."""
    bench.pictures(table(lost=20))
    recorded(bench, **LOOSE)
    run = bench.measured(BLUE)
    for margin, code in ((1.0, FAIL), (5.0, INCONCLUSIVE), (9.0, PASS)):
        bench.recipe(**LOOSE, top1_regression_pp_max=margin)
        assert bench.gate(run).code == code
    bench.recipe(**LOOSE, top1_regression_pp_max=5.0)
    check = bench.checks(run)["top1_regression_pp_max"]
    assert check["value"] == pytest.approx(5.0)
    bench.recipe(**LOOSE)
    assert bench.gate(run).code == PASS, "the drop's margin where it has none of its own"


def test_what_was_accepted_since_does_not_hide_what_was_lost(bench: Bench) -> None:
    """10 of 400 are lost and accepted: none against the last baseline from then on, [1.4, 4.5] pp against the best."""
    bench.pictures(table(lost=10))
    recorded(bench, **LOOSE)
    run = bench.measured(BLUE)
    bench.timed(run)
    scaled_latency(run, 1.0)
    bench.recipe(**LOOSE, top1_regression_pp_max=5.0)
    assert bench.gate(run, "--record").code == PASS
    assert bench.gate(run).code == PASS
    bench.recipe(**LOOSE, top1_regression_pp_max=1.0)
    result = bench.gate(run)
    assert result.code == FAIL
    evidence = " ".join(result.out.split())
    assert "the last baseline 97.50 %: drop 0.00 pp" in evidence
    assert "the best baseline 100.00 %: drop 2.50 pp, 95 % interval [1.36, 4.54]" in evidence


def test_other_pictures_of_the_same_set_are_two_samples(bench: Bench) -> None:
    bench.pictures(table(each=500))
    recorded(bench, **LOOSE)
    bench.pictures(table(lost=20))
    run = bench.measured(BLUE)
    bench.recipe(**LOOSE, top1_regression_pp_max=1.0)
    result = bench.gate(run)
    assert result.code == FAIL
    assert "on other images, 2000 then" in " ".join(result.out.split())


def test_a_baseline_of_other_classes_or_a_damaged_one_is_refused(bench: Bench) -> None:
    bench.pictures(table())
    recorded(bench, **LOOSE)
    run = bench.measured(BLUE)
    (path,) = (bench.root / "baselines" / "colors").glob("*fp32.json")
    whole = path.read_text()
    for damaged in (whole[: len(whole) // 2], whole.replace('"top1_n": 400', '"top1_n": 399'), "[]", ""):
        path.write_text(damaged)
        bench.gate(run).refused(path.name)
    path.write_text(whole)
    assert bench.gate(run).code == PASS


@pytest.mark.parametrize(
    ("each", "lost", "limit", "code"),
    [(100, 20, 90.0, PASS), (100, 20, 94.0, INCONCLUSIVE), (100, 20, 98.0, FAIL), (100, 0, 99.5, INCONCLUSIVE)],
)
def test_a_share_is_judged_by_wilsons_interval(bench: Bench, each: int, lost: int, limit: float, code: int) -> None:
    n, right = CLASSES * each, CLASSES * each - lost
    share, z = right / n, 1.959964
    middle = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * (share * (1 - share) / n + z * z / (4 * n * n)) ** 0.5
    expected = PASS if middle - half >= limit / 100 else FAIL if middle + half < limit / 100 else INCONCLUSIVE
    assert expected == code
    bench.pictures(table(lost=lost, each=each))
    bench.recipe(top1_pct_min=limit)
    run = bench.measured(BLUE)
    assert bench.gate(run).code == code
    needed = bench.checks(run)["top1_pct_min"].get("images_needed")
    assert (needed is not None and needed > n) == (code == INCONCLUSIVE)


def test_classes_pass_alone_and_fail_beyond_chance(bench: Bench) -> None:
    """Of 100 pictures of one class 20 are lost: its interval is [71, 87] %, and P(at most 80 of 100 | 90 %) = 0.2 %."""
    bench.pictures(table(lost=20))
    run = bench.measured(BLUE)
    for limit, code in ((70.0, PASS), (85.0, INCONCLUSIVE), (90.0, FAIL)):
        bench.recipe(class_top1_pct_min=limit)
        result = bench.gate(run)
        assert result.code == code, result.said
        assert code == PASS or "0 (80 of 100)" in " ".join(result.out.split())
    bench.pictures([(c, c, c, c, 500 if c else 10) for c in range(CLASSES)])
    few = bench.measured(BLUE)
    bench.recipe(class_top1_pct_min=90.0)
    assert bench.gate(few).code == INCONCLUSIVE
    assert "0 (10 of 10) needs about 35" in bench.checks(few)["class_top1_pct_min"]["evidence"]


def test_scaled_confidences_fail_though_every_answer_is_the_references(bench: Bench) -> None:
    bench.pictures(table())
    more = "[decision]\nthreshold = 0.6\nreject = true\n"
    bench.recipe(more=more, top1_drop_pp_max=2.0)
    options = ["--threshold", 0.6, "--reject"]
    same, scaled = bench.measured(GREEN, *options), bench.measured(GREEN, *options, gain=4.0)
    for run in (same, scaled):
        assert bench.gate(run).code == PASS, "the top-1 are the same"
    limits: dict[str, Any] = {"calibration_error_pp_max": 1.0, "decision_flips_pct_max": 1.0}
    bench.recipe(more=more, **limits, class_recall_pct_min=90.0)
    assert bench.gate(same).code == PASS
    assert bench.gate(scaled).code == FAIL
    assert {t for t, c in bench.checks(scaled).items() if c["verdict"] == "FAIL"} == {*limits, "class_recall_pct_min"}


@pytest.mark.parametrize("count", [1, 5])
def test_a_handful_of_pictures_proves_nothing(bench: Bench, count: int) -> None:
    """The engine is a copy of its reference, all right or all wrong, with labels or without."""
    limits: dict[str, Any] = dict.fromkeys(
        ("top1_drop_pp_max", "calibration_error_pp_max", "decision_flips_pct_max"), 5.0
    )
    names = "top1_pct_min", "class_top1_pct_min", "class_recall_pct_min", "agreement_pct_min"
    shares: dict[str, Any] = dict.fromkeys(names, 80.0)
    more = "[decision]\nthreshold = 0.6\nreject = true\n"
    for rows, labelled in (
        ([(0, 0, 0, 0, count)], True),
        ([(1, 0, 0, 0, count)], True),
        ([(0, 0, 0, 0, count)], False),
    ):
        bench.pictures(rows, labelled)
        run = bench.measured(GREEN, "--threshold", 0.6, "--reject")
        for tolerance, limit in (limits | shares).items():
            bench.recipe(more=more, **{tolerance: limit})
            result = bench.gate(run)
            assert result.code in (FAIL, INCONCLUSIVE), result.said
            if rows[0][0] == 0:
                assert result.code == INCONCLUSIVE, result.said
            for check in bench.checks(run).values():
                said = set(re.findall(r"images would (?:not )?settle", check["evidence"]))
                assert len(said) <= 1, check["evidence"]


def test_a_reference_that_guesses_proves_nothing_by_confidence_or_baseline(bench: Bench) -> None:
    bench.pictures([(label, said, said, said, 30) for label in range(CLASSES) for said in range(CLASSES)])
    recorded_run = bench.measured(GREEN)
    bench.timed(recorded_run)
    bench.recipe(size_mb_max=1.0)
    assert bench.gate(recorded_run, "--record").code == PASS
    for tolerance, limit in (("calibration_error_pp_max", 5.0), ("top1_regression_pp_max", 20.0)):
        bench.recipe(**{tolerance: limit})  # type: ignore[arg-type]
        run = bench.measured(GREEN)
        assert bench.gate(run).code == INCONCLUSIVE, tolerance


def scaled_latency(run: Path, factor: float, **facts: object) -> None:
    """What `bench` wrote, as if each query had taken `factor` times as long on a machine at rest."""
    path = run / "cpu" / "latency.json"
    content = json.loads(path.read_text())
    for row in content["measurements"]:
        for key in ("latency_ms_p50", "latency_ms_p50_ci"):
            row[key] = (np.array(row[key]) * factor).tolist()
        row |= {"latency_ms_p50_ci": [0.99 * row["latency_ms_p50"], 1.01 * row["latency_ms_p50"]]}
        row |= {"unstable": [], "yardstick_ms": 0.1, **facts}
    path.write_text(json.dumps(content))


@pytest.mark.parametrize(
    ("factor", "facts", "code"),
    [
        (1.0, {}, PASS),
        (1.2, {}, FAIL),
        (1.2, {"unstable": ["other work took 1.50 cores during the run"]}, INCONCLUSIVE),
        (1.2, {"yardstick_ms": 0.115}, INCONCLUSIVE),
        (1.0, {"yardstick_ms": 0.08}, INCONCLUSIVE),
        (0.7, {"yardstick_ms": 0.08}, PASS),
        (1.0, {"latency_ms_max": 1e6}, PASS),
    ],
)
def test_a_latency_is_held_against_the_baselines(bench: Bench, factor: float, facts: Any, code: int) -> None:
    bench.pictures(table())
    bench.recipe(**LOOSE)
    runs = bench.measured(GREEN), bench.measured(GREEN)
    for run in runs:
        bench.timed(run)
    scaled_latency(runs[0], 1.0)
    assert bench.gate(runs[0], "--record").code == PASS
    scaled_latency(runs[1], factor, **facts)
    result = bench.gate(runs[1])
    assert result.code == code, result.said


def test_an_unstable_latency_is_recorded_with_a_word(bench: Bench) -> None:
    bench.pictures(table())
    bench.recipe(**LOOSE)
    run = bench.measured(GREEN)
    bench.timed(run)
    scaled_latency(run, 1.0, unstable=["other work took 1.50 cores during the run"])
    result = bench.gate(run, "--record")
    assert result.code == PASS
    assert "other work took 1.50 cores" in result.err
    assert "record again" in result.err


def told(bench: Bench, run: Path) -> tuple[Result, dict[str, Any]]:
    """What the gate says, and what each format says of it."""
    files = [bench.root / name for name in ("j.xml", "c.md", "g.json")]
    options = ["--junit", files[0], "--markdown", files[1], "--gitlab", files[2]]
    result = bench.gate(run, *options, "--github")
    as_json = bench.gate(run, "--json")
    assert as_json.code == result.code
    suites = ElementTree.fromstring(files[0].read_text())
    return result, {
        "json": json.loads(as_json.out),
        "junit": {k: int(suites.get(k, "")) for k in ("tests", "failures", "errors")},
        "markdown": files[1].read_text(),
        "gitlab": [f["severity"] for f in json.loads(files[2].read_text())],
        "github": re.findall(r"^::(error|warning|notice) ", result.out, re.M),
    }


@pytest.mark.parametrize("mapped", ["inconclusive", "pass", "fail"])
def test_every_report_of_a_verdict_tells_the_same(bench: Bench, mapped: str) -> None:
    """One check that passes and one that is open, as the recipe maps it."""
    bench.pictures(table(lost=20))
    run = bench.measured(BLUE)
    bench.recipe(top1_drop_pp_max=20.0, top1_pct_min=95.0, inconclusive=mapped)
    result, found = told(bench, run)
    code = {"inconclusive": INCONCLUSIVE, "pass": PASS, "fail": FAIL}[mapped]
    verdict = {INCONCLUSIVE: "INCONCLUSIVE", PASS: "PASS", FAIL: "FAIL"}[code]
    assert result.code == code
    assert [(r["verdict"], r["exit_code"]) for r in found["json"]] == [(verdict, code)]
    assert found["junit"] == {"tests": 2, "failures": code == FAIL, "errors": code == INCONCLUSIVE}
    assert f"colors on cpu: {verdict}" in found["markdown"]
    assert found["gitlab"] == [{INCONCLUSIVE: "minor", PASS: "info", FAIL: "critical"}[code]]
    assert found["github"] == [{INCONCLUSIVE: "warning", PASS: "notice", FAIL: "error"}[code]] * 2
    last = result.out.splitlines()[-1]
    assert last.startswith("1 of 2 checks inconclusive")
    assert (f"a {mapped} by the recipe" in last) == (mapped != "inconclusive")


def test_a_recipe_without_tolerances_is_open_in_every_report(bench: Bench) -> None:
    bench.pictures(table())
    bench.recipe()
    result, found = told(bench, bench.measured(GREEN))
    assert result.code == INCONCLUSIVE
    assert "nothing was judged" in found["markdown"]
    assert "All 0" not in found["markdown"]
    assert result.out.splitlines()[-1] == "nothing was checked"


def test_a_target_that_nobody_measured_is_open_in_every_report(bench: Bench) -> None:
    bench.pictures(table())
    run = bench.measured(GREEN)
    bench.recipe(("cpu", "agx-orin"), top1_drop_pp_max=20.0, inconclusive="pass")
    result, found = told(bench, run)
    assert result.code == INCONCLUSIVE
    assert [r["target"] for r in found["json"]] == ["cpu", "agx-orin"]
    assert [r["exit_code"] for r in found["json"]] == [PASS, INCONCLUSIVE]
    assert found["junit"] == {"tests": 2, "failures": 0, "errors": 1}
    assert "agx-orin: not measured" in found["markdown"]
    assert found["markdown"].count("No baseline") == 1, "of the target that was measured"
    assert found["gitlab"] == ["minor"]
    assert result.out.splitlines()[-1] == "1 of 2 checks inconclusive: agx-orin not measured"
    assert bench.gate(run / "cpu").code == PASS, "asked for that target alone"


def test_a_report_of_a_verdict_by_another_baseline_is_refused(bench: Bench) -> None:
    bench.pictures(table(lost=10))
    recorded(bench, **LOOSE)
    run, other = bench.measured(BLUE), bench.measured(GREEN)
    assert bench.gate(other).code == PASS
    arguments = ["report", other, "--recipe", bench.root / "colors.toml", "-o", bench.root / "report.md"]
    assert bench.edgecnn(*arguments).code == 0
    bench.timed(run)
    assert bench.gate(run, "--record").code == PASS
    bench.edgecnn(*arguments).refused("fp32.json", "judged against another")
    assert bench.gate(other).code == PASS
    assert bench.edgecnn(*arguments).code == 0


def test_the_recipe_is_named_as_in_the_repository(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    bench.pictures(table())
    run = bench.measured(GREEN)
    path = bench.recipe(top1_pct_min=99.9)
    monkeypatch.chdir(bench.root)
    result = bench.edgecnn("gate", run, "--recipe", run / ".." / path.name, "--github")
    assert "::warning file=colors.toml,line=1," in result.out
