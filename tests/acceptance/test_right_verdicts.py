"""Verdicts on engines whose every answer is known: perfect ones, guessing ones, one logit, sigmoids.

The red channel of a picture holds what the reference says of it, the green one what the engine says, its folder what
is right; so each verdict can be worked out from a table of counts.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper

from tests.acceptance.channel_pictures import (
    GREEN,
    PREPROCESSING,
    RED,
    Result,
    class_model,
    import_model,
    level,
    make_model,
    pooled,
    save_color,
    write_json,
)

pytestmark = pytest.mark.torch

Command = Callable[..., Result]
Row = tuple[int, int, int, int]  # label, what the reference says, what the engine says, how many pictures
NAMES = ("amber", "brass", "coral", "denim", "ebony", "flint")
RECIPE = """
title = "colors"
precisions = ["fp32"]
targets = ["cpu"]
[model]
name = "lenet5"
[data]
source = "images"
[tolerances]
"""
PASS, FAIL, INCONCLUSIVE = 0, 1, 3


def put_pictures(root: Path, rows: Sequence[Row], classes: int) -> Path:
    """One picture for each count of each row."""
    for k, (label, reference, engine, count) in enumerate(rows):
        color = (level(reference, classes), level(engine, classes), 0)
        for i in range(count):
            save_color(root / NAMES[label] / f"{k}-{i:04d}.png", color)
    return root


class Judge:
    """Reference and engine of a number of classes, and the gate's word on a table of counts."""

    def __init__(self, edgecnn: Command, capfd: pytest.CaptureFixture[str], folder: Path, classes: int) -> None:
        self.edgecnn, self.folder, self.classes, self.made = edgecnn, folder, classes, 0
        names = NAMES[:classes]
        self.reference = import_model(capfd, class_model(classes, RED), folder / "reference.onnx", names)
        self.engine = import_model(capfd, class_model(classes, GREEN), folder / "engine.onnx", names)

    def __call__(self, rows: Sequence[Row], **tolerances: float | str) -> tuple[Result, dict[str, Any]]:
        """(what the gate said, its verdict.json); the measurement is checked against the table first."""
        self.made += 1
        root = self.folder / str(self.made)
        data = put_pictures(root / "images", rows, self.classes)
        accuracy = root / "run" / "cpu" / "fp32.accuracy.json"
        accuracy.parent.mkdir(parents=True)
        arguments = ["--reference", self.reference, "--data", data, "-o", accuracy]
        measured = self.edgecnn("validate", self.engine, *arguments, "--json")
        assert measured.code == 0, measured.said
        check_measurement(json.loads(measured.out), rows)
        recipe = root / "colors.toml"
        limits = tolerances or {"top1_drop_pp_max": 20.0, "agreement_pct_min": 70.0}
        recipe.write_text(RECIPE + "".join(f"{key} = {json.dumps(value)}\n" for key, value in limits.items()))
        result = self.edgecnn("gate", root / "run", "--recipe", recipe)
        verdict: dict[str, Any] = json.loads((accuracy.parent / "verdict.json").read_text())
        assert verdict["exit_code"] == result.code
        return result, verdict


def check_measurement(found: dict[str, Any], rows: Sequence[Row]) -> None:
    n = sum(count for *_, count in rows)
    share = {
        "top1_pct": sum(c for label, _, engine, c in rows if label == engine),
        "reference_top1_pct": sum(c for label, reference, _, c in rows if label == reference),
        "agreement_pct": sum(c for _, reference, engine, c in rows if reference == engine),
    }
    assert found["n"] == n
    for key, count in share.items():
        assert found[key] == pytest.approx(100 * count / n), key


def needed_images(result: Result, verdict: dict[str, Any]) -> int:
    """The largest number of images that the verdict asks for; 0 where it asks for none."""
    asked = [j["images_needed"] for j in verdict["checks"] if j.get("images_needed")]
    return max(asked, default=0)


MakeJudge = Callable[[int], Judge]


@pytest.fixture
def judge(edgecnn: Command, capfd: pytest.CaptureFixture[str], tmp_path: Path) -> MakeJudge:
    """`judge(3)(rows, top1_drop_pp_max=5)`: the verdict on an engine of three classes."""
    return lambda classes: Judge(edgecnn, capfd, tmp_path / f"of{classes}", classes)


