"""A network from a function in a Python file: the one place where code of a user is run."""

from __future__ import annotations

import contextlib
import importlib.util
import inspect
import sys
import traceback
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import nn

from edgecnn.errors import ModelError
from edgecnn.recipe.factory import check_factory, require_trust, split_factory

_kept: set[str] = set()  # modules of the file that was run last, which another may have under the same names


def build_from_code(factory: str, *, trust_code: bool) -> tuple[nn.Module, list[Path]]:
    """The module that FILE.py:FUNCTION returns, in eval mode on the CPU, and the files that were run: FILE.py first,
    then what it imports from its folder.

    Raises `ArtifactError` without `trust_code`, `ModelError` for a function that is not there, needs arguments, raises,
    or returns no `nn.Module`.
    """
    check_factory(factory)
    require_trust(factory, trust_code)
    file, name = split_factory(factory)
    with _importing_from(file.absolute().parent), torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        module = _run_file(file)
        function = getattr(module, name, None)
        if isinstance(function, nn.Module) or not callable(function):
            raise ModelError(
                f"{factory}: is a {type(function).__name__}, not a function",
                f"write a function that returns the module: def make(): return {name}",
            )
        _require_no_arguments(factory, function)
        with _errors_of(file, f"{factory} raised"):
            made = function()
    if not isinstance(made, nn.Module):
        raise ModelError(f"{factory}: returns {_kind(made)}, not a torch.nn.Module", "return the network itself")
    return made.cpu().eval(), [file, *_helpers(file)]


def _run_file(file: Path) -> ModuleType:
    """Run a file as a module of its own, from its text as it is now: bytecode kept by Python may be of an older one."""
    for name in _kept:
        sys.modules.pop(name, None)
    _kept.clear()
    before = set(sys.modules)
    name = f"_edgecnn_own_{file.stem}"
    spec = importlib.util.spec_from_file_location(name, file)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    with _errors_of(file, f"{file} raised"):
        exec(compile(file.read_bytes(), str(file.absolute()), "exec"), vars(module))  # noqa: S102 - --trust-code
    _kept.update(n for n in set(sys.modules) - before if n == name or _is_below(sys.modules[n], file.absolute().parent))
    return module


def _helpers(file: Path) -> Iterator[Path]:
    """The files that a file has imported from its folder."""
    for name in sorted(_kept):
        found = getattr(sys.modules.get(name), "__file__", None)
        if found and Path(found) != file.absolute():
            yield Path(found)


def _is_below(module: ModuleType, folder: Path) -> bool:
    found = str(getattr(module, "__file__", None) or "")
    return found.endswith(".py") and Path(found).is_relative_to(folder) and "site-packages" not in found


@contextlib.contextmanager
def _importing_from(folder: Path) -> Iterator[None]:
    """As when a file of `folder` is run as a script: its neighbors can be imported. No bytecode is written."""
    before, sys.dont_write_bytecode = sys.dont_write_bytecode, True
    paths = list(sys.path)
    sys.path.insert(0, str(folder))
    importlib.invalidate_caches()
    try:
        with contextlib.redirect_stdout(sys.stderr):  # stdout is for the command's result
            yield
    finally:
        sys.dont_write_bytecode, sys.path[:] = before, paths


@contextlib.contextmanager
def _errors_of(file: Path, doing: str) -> Iterator[None]:
    """Whatever a user's code raises, with its line."""
    try:
        yield
    except (Exception, SystemExit) as exc:
        lines = [f.lineno for f in traceback.extract_tb(exc.__traceback__) if Path(f.filename) == file.absolute()]
        where = f" (line {lines[-1]})" if lines else ""
        said = (str(exc).strip().splitlines() or [""])[0][:200]
        raise ModelError(
            f"{doing} {type(exc).__name__}{f': {said}' if said else ''}{where}",
            f"it must run by itself: python -c 'import {file.stem}'",
        ) from exc


def _require_no_arguments(factory: str, function: Any) -> None:
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):
        return  # of a builtin: it is called
    variadic = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    needed = [p.name for p in parameters if p.default is p.empty and p.kind not in variadic]
    if needed:
        given = ", ".join(f"{name}=..." for name in needed)
        raise ModelError(
            f"{factory}: needs arguments ({', '.join(needed)}), and is called without any",
            f"add a function that gives them: def make(): return {factory.rpartition(':')[2]}({given})",
        )


def _kind(value: Any) -> str:
    return "None" if value is None else f"a {type(value).__name__}"
