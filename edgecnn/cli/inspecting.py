"""Commands that look and change nothing: inspect, predict, doctor."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from edgecnn.cli.printing import print_json, print_rows


def add_to(app: typer.Typer) -> None:
    """Register this module's commands."""
    app.command()(inspect)
    app.command()(predict)
    app.command()(doctor)


def inspect(
    file: Annotated[Path, typer.Argument(help="An artifact: .safetensors, .onnx, .plan, .npz or .json.")],
    as_json: Annotated[bool, typer.Option("--json", help="For machines.")] = False,
) -> None:
    """Say what a file is, from its header and its sidecar."""
    from edgecnn.inspection.artifact import describe

    facts = describe(file)
    if as_json:
        print_json(facts)
    else:
        _print_facts(facts)


def predict(
    engine: Annotated[Path, typer.Argument(help="A .plan, or an .onnx, with its sidecar.")],
    images: Annotated[list[Path], typer.Argument(help="Image files.")],
    threads: Annotated[int | None, typer.Option(min=1, max=1024, help="CPU threads.")] = None,
    trust: Annotated[bool, typer.Option("--trust", help="Load a plan without a sidecar: it is native code.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="For machines.")] = False,
) -> None:
    """Classify images: the five most probable classes of each."""
    from edgecnn.inspection.predict import classify

    rows = classify(engine, images, threads, trust)
    if as_json:
        print_json(rows)
        return
    for row in rows:
        print(row["image"])
        for entry in row["top5"]:
            print(f"  {100 * entry['probability']:5.1f} %  {entry['label']}")


def doctor(as_json: Annotated[bool, typer.Option("--json", help="For machines.")] = False) -> None:
    """Say what this machine has, and which steps it can do."""
    from edgecnn.inspection.machine import machine

    facts = machine()
    if as_json:
        print_json(facts)
        return
    steps = facts.pop("steps")
    _print_facts(facts)
    print()
    print_rows(steps, ["step", "possible", "why"])


def _print_facts(facts: dict[str, Any], indent: str = "") -> None:
    width = max((len(k) for k in facts), default=0)
    for key, value in facts.items():
        if isinstance(value, dict) and value:
            print(f"{indent}{key}")
            _print_facts(value, indent + "  ")
        elif isinstance(value, list) and len(value) > 12:
            print(f"{indent}{key.ljust(width)}  {', '.join(map(str, value[:5]))} ... ({len(value)})")
        else:
            shown = ", ".join(map(str, value)) if isinstance(value, list) else value
            print(f"{indent}{key.ljust(width)}  {shown}")
