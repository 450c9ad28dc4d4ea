"""How the rows of a transfer table differ, image by image, and which of them is enough."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import combinations

from edgecnn.results.correctness import unpack_bits
from edgecnn.results.transfer import HEAD, PROBE, SCRATCH, TransferAnswer, TransferPair, TransferRow
from edgecnn.statistics import drop_interval, holm_rejects, mcnemar_p

LEVEL = 0.05  # for all comparisons of a family together


def pair_rows(rows: Sequence[TransferRow]) -> list[TransferPair]:
    """Every two runs, and each probe with the head of its network."""
    runs = [row for row in rows if row.trains != PROBE]
    heads = {row.model: row for row in runs if row.trains == HEAD}
    probes = [(heads[row.model], row) for row in rows if row.trains == PROBE]
    return [*_family(list(combinations(runs, 2))), *_family(probes)]


def _family(couples: Sequence[tuple[TransferRow, TransferRow]]) -> list[TransferPair]:
    pairs = [_pair(first, second) for first, second in couples]
    told = holm_rejects([pair.mcnemar_p for pair in pairs], LEVEL)
    return [replace(pair, differs=differs) for pair, differs in zip(pairs, told, strict=True)]


def _pair(first: TransferRow, second: TransferRow) -> TransferPair:
    before, after = (
        unpack_bits(row.top1_bits, row.n, row.top1_n, row.name, "remove the table, and make it again")
        for row in (first, second)
    )
    n, lost, gained = first.n, int((before & ~after).sum()), int((after & ~before).sum())
    low, high = drop_interval(lost, gained, n)
    return TransferPair(
        first=first.name,
        second=second.name,
        gain_pp=100 * (gained - lost) / n,
        gain_ci_pp=(-100 * high, -100 * low),
        gained=gained,
        lost=lost,
        mcnemar_p=mcnemar_p(lost, gained),
        differs=False,
    )


def answers_for(rows: Sequence[TransferRow], pairs: Sequence[TransferPair]) -> list[TransferAnswer]:
    """One for each network that has a run that did not fail."""
    sound = dict.fromkeys(row.model for row in rows if row.trains != PROBE and not row.failed)
    return [answer_for(model, rows, pairs) for model in sound]


def answer_for(model: str, rows: Sequence[TransferRow], pairs: Sequence[TransferPair]) -> TransferAnswer:
    """Of the runs of a network the one that trains least of those that no other is told to be better than; those that
    failed are not asked."""
    runs = [row for row in rows if row.model == model and row.trains != PROBE]
    runs.sort(key=lambda row: (row.params_trained, row.trains == SCRATCH))
    sound = [row for row in runs if not row.failed]
    gains = {(pair.first, pair.second): (*pair.gain_ci_pp, pair.gain_pp, pair.differs) for pair in pairs}
    gains |= {(second, first): (-high, -low, -gain, told) for (first, second), (low, high, gain, told) in gains.items()}

    def beaten(row: TransferRow) -> bool:
        known = [gains[row.name, other.name] for other in sound if other is not row]
        return any(told and gain > 0 for _, _, gain, told in known)

    chosen = next(k for k, row in enumerate(sound) if not beaten(row))
    others = {row.name: gains[sound[chosen].name, row.name][1] for row in runs if row is not sound[chosen]}
    against = max(others, key=others.__getitem__)
    return TransferAnswer(
        model=model,
        name=sound[chosen].name,
        better_than=tuple(row.name for row in sound[:chosen]),
        against=against,
        lost_pp_max=max(0.0, others[against]),
    )
