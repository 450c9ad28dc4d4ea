"""`edgecnn predict`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from edgecnn.cli.options import ALLOWED, JSON, REQUIRE_SIGNATURE, THREADS, TRUST
from edgecnn.cli.printing import print_json
from edgecnn.cli.progress import Counter
from edgecnn.errors import DataError
from edgecnn.output import print_line, print_lines, say

if TYPE_CHECKING:
    from edgecnn.inspection.predict import Classified

EXAMPLES = """
edgecnn predict runs/lenet5-digits/cpu/int8.onnx three.png seven.png  # needs images
edgecnn predict runs/lenet5-digits/cpu/int8.onnx pictures -o found.csv  # needs images
edgecnn predict runs/lenet5-digits/cpu/int8.onnx pictures --jsonl  # needs images
"""


def predict(
    engine: Annotated[Path, typer.Argument(help="A .plan, or an .onnx, with its sidecar.")],
    images: Annotated[list[Path], typer.Argument(help="Image files, and folders of them.")],
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="Write one row for each image: X.csv or X.jsonl.")
    ] = None,
    threads: Annotated[int | None, THREADS] = None,
    trust: Annotated[bool, TRUST] = False,
    skip_corrupt: Annotated[
        bool, typer.Option("--skip-corrupt", help="Leave unreadable images out, say how many, and exit with 0.")
    ] = False,
    require_signature: Annotated[bool, REQUIRE_SIGNATURE] = False,
    allowed_signers: Annotated[Path | None, ALLOWED] = None,
    as_json: Annotated[bool, JSON] = False,
    as_lines: Annotated[
        bool, typer.Option("--jsonl", help="Print a line of JSON for each image, for `edgecnn monitor -`.")
    ] = False,
) -> None:
    """Classify images: the five most probable classes of each.

    An image that cannot be read hides no other: its row says why, and the exit code
    is 2 when all are done.
    """
    from edgecnn.artifact.write import check_output
    from edgecnn.inspection.predict import COLUMNS, classify, images_of, lines_for_monitor
    from edgecnn.report.rows import require_rows_suffix, write_rows

    if as_lines and (as_json or output is not None):
        raise DataError("--jsonl: is one output, and --json or -o another", "give one of them")
    if output is not None:
        require_rows_suffix(output)
        check_output(output, output.suffix, engine, *images)
    named = images_of(images)
    failed: list[DataError] = []
    shown = output is None and not as_json  # the rows themselves are the progress
    progress = (lambda done, total: None) if shown else Counter("predict", "images")
    rows = _followed(classify(engine, named, threads, trust), len(named), failed.append, skip_corrupt, progress)
    if output is not None:
        write_rows(output, COLUMNS, (row.flat for row in rows))
        say(f"{output}: written")
    elif as_lines:
        print_lines(lines_for_monitor(engine, rows))
    elif as_json:
        print_json([row.plain for row in rows])
    else:
        _print(rows)
    if failed and skip_corrupt and len(failed) < len(named):
        say(f"{len(failed)} of {len(named)} images left out, the first: {failed[0].message}")
    elif failed:
        _refuse(failed, len(named))


def _followed(
    rows: Iterator[Classified],
    total: int,
    failed: Callable[[DataError], None],
    skip: bool,
    progress: Callable[[int, int], None],
) -> Iterator[Classified]:
    """The rows, counted on stderr; those with an error are told, and left out to `skip` them."""
    progress(0, total)
    for done, row in enumerate(rows, 1):
        progress(done, total)
        if row.error is not None:
            failed(row.error)
        if row.error is None or not skip:
            yield row


def _print(rows: Iterator[Classified]) -> None:
    for row in rows:
        print_line(row.image)
        if row.error is not None:
            print_line(f"  no result: {row.plain['error'].removeprefix(f'{row.image}: ')}")
        for label, _, probability in row.top:
            print_line(f"  {100 * probability:5.1f} %  {label}")


def _refuse(failed: list[DataError], total: int) -> None:
    first = failed[0]
    if total == 1:
        raise first
    more = "" if len(failed) == total else "; --skip-corrupt leaves what cannot be read out"
    message = f"{len(failed)} of {total} images are without a result, the first: {first.message}"
    raise DataError(message, first.hint + more)
