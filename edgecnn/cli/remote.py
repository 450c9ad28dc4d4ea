"""`edgecnn remote setup`, `doctor`, `clean`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from edgecnn.cli.options import JSON, epilog
from edgecnn.cli.printing import print_facts, print_json, print_rows
from edgecnn.output import print_line, say

EXAMPLES = """
edgecnn remote setup jetson  # needs a device in the network
edgecnn remote doctor jetson  # needs a device in the network
edgecnn remote clean jetson  # needs a device in the network
"""
HOST = typer.Argument(help="A machine, as ssh knows it: HOST, USER@HOST, or one of ~/.ssh/config.", show_default=False)

remote = typer.Typer(no_args_is_help=True, help="Set up, look at and clean a device behind ssh.", rich_markup_mode=None)


@remote.command(
    epilog=epilog(
        "edgecnn remote setup jetson  # needs a device in the network\n"
        "edgecnn remote setup me@desk --python /opt/trt/bin/python  # needs a device in the network"
    )
)
def setup(
    host: Annotated[str, HOST],
    python: Annotated[
        str, typer.Option(help="The interpreter there, which has TensorRT's module.  [default: python3]")
    ] = "",
    wheels: Annotated[
        Path | None, typer.Option(help="Take wheels from this folder, in place of pip's index.", show_default=False)
    ] = None,
    as_json: Annotated[bool, JSON] = False,
) -> None:
    """Put edgecnn into a private folder of the home there.

    Wheels for its Python and architecture are found here and sent; nothing is compiled there, and nobody needs root.
    """
    from edgecnn.remote.setup import setup_host

    setup_host(host, python=python, wheels=wheels, say=say)
    _print(host, as_json)


@remote.command(epilog=epilog("edgecnn remote doctor jetson --json  # needs a device in the network"))
def doctor(host: Annotated[str, HOST], as_json: Annotated[bool, JSON] = False) -> None:
    """Say what the machine is, what it was set up for, and what runs there.

    Each way to run an engine is tried, as `edgecnn doctor` does.
    """
    _print(host, as_json)


@remote.command(epilog=epilog("edgecnn remote clean jetson  # needs a device in the network"))
def clean(host: Annotated[str, HOST]) -> None:
    """Remove all that is ours from the machine: one folder."""
    from edgecnn.remote.setup import clean_host

    found = clean_host(host)
    what = (
        f"removed {found['removed']}, {found['bytes'] / 1e6:.1f} MB"
        if found["removed"]
        else "nothing of ours was there"
    )
    say(f"{host}: {what}")


def _print(host: str, as_json: bool) -> None:
    from edgecnn.remote.doctor import doctor_host

    facts, ways = doctor_host(host, say)
    memory, setup = facts["memory"], facts["setup"]
    shown: dict[str, object] = {
        "user": facts["user"],
        "system": f"{facts['system']} {facts['machine']}, glibc {facts['glibc']}",
        "jetson": facts["l4t"] or "no",
        "python": f"{facts['python']} ({facts['executable']})",
        "tensorrt": facts["tensorrt"] or "no module of this Python's",
        "memory_gb": round(memory.get("MemTotal", 0) / 1e9, 2),
        "memory_free_gb": round(memory.get("MemAvailable", 0) / 1e9, 2),
        "swap_gb": round(memory.get("SwapTotal", 0) / 1e9, 2),
        "processes_killed_for_memory": memory.get("oom_kill"),
        "disk_free_gb": round(facts["free_bytes"] / 1e9, 2),
        "folder": facts["folder"],
        "edgecnn": setup.get("edgecnn", "not set up"),
        "set_up_for": setup.get("machine", "nothing"),
    }
    if as_json:
        print_json({**shown, "ways": list(ways)})
        return
    print_facts(shown)
    if ways:
        print_line()
        print_rows(ways, ["way", "works", "why"])
