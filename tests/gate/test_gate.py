"""The gate as a pure function: every tolerance at, below and above its limit, and what no tolerance excuses."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Any

import numpy as np
import pytest

from edgecnn.errors import MeasurementError
from edgecnn.gate.baseline import baseline_of
from edgecnn.gate.judge import judge, worst_of
from edgecnn.gate.rules import RULES
from edgecnn.gate.rules.guessing import GUESS_P
from edgecnn.measure.classification import measure_accuracy
from edgecnn.measure.predict import Predictions
from edgecnn.recipe.schema import Tolerances
from edgecnn.recipe.variants import Variant
from edgecnn.report.junit import junit_report
from edgecnn.results.crash import Crash
from edgecnn.results.device import Device
from edgecnn.results.report import Measurement, RunReport
from edgecnn.results.verdict import MEASURED, Check, Verdict
from edgecnn.statistics import images_for_drop, images_to_tell
from tests.fakes.measurements import TENSORRT, engine, latency, measured, measurement, ratio


def only(verdict: Verdict) -> Any:
    (check,) = verdict.checks
    return check


def test_every_tolerance_of_a_recipe_has_a_rule() -> None:
    assert set(RULES) == {f.name for f in fields(Tolerances)} - {"inconclusive"}
    assert len(RULES) == 23
    assert all(name == rule.tolerance for name, rule in RULES.items())


def test_a_drop_is_judged_by_its_interval_not_by_its_value() -> None:
    found = measured()
    drop = found.accuracy.top1 if found.accuracy else None
    assert drop is not None
    assert drop.drop_pp == pytest.approx(0.2)
    assert drop.drop_ci_pp is not None
    low, high = drop.drop_ci_pp
    for limit, outcome in ((high, "PASS"), (high - 1e-9, "INCONCLUSIVE"), (low, "INCONCLUSIVE"), (low - 1e-9, "FAIL")):
        assert only(judge(Tolerances(top1_drop_pp_max=limit), [found])).verdict == outcome


def test_a_tolerance_that_the_sample_cannot_settle_names_the_images_that_would() -> None:
    verdict = judge(Tolerances(top1_drop_pp_max=2), [measured(n=200, lost=3, gained=1)])
    judgement = only(verdict)
    assert judgement.verdict == verdict.verdict == "INCONCLUSIVE"
    assert verdict.exit_code == 3
    assert judgement.images_needed is not None
    assert judgement.images_needed > 200
    assert f"about {judgement.images_needed} images" in judgement.evidence
    assert "n = 200" in judgement.evidence
    more = judgement.images_needed / 200
    settled = measured(n=judgement.images_needed, lost=round(3 * more), gained=round(more))
    assert judge(Tolerances(top1_drop_pp_max=2), [settled]).verdict == "PASS"


@pytest.mark.parametrize(("mapping", "code"), [("inconclusive", 3), ("pass", 3), ("fail", 1)])
def test_no_recipe_lets_an_engine_pass_that_nobody_measured(mapping: Any, code: int) -> None:
    missing = Check("fp16", MEASURED, None, None, None, "INCONCLUSIVE", "nothing was measured", mappable=False)
    passed = judge(Tolerances(top1_drop_pp_max=5), [measured()]).checks
    verdict = Verdict((*passed, missing), mapping)
    assert verdict.exit_code == code
    report = RunReport(
        recipe="r",
        title="",
        target="cpu",
        device=Device(),
        device_key="",
        reference=None,
        measurements=(measured(),),
        verdict=verdict,
        artifacts=(),
        notes=(),
    )
    assert ("<failure" if mapping == "fail" else "<error") in junit_report(report)


@pytest.mark.parametrize(("mapping", "code"), [("inconclusive", 3), ("pass", 0), ("fail", 1)])
def test_a_recipe_maps_what_stays_open(mapping: Any, code: int) -> None:
    verdict = judge(Tolerances(top1_drop_pp_max=0.3, inconclusive=mapping), [measured()])
    assert only(verdict).verdict == "INCONCLUSIVE"
    assert verdict.exit_code == code


@pytest.mark.parametrize("tolerance", ["latency_ratio_max", "joules_per_inference_max", "load_s_max"])
def test_no_recipe_maps_what_was_not_measured_to_a_pass(tolerance: str) -> None:
    verdict = judge(Tolerances(**{tolerance: 1.0}, inconclusive="pass"), [measured()])  # type: ignore[arg-type]
    assert (only(verdict).tolerance, verdict.verdict, verdict.exit_code) == (tolerance, "INCONCLUSIVE", 3)


def test_agreement_is_judged_by_its_wilson_interval() -> None:
    found = measured()  # 9 960 of 10 000 agree
    for limit, outcome in ((99.4, "PASS"), (99.6, "INCONCLUSIVE"), (99.9, "FAIL")):
        judgement = only(judge(Tolerances(agreement_pct_min=limit), [found]))
        assert judgement.verdict == outcome
    assert found.accuracy is not None
    low, high = found.accuracy.agreement_ci_pct
    for limit, outcome in ((low, "PASS"), (low + 1e-9, "INCONCLUSIVE"), (high, "INCONCLUSIVE"), (high + 1e-9, "FAIL")):
        assert only(judge(Tolerances(agreement_pct_min=limit), [found])).verdict == outcome
    assert found.accuracy.agreement_n == 9960
    assert only(judge(Tolerances(agreement_pct_min=99.5), [found])).interval == pytest.approx((low, high))


def test_the_images_that_would_settle_an_agreement_do() -> None:
    judgement = only(judge(Tolerances(agreement_pct_min=99.5), [measured()]))
    assert judgement.verdict == "INCONCLUSIVE"
    assert judgement.images_needed is not None
    needed = judgement.images_needed
    assert f"about {needed} images" in judgement.evidence
    for n, outcome in ((round(1.02 * needed), "PASS"), (round(0.98 * needed), "INCONCLUSIVE")):
        found = measured(n=n, lost=round(0.004 * n), gained=0)
        assert only(judge(Tolerances(agreement_pct_min=99.5), [found])).verdict == outcome


def test_guessing_is_held_against_the_measure_that_the_tolerance_is_of() -> None:
    tolerances = Tolerances(top1_drop_pp_max=5, agreement_pct_min=90)
    for key, open_one in (("top1_guess_p", "top1_drop_pp_max"), ("agreement_guess_p", "agreement_pct_min")):
        found: dict[str, Any] = {key: 1e-3}
        checks = judge(tolerances, [measured(**found)]).checks
        assert {c.tolerance: c.verdict for c in checks if c.verdict != "PASS"} == {open_one: "INCONCLUSIVE"}
    for p, outcome in ((GUESS_P, "INCONCLUSIVE"), (0.99 * GUESS_P, "PASS")):
        for key in ("top1_guess_p", "reference_top1_guess_p"):
            found = {key: p}
            assert judge(Tolerances(top1_drop_pp_max=5), [measured(**found)]).verdict == outcome
        for key in ("agreement_guess_p", "copy_guess_p", "reference_top1_guess_p"):
            found = {key: p}
            assert judge(Tolerances(agreement_pct_min=90), [measured(**found)]).verdict == outcome
    unlabelled = measured(top1_guess_p=None, reference_top1_guess_p=None)
    assert judge(tolerances, [unlabelled]).verdict == "PASS"


def compared(engine: list[int], reference: list[int], labels: list[int], classes: int = 2) -> Measurement:
    """An engine and its reference that answer these classes."""
    ids = tuple(map(str, range(len(labels))))
    rows = np.eye(classes, dtype=np.float32)
    both = [Predictions(ids, np.array(labels, np.int64), rows[p], "p", "d") for p in (engine, reference)]
    return measurement("fp32", accuracy=measure_accuracy("fp32", *both))


@pytest.mark.parametrize("limits", [{"top1_drop_pp_max": 20.0}, {"agreement_pct_min": 70.0}])
@pytest.mark.parametrize(("first", "second"), [(391, 2), (12, 12), (2, 391), (2, 1)])
def test_a_perfect_engine_on_few_or_unbalanced_images_is_inconclusive_until_there_are_more(
    first: int, second: int, limits: dict[str, Any]
) -> None:
    answers = [0] * first + [1] * second
    verdict = judge(Tolerances(**limits, inconclusive="pass"), [compared(answers, answers, answers)])
    found = only(verdict)
    assert (verdict.verdict, verdict.exit_code, found.verdict) == ("INCONCLUSIVE", 3, "INCONCLUSIVE")
    assert "cannot be told from guessing" in found.evidence
    assert f"on {len(answers)} images, p = " in found.evidence
    needed = found.images_needed
    assert f"about {needed} images would settle it" in found.evidence
    assert f"n = {len(answers)}" in found.evidence
    for n, outcome in ((1.02 * needed + 2, "PASS"), (0.6 * needed, "INCONCLUSIVE")):
        ones = round(n * second / len(answers))
        more = [0] * (round(n) - ones) + [1] * ones
        assert judge(Tolerances(**limits), [compared(more, more, more)]).verdict == outcome


def test_nine_rare_images_that_are_all_found_are_no_guess() -> None:
    """Guessing nine of 400 images meets these nine once in C(400, 9) = 3e18 tries, however frequent the other class."""
    answers = [0] * 391 + [1] * 9
    for tolerances in (Tolerances(top1_drop_pp_max=20.0), Tolerances(agreement_pct_min=70.0)):
        assert judge(tolerances, [compared(answers, answers, answers)]).verdict == "PASS"
        constant = compared([0] * 400, answers, answers)
        assert judge(tolerances, [constant]).verdict == "FAIL"


@pytest.mark.parametrize(("engine", "reference"), [([0] * 60, [0] * 60), ([0] * 60, [0] * 58 + [1, 1])])
def test_a_test_set_of_one_class_settles_nothing_and_says_what_it_takes(
    engine: list[int], reference: list[int]
) -> None:
    found = only(judge(Tolerances(top1_drop_pp_max=20), [compared(engine, reference, [0] * 60)]))
    assert (found.verdict, found.images_needed) == ("INCONCLUSIVE", None)
    assert "more of other classes" in found.evidence


def test_an_engine_that_loses_one_class_alone_fails_by_its_drop() -> None:
    """Also where the reference cannot be told from guessing: a loss beyond the limit is proved by the pairs."""
    verdict = judge(Tolerances(top1_drop_pp_max=20), [compared([1] * 60, [0] * 60, [0] * 60)])
    assert only(verdict).verdict == "FAIL"
    assert "60 lost" in only(verdict).evidence
    small = compared([1] * 12 + [0] * 12, [0] * 12 + [1] * 12, [0] * 12 + [1] * 12)
    assert {j.verdict for j in judge(Tolerances(top1_drop_pp_max=20, agreement_pct_min=70), [small]).checks} == {"FAIL"}


def test_a_drop_at_its_limit_is_settled_by_no_number_of_images_either() -> None:
    labels = [0] * 10 + [1] * 10
    found = only(judge(Tolerances(top1_drop_pp_max=5), [compared([1, *labels[1:]], labels, labels)]))
    assert (found.verdict, found.images_needed) == ("INCONCLUSIVE", None)
    assert "the value is at the limit" in found.evidence


def test_a_reference_that_is_never_right_proves_nothing() -> None:
    labels = [0, 1] * 100
    wrong = [1 - k for k in labels]
    found = only(judge(Tolerances(top1_drop_pp_max=20), [compared(wrong, wrong, labels)]))
    assert (found.verdict, found.images_needed) == ("INCONCLUSIVE", None)
    assert "the reference cannot be told from guessing: top-1 on 200 images, p = 1;" in found.evidence
    assert "a better reference" in found.evidence


def test_one_image_is_never_enough() -> None:
    one = compared([1], [1], [1])
    assert judge(Tolerances(top1_drop_pp_max=100, agreement_pct_min=0, inconclusive="pass"), [one]).exit_code == 3
    lost = compared([0], [1], [1])
    assert judge(Tolerances(top1_drop_pp_max=5, inconclusive="pass"), [lost]).exit_code == 3


def test_an_engine_that_does_no_better_than_guessing_fails_where_its_reference_does() -> None:
    labels = [0] * 1900 + [1] * 100
    constant = compared([0] * 2000, labels, labels)
    assert constant.accuracy is not None
    assert constant.accuracy.top1_drop_ci_pp is not None
    assert constant.accuracy.top1_drop_ci_pp[1] < 20  # which the drop alone would let pass
    for limits in (Tolerances(top1_drop_pp_max=20.0), Tolerances(agreement_pct_min=70.0)):
        verdict = judge(replace(limits, inconclusive="pass"), [constant])
        assert verdict.exit_code == 1
        assert "the engine does no better than guessing" in only(verdict).evidence
        assert "n = 2000" in only(verdict).evidence
        assert "on 2000 images, p = 1;" in only(verdict).evidence


def test_an_engine_that_is_better_than_guessing_and_not_surely_so_is_inconclusive() -> None:
    """27 images tell the reference from guessing; an engine that loses one of them is not guessing for that."""
    labels = [0] * 14 + [1] * 13
    found = only(judge(Tolerances(top1_drop_pp_max=30), [compared([1, *labels[1:]], labels, labels)]))
    assert found.verdict == "INCONCLUSIVE"
    assert "the engine cannot be told from guessing" in found.evidence
    assert found.images_needed is not None
    more = round(found.images_needed / 27) + 1
    settled = compared([1, *labels[1:]] * more, labels * more, labels * more)
    assert judge(Tolerances(top1_drop_pp_max=30), [settled]).verdict == "PASS"


def test_where_the_drop_is_open_too_the_larger_number_of_images_is_named() -> None:
    labels = [0] * 12 + [1] * 12
    one_lost = compared([1, *labels[1:]], labels, labels)
    found = only(judge(Tolerances(top1_drop_pp_max=5), [one_lost]))
    assert found.images_needed == images_for_drop(1, 0, 24, 0.05)
    assert one_lost.accuracy is not None
    assert one_lost.accuracy.top1_guess_p is not None
    told = images_to_tell(one_lost.accuracy.top1_guess_p, 24, GUESS_P)
    assert told is not None
    assert found.images_needed > told > 24


def test_nan_logits_fail_whatever_else_holds() -> None:
    verdict = judge(Tolerances(top1_drop_pp_max=50, inconclusive="pass"), [measured(nan_count=1)])
    assert verdict.exit_code == 1
    assert "not finite on 1 of 10000" in verdict.checks[0].evidence


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("n", [1, 3, 30, 300])
def test_a_graph_with_random_weights_never_passes(seed: int, n: int) -> None:
    """Whatever the tolerances, the number of images and the mapping; also when the reference is random as well."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 10, n)
    ids = tuple(map(str, range(n)))
    random, other = (rng.normal(size=(n, 10)).astype(np.float32) for _ in range(2))
    good = np.eye(10, dtype=np.float32)[labels]
    constant = np.tile(random[:1], (n, 1))
    loosest = Tolerances(top1_drop_pp_max=100, top5_drop_pp_max=100, agreement_pct_min=0, inconclusive="pass")
    for answers in (random, constant):
        if (answers.argmax(1) == labels).mean() > 0.5:
            continue  # one or three images guessed right: luck, and not what this test is about
        for reference in (good, other, answers):
            pair = [Predictions(ids, labels, logits, "p", "d") for logits in (answers, reference)]
            found = measurement(accuracy=measure_accuracy("int8", *pair))
            verdict = judge(loosest, [found])
            assert verdict.exit_code == (1 if reference is not answers and n >= 30 else 3)


