"""Commands that measure and judge: validate, bench, gate, report."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from edgecnn.cli.printing import counter, print_json, print_rows, say

THREADS = typer.Option(min=1, max=1024, help="CPU threads.")
TRUST = typer.Option("--trust", help="Load a plan without a sidecar: it is native code.")
RECIPE = typer.Option(help="The recipe of a run folder.  [default: the one that its results name]")
RUN = typer.Argument(help="A run folder, one of its targets, or a recipe (its run is ./runs/RECIPE).")


def add_to(app: typer.Typer) -> None:
    """Register this module's commands."""
    app.command()(validate)
    app.command()(bench)
    app.command()(gate)
    app.command()(report)


def validate(
    engine: Annotated[Path, typer.Argument(help="A .plan, or an .onnx.")],
    reference: Annotated[Path, typer.Option(help="Saved predictions (.npz), a graph, or a checkpoint.")],
    data: Annotated[str, typer.Option(help="digits, mnist:DIR, cifar10:DIR, an image folder, a manifest, or an .npz.")],
    batch: Annotated[int | None, typer.Option(min=1, help="Images in one run.  [default: up to 64]")] = None,
    strict: Annotated[bool, typer.Option("--strict", help="Stop at an unreadable image.")] = False,
    ladder: Annotated[bool, typer.Option("--ladder", help="Name the hop and the node where predictions move.")] = False,
    tta: Annotated[str, typer.Option(help="ten-crop: the competitions' figure too, an upper reference.")] = "",
    threads: Annotated[int | None, THREADS] = None,
    trust: Annotated[bool, TRUST] = False,
    output: Annotated[Path | None, typer.Option("-o", "--output", help="X.accuracy.json; makes it resumable.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="For machines.")] = False,
) -> None:
    """Measure an engine's accuracy against its reference, paired on the same images."""
    from edgecnn.errors import RecipeError
    from edgecnn.pipeline.sharing import is_first
    from edgecnn.pipeline.validation import Settings, climb_ladder, validate_engine, validate_ten_crop

    if tta not in ("", "ten-crop"):
        raise RecipeError(f"--tta {tta}: not known", "--tta ten-crop is the one there is")
    settings = Settings(batch, threads, strict, trust)
    progress = counter("validate", "images")
    found = validate_engine(engine, reference, data, settings, output=output, progress=progress).to_json()
    if tta:
        found |= validate_ten_crop(engine, data, settings, progress)
    hops = climb_ladder(engine, reference, data, settings) if ladder else []
    if not is_first():
        return
    if as_json:
        print_json(found | ({"ladder": [h.to_json() for h in hops]} if ladder else {}))
        return
    print_rows([found], ["name", "n", "top1_pct", "reference_top1_pct", "top5_pct", "agreement_pct", "sqnr_db"])
    if found["top1_drop_pp"] is not None:
        low, high = found["top1_drop_ci_pp"]
        print(f"top-1 drop {found['top1_drop_pp']:.2f} pp, 95 % interval [{low:.2f}, {high:.2f}]")
        print(f"{found['top1_lost']} lost, {found['top1_gained']} gained, McNemar p = {found['mcnemar_p']:.3g}")
    if not found["n_labelled"]:
        print("no labels: agreement alone is measured (class folders need a model whose labels are known)")
    for finding in found["findings"]:
        print(finding)
    if tta:
        top5 = "" if found["ten_crop_top5_pct"] is None else f", top-5 {found['ten_crop_top5_pct']:.2f} %"
        top1, n = found["ten_crop_top1_pct"], found["ten_crop_n"]
        print(f"ten-crop, not what an engine does: top-1 {top1:.2f} %{top5} (n = {n})")
        if broken := found["ten_crop_nan_count"]:
            print(f"ten-crop: logits that are not finite (NaN or infinite) on {broken} of {n} images")
    if ladder:
        from edgecnn.diagnose.stages import describe

        print("\n".join(describe(hops)))


def bench(
    engine: Annotated[Path, typer.Option(help="A .plan, an .onnx, or a checkpoint.")],
    vs: Annotated[Path | None, typer.Option("--vs", help="Another, to be run in turn with it.")] = None,
    batch: Annotated[str, typer.Option(help="Batch size, or several: 1,8,32.")] = "",
    duration: Annotated[float | None, typer.Option(min=0.01, help="Seconds.")] = None,
    warmup: Annotated[float | None, typer.Option(min=0, help="Milliseconds.")] = None,
    throughput: Annotated[bool, typer.Option("--throughput", help="No wait for events between queries.")] = False,
    threads: Annotated[int | None, THREADS] = None,
    trust: Annotated[bool, TRUST] = False,
    output: Annotated[Path | None, typer.Option("-o", "--output", help="latency.json")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="For machines.")] = False,
) -> None:
    """Measure latency and throughput by trtexec's definitions; against another engine, their ratio."""
    from edgecnn.pipeline.benching import Options, bench_engine

    defaults = Options()
    options = Options(
        batches=_sizes(batch) or defaults.batches,
        warmup_ms=defaults.warmup_ms if warmup is None else warmup,
        duration_s=defaults.duration_s if duration is None else duration,
        mode="throughput" if throughput else "latency",
        threads=threads,
        trust=trust,
    )
    found = bench_engine(engine, vs, options, output)
    if as_json:
        print_json(found)
        return
    columns = ["name", "batch", "n_queries", *(f"latency_ms_{p}" for p in ("p50", "p90", "p95", "p99", "mean"))]
    print_rows(found["measurements"], [*columns, "latency_ms_cov_pct", "throughput_images_per_s"])
    for row in found["measurements"]:
        if "latency_ratio" in row:
            low, high = row["latency_ratio_ci"]
            print(
                f"batch {row['batch']}: {row['latency_ratio']:.3f} x {row['latency_reference']}, "
                f"95 % interval [{low:.3f}, {high:.3f}], {row['latency_ratio_rounds']} interleaved rounds"
            )
    device = ", ".join(f"{k} {v}" for k, v in found["device"].items())
    row = found["measurements"][-1]
    clocks = "".join(f", {k} {v}" for k, v in row["clocks"].items())
    say(f"{device}; {row['mode']} mode, clock {row['clock']}, {row['sync']}{clocks}")
    said = [w for r in found["measurements"] for w in (*r["warnings"], *r.get("latency_ratio_warnings", ()))]
    for warning in dict.fromkeys(said):
        say(f"warning: {warning}")


def gate(
    run: Annotated[str, RUN],
    recipe: Annotated[str, RECIPE] = "",
    record: Annotated[bool, typer.Option("--record", help="Accept these numbers for this device from now on.")] = False,
    junit: Annotated[Path | None, typer.Option(help="JUnit XML.")] = None,
    github: Annotated[bool, typer.Option("--github", help="Annotations, and the step summary.")] = False,
    gitlab: Annotated[Path | None, typer.Option(help="GitLab code-quality JSON.")] = None,
    markdown: Annotated[Path | None, typer.Option(help="A comment for a pull request.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="For machines.")] = False,
) -> int:
    """Judge a run by its recipe's tolerances and by the accepted numbers; 0 passed, 1 failed, 3 too few images."""
    from edgecnn.pipeline.judging import exit_code, find_run, gate_run, require_no_input

    judged_by, targets = find_run(run, recipe)
    require_no_input(targets, junit, gitlab, markdown)
    results = gate_run(judged_by, targets, record=record)
    _write_for_ci(results, str(judged_by.path), junit, gitlab, markdown)
    if github:
        _to_github(results, str(judged_by.path), to_stderr=as_json)
    if as_json:
        print_json(
            [
                {"recipe": r["recipe"], "target": r["target"], "device_key": r["device_key"], **r["verdict"]}
                for r in results
            ]
        )
        return exit_code(results)
    from edgecnn.report.terminal import terminal_report

    for found in results:
        print(terminal_report(found))
        if record:
            say(f"accepted for {found['device_key']}")
    return exit_code(results)


def report(
    run: Annotated[str, RUN],
    output: Annotated[Path, typer.Option("-o", "--output", help="report.md, .html, .json or .xml.")],
    recipe: Annotated[str, RECIPE] = "",
) -> None:
    """Write the report of a judged run; the suffix names the format."""
    from edgecnn.pipeline.judging import report_run
    from edgecnn.report import write_report

    write_report(output, report_run(run, recipe, output))
    say(f"{output}: written")


def _sizes(text: str) -> tuple[int, ...]:
    from edgecnn.errors import RecipeError

    parts = [p.strip() for p in text.split(",") if p.strip()]
    if not all(p.isdigit() and int(p) > 0 for p in parts):
        raise RecipeError(
            f"--batch {text}: not a list of batch sizes", "give whole numbers, for example --batch 1,8,32"
        )
    return tuple(int(p) for p in parts)


def _write_for_ci(
    results: list[dict[str, Any]], file: str, junit: Path | None, gitlab: Path | None, markdown: Path | None
) -> None:
    from edgecnn.artifact.write import write_bytes
    from edgecnn.report.gitlab import gitlab_report
    from edgecnn.report.junit import junit_report
    from edgecnn.report.markdown import markdown_comment

    if junit is not None:
        write_bytes(junit, junit_report(*results).encode())
    if gitlab is not None:
        write_bytes(gitlab, gitlab_report(*results, file=file).encode())
    if markdown is not None:
        comments = [markdown_comment(r, r["accepted"]) for r in results]
        write_bytes(markdown, "\n".join(comments).encode())


def _to_github(results: list[dict[str, Any]], file: str, *, to_stderr: bool) -> None:
    import os
    import sys

    from edgecnn.report.github import append_summary, github_annotations
    from edgecnn.report.markdown import markdown_report

    for found in results:
        print(github_annotations(found, file), end="", file=sys.stderr if to_stderr else sys.stdout)
        if summary := os.environ.get("GITHUB_STEP_SUMMARY"):
            append_summary(Path(summary), markdown_report(found))
