"""`edgecnn release`."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated

import typer

from edgecnn.cli.completion import complete_recipe
from edgecnn.cli.options import JSON, THREADS
from edgecnn.cli.printing import print_json, print_rows
from edgecnn.output import say

EXAMPLES = """
edgecnn release runs/lenet5-digits -o lenet5.tar --unsigned
edgecnn release runs/lenet5-digits -o lenet5.tar --key release-key  # needs an SSH key
edgecnn release runs/orin runs/desktop --engine fp16 -o net.tar  # needs runs on two devices
"""


def release(
    runs: Annotated[
        list[str],
        typer.Argument(
            help="Run folders, targets of them, or recipes; each target on another device.",
            autocompletion=complete_recipe,
        ),
    ],
    output: Annotated[Path, typer.Option("-o", "--output", help="The .tar to write.")],
    engine: Annotated[
        str, typer.Option(help="Its name in the report.  [default: that of the smallest precision]")
    ] = "",
    key: Annotated[
        Path | None,
        typer.Option(
            help="Your private key, or the public half of one that ssh-agent holds.  [default: ~/.ssh/id_ed25519]",
            show_default=False,
        ),
    ] = None,
    unsigned: Annotated[bool, typer.Option("--unsigned", help="Leave the signature out.")] = False,
    threads: Annotated[int | None, THREADS] = None,
    as_json: Annotated[bool, JSON] = False,
) -> None:
    """Pack what passed its gate for the boards, signed.

    One engine for each device, its sidecar, the verdict, and 20 golden images with the reference's logits and limits.
    On the board `edgecnn install FILE.tar` tests the engine on them before it serves.
    """
    from edgecnn.errors import ArtifactError
    from edgecnn.pipeline.release import release as pack
    from edgecnn.records import to_plain

    if unsigned and key is not None:
        raise ArtifactError(f"--unsigned with --key {key}: one of the two", "leave one of them out")
    made = pack(runs, output, engine=engine, key=key, signed=not unsigned, threads=threads, say=say)
    plain = to_plain(made)
    if as_json:
        print_json(plain)
        return
    print_rows(plain["engines"], ["recipe", "name", "device_key", "golden_n", "sqnr_db_min", "tested_here"])
    signed = "signed" if made.signed else "not signed"
    there = shlex.quote(f"./{output.name}" if output.name.startswith("-") else output.name)
    say(f"{output}: release {made.release}, {signed}, {made.size_mb:.1f} MB; there: `edgecnn install {there}`")