def perfect(counts: Sequence[int]) -> list[Row]:
    """Reference and engine both right on every picture."""
    return [(k, k, k, count) for k, count in enumerate(counts) if count]


# --- engines equal to their reference ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "counts",
    [
        (291, 9),
        (9, 291),
        (350, 3, 2),
        (196, 1, 1, 1, 1),
        (12, 12),
        (5, 5),
        (1, 1),
        (4, 3, 3),
        (0, 60),
        (80, 0, 0),
        (1, 0),
    ],
)
def test_a_perfect_engine_never_fails(judge: MakeJudge, counts: tuple[int, ...]) -> None:
    result, verdict = judge(len(counts))(perfect(counts))
    assert result.code in (PASS, INCONCLUSIVE), result.said
    assert all(j["verdict"] != "FAIL" for j in verdict["checks"])


@pytest.mark.parametrize("counts", [(12, 12), (5, 5), (4, 3, 3), (291, 9), (350, 3, 2)])
def test_what_cannot_be_told_names_how_many_images_can(judge: MakeJudge, counts: tuple[int, ...]) -> None:
    result, verdict = judge(len(counts))(perfect(counts))
    assert result.code in (PASS, INCONCLUSIVE)
    if result.code == INCONCLUSIVE:
        assert needed_images(result, verdict) > sum(counts), verdict["checks"]
        assert re.search(rf"\b{needed_images(result, verdict)}\b", result.said)


@pytest.mark.parametrize("counts", [(6, 6), (4, 4, 4), (28, 2)])
def test_the_images_asked_for_settle_it(judge: MakeJudge, counts: tuple[int, ...]) -> None:
    """The same shares on a tenth more images than were asked for: a perfect engine passes."""
    ask = judge(len(counts))
    result, verdict = ask(perfect(counts))
    for _ in range(2):  # what another tolerance needs may only be known once the first is settled
        if result.code == PASS:
            break
        assert result.code == INCONCLUSIVE, result.said
        needed = needed_images(result, verdict)
        assert 0 < needed <= 1500, verdict["checks"]
        times = int(np.ceil(1.1 * needed / sum(counts)))
        result, verdict = ask(perfect([times * count for count in counts]))
    assert result.code == PASS, result.said


def test_a_perfect_engine_passes_on_a_balanced_set(judge: MakeJudge) -> None:
    result, _ = judge(3)(perfect((100, 100, 100)), top1_drop_pp_max=3.0, agreement_pct_min=95.0)
    assert result.code == PASS, result.said


def test_a_poor_but_honest_reference_and_its_equal_pass(judge: MakeJudge) -> None:
    """Top-1 of 60 % where guessing gives 33 %."""
    rows = [(k, (k + shift) % 3, (k + shift) % 3, count) for k in range(3) for shift, count in enumerate((60, 20, 20))]
    result, _ = judge(3)(rows, top1_drop_pp_max=3.0, agreement_pct_min=95.0)
    assert result.code == PASS, result.said


# --- references that guess -----------------------------------------------------------------------------------------

GUESSING = [(label, said, said, 30) for label in range(3) for said in range(3)]
CONSTANT = [(label, 1, 1, 60) for label in range(3)]
WORSE = [(label, (label + 1) % 3, (label + 1) % 3, 60) for label in range(3)]


@pytest.mark.parametrize("rows", [GUESSING, CONSTANT, WORSE], ids=["guessing", "constant", "worse"])
def test_a_reference_that_guesses_proves_nothing(judge: MakeJudge, rows: list[Row]) -> None:
    """Its engine agrees with it on every picture."""
    result, _ = judge(3)(rows)
    assert result.code == INCONCLUSIVE, result.said


@pytest.mark.parametrize("rows", [GUESSING, CONSTANT], ids=["guessing", "constant"])
def test_a_reference_that_guesses_proves_nothing_by_its_drop_alone(judge: MakeJudge, rows: list[Row]) -> None:
    result, _ = judge(3)(rows, top1_drop_pp_max=10.0)
    assert result.code == INCONCLUSIVE, result.said