def test_predictions_as_constant_as_the_reference_s_prove_nothing() -> None:
    n = 100
    labels = np.arange(n) % 10
    same = Predictions(tuple(map(str, range(n))), labels, np.tile(np.eye(10, dtype=np.float32)[3], (n, 1)), "p", "d")
    found = measurement(accuracy=measure_accuracy("int8", same, same))
    verdict = judge(Tolerances(agreement_pct_min=99, inconclusive="pass"), [found])
    assert verdict.exit_code == 3
    assert "guessing" in only(verdict).evidence


def test_the_latency_gate_uses_the_interval_of_the_ratio() -> None:
    timed = measurement(ratio=ratio(0.7, (0.68, 0.72)))
    for limit, outcome in ((0.72, "PASS"), (0.7, "INCONCLUSIVE"), (0.67, "FAIL")):
        found = only(judge(Tolerances(latency_ratio_max=limit), [timed]))
        assert found.verdict == outcome
        assert "median 0.700 x fp32, 95 % interval [0.680, 0.720], 20 interleaved rounds" in found.evidence
        assert ("a longer --duration narrows it" in found.evidence) == (outcome == "INCONCLUSIVE")
    starved = replace(ratio(0.7, (0.68, 2.8)), latency_ratio_warnings=("pytorch: it was starved",))
    found = only(judge(Tolerances(latency_ratio_max=1), [measurement(ratio=starved)]))
    assert found.verdict == "INCONCLUSIVE"
    assert found.evidence.endswith("; pytorch: it was starved")
    untimed = only(judge(Tolerances(latency_ratio_max=1), [measurement(latency=latency())]))
    assert (untimed.verdict, untimed.evidence) == ("INCONCLUSIVE", "not measured")


