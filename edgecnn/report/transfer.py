"""A transfer table as text of 80 columns."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from edgecnn.output import table_lines, wrap
from edgecnn.report.charts.discs import count_text
from edgecnn.results.accuracy import Interval
from edgecnn.results.transfer import HEAD, PROBE, TransferAnswer, TransferInt8, TransferPair, TransferRow, TransferTable

HEADS = ("row", "learn", "min", "top-1 % [95 %]", "gain pp [95 %]", "INT8 drop pp")
PROBE_HEADS = ("linear classifier on", "learn", "min", "top-1 % [95 %]", "gain pp [95 %]")


def transfer_text(found: TransferTable) -> Iterator[str]:
    """The rows of each network, how its runs differ, and the answer."""
    yield from wrap(
        f"{found.data}: {found.n_train} training images of {found.classes} classes, {found.n} test images; "
        f"epochs: {found.epochs}, threads: {found.threads}"
    )
    for model in dict.fromkeys(row.model for row in found.rows):
        rows = [row for row in found.rows if row.model == model]
        runs, probes = ([row for row in rows if (row.trains == PROBE) is wanted] for wanted in (False, True))
        gains = {pair.second: pair for pair in found.pairs if pair.first == f"{model} {HEAD}"}
        yield ""
        yield from wrap(f"{model}: {count_text(runs[0].params)} parameters")
        yield from table_lines(HEADS, [_cells(row.trains, row, gains) + (_int8(row),) for row in runs])
        for row in runs:
            if row.failed:
                yield from wrap(f"{row.trains} failed: {row.failed}")
        yield ""
        yield from table_lines(PROBE_HEADS, [_cells(row.stage, row, gains) for row in probes])
    yield ""
    shown = _short_names(found)
    for pair in found.pairs:
        if pair.second in shown:
            yield from wrap(_difference(pair, shown))
    yield ""
    for answer in found.answers:
        yield from wrap(_answer(answer, found.n, shown))
    for model in dict.fromkeys(row.model for row in found.rows):
        if model not in {answer.model for answer in found.answers}:
            yield from wrap(f"{model}: no answer: every run failed")
    yield from wrap("gain: over the head on the same images; minutes by the clock; INT8: as TensorRT rounds it")


def _cells(name: str, row: TransferRow, gains: dict[str, TransferPair]) -> tuple[str, ...]:
    pair = gains.get(row.name)
    return (
        name,
        count_text(row.params_trained),
        "-" if row.minutes is None else f"{row.minutes:.1f}",
        f"{row.top1_pct:.1f} {_ends(row.top1_ci_pct)}",
        "-" if pair is None else f"{pair.gain_pp:+.1f} {_ends(pair.gain_ci_pp)}",
    )


def _ends(interval: Interval) -> str:
    return f"[{interval[0]:.1f}, {interval[1]:.1f}]"


def _for_tensorrt(int8: Sequence[TransferInt8]) -> TransferInt8 | None:
    """INT8 as TensorRT rounds it."""
    return next((one for one in int8 if one.scheme == "tensorrt"), None)


def _int8(row: TransferRow) -> str:
    found = _for_tensorrt(row.int8)
    if row.failed:
        return "failed"
    return "-" if found is None else f"{found.top1_drop_pp:+.1f} {_ends(found.top1_drop_ci_pp)}"


def _short_names(found: TransferTable) -> dict[str, str]:
    """What the runs are called: without their network where there is only one."""
    several = len({row.model for row in found.rows}) > 1
    return {r.name: r.name if several else r.trains for r in found.rows if r.trains != PROBE}


def _difference(pair: TransferPair, shown: dict[str, str]) -> str:
    told = "told apart" if pair.differs else "not told apart"
    between = f"{shown[pair.second]} over {shown[pair.first]}"
    return f"{between}: {pair.gain_pp:+.1f} pp {_ends(pair.gain_ci_pp)}, {told}"


def _answer(answer: TransferAnswer, n: int, shown: dict[str, str]) -> str:
    """What to train, and what that may cost."""
    better = (
        f"better than {' and '.join(shown[name] for name in answer.better_than)}, and " if answer.better_than else ""
    )
    return (
        f"{answer.model}: {shown[answer.name]}: {better}no run is told to be better on {n} images; it may lose up to "
        f"{answer.lost_pp_max:.1f} pp against {shown[answer.against]}"
    )