def test_an_engine_right_by_chance_does_not_make_up_for_its_reference(judge: MakeJudge) -> None:
    """The engine guesses otherwise than its guessing reference: no drop, which proves nothing."""
    rows = [(label, said, (said + label) % 3, 30) for label in range(3) for said in range(3)]
    result, _ = judge(3)(rows, top1_drop_pp_max=20.0)
    assert result.code in (FAIL, INCONCLUSIVE), result.said


# --- engines that guess --------------------------------------------------------------------------------------------


def broken(engine: Callable[[int, int], int], each: int = 60, classes: int = 3) -> list[Row]:
    """The reference right on every picture, the engine as `engine(label, i)` says."""
    return [(label, label, engine(label, i), 1) for label in range(classes) for i in range(each)]


BROKEN: dict[str, Callable[[int, int], int]] = {
    "constant": lambda label, i: 0,
    "guessing": lambda label, i: i % 3,
    "turned": lambda label, i: (label + 1) % 3,
    "two of three": lambda label, i: 2 if label == 1 and i % 2 else i % 3,
}


@pytest.mark.parametrize("how", BROKEN)
@pytest.mark.parametrize(
    "tolerances",
    [{"top1_drop_pp_max": 5.0}, {"agreement_pct_min": 90.0}, {"top1_drop_pp_max": 5.0, "agreement_pct_min": 90.0}],
    ids=["drop", "agreement", "both"],
)
def test_an_engine_that_guesses_fails(judge: MakeJudge, how: str, tolerances: dict[str, float]) -> None:
    result, _ = judge(3)(broken(BROKEN[how]), **tolerances)
    assert result.code == FAIL, result.said


def test_two_classes_turned_round_fail(judge: MakeJudge) -> None:
    result, _ = judge(2)(broken(lambda label, i: 1 - label, each=40, classes=2))
    assert result.code == FAIL, result.said


@pytest.mark.parametrize("each", [2, 8])
def test_an_engine_that_is_always_wrong_does_not_pass_on_few_pictures(judge: MakeJudge, each: int) -> None:
    result, _ = judge(2)(broken(lambda label, i: 1 - label, each=each, classes=2))
    assert result.code in (FAIL, INCONCLUSIVE), result.said


@pytest.mark.parametrize("limit", [5.0, 10.0, 30.0])
def test_a_constant_engine_does_not_pass_an_unbalanced_set(judge: MakeJudge, limit: float) -> None:
    """Right on 95 % by its one answer; the reference is right on all."""
    rows = [(0, 0, 0, 380), (1, 1, 0, 20)]
    result, _ = judge(2)(rows, top1_drop_pp_max=limit, agreement_pct_min=80.0)
    assert result.code in (FAIL, INCONCLUSIVE), result.said


def test_a_constant_engine_fails_an_unbalanced_set_by_its_drop(judge: MakeJudge) -> None:
    """20 of 200 lost, none gained: the 95 % interval of the drop, [6.6, 14.9] pp, is above 3 pp."""
    result, _ = judge(2)([(0, 0, 0, 180), (1, 1, 0, 20)], top1_drop_pp_max=3.0)
    assert result.code == FAIL, result.said


def kappa_z(pairs: Sequence[tuple[int, int, int]]) -> float:
    """How many standard errors two series (one's answer, the other's, count) agree above unrelated ones with the same
    frequencies (Cohen 1960)."""
    table = np.zeros((6, 6))
    for ours, theirs, count in pairs:
        table[ours, theirs] += count
    table /= (n := table.sum())
    chance = float(table.sum(0) @ table.sum(1))
    return float((np.trace(table) - chance) / np.sqrt(chance * (1 - chance) / n))


UNBALANCED: dict[str, list[Row]] = {
    # the engine loses 56 of 340 of the frequent class and none of the rare one
    "engine near the frequent class's share": [(0, 0, 0, 284), (0, 0, 1, 56), (1, 1, 1, 60)],
    # reference and engine find nine tenths of both classes: fewer right than a constant answer has, and no guess
    "as many as a constant answer has": [(0, 0, 0, 855), (0, 1, 1, 95), (1, 1, 1, 45), (1, 0, 0, 5)],
}


