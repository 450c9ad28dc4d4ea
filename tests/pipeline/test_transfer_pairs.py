"""How rows of a transfer table are told apart, and which of them is enough."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from edgecnn.pipeline.transfer_pairs import answer_for, answers_for, pair_rows
from edgecnn.results.correctness import pack_bits
from edgecnn.results.transfer import TransferAnswer, TransferPair, TransferRow
from edgecnn.statistics import drop_interval, mcnemar_p

N = 200


def row(trains: str, wrong: range, params_trained: int, model: str = "m", stage: str = "") -> TransferRow:
    """A row that has just the images of `wrong` wrong."""
    right = np.array([k not in wrong for k in range(N)])
    return TransferRow(
        name=f"{model} {trains} {stage}".strip(),
        model=model,
        trains=trains,
        stage=stage,
        folder="",
        params=1000,
        params_trained=params_trained,
        minutes=None,
        cpu_minutes=None,
        n=N,
        top1_n=int(right.sum()),
        top1_pct=100 * float(right.mean()),
        top1_ci_pct=(0.0, 100.0),
        int8=(),
        images_sha256="same",
        top1_bits=pack_bits(right),
    )


def table(head: int, last: int, every: int, scratch: int) -> tuple[list[TransferPair], TransferAnswer]:
    """Of one network whose rows have so many of the first images wrong."""
    rows = [
        row("head", range(head), 10),
        row("last-2", range(last), 500),
        row("all", range(every), 1000),
        row("scratch", range(scratch), 1000),
    ]
    pairs = pair_rows(rows)
    return pairs, answer_for("m", rows, pairs)


def test_a_pair_is_mcnemars_table_of_its_images() -> None:
    first, second = row("head", range(30), 10), row("all", range(20, 35), 1000)
    [pair] = pair_rows([first, second])
    assert (pair.first, pair.second, pair.gained, pair.lost) == ("m head", "m all", 20, 5)
    assert pair.gain_pp == pytest.approx(100 * 15 / N)
    low, high = drop_interval(5, 20, N)
    assert pair.gain_ci_pp == pytest.approx((-100 * high, -100 * low))
    assert pair.mcnemar_p == mcnemar_p(5, 20)


@pytest.mark.parametrize(
    ("wrong", "chosen", "better_than"),
    [
        ((20, 19, 18, 90), "m head", ()),  # nothing is told apart but scratch: the cheapest
        ((60, 20, 19, 90), "m last-2", ("m head",)),
        ((90, 60, 20, 100), "m all", ("m head", "m last-2")),
        ((90, 60, 50, 10), "m scratch", ("m head", "m last-2", "m all")),
        ((50, 50, 50, 50), "m head", ()),
    ],
)
def test_the_answer_is_the_cheapest_that_none_is_told_to_beat(
    wrong: tuple[int, int, int, int], chosen: str, better_than: tuple[str, ...]
) -> None:
    _, answer = table(*wrong)
    assert (answer.name, answer.better_than) == (chosen, better_than)


def test_a_run_that_failed_is_no_answer_and_beats_none() -> None:
    rows = [
        replace(row("head", range(20), 10), failed="dead"),
        row("last-2", range(60), 500),
        replace(row("all", range(5), 1000), failed="dead"),
        row("scratch", range(90), 1000),
    ]
    pairs = pair_rows(rows)
    answer = answer_for("m", rows, pairs)
    assert (answer.name, answer.better_than, answer.against) == ("m last-2", (), "m all")
    failed = [replace(one, failed="dead") for one in rows]
    other = row("all", range(3), 10, "other"), row("head", range(4), 9, "other")
    assert [one.model for one in answers_for([*failed, *other], pair_rows([*failed, *other]))] == ["other"]


def test_what_the_answer_may_lose_is_the_largest_upper_end() -> None:
    _, answer = table(20, 19, 16, 90)
    assert answer.against == "m all"
    assert answer.lost_pp_max == pytest.approx(100 * drop_interval(4, 0, N)[1])


def test_differences_of_many_rows_need_more_than_one_alone() -> None:
    """Six images that one alone has right: p = 0.03 for two rows, and not 0.05 for six pairs of four."""
    lone = pair_rows([row("head", range(6), 10), row("all", range(0), 1000)])
    assert [pair.differs for pair in lone] == [True]
    many, answer = table(6, 6, 0, 6)
    assert not any(pair.differs for pair in many)
    assert answer.name == "m head"


def test_a_probe_is_paired_with_the_head_of_its_network_alone() -> None:
    rows = [
        row(trains, range(20), 10, model, stage)
        for model in ("a", "b")
        for trains, stage in (("head", ""), ("all", ""), ("probe", "s1"), ("probe", "s2"))
    ]
    pairs = [(pair.first, pair.second) for pair in pair_rows(rows)]
    assert [pair for pair in pairs if "probe" not in pair[1]] == [
        ("a head", "a all"), ("a head", "b head"), ("a head", "b all"),
        ("a all", "b head"), ("a all", "b all"), ("b head", "b all"),
    ]  # fmt: skip
    assert [pair for pair in pairs if "probe" in pair[1]] == [
        ("a head", "a probe s1"), ("a head", "a probe s2"), ("b head", "b probe s1"), ("b head", "b probe s2"),
    ]  # fmt: skip