def p99(value: float | None, ci: tuple[float, float | None] | None, n: int) -> Measurement:
    return measurement(latency=latency(latency_ms_p99=value, latency_ms_p99_ci=ci, n_queries=n))


def test_a_percentile_that_the_sample_does_not_carry_is_inconclusive() -> None:
    check = only(judge(Tolerances(latency_ms_p99_max=5), [p99(None, None, 120)]))
    assert check.verdict == "INCONCLUSIVE"
    assert "662" in check.evidence
    assert only(judge(Tolerances(latency_ms_p99_max=5), [p99(4.0, None, 700)])).verdict == "INCONCLUSIVE"
    open_end = p99(4.0, (3.9, None), 700)
    assert only(judge(Tolerances(latency_ms_p99_max=5), [open_end])).verdict == "INCONCLUSIVE"
    assert only(judge(Tolerances(latency_ms_p99_max=3.5), [open_end])).verdict == "FAIL"


def test_counted_values_are_judged_exactly() -> None:
    found = measurement(size_mb=2.0, int8_share_pct=98.0)
    for tolerances, outcome in (
        (Tolerances(size_mb_max=2.0), "PASS"),
        (Tolerances(size_mb_max=1.9), "FAIL"),
        (Tolerances(int8_share_pct_min=98), "PASS"),
        (Tolerances(int8_share_pct_min=99), "FAIL"),
    ):
        assert only(judge(tolerances, [found])).verdict == outcome