@pytest.mark.parametrize("case", UNBALANCED)
def test_right_answers_on_an_unbalanced_set_are_no_guesses(judge: MakeJudge, case: str) -> None:
    """Both classes are found, so that guessing can be ruled out, and the drop is within its tolerance."""
    rows = UNBALANCED[case]
    assert kappa_z([(label, engine, count) for label, _, engine, count in rows]) > 6
    assert kappa_z([(label, reference, count) for label, reference, _, count in rows]) > 6
    result, _ = judge(2)(rows)
    assert result.code == PASS, result.said


def test_a_reference_that_guesses_proves_nothing_by_its_agreement_alone(judge: MakeJudge) -> None:
    result, _ = judge(3)(GUESSING, agreement_pct_min=90.0)
    assert result.code == INCONCLUSIVE, result.said


def test_open_verdicts_mapped_to_pass_let_no_guessing_engine_pass(judge: MakeJudge) -> None:
    result, _ = judge(3)(broken(BROKEN["guessing"]), top1_drop_pp_max=5.0, inconclusive="pass")
    assert result.code == FAIL, result.said


# --- one logit -----------------------------------------------------------------------------------------------------

SWITCH = 0.45  # of the brightness of a channel


def logit_model(
    channel: int, *, sign: float = 1.0, switch: float = SWITCH, end: str = "logit", gain: float = 8.0
) -> onnx.ModelProto:
    """z = gain sign (v - switch) of the mean v of a channel: class 1 where z > 0."""
    weight = np.zeros((1, 3), np.float32)
    weight[0, channel] = gain * sign
    arrays = {
        "w": weight,
        "b": np.array([-gain * sign * switch], np.float32),
        "one": np.ones(1, np.float32),
        "hundred": np.full(1, 100, np.float32),
        "axes": np.array([1]),
    }
    ends: dict[str, list[tuple[str, list[str]]]] = {
        "logit": [],
        "sigmoid": [("Sigmoid", ["z"])],
        "hard sigmoid": [("HardSigmoid", ["z"])],
        "squeezed": [("Squeeze", ["z", "axes"])],
        "per cent": [("Sigmoid", ["z"]), ("Mul", ["s0", "hundred"])],
        "of the other class": [("Neg", ["z"]), ("Sigmoid", ["s0"]), ("Sub", ["one", "s1"])],
        "written out": [("Neg", ["z"]), ("Exp", ["s0"]), ("Add", ["s1", "one"]), ("Reciprocal", ["s2"])],
        "log": [("Sigmoid", ["z"]), ("Log", ["s0"])],
        "tanh": [("Tanh", ["z"])],
    }
    nodes = [*pooled(), helper.make_node("Gemm", ["f", "w", "b"], ["z"], "fc", transB=1)]
    for k, (kind, inputs) in enumerate(ends[end]):
        nodes.append(helper.make_node(kind, inputs, [f"s{k}"], f"end{k}"))
    nodes[-1].output[0] = "logits"
    used = {name for node in nodes for name in node.input}
    output: list[int | str] = ["batch"] if end == "squeezed" else ["batch", 1]
    return make_model(nodes, {k: v for k, v in arrays.items() if k in used}, output)


def put_shades(root: Path, n: int = 60) -> tuple[Path, np.ndarray, np.ndarray]:
    """(data, red, label) of pictures whose red is anything; a tenth of the labels is not what red says."""
    rng = np.random.default_rng(7)
    red = rng.integers(0, 256, n)
    label = (red / 255 > SWITCH).astype(int) ^ (rng.random(n) < 0.1)
    for i in range(n):
        save_color(root / ("good", "scratch")[label[i]] / f"{i:03d}.png", (red[i], 255 - red[i], 0))
    order = [int(p.stem) for name in ("good", "scratch") for p in sorted((root / name).glob("*.png"))]
    return root, red[order], label[order]


def import_logit(capfd: pytest.CaptureFixture[str], path: Path, **how: Any) -> Path:
    return import_model(capfd, logit_model(RED, **how), path, ("good", "scratch"))


