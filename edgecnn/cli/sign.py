"""`edgecnn sign`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from edgecnn.cli.options import JSON
from edgecnn.cli.printing import print_json
from edgecnn.output import say

EXAMPLES = """
edgecnn sign runs/lenet5-digits --key release-key  # needs an SSH key
edgecnn sign runs/lenet5-digits/cpu/int8.onnx --key release-key.pub  # needs an SSH key, in ssh-agent
"""


def sign(
    run: Annotated[Path, typer.Argument(help="A run folder, a folder in it, or one artifact.")],
    key: Annotated[
        Path | None,
        typer.Option(
            help="Your private key, or the public half of one that ssh-agent holds.  [default: ~/.ssh/id_ed25519]",
            show_default=False,
        ),
    ] = None,
    as_json: Annotated[bool, JSON] = False,
) -> None:
    """Sign what a run has made, with your SSH key.

    Each artifact gets X.json.sig, which goes where it goes. `edgecnn verify` checks all of them, and every command the
    ones of what it loads.
    """
    from edgecnn.artifact.trust import sign_run

    signed = sign_run(run, key)
    if as_json:
        print_json({"path": str(run), "signed": [str(path) for path in signed]})
    else:
        say(f"{run}: {len(signed)} artifacts signed")
