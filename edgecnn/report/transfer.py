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
        f"{found.epochs} epochs, {found.threads} threads"
    )
    for answer in found.answers:
        rows = [row for row in found.rows if row.model == answer.model]
        runs, probes = ([row for row in rows if (row.trains == PROBE) is wanted] for wanted in (False, True))
        gains = {pair.second: pair for pair in found.pairs if pair.first == f"{answer.model} {HEAD}"}
        yield ""
        yield from wrap(f"{answer.model}: {count_text(runs[0].params)} parameters")
        yield from table_lines(HEADS, [_cells(row.trains, row, gains) + (_int8(row),) for row in runs])
        yield ""
        yield from table_lines(PROBE_HEADS, [_cells(row.stage, row, gains) for row in probes])
    yield ""
    runs_of = {row.name for row in found.rows if row.trains != PROBE}
    for pair in found.pairs:
        if pair.second in runs_of:
            yield from wrap(_difference(pair))
    yield ""
    for answer in found.answers:
        yield from wrap(answer_text(answer, found.n))
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


def for_tensorrt(int8: Sequence[TransferInt8]) -> TransferInt8 | None:
    """INT8 as TensorRT rounds it."""
    return next((one for one in int8 if one.scheme == "tensorrt"), None)


def _int8(row: TransferRow) -> str:
    found = for_tensorrt(row.int8)
    return "-" if found is None else f"{found.top1_drop_pp:+.1f} {_ends(found.top1_drop_ci_pp)}"


def _difference(pair: TransferPair) -> str:
    told = "told apart" if pair.differs else "not told apart"
    return f"{pair.second} over {pair.first}: {pair.gain_pp:+.1f} pp {_ends(pair.gain_ci_pp)}, {told}"


def answer_text(answer: TransferAnswer, n: int) -> str:
    """What to train, and what that may cost."""
    better = f" better than {', '.join(answer.better_than)};" if answer.better_than else ""
    return (
        f"answer: {answer.name}:{better} that no run is better is all that {n} images tell: it may lose up to "
        f"{answer.lost_pp_max:.1f} pp against {answer.against}"
    )