def test_fp32_is_judged_by_accuracy_alone_unless_it_stands_alone() -> None:
    fp32 = measured("fp32", size_mb=9.0)
    small = measured("int8", size_mb=2.0)
    tolerances = Tolerances(size_mb_max=3, top1_drop_pp_max=5)
    judged = [(c.name, c.tolerance) for c in judge(tolerances, [fp32, small]).checks]
    assert judged == [("fp32", "top1_drop_pp_max"), ("int8", "top1_drop_pp_max"), ("int8", "size_mb_max")]
    assert judge(tolerances, [fp32]).verdict == "FAIL"


def test_the_speed_of_a_simulation_is_not_judged() -> None:
    slow, fast = ratio(3.0, (2.9, 3.1)), ratio(0.5, (0.4, 0.6))
    rows = [
        measurement("int8", ratio=fast),
        measurement("int8-tensorrt", engine=engine("int8", scheme="tensorrt"), ratio=slow),
        measurement("fp16", ratio=slow),
    ]
    assert only(judge(Tolerances(latency_ratio_max=1), rows)).name == "int8"
    assert judge(Tolerances(latency_ratio_max=1), [measurement("int8", ratio=slow)]).verdict == "FAIL"


@pytest.mark.parametrize("name", ["resnet18-tensorrt", "int8-tensorrt", "fp32", "mine.fp32", "fp16", "simulated"])
@pytest.mark.parametrize("precision", ["fp16", "int8"])
def test_no_name_keeps_an_engine_from_being_judged_on_latency(name: str, precision: str) -> None:
    """What an engine is called says nothing of what it is: a slow one on a GPU fails, a simulated one is not timed."""
    slow = latency(name, latency_ms_p99=99.0, latency_ms_p99_ci=(98.0, 100.0))
    limits = Tolerances(latency_ms_p99_max=5, latency_ratio_max=1)
    parts: dict[str, Any] = {"latency": slow, "ratio": ratio(3.0, (2.9, 3.1))}
    scheme = "tensorrt" if precision == "int8" else ""
    on_gpu = measurement(name, engine=engine(precision, scheme=scheme, **TENSORRT), **parts)
    beside = measurement("fp32-beside", engine=engine("fp32", **TENSORRT), latency=latency("fp32-beside"))
    for rows in ([on_gpu], [beside, on_gpu]):
        verdict = judge(limits, rows)
        assert (verdict.verdict, verdict.exit_code) == ("FAIL", 1)
        assert [(c.name, c.tolerance, c.verdict) for c in verdict.checks] == [
            (name, "latency_ratio_max", "FAIL"),
            (name, "latency_ms_p99_max", "FAIL"),
        ]
    assert "p99 99.000 ms" in verdict.checks[1].evidence
    simulated = measurement(name, engine=engine(precision, scheme=scheme), **parts)
    assert simulated.simulated
    verdict = judge(limits, [simulated])
    assert {(c.name, c.verdict, c.evidence) for c in verdict.checks} == {("all", "INCONCLUSIVE", "not measured")}
    before = baseline_of([on_gpu, simulated], Device(gpu_name="g")).engines[name]
    assert before.latency_ms_p50 is None, "a simulation has no latency to be held against"
    assert baseline_of([on_gpu], Device(gpu_name="g")).engines[name].latency_ms_p50 == slow.latency_ms_p50


