"""The gate as a pure function: every tolerance at, below and above its limit, and what no tolerance excuses."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import numpy as np
import pytest

from edgecnn.errors import MeasurementError
from edgecnn.gate import _JUDGES, GUESS_Z, MEASURED, Judgement, Verdict, accepted_numbers, judge
from edgecnn.measure.classification import measure_accuracy
from edgecnn.measure.predict import Predictions
from edgecnn.recipe.schema import Tolerances
from edgecnn.report.junit import junit_report
from edgecnn.statistics import images_above, images_for_drop


def measurement(n: Any = 10_000, lost: Any = 30, gained: Any = 10, **more: Any) -> dict[str, Any]:
    """An engine's accuracy on `n` images with labels, 9 of 10 right in the reference."""
    labels = np.arange(n) % 10
    reference, engine = labels.copy(), labels.copy()
    reference[: n // 10] = (labels[: n // 10] + 1) % 10
    engine[: n // 10] = reference[: n // 10]
    engine[:gained] = labels[:gained]
    engine[n - lost :] = (labels[n - lost :] + 2) % 10
    ids = tuple(map(str, range(n)))
    both = [Predictions(ids, labels, np.eye(10, dtype=np.float32)[c], "p", "d") for c in (engine, reference)]
    return {**measure_accuracy("int8", *both).to_json(), **more}


def only(verdict: Verdict) -> Any:
    (judgement,) = verdict.judgements
    return judgement


def test_every_tolerance_of_a_recipe_has_a_judge() -> None:
    assert set(_JUDGES) == {f.name for f in fields(Tolerances)} - {"inconclusive"}
    assert len(_JUDGES) == 7


def test_a_drop_is_judged_by_its_interval_not_by_its_value() -> None:
    found = measurement()
    assert found["top1_drop_pp"] == pytest.approx(0.2)
    low, high = found["top1_drop_ci_pp"]
    for limit, outcome in ((high, "PASS"), (high - 1e-9, "INCONCLUSIVE"), (low, "INCONCLUSIVE"), (low - 1e-9, "FAIL")):
        assert only(judge(Tolerances(top1_drop_pp_max=limit), [found])).verdict == outcome


def test_a_tolerance_that_the_sample_cannot_settle_names_the_images_that_would() -> None:
    verdict = judge(Tolerances(top1_drop_pp_max=2), [measurement(n=200, lost=3, gained=1)])
    judgement = only(verdict)
    assert judgement.verdict == verdict.verdict == "INCONCLUSIVE"
    assert verdict.exit_code == 3
    assert judgement.images_needed is not None
    assert judgement.images_needed > 200
    assert f"about {judgement.images_needed} images" in judgement.evidence
    assert "n = 200" in judgement.evidence
    more = judgement.images_needed / 200
    settled = measurement(n=judgement.images_needed, lost=round(3 * more), gained=round(more))
    assert judge(Tolerances(top1_drop_pp_max=2), [settled]).verdict == "PASS"


@pytest.mark.parametrize(("mapping", "code"), [("inconclusive", 3), ("pass", 3), ("fail", 1)])
def test_no_recipe_lets_an_engine_pass_that_nobody_measured(mapping: Any, code: int) -> None:
    missing = Judgement("fp16", MEASURED, None, None, None, "INCONCLUSIVE", "nothing was measured", mappable=False)
    passed = judge(Tolerances(top1_drop_pp_max=5), [measurement()]).judgements
    verdict = Verdict((*passed, missing), mapping)
    assert verdict.exit_code == code
    content = {"recipe": "r", "target": "cpu", "verdict": verdict.to_json()}
    assert ("<failure" if mapping == "fail" else "<error") in junit_report(content)


@pytest.mark.parametrize(("mapping", "code"), [("inconclusive", 3), ("pass", 0), ("fail", 1)])
def test_a_recipe_maps_what_stays_open(mapping: Any, code: int) -> None:
    verdict = judge(Tolerances(top1_drop_pp_max=0.3, inconclusive=mapping), [measurement()])
    assert only(verdict).verdict == "INCONCLUSIVE"
    assert verdict.exit_code == code


def test_agreement_is_judged_by_its_wilson_interval() -> None:
    found = measurement()  # 9 960 of 10 000 agree
    for limit, outcome in ((99.4, "PASS"), (99.6, "INCONCLUSIVE"), (99.9, "FAIL")):
        judgement = only(judge(Tolerances(agreement_pct_min=limit), [found]))
        assert judgement.verdict == outcome
    low, high = found["agreement_ci_pct"]
    for limit, outcome in ((low, "PASS"), (low + 1e-9, "INCONCLUSIVE"), (high, "INCONCLUSIVE"), (high + 1e-9, "FAIL")):
        assert only(judge(Tolerances(agreement_pct_min=limit), [found])).verdict == outcome
    counted = found.pop("agreement_n")
    assert counted == 9960
    assert only(judge(Tolerances(agreement_pct_min=99.5), [found])).interval == pytest.approx((low, high))


def test_the_images_that_would_settle_an_agreement_do() -> None:
    judgement = only(judge(Tolerances(agreement_pct_min=99.5), [measurement()]))
    assert judgement.verdict == "INCONCLUSIVE"
    assert judgement.images_needed is not None
    needed = judgement.images_needed
    assert f"about {needed} images" in judgement.evidence
    for n, outcome in ((round(1.02 * needed), "PASS"), (round(0.98 * needed), "INCONCLUSIVE")):
        more = {"n": n, "agreement_pct": 99.6, "agreement_n": 0.996 * n}
        assert only(judge(Tolerances(agreement_pct_min=99.5), [{"name": "int8", **more}])).verdict == outcome


def test_chance_is_held_against_the_measure_that_the_tolerance_is_of() -> None:
    tolerances = Tolerances(top1_drop_pp_max=5, agreement_pct_min=90)
    for key, open_one in (("top1_chance_pct", "top1_drop_pp_max"), ("agreement_chance_pct", "agreement_pct_min")):
        judgements = judge(tolerances, [measurement(**{key: 99.99})]).judgements
        assert {j.tolerance: j.verdict for j in judgements if j.verdict != "PASS"} == {open_one: "INCONCLUSIVE"}
    unlabelled = measurement(top1_chance_pct=None, n_labelled=0)
    assert judge(Tolerances(top1_drop_pp_max=5), [unlabelled]).verdict == "PASS"


def compared(engine: list[int], reference: list[int], labels: list[int], classes: int = 2) -> dict[str, Any]:
    """An engine and its reference that answer these classes."""
    ids = tuple(map(str, range(len(labels))))
    rows = np.eye(classes, dtype=np.float32)
    both = [Predictions(ids, np.array(labels, np.int64), rows[p], "p", "d") for p in (engine, reference)]
    return measure_accuracy("fp32", *both).to_json()


@pytest.mark.parametrize("limits", [{"top1_drop_pp_max": 20.0}, {"agreement_pct_min": 70.0}])
@pytest.mark.parametrize(("first", "second"), [(391, 9), (12, 12), (9, 391), (2, 1)])
def test_a_perfect_engine_on_few_or_unbalanced_images_is_inconclusive_until_there_are_more(
    first: int, second: int, limits: dict[str, Any]
) -> None:
    answers = [0] * first + [1] * second
    verdict = judge(Tolerances(**limits, inconclusive="pass"), [compared(answers, answers, answers)])
    found = only(verdict)
    assert (verdict.verdict, verdict.exit_code, found.verdict) == ("INCONCLUSIVE", 3, "INCONCLUSIVE")
    assert "cannot be told from guessing" in found.evidence
    assert f"chance level {100 * max(first, second) / len(answers):.2f} %" in found.evidence
    needed = found.images_needed
    assert f"about {needed} images would settle it" in found.evidence
    assert f"n = {len(answers)}" in found.evidence
    for n, outcome in ((1.02 * needed + 2, "PASS"), (0.98 * needed - 2, "INCONCLUSIVE")):
        ones = round(n * second / len(answers))
        more = [0] * (round(n) - ones) + [1] * ones
        assert judge(Tolerances(**limits), [compared(more, more, more)]).verdict == outcome


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
    assert {j.verdict for j in judge(Tolerances(top1_drop_pp_max=20, agreement_pct_min=70), [small]).judgements} == {
        "FAIL"
    }


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
    assert "the reference cannot be told from guessing: top-1 0.00 %" in found.evidence
    assert "a better reference" in found.evidence


def test_one_image_is_never_enough() -> None:
    one = compared([1], [1], [1])
    assert judge(Tolerances(top1_drop_pp_max=100, agreement_pct_min=0, inconclusive="pass"), [one]).exit_code == 3
    lost = compared([0], [1], [1])
    assert judge(Tolerances(top1_drop_pp_max=5, inconclusive="pass"), [lost]).exit_code == 3


def test_an_engine_at_chance_level_fails_where_its_reference_is_not() -> None:
    labels = [0] * 1900 + [1] * 100
    constant = compared([0] * 2000, labels, labels)
    assert constant["top1_drop_ci_pp"][1] < 20  # which the drop alone would let pass
    for limits in ({"top1_drop_pp_max": 20.0}, {"agreement_pct_min": 70.0}):
        verdict = judge(Tolerances(**limits, inconclusive="pass"), [constant])
        assert verdict.exit_code == 1
        assert "the engine is at chance level" in only(verdict).evidence
        assert "n = 2000" in only(verdict).evidence


def test_an_engine_that_is_better_than_chance_and_not_surely_so_is_inconclusive() -> None:
    """27 images tell the reference from guessing; an engine that loses one of them is not at chance for that."""
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
    assert found.images_needed > images_above(23, 24, 0.5, GUESS_Z)


def test_nan_logits_fail_whatever_else_holds() -> None:
    verdict = judge(Tolerances(top1_drop_pp_max=50, inconclusive="pass"), [measurement(nan_count=1)])
    assert verdict.exit_code == 1
    assert "not finite on 1 of 10000" in verdict.judgements[0].evidence


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
    for engine in (random, constant):
        if (engine.argmax(1) == labels).mean() > 0.5:
            continue  # one or three images guessed right: chance, and not what this test is about
        for reference in (good, other, engine):
            pair = [Predictions(ids, labels, logits, "p", "d") for logits in (engine, reference)]
            found = measure_accuracy("int8", *pair).to_json()
            verdict = judge(loosest, [found])
            assert verdict.exit_code == (1 if reference is not engine and n >= 30 else 3)


def test_predictions_as_constant_as_the_reference_s_prove_nothing() -> None:
    n = 100
    labels = np.arange(n) % 10
    same = Predictions(tuple(map(str, range(n))), labels, np.tile(np.eye(10, dtype=np.float32)[3], (n, 1)), "p", "d")
    found = measure_accuracy("int8", same, same).to_json()
    verdict = judge(Tolerances(agreement_pct_min=99, inconclusive="pass"), [found])
    assert verdict.exit_code == 3
    assert "guessing" in only(verdict).evidence


def test_the_latency_gate_uses_the_interval_of_the_ratio() -> None:
    ratio = {"name": "int8", "latency_ratio": 0.7, "latency_ratio_ci": [0.68, 0.72], "latency_reference": "fp32"}
    for limit, outcome in ((0.72, "PASS"), (0.7, "INCONCLUSIVE"), (0.67, "FAIL")):
        assert only(judge(Tolerances(latency_ratio_max=limit), [ratio])).verdict == outcome
        said = only(judge(Tolerances(latency_ratio_max=limit), [ratio])).evidence
        assert ("a longer --duration narrows it" in said) == (outcome == "INCONCLUSIVE")
    for missing in ({"latency_ratio": None}, {"latency_ratio_ci": None}):
        judgement = only(judge(Tolerances(latency_ratio_max=1), [{**ratio, **missing}]))
        assert judgement.verdict == "INCONCLUSIVE"


def test_a_percentile_that_the_sample_does_not_carry_is_inconclusive() -> None:
    few = {"name": "int8", "latency_ms_p99": None, "n_queries": 120}
    judgement = only(judge(Tolerances(latency_ms_p99_max=5), [few]))
    assert judgement.verdict == "INCONCLUSIVE"
    assert "662" in judgement.evidence
    open_end = {"name": "int8", "latency_ms_p99": 4.0, "latency_ms_p99_ci": [3.9, None], "n_queries": 700}
    assert only(judge(Tolerances(latency_ms_p99_max=5), [open_end])).verdict == "INCONCLUSIVE"
    assert only(judge(Tolerances(latency_ms_p99_max=3.5), [open_end])).verdict == "FAIL"


def test_counted_values_are_judged_exactly() -> None:
    found = {"name": "int8", "size_mb": 2.0, "int8_share_pct": 98.0}
    for tolerances, outcome in (
        (Tolerances(size_mb_max=2.0), "PASS"),
        (Tolerances(size_mb_max=1.9), "FAIL"),
        (Tolerances(int8_share_pct_min=98), "PASS"),
        (Tolerances(int8_share_pct_min=99), "FAIL"),
    ):
        assert only(judge(tolerances, [found])).verdict == outcome


def test_the_baseline_is_judged_by_accuracy_alone_unless_it_stands_alone() -> None:
    baseline = measurement(name="fp32", size_mb=9.0)
    small = measurement(name="int8", size_mb=2.0)
    tolerances = Tolerances(size_mb_max=3, top1_drop_pp_max=5)
    judged = [(j.name, j.tolerance) for j in judge(tolerances, [baseline, small]).judgements]
    assert judged == [("fp32", "top1_drop_pp_max"), ("int8", "top1_drop_pp_max"), ("int8", "size_mb_max")]
    assert judge(tolerances, [{**baseline, "name": "fp32"}]).verdict == "FAIL"


def test_the_speed_of_a_simulation_is_not_judged() -> None:
    slow = {"latency_ratio": 3.0, "latency_ratio_ci": [2.9, 3.1]}
    fast = {"latency_ratio": 0.5, "latency_ratio_ci": [0.4, 0.6]}
    fp16 = {"name": "fp16", "simulated": "FP16 tensors rounded from FP32", **slow}
    rows = [{"name": "int8", "simulated": "", **fast}, {"name": "int8-tensorrt", **slow}, fp16]
    assert only(judge(Tolerances(latency_ratio_max=1), rows)).name == "int8"
    assert judge(Tolerances(latency_ratio_max=1), [{"name": "int8", **slow}]).verdict == "FAIL"


def test_what_was_not_measured_is_never_passed_over() -> None:
    verdict = judge(Tolerances(size_mb_max=3), [measurement()])
    assert only(verdict).evidence == "not measured"
    assert verdict.exit_code == 3
    assert judge(Tolerances(), [measurement()]).verdict == "INCONCLUSIVE"
    with pytest.raises(MeasurementError, match="nothing was measured"):
        judge(Tolerances(top1_drop_pp_max=1), [])


def test_an_engine_without_a_value_that_the_others_carry_is_not_passed_over() -> None:
    rows = [measurement(name="fp16"), {"name": "int8", "precision_requested": "int8", "size_mb": 1.0}]
    judged = {j.name: j for j in judge(Tolerances(top1_drop_pp_max=5), rows).judgements}
    assert judged["fp16"].verdict == "PASS"
    assert (judged["int8"].verdict, judged["int8"].evidence) == ("INCONCLUSIVE", "not measured")
    fast = {"latency_ratio": 0.5, "latency_ratio_ci": [0.4, 0.6], "latency_reference": "fp16"}
    ratios: list[Any] = [{"name": "fp16"}, {"name": "int8", **fast}, {"name": "extra"}]
    found = {j.name: j.verdict for j in judge(Tolerances(latency_ratio_max=1), ratios).judgements}
    assert found == {"int8": "PASS", "extra": "INCONCLUSIVE"}
    shares: list[Any] = [{"name": "fp16"}, {"name": "int8", "int8_share_pct": 99.0}]
    assert judge(Tolerances(int8_share_pct_min=90), shares).verdict == "PASS"


def test_without_labels_a_drop_is_inconclusive() -> None:
    unlabelled = {"name": "int8", "n": 10, "top1_drop_pp": None, "top1_drop_ci_pp": None, "classes": 10}
    assert "no labels" in only(judge(Tolerances(top1_drop_pp_max=1), [unlabelled])).evidence
    few = {"name": "int8", "n": 10, "top5_drop_pp": None, "top5_drop_ci_pp": None, "classes": 2}
    assert "five classes" in only(judge(Tolerances(top5_drop_pp_max=1), [few])).evidence


KEY = "cpu:AMD EPYC:2"


def test_regressions_against_accepted_numbers() -> None:
    latency = {"latency_ms_p50": 2.0, "latency_ms_p50_ci": [1.99, 2.01], "size_mb": 1.0}
    before = measurement(**latency, device_key=KEY)
    accepted = accepted_numbers([before], KEY)
    tolerances = Tolerances(top1_drop_pp_max=5)
    assert judge(tolerances, [before], accepted).verdict == "PASS"
    outcomes = {
        "accepted top1_drop_pp": measurement(lost=120, **latency),
        "accepted latency_ms_p50": {**before, "latency_ms_p50": 2.4, "latency_ms_p50_ci": [2.3, 2.5]},
        "accepted size_mb": {**before, "size_mb": 1.5},
    }
    for tolerance, now in outcomes.items():
        verdict = judge(tolerances, [now], accepted)
        assert [j.tolerance for j in verdict.judgements if j.verdict == "FAIL"] == [tolerance]
        said = {j.tolerance: (j.evidence, j.interval) for j in verdict.judgements}
        assert ("significantly worse" in said["accepted top1_drop_pp"][0]) == (tolerance == "accepted top1_drop_pp")
        assert said["accepted size_mb"][1] is None
    assert said["accepted size_mb"][0] == "size_mb 1.5, accepted 1 (+50.0 %)"
    assert said["accepted latency_ms_p50"][1] == (1.99, 2.01)
    for unknown in ({"top1_drop_ci_pp": None}, {"top1_drop_pp": None}):
        judged = {j.tolerance for j in judge(Tolerances(size_mb_max=9), [{**before, **unknown}], accepted).judgements}
        assert judged == {"size_mb_max", "accepted latency_ms_p50", "accepted size_mb"}
    noisy = {**before, "latency_ms_p50": 2.2, "latency_ms_p50_ci": [2.0, 2.4]}
    assert judge(tolerances, [noisy], accepted).verdict == "INCONCLUSIVE"


def test_accepted_numbers_of_another_device_or_of_other_data_are_refused() -> None:
    accepted = accepted_numbers([measurement()], KEY)
    with pytest.raises(MeasurementError, match="cpu:AMD EPYC:2, this run is from cpu:other:2"):
        judge(Tolerances(), [measurement(device_key="cpu:other:2")], accepted)
    with pytest.raises(MeasurementError, match="n = 10000, this run has 500"):
        judge(Tolerances(), [measurement(n=500)], accepted)
    timed = {"latency_ms_p50": 1.0, "batch": 1, "mode": "latency"}
    accepted = accepted_numbers([measurement(**timed)], KEY)
    assert judge(Tolerances(top1_drop_pp_max=5), [measurement(**timed)], accepted).verdict == "PASS"
    for key, value in (("batch", 8), ("mode", "throughput")):
        with pytest.raises(MeasurementError, match=f"accepted on {key} = {timed[key]}, this run has {value}"):
            judge(Tolerances(), [measurement(**{**timed, key: value})], accepted)
