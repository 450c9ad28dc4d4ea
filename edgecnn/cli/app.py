"""The Typer application, put together from the command modules of this folder."""

from __future__ import annotations

import importlib
import pkgutil
from typing import Annotated

import typer

import edgecnn
import edgecnn.cli

SHARED_MODULES = {"app", "printing"}


def application() -> typer.main.Typer:
    """Every command of every module in this folder: each offers `add_to(app)`."""
    app = typer.Typer(
        name="edgecnn",
        no_args_is_help=True,
        add_completion=False,
        pretty_exceptions_enable=False,
        rich_markup_mode=None,
        help="Classic CNN classifiers from PyTorch to verified FP16/INT8 engines.",
    )
    app.callback()(_root)
    for module in sorted(m.name for m in pkgutil.iter_modules(edgecnn.cli.__path__)):
        if module not in SHARED_MODULES:
            importlib.import_module(f"edgecnn.cli.{module}").add_to(app)
    return app


def _version(value: bool) -> None:
    if value:
        print(f"edgecnn {edgecnn.__version__}")
        raise typer.Exit


def _root(
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Print it.")] = False,
) -> None:
    pass