def test_an_engine_called_fp16_that_is_fp32_is_what_the_others_are_compared_with() -> None:
    slow = latency(latency_ms_p99=99.0, latency_ms_p99_ci=(98.0, 100.0))
    rows = [measurement("fp16", precision="fp32", latency=slow), measurement("int8", latency=latency())]
    assert [c.name for c in judge(Tolerances(latency_ms_p99_max=5), rows).checks] == ["int8"]


def test_what_was_not_measured_is_never_passed_over() -> None:
    verdict = judge(Tolerances(size_mb_max=3), [measured()])
    assert only(verdict).evidence == "not measured"
    assert verdict.exit_code == 3
    assert judge(Tolerances(), [measured()]).verdict == "INCONCLUSIVE"
    with pytest.raises(MeasurementError, match="nothing was measured"):
        judge(Tolerances(top1_drop_pp_max=1), [])


def test_an_engine_that_is_wanted_and_was_not_measured_leaves_the_verdict_open() -> None:
    rows = [measured("fp16")]
    fp16, int8 = Variant("fp16", "fp16"), Variant("int8", "int8", "ort-cpu")
    verdict = judge(Tolerances(top1_drop_pp_max=5, inconclusive="pass"), rows, wanted=[fp16, int8])
    assert (verdict.verdict, verdict.exit_code) == ("INCONCLUSIVE", 3)
    assert [(c.name, c.tolerance, c.mappable) for c in verdict.checks] == [
        ("fp16", "top1_drop_pp_max", True),
        ("int8", MEASURED, False),
    ]
    assert judge(Tolerances(top1_drop_pp_max=5), rows, wanted=[fp16]).verdict == "PASS"