def compare(edgecnn: Command, engine: Path, reference: Path, data: Path) -> dict[str, Any]:
    result = edgecnn("validate", engine, "--reference", reference, "--data", data, "--json")
    assert result.code == 0, result.said
    found: dict[str, Any] = json.loads(result.out)
    return found


@pytest.mark.parametrize("end", ["logit", "sigmoid"])
def test_one_output_is_decided_at_its_threshold(
    edgecnn: Command, capfd: pytest.CaptureFixture[str], tmp_path: Path, end: str
) -> None:
    data, red, label = put_shades(tmp_path / "data")
    graph = import_logit(capfd, tmp_path / "g.onnx", end=end)
    found = compare(edgecnn, graph, graph, data)
    top1 = 100 * float(((red / 255 > SWITCH) == label).mean())
    assert 80 < top1 < 100
    assert found["top1_pct"] == pytest.approx(top1)
    assert found["reference_top1_pct"] == pytest.approx(top1)
    assert found["agreement_pct"] == pytest.approx(100)


ENDS = ["hard sigmoid", "squeezed", "per cent", "of the other class", "written out", "log", "tanh"]


@pytest.mark.parametrize("end", ENDS)
def test_one_output_in_another_form_is_right_or_refused(
    edgecnn: Command, capfd: pytest.CaptureFixture[str], tmp_path: Path, end: str
) -> None:
    """A probability is not above 0 by itself: decided there, every picture would be of one class."""
    data, red, label = put_shades(tmp_path / "data")
    onnx.save(logit_model(RED, end=end, gain=2.0), str(tmp_path / "m.onnx"))
    (tmp_path / "labels.txt").write_text("good\nscratch\n")
    described = ["--preprocess", write_json(tmp_path / "pre.json", PREPROCESSING), "--labels", tmp_path / "labels.txt"]
    result = edgecnn("import", tmp_path / "m.onnx", *described, "-o", tmp_path / "g.onnx")
    if result.code:
        result.refused()
        return
    found = compare(edgecnn, tmp_path / "g.onnx", tmp_path / "g.onnx", data)
    assert found["top1_pct"] == pytest.approx(100 * float(((red / 255 > SWITCH) == label).mean()))


@pytest.mark.parametrize("end", ["logit", "sigmoid"])
def test_one_output_negated_agrees_with_itself_nowhere(
    edgecnn: Command, capfd: pytest.CaptureFixture[str], tmp_path: Path, end: str
) -> None:
    data, red, label = put_shades(tmp_path / "data")
    graph = import_logit(capfd, tmp_path / "g.onnx", end=end)
    turned = import_logit(capfd, tmp_path / "t.onnx", end=end, sign=-1.0)
    found = compare(edgecnn, turned, graph, data)
    right = (red / 255 > SWITCH) == label
    assert found["agreement_pct"] == 0
    assert found["top1_pct"] == pytest.approx(100 * float(1 - right.mean()))
    assert found["top1_drop_pp"] == pytest.approx(100 * float(2 * right.mean() - 1))


@pytest.mark.parametrize("switch", [0.2, 0.44, 0.7, 1.5])
def test_one_output_with_a_shifted_threshold_loses_what_lies_between(
    edgecnn: Command, capfd: pytest.CaptureFixture[str], tmp_path: Path, switch: float
) -> None:
    data, red, label = put_shades(tmp_path / "data")
    graph = import_logit(capfd, tmp_path / "g.onnx")
    shifted = import_logit(capfd, tmp_path / "s.onnx", switch=switch)
    found = compare(edgecnn, shifted, graph, data)
    ours, theirs = red / 255 > switch, red / 255 > SWITCH
    assert found["agreement_pct"] == pytest.approx(100 * float((ours == theirs).mean()))
    assert found["top1_pct"] == pytest.approx(100 * float((ours == label).mean()))
    assert found["top1_lost"] == int(((theirs == label) & (ours != label)).sum())
    assert found["top1_gained"] == int(((theirs != label) & (ours == label)).sum())


