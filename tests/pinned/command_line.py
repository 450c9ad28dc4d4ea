"""The command line in this process, without pytest; and its tree of commands."""

from __future__ import annotations

import contextlib
import io
import json
import typing
from dataclasses import dataclass
from typing import Any, Literal, TextIO

import typer

from edgecnn.cli import main
from edgecnn.cli.app import application


@dataclass(frozen=True)
class Result:
    """Exit code and both streams."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """The one document on stdout."""
        return json.loads(self.out)


def call(*arguments: object, out: TextIO | None = None) -> Result:
    """`call("models", "--json")`; with `out`, stdout goes there."""
    stdout, stderr = out or io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(stdout), contextlib.redirect_stderr(stderr):
        code = main([str(a) for a in arguments])
    return Result(code, "" if out else stdout.getvalue(), stderr.getvalue())


def done(*arguments: object) -> Result:
    """A call that must end with exit code 0."""
    result = call(*arguments)
    assert result.code == 0, (arguments, result.err)
    return result


def commands() -> dict[str, dict[str, str]]:
    """Every command with its parameters: spellings -> type, whether it is required, default."""
    return _commands(typer.main.get_command(application()), "edgecnn")


def _commands(command: Any, path: str) -> dict[str, dict[str, str]]:
    found = {path: {_spelling(p): _kind(p) for p in command.params}}
    for name, inner in sorted(getattr(command, "commands", {}).items()):
        found |= _commands(inner, f"{path} {name}")
    return found


def _spelling(parameter: Any) -> str:
    return " ".join(parameter.opts) if parameter.param_type_name == "option" else f"<{parameter.name}>"


def _kind(parameter: Any) -> str:
    """Typer >= 0.26 carries click inside itself and keeps type and bounds elsewhere than click does."""
    of = getattr(parameter, "type", parameter)
    ends = [getattr(of, end, None) for end in ("min", "max")]
    words = [
        "flag" if getattr(parameter, "is_flag", False) else _type_name(parameter),
        f"from {ends[0]} to {ends[1]}" if ends != [None, None] else "",
        "repeated" if parameter.multiple or parameter.nargs == -1 else "",
        "required" if parameter.required else f"default {parameter.default!r}",
    ]
    return ", ".join(filter(None, words))


def _type_name(parameter: Any) -> str:
    if hasattr(parameter, "type_descriptor"):
        annotation = parameter.type_descriptor.annotation
        if choices := [str(c) for of in (annotation, *typing.get_args(annotation)) for c in _choices(of)]:
            return "|".join(choices)
        inner = next(iter(typing.get_args(annotation)), annotation)
        if isinstance(inner, str):
            return f"one of {' '.join(typing.get_args(annotation))}"
        return {"str": "text", "int": "integer", "Path": "path"}.get(inner.__name__, inner.__name__)
    return "|".join(getattr(parameter.type, "choices", ())) or str(parameter.type.name).partition(" ")[0]


def _choices(of: Any) -> tuple[Any, ...]:
    return typing.get_args(of) if typing.get_origin(of) is Literal else ()
