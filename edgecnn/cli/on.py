"""`--on HOST`: a command's arguments as they go to other machines, and what comes back."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import typer

from edgecnn.cli.printing import print_json
from edgecnn.output import print_lines, say

if TYPE_CHECKING:
    from edgecnn.remote.command import Answer, Argument
    from edgecnn.remote.lanes import Lane

ON = typer.Option(
    "--on",
    help="Do it on this machine, as ssh knows it; repeatable. `edgecnn remote setup HOST` comes first.",
    show_default=False,
)
LOCAL = ("on", "as_json")
NEVER = ("require_signature", "allowed_signers")  # whose signatures count is said on the machine that loads


def run_on(
    context: typer.Context,
    hosts: Sequence[str],
    *,
    files: Collection[str],
    outputs: Collection[str] = (),
    refused: Collection[str] = (),
    replaced: Mapping[str, Path] | None = None,
    beside: str = "",
) -> NoReturn:
    """Do the command of `context` on each host, print what comes back, and exit: with 3 where some failed.

    `files` and `outputs` are the parameters that name files to read and to write, `refused` those that need more than
    these, `replaced` what goes along in a file's place, `beside` the file beside which what is made lies where no
    output is named. Raises the error of the one host, and `RecipeError` for an option that cannot go along.
    """
    from edgecnn.errors import EdgecnnError, RemoteError
    from edgecnn.remote.command import command_on

    as_json = bool(context.params.get("as_json"))
    given = _arguments(context, files, outputs, refused, replaced or {}, beside)
    lanes: tuple[Lane[Answer], ...] = command_on(hosts, given, as_json=as_json, say=say)
    if len(lanes) == 1 and lanes[0].error is not None:
        raise lanes[0].error
    if as_json:
        print_json([_plain(lane) for lane in lanes])
    else:
        for lane in lanes:
            _print(lane, several=len(lanes) > 1)
    failed = [lane for lane in lanes if lane.error is not None]
    for lane in failed:
        error: Any = lane.error
        assert isinstance(error, EdgecnnError)
        if len(failed) < len(lanes) or lane is not failed[-1]:
            say(f"error: {error.message}")
            say(f"hint: {error.hint}")
    if len(failed) == len(lanes):
        last: Any = failed[-1].error
        raise RemoteError(last.message, last.hint)
    codes = [lane.found.exit_code for lane in lanes if lane.found is not None]
    raise typer.Exit(1 if 1 in codes else 3 if failed or 3 in codes else 0)


def _arguments(
    context: typer.Context,
    files: Collection[str],
    outputs: Collection[str],
    refused: Collection[str],
    replaced: Mapping[str, Path],
    beside: str,
) -> list[Argument]:
    """The command and those of its parameters that are not their defaults."""
    from edgecnn.errors import RecipeError
    from edgecnn.remote.command import Output, Source

    given: list[Argument] = [str(context.command.name)]
    positional: list[Argument] = []
    for parameter in context.command.params:
        name, value = str(parameter.name), context.params.get(str(parameter.name))
        if name in LOCAL or value is None or value == parameter.get_default(context):
            continue
        option = (
            next((o for o in parameter.opts if o.startswith("--")), "") if parameter.param_type_name == "option" else ""
        )
        if name in (*refused, *NEVER):
            raise RecipeError(
                f"{option} with --on: it needs more than the files that go along", "leave one of them out"
            )
        if name in files:
            own: Argument = Source(replaced.get(name, Path(value)), option, name == beside)
        elif name in outputs:
            own = Output(Path(value), option)
        else:
            given += _plain_options(parameter, option, value)
            continue
        (given if option else positional).append(own)
    return [*given, *positional]


def _plain_options(parameter: Any, option: str, value: Any) -> list[str]:
    if isinstance(value, bool):
        off = [o for o in parameter.secondary_opts if o.startswith("--")]
        return [option if value else off[0]]
    values = value if isinstance(value, (list, tuple)) else [value]
    return [f"{option}={one}" for one in values]


def _plain(lane: Lane[Answer]) -> dict[str, object]:
    if lane.found is None:
        error: Any = lane.error
        return {"host": lane.host, "exit_code": error.exit_code, "error": error.message, "hint": error.hint}
    files = [str(path) for path in lane.found.files]
    return {"host": lane.host, "exit_code": lane.found.exit_code, "files": files, "result": lane.found.result}


def _print(lane: Lane[Answer], *, several: bool) -> None:
    if lane.found is None:
        return
    print_lines(
        [*([f"{lane.host}:"] if several else []), *lane.found.out.rstrip("\n").split("\n")] if lane.found.out else []
    )
    for path in lane.found.files:
        say(f"{lane.host}: {path}")