@pytest.mark.parametrize(
    ("name", "known", "verdict"),
    [
        ("mine", {"precision_requested": "int8", "scheme": "ort-cpu"}, "PASS"),
        ("int8", {"precision_requested": "", "scheme": ""}, "PASS"),
        ("int8", {"precision_requested": "int8", "scheme": ""}, "PASS"),
        ("mine", {"precision_requested": "int8", "scheme": ""}, "INCONCLUSIVE"),
        ("int8", {"precision_requested": "fp32", "scheme": ""}, "INCONCLUSIVE"),
        ("int8", {"precision_requested": "int8", "scheme": "tensorrt"}, "INCONCLUSIVE"),
    ],
)
def test_an_engine_is_the_wanted_one_by_what_it_is(name: str, known: dict[str, Any], verdict: str) -> None:
    """Its name helps where that is not known; an FP32 engine does not become INT8 by being called so."""
    row = measured(name, engine=replace(engine(), **known))
    wanted = [Variant("int8", "int8", "ort-cpu")]
    assert judge(Tolerances(top1_drop_pp_max=5), [row], wanted=wanted).verdict == verdict


def test_an_engine_without_a_value_that_the_others_carry_is_not_passed_over() -> None:
    rows = [measured("fp16"), measurement("int8", size_mb=1.0)]
    judged = {c.name: c for c in judge(Tolerances(top1_drop_pp_max=5), rows).checks}
    assert judged["fp16"].verdict == "PASS"
    assert (judged["int8"].verdict, judged["int8"].evidence) == ("INCONCLUSIVE", "not measured")
    on_gpu = engine("fp16", **TENSORRT)
    fast = ratio(0.5, (0.4, 0.6), "fp16")
    ratios = [measurement("fp16", engine=on_gpu), measurement("int8", ratio=fast), measurement("extra")]
    found = {c.name: c.verdict for c in judge(Tolerances(latency_ratio_max=1), ratios).checks}
    assert found == {"int8": "PASS", "extra": "INCONCLUSIVE"}
    shares = [measurement("fp16"), measurement("int8", int8_share_pct=99.0)]
    assert judge(Tolerances(int8_share_pct_min=90), shares).verdict == "PASS"
    read_back = [measurement("fp16", int8_share_pct=0.0), measurement("int8", int8_share_pct=99.0)]
    assert judge(Tolerances(int8_share_pct_min=90), read_back).verdict == "PASS", "an FP16 engine owes no INT8"
    untold = [*shares, measurement("extra", size_mb=1.0)]
    assert judge(Tolerances(int8_share_pct_min=90), untold).verdict == "INCONCLUSIVE"


