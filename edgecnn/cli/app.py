"""The Typer application, put together from the command modules of this folder."""

from __future__ import annotations

import gc
import importlib
import keyword
import pkgutil
from collections.abc import Callable
from typing import Annotated, Any

import typer
import typer.core

import edgecnn.cli
from edgecnn.cli.options import epilog
from edgecnn.errors import RecipeError
from edgecnn.output import print_line
from edgecnn.version import __version__

SHARED_MODULES = {"app", "completion", "on", "options", "pairs", "printing", "progress"}
ORDER = (  # of the flow, then what only looks
    "run", "train", "export", "import", "calibration-set", "calibrate", "import-ranges", "quantize", "search",
    "reference", "build", "validate", "bench", "gate", "report", "qualify", "bundle", "release", "install", "rollback",
    "push", "recipe", "models", "summary", "probe", "transfer-table", "targets", "routes", "check", "repro", "sign",
    "verify", "inspect", "layers", "sensitivity", "explain", "compare", "history", "predict", "features", "neighbours",
    "same", "monitor", "drift", "doctor", "remote",
)  # fmt: skip


class InOrder(typer.core.TyperGroup):
    """A group that lists its commands in the order of the flow; Typer's own lists inner groups last."""

    def list_commands(self, ctx: Any) -> list[str]:
        """Every command, once."""
        return [name for name in ORDER if name in self.commands]


class EachOnce(typer.core.TyperCommand):
    """A command that refuses a second value where Typer would drop the first one unsaid."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Raises `RecipeError` for an option with one value, or a flag with its opposite, that is given again."""
        given = list(args)
        try:
            rest = super().parse_args(ctx, args)  # which ends with the help where that is asked for
        except Exception as exc:  # an option without its value is told without the command
            if getattr(exc, "ctx", ctx) is None:
                vars(exc)["ctx"] = ctx
            raise
        order = [] if ctx.resilient_parsing else self.make_parser(ctx).parse_args(given)[2]
        for one in [p for p in self.params if isinstance(p, typer.core.TyperOption) and not p.multiple]:
            if order.count(one) > 1 and (not one.is_flag or one.secondary_opts):
                names = "/".join([*one.opts, *one.secondary_opts])
                hint = f"leave one; `{ctx.command_path} --help` says what is repeatable"
                raise RecipeError(f"{names}: given more than once", hint)
        return rest


def application(first_argument: str = "") -> typer.main.Typer:
    """Every command, each a function (or a group) in the module of its name, in the order of the flow; but where
    `first_argument` is one of them, it alone, and where it asks for help, all without their options: those take as long
    to put together as everything else."""
    app = typer.Typer(
        name="edgecnn",
        cls=InOrder,
        no_args_is_help=True,
        pretty_exceptions_enable=False,
        rich_markup_mode=None,
        help="Classic CNN classifiers from PyTorch to verified FP16/INT8 engines.",
    )
    app.callback()(_root)
    modules = {m.name for m in pkgutil.iter_modules(edgecnn.cli.__path__)} - SHARED_MODULES
    names = sorted(map(_command_name, modules), key=ORDER.index)
    for name in [first_argument] if first_argument in names else names:
        module_name = f"{name}_" if keyword.iskeyword(name) else name.replace("-", "_")
        module = importlib.import_module(f"edgecnn.cli.{module_name}")
        command, examples = getattr(module, module_name), epilog(module.EXAMPLES)
        if isinstance(command, typer.Typer):
            for inner in command.registered_commands:
                inner.cls = EachOnce
            app.add_typer(command, name=name, epilog=examples)
        else:
            shown = _without_options(command) if first_argument == "--help" else command
            app.command(name, cls=EachOnce, epilog=examples)(shown)
    return app


def _without_options(command: Callable[..., Any]) -> Callable[[], None]:
    def listed() -> None: ...

    listed.__doc__ = command.__doc__
    return listed


def _command_name(module: str) -> str:
    return module.rstrip("_").replace("_", "-")


def _version(value: bool) -> None:
    if value:
        print_line(f"edgecnn {__version__}")
        raise typer.Exit


def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    gc.freeze()
    gc.enable()  # `main` has kept it off until a command begins
