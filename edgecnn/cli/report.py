"""`edgecnn report`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from edgecnn.cli.options import RUN, RUN_RECIPE
from edgecnn.output import print_lines, say

EXAMPLES = """
edgecnn report runs/lenet5-digits -o report.html
edgecnn report runs/lenet5-digits --format csv
edgecnn report runs/lenet5-digits --format card -o README.md
edgecnn report plain20-cifar10 --beside runs/resnet20-cifar10 --format gradients -o g.svg  # needs runs
"""


def report(
    run: Annotated[str, RUN],
    output: Annotated[
        Path | None,
        typer.Option("-o", "--output", help="The report to write: .md, .html, .json, .csv or .xml.  [default: stdout]"),
    ] = None,
    format_: Annotated[
        Literal["md", "html", "json", "csv", "xml", "card", "gradients"] | None,
        typer.Option(
            "--format",
            help="The format, where the suffix does not say it; card: a model card; gradients: the norms that "
            "train.gradient_norms recorded, on the terminal or as .svg.",
            show_default=False,
        ),
    ] = None,
    recipe: Annotated[str, RUN_RECIPE] = "",
    beside: Annotated[
        list[Path] | None, typer.Option(help="With --format gradients: another run to show with it; repeatable.")
    ] = None,
) -> None:
    """Write the report of a judged run.

    Markdown, HTML, JSON, CSV, JUnit XML, or a model card in Hugging Face's form; or the gradient norms of a run's
    training, which needs no verdict.
    """
    from edgecnn.artifact.write import write_bytes
    from edgecnn.errors import MeasurementError
    from edgecnn.pipeline.find import find_judged
    from edgecnn.report.card import model_card
    from edgecnn.report.details import read_details
    from edgecnn.report.write import render_report, write_report
    from edgecnn.steps.report import report_of

    if beside and format_ != "gradients":
        raise MeasurementError("--beside goes with --format gradients", "`edgecnn compare` sets results side by side")
    if format_ == "gradients":
        if recipe:
            raise MeasurementError("--recipe is of a judged run: --format gradients needs no verdict", "leave it out")
        _show_gradients([_run_folder(name) for name in (run, *map(str, beside or ()))], output)
        return
    if output is None and format_ is None:
        raise MeasurementError("neither a file nor a format is named", "give -o report.html, or --format csv")
    judged_by, judged = find_judged(run, recipe, output)
    found = report_of(judged, judged_by)
    suffix = f".{format_}" if format_ else output.suffix if output else ""
    details = read_details(judged) if suffix == ".html" else None
    if output is not None and format_ is None:
        write_report(output, found, details)
    else:
        text = model_card(found, judged_by) if format_ == "card" else render_report(suffix, found, details)
        if output is None:
            print_lines(text.removesuffix("\n").split("\n"))
            return
        write_bytes(output, text.encode())
    say(f"{output}: written")


def _run_folder(name: str) -> Path:
    path = Path(name)
    return path if path.is_dir() else Path("runs") / (path.stem if path.suffix == ".toml" else name)


def _show_gradients(folders: list[Path], output: Path | None) -> None:
    from edgecnn.artifact.write import check_output, write_bytes
    from edgecnn.report.charts.gradients import gradients_svg
    from edgecnn.report.gradients import gradients_text, require_gradients

    if output is not None:
        check_output(output, ".svg")
    found = [require_gradients(folder) for folder in folders]
    if output is None:
        print_lines(gradients_text(found))
        return
    write_bytes(output, gradients_svg(found).encode())
    say(f"{output}: written")