def test_without_labels_a_drop_is_inconclusive() -> None:
    n = 40
    ids, rows = tuple(map(str, range(n))), np.eye(10, dtype=np.float32)[np.arange(n) % 10]
    unlabelled = Predictions(ids, np.full(n, -1), rows, "p", "d")
    found = measurement(accuracy=measure_accuracy("int8", unlabelled, unlabelled))
    assert "no labels" in only(judge(Tolerances(top1_drop_pp_max=1), [found])).evidence
    assert "no labels" in only(judge(Tolerances(top5_drop_pp_max=1), [found])).evidence
    few = compared([0, 1] * 50, [0, 1] * 50, [0, 1] * 50)
    assert "five classes" in only(judge(Tolerances(top5_drop_pp_max=1), [few])).evidence


HERE, THERE = Device(cpu="AMD EPYC", threads=2), Device(cpu="other", threads=2)


def test_regressions_against_the_baseline() -> None:
    timed = latency(latency_ms_p50=2.0, latency_ms_p50_ci=(1.99, 2.01))
    before = measured(latency=timed, size_mb=1.0)
    baseline = baseline_of([before], HERE)
    tolerances = Tolerances(top1_drop_pp_max=5)
    assert judge(tolerances, [before], baseline=baseline, device=HERE).verdict == "PASS"
    slower = latency(latency_ms_p50=2.4, latency_ms_p50_ci=(2.3, 2.5))
    outcomes = {
        "baseline latency_ms_p50": replace(before, latency=slower),
        "baseline size_mb": measured(latency=timed, size_mb=1.5),
    }
    for tolerance, now in outcomes.items():
        verdict = judge(tolerances, [now], baseline=baseline, device=HERE)
        assert [c.tolerance for c in verdict.checks if c.verdict == "FAIL"] == [tolerance]
        said = {c.tolerance: (c.evidence, c.interval) for c in verdict.checks}
        assert said["baseline size_mb"][1] is None
    assert said["baseline size_mb"][0] == "size_mb 1.5, baseline 1 (+50.0 %)"
    assert said["baseline latency_ms_p50"][1] == (1.99, 2.01)
    noisy = replace(before, latency=latency(latency_ms_p50=2.2, latency_ms_p50_ci=(2.0, 2.4)))
    assert judge(tolerances, [noisy], baseline=baseline, device=HERE).verdict == "INCONCLUSIVE"