def test_a_negated_logit_fails_the_gate(edgecnn: Command, capfd: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    data, _, _ = put_shades(tmp_path / "data", 120)
    graph = import_logit(capfd, tmp_path / "g.onnx")
    (tmp_path / "colors.toml").write_text(RECIPE + "top1_drop_pp_max = 10\nagreement_pct_min = 80\n")
    for sign, code in ((1.0, PASS), (-1.0, FAIL)):
        engine = import_logit(capfd, tmp_path / f"e{sign}.onnx", sign=sign)
        accuracy = tmp_path / f"run{sign}" / "cpu" / "fp32.accuracy.json"
        accuracy.parent.mkdir(parents=True)
        assert edgecnn("validate", engine, "--reference", graph, "--data", data, "-o", accuracy).code == 0
        result = edgecnn("gate", accuracy.parent.parent, "--recipe", tmp_path / "colors.toml")
        assert result.code == code, result.said


@pytest.mark.parametrize("end", ["logit", "sigmoid"])
def test_predict_names_the_class_of_one_output(
    edgecnn: Command, capfd: pytest.CaptureFixture[str], tmp_path: Path, end: str
) -> None:
    """The more probable class first, with sigmoid(z) as the probability of class 1."""
    graph = import_logit(capfd, tmp_path / "g.onnx", end=end)
    for red in (10, 100, 130, 250):
        picture = save_color(tmp_path / f"{red}.png", (red, 0, 0))
        result = edgecnn("predict", graph, picture, "--json")
        assert result.code == 0, result.said
        best = json.loads(result.out)[0]["top5"][0]
        probability = 1 / (1 + np.exp(-8 * (red / 255 - SWITCH)))
        assert best["label"] == ("scratch" if probability > 0.5 else "good")
        assert best["class"] == int(probability > 0.5)
        assert best["probability"] == pytest.approx(max(probability, 1 - probability), abs=1e-4)


@pytest.mark.parametrize("precision", ["fp16", "int8"])
def test_one_output_stays_one_decision_in_other_precisions(
    edgecnn: Command, capfd: pytest.CaptureFixture[str], tmp_path: Path, precision: str
) -> None:
    """8 bits keep the decision for every red that is 3 % of the range away from the threshold."""
    graph = import_logit(capfd, tmp_path / "g.onnx")
    data = tmp_path / "data"
    for split, n in (("train", 30), ("test", 60)):
        rng = np.random.default_rng(len(split))
        for i in range(n):
            red = int(rng.integers(0, 256))
            if abs(red / 255 - SWITCH) > 0.03:
                name = ("good", "scratch")[int(red / 255 > SWITCH)]
                save_color(data / split / name / f"{i:03d}.png", (red, 255 - red, 0))
    engine = tmp_path / "e.onnx"
    more = [] if precision == "fp16" else ["--data", data, "--method", "minmax"]
    made = edgecnn("quantize", graph, "--precision", precision, *more, "-o", engine)
    assert made.code == 0, made.said
    found = compare(edgecnn, engine, graph, data)
    assert found["reference_top1_pct"] == 100
    assert found["top1_pct"] == 100
    assert found["agreement_pct"] == 100


# --- many sigmoids -------------------------------------------------------------------------------------------------


def sigmoids_model(tail: str, classes: int = 3) -> onnx.ModelProto:
    """`classes` independent probabilities, with something after them or in place of the Sigmoid."""
    rng = np.random.default_rng(1)
    arrays = {
        "w": rng.normal(0, 1, (classes, 3)).astype(np.float32),
        "b": np.zeros(classes, np.float32),
        "shape": np.array([-1, classes]),
        "kernel": rng.normal(0, 1, (classes, 3, 1, 1)).astype(np.float32),
        "one": np.ones(1, np.float32),
        "low": np.array(1e-7, np.float32),
        "high": np.array(1 - 1e-6, np.float32),
    }
    nodes = [*pooled(), helper.make_node("Gemm", ["f", "w", "b"], ["z"], "fc", transB=1)]
    more = {
        "plain": [("Sigmoid", ["z"], {})],
        "hard": [("HardSigmoid", ["z"], {})],
        "identity": [("Sigmoid", ["z"], {}), ("Identity", ["s0"], {})],
        "flatten": [("Sigmoid", ["z"], {}), ("Flatten", ["s0"], {"axis": 1})],
        "reshape": [("Sigmoid", ["z"], {}), ("Reshape", ["s0", "shape"], {})],
        "dropout": [("Sigmoid", ["z"], {}), ("Dropout", ["s0"], {})],
        "clipped": [("Sigmoid", ["z"], {}), ("Clip", ["s0", "low", "high"], {})],
        "written out": [
            ("Neg", ["z"], {}),
            ("Exp", ["s0"], {}),
            ("Add", ["s1", "one"], {}),
            ("Reciprocal", ["s2"], {}),
        ],
    }
    if tail == "heads":
        parts = [f"z{k}" for k in range(classes)]
        nodes.append(helper.make_node("Split", ["z"], parts, "split", axis=1, num_outputs=classes))
        nodes += [helper.make_node("Sigmoid", [part], [f"{part}s"], f"{part}p") for part in parts]
        last: Any = [("Concat", [f"{part}s" for part in parts], {"axis": 1})]
    elif tail == "conv":
        nodes = [
            helper.make_node("GlobalAveragePool", ["input"], ["p"], "pool"),
            helper.make_node("Conv", ["p", "kernel"], ["c"], "head"),
        ]
        last = [("Sigmoid", ["c"], {}), ("Flatten", ["s0"], {})]
    else:
        last = more[tail]
    for k, (kind, inputs, attributes) in enumerate(last):
        output = "logits" if k == len(last) - 1 else f"s{k}"
        nodes.append(helper.make_node(kind, inputs, [output], f"end{k}", **attributes))
    used = {name for node in nodes for name in node.input}
    return make_model(nodes, {k: v for k, v in arrays.items() if k in used}, ["batch", classes])


TAILS = ["plain", "hard", "identity", "flatten", "reshape", "dropout", "conv", "clipped", "written out", "heads"]


@pytest.mark.parametrize("tail", TAILS)
def test_many_sigmoids_are_refused(edgecnn: Command, tmp_path: Path, tail: str) -> None:
    onnx.save(sigmoids_model(tail), str(tmp_path / "m.onnx"))
    pre = write_json(tmp_path / "pre.json", PREPROCESSING)
    result = edgecnn("import", tmp_path / "m.onnx", "--preprocess", pre, "-o", tmp_path / "made.onnx")
    result.refused()
    assert re.search("multi-?label", result.err, re.IGNORECASE), result.err
    assert not (tmp_path / "made.onnx").exists()


@pytest.mark.parametrize("classes", [2, 5])
def test_many_sigmoids_are_refused_for_any_number_of_classes(edgecnn: Command, tmp_path: Path, classes: int) -> None:
    onnx.save(sigmoids_model("plain", classes), str(tmp_path / "m.onnx"))
    pre = write_json(tmp_path / "pre.json", PREPROCESSING)
    edgecnn("import", tmp_path / "m.onnx", "--preprocess", pre, "-o", tmp_path / "made.onnx").refused()


def test_a_sigmoid_inside_a_network_is_no_end(
    edgecnn: Command, capfd: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """x sigmoid(x), then a linear head: logits like any others."""
    nodes = [
        helper.make_node("Sigmoid", ["input"], ["s"], "gate"),
        helper.make_node("Mul", ["input", "s"], ["m"], "swish"),
        helper.make_node("GlobalAveragePool", ["m"], ["p"], "pool"),
        helper.make_node("Flatten", ["p"], ["f"], "flatten"),
        helper.make_node("Gemm", ["f", "w", "b"], ["logits"], "fc", transB=1),
    ]
    arrays = {"w": np.eye(3, dtype=np.float32), "b": np.zeros(3, np.float32)}
    graph = import_model(capfd, make_model(nodes, arrays, ["batch", 3]), tmp_path / "g.onnx", NAMES[:3])
    data = tmp_path / "data"
    for k in range(3):
        color = [20, 20, 20]
        color[k] = 220
        save_color(data / NAMES[k] / "0.png", color)
    assert compare(edgecnn, graph, graph, data)["top1_pct"] == 100
