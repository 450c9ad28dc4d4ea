"""`edgecnn targets`."""

from __future__ import annotations

from typing import Annotated

import typer

from edgecnn.cli.options import JSON
from edgecnn.cli.printing import print_json, print_rows

EXAMPLES = """
edgecnn targets
edgecnn targets --jetpack
"""


def targets(
    jetpack: Annotated[
        bool, typer.Option("--jetpack", help="List the JetPack releases and what they carry instead.")
    ] = False,
    as_json: Annotated[bool, JSON] = False,
) -> None:
    """List the devices that engines can be built for.

    Every row names its source.
    """
    import dataclasses

    from edgecnn.targets import jetpacks
    from edgecnn.targets import targets as all_targets

    if jetpack:
        rows = [dataclasses.asdict(j) for j in jetpacks().values()]
        columns = ["name", "l4t", "devices", "cuda", "tensorrt", "python", "supported", "source"]
    else:
        rows = [dataclasses.asdict(t) for t in all_targets().values()]
        columns = ["name", "compute capability", "tensorrt", "memory GB", "DLA", "fp16", "int8", "jetpack", "status"]
    if as_json:
        print_json(rows)
    else:
        print_rows(rows if jetpack else [_row(r) for r in rows], columns)


def _row(target: dict[str, object]) -> dict[str, object]:
    low, high = target["tensorrt_min"], target["tensorrt_max"]
    unverified = target["unverified"]
    assert isinstance(unverified, tuple)
    status = f"unsupported: {target['unsupported']}" if target["unsupported"] else "supported"
    marks = f"; unverified: {', '.join(unverified)}" if unverified else ""
    return {
        "name": target["name"],
        "compute capability": target["compute_capability"] or None,
        "tensorrt": f"{low} - {high or '11'}" if low else None,
        "memory GB": _joined(target["memory_gb"], " | "),
        "DLA": target["dla_cores"],
        "fp16": "yes" if target["fp16"] else "no",
        "int8": "yes" if target["int8"] else "no",
        "jetpack": _joined(target["jetpack"], " "),
        "status": f"{status}; source: {target['source']}{marks}",
    }


def _joined(values: object, separator: str) -> str | None:
    assert isinstance(values, tuple)
    return separator.join(map(str, values)) or None