def test_a_baseline_of_another_device_or_of_other_batches_is_refused() -> None:
    baseline = baseline_of([measured()], HERE)
    with pytest.raises(MeasurementError, match="amd-epyc-2threads, this run is from other-2threads"):
        judge(Tolerances(), [measured()], baseline=baseline, device=THERE)
    before = measured(latency=latency(batch=1))
    baseline = baseline_of([before], HERE)
    assert judge(Tolerances(top1_drop_pp_max=5), [before], baseline=baseline, device=HERE).verdict == "PASS"
    for other, said in (
        (latency(batch=8), "batch = 1, this run has 8"),
        (latency(mode="pipelined"), "mode = single-shot, this run has pipelined"),
    ):
        now = replace(before, latency=other)
        with pytest.raises(MeasurementError, match=f"the baseline has {said}"):
            judge(Tolerances(), [now], baseline=baseline, device=HERE)


def test_int8_is_judged_against_fp16_by_the_interval() -> None:
    def timed(ci: tuple[float, float]) -> Measurement:
        found = replace(ratio(), fp16_reference="fp16", int8_vs_fp16_ratio=1.1, int8_vs_fp16_ratio_ci=ci)
        return measurement("int8", engine=engine("int8", **TENSORRT), ratio=found)

    fp16 = measurement("fp16", engine=engine("fp16", **TENSORRT), ratio=ratio())
    for ci, outcome in (((1.05, 1.15), "FAIL"), ((0.9, 1.2), "INCONCLUSIVE"), ((0.8, 1.0), "PASS")):
        found = only(judge(Tolerances(int8_vs_fp16_ratio_max=1), [fp16, timed(ci)]))
        assert (found.name, found.verdict) == ("int8", outcome)
        assert "median 1.100 x fp16" in found.evidence
    untimed = [fp16, measurement("int8", engine=engine("int8", **TENSORRT), ratio=ratio())]
    for rows in (untimed, [measurement("fp16"), measurement("int8", ratio=ratio())]):
        found = only(judge(Tolerances(int8_vs_fp16_ratio_max=1), rows))
        assert found.verdict == "INCONCLUSIVE"
        assert "no FP16 engine was timed in turn" in found.evidence


def test_of_several_builds_each_check_is_the_worst_one() -> None:
    limits = Tolerances(top1_drop_pp_max=1.0, size_mb_max=10.0)
    builds = [
        judge(limits, [measured(lost=lost, gained=10, size_mb=size)])
        for lost, size in ((30, 9.0), (300, 8.0), (400, 9.5))
    ]
    assert [v.verdict for v in builds] == ["PASS", "FAIL", "FAIL"]
    found = {check.tolerance: check for check in worst_of(builds).checks}
    assert found["top1_drop_pp_max"].value == pytest.approx(3.9)
    assert found["top1_drop_pp_max"].evidence.endswith("build 3, the worst of 3")
    assert (found["size_mb_max"].verdict, found["size_mb_max"].value) == ("PASS", 9.5)
    assert worst_of(builds).verdict == "FAIL"
    assert worst_of(builds[:1]) == builds[0]
    ran, crashed = measured(size_mb=9.0), replace(measured(size_mb=9.0), crash=Crash("bench", "SIGABRT (aborted)"))
    found = {check.tolerance: check for check in worst_of([judge(limits, [m]) for m in (ran, crashed)]).checks}
    assert found["runs"].evidence.endswith("in bench: SIGABRT (aborted); build 2, the worst of 2")


def test_an_engine_that_took_its_process_down_fails() -> None:
    verdict = judge(Tolerances(), [measured("fp32"), measurement(crash=Crash("bench", "SIGSEGV (segmentation fault)"))])
    assert verdict.verdict == "FAIL"
    (check,) = (c for c in verdict.checks if c.tolerance == "runs")
    assert check.name == "int8"
    assert "SIGSEGV" in check.evidence
