"""Arguments of a step, refused before anything is done: the command line has looked, a caller from Python has not."""

from __future__ import annotations

import importlib.util
import math
import numbers
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any, get_args

from edgecnn.errors import RecipeError, nearest
from edgecnn.machine.packages import missing_package
from edgecnn.machine.threads import passive_openmp
from edgecnn.steps import FACTS

FilePath = str | os.PathLike[str]


def path_or_none(file: FilePath | None) -> Path | None:
    """`file` as a path, where there is one."""
    return None if file is None else Path(file)


def named(source: Path, ending: str) -> Path:
    """The file beside `source` that the flow names so: model.calib.json beside model.fp32.onnx."""
    return source.with_name(f"{source.stem.removesuffix('.fp32').removesuffix('_fp32')}.{ending}")


def require_one_of(name: str, value: Any, kind: Any) -> None:
    """Raise `RecipeError` for a value that the Literal `kind` does not have."""
    known = get_args(kind)
    if value not in known:
        choices = ", ".join(repr(k) for k in known if k)
        raise RecipeError(f"{name} = {value!r}: not known", nearest(str(value), known) or f"one of {choices}")


def require_at_least(least: float, **values: Any) -> None:
    """Raise `RecipeError` for a number, by its name, that is below `least`, or is none; None was left out."""
    for name, value in values.items():
        whole = isinstance(least, int)
        if value is None or (_is_number(value, whole) and value >= least):
            continue
        what = "a whole number" if whole else "a number"
        raise RecipeError(f"{name} = {value!r}: must be {what} of at least {least:g}", f"for example {name}={least:g}")


def require_batches(batches: Iterable[Any]) -> None:
    """Raise `RecipeError` for a batch size below 1."""
    for batch in batches:
        require_at_least(1, batch=batch)


def require_packages(step: str) -> None:
    """Raise `MissingPackageError` for a package that `step` needs and that is not installed here; PyTorch is loaded."""
    needs = next(facts.needs for facts in FACTS if facts.name == step)
    for package in needs:
        if importlib.util.find_spec(package) is None:
            raise missing_package(package, f"the step {step}", "cpu")
    if "torch" in needs:
        load_torch()


def load_torch() -> None:
    """Load PyTorch before anything else asks for it: so that its threads wait passively, but for a latency."""
    with passive_openmp():
        import edgecnn.pytorch.threads  # noqa: F401


def _is_number(value: Any, whole: bool) -> bool:
    if isinstance(value, bool):
        return False
    return isinstance(value, numbers.Integral if whole else numbers.Real) and math.isfinite(value)
