"""A recipe goes down the layers: how often is it handed from a lower one back to a higher one?"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import CodeType, FrameType
from typing import TYPE_CHECKING, Any

import pytest

from edgecnn.pipeline.run import run_recipe
from edgecnn.recipe.load import load_recipe
from edgecnn.recipe.schema import Recipe

if TYPE_CHECKING:  # imported before the first test of this file
    import torch  # noqa: F401 - which the run loads

pytestmark = pytest.mark.torch

if sys.version_info >= (3, 11):
    import tomllib as toml
else:
    import tomli as toml

MOST = 6


def layer_ranks(root: Path) -> dict[str, int]:
    """The rank of each package of edgecnn, 0 at the top, as the import rules list them."""
    contracts = toml.loads((root / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    layers = next(c["layers"] for c in contracts if c["type"] == "layers")
    return {name.strip(" ()"): rank for rank, names in enumerate(layers) for name in names.split("|")}


def rank_of(frame: FrameType, ranks: dict[str, int]) -> int | None:
    parts = str(frame.f_globals.get("__name__", "")).split(".")
    return ranks.get(".".join(parts[:2]))


@contextmanager
def handed_on(ranks: dict[str, int]) -> Iterator[dict[tuple[str, str], bool]]:
    """(caller, callee) of every call that hands a recipe on, and whether the callee is of a higher layer."""
    found: dict[tuple[str, str], bool] = {}
    known: dict[CodeType, tuple[int | None, tuple[str, ...]]] = {}  # rank and arguments

    def watch(frame: FrameType, event: str, _: Any) -> None:
        if event != "call":
            return
        code = frame.f_code
        if (seen := known.get(code)) is None:
            names = code.co_varnames[: code.co_argcount + code.co_kwonlyargcount]
            seen = known[code] = rank_of(frame, ranks), names
        mine, names = seen
        if mine is None or not any(isinstance(frame.f_locals.get(name), Recipe) for name in names):
            return
        caller = frame.f_back
        while caller is not None and rank_of(caller, ranks) is None:
            caller = caller.f_back
        if caller is not None:
            handing = (caller.f_code.co_name, f"{frame.f_globals['__name__']}.{frame.f_code.co_name}")
            found[handing] = mine < (rank_of(caller, ranks) or 0)

    sys.setprofile(watch)
    try:
        yield found
    finally:
        sys.setprofile(None)


@pytest.mark.cpu_s(20)
@pytest.mark.usefixtures("short_blocks")
def test_a_recipe_is_seldom_handed_back(digits: Path, tmp_path: Path, root: Path) -> None:
    """Behind training and export, which a recipe's settings reach alone."""
    quick = ["bench.duration_s=0.1", "bench.warmup_ms=0", "quantize.method='mse'"]
    run = shutil.copytree(digits, tmp_path / "run")
    (run / "reference.npz").unlink()
    with handed_on(layer_ranks(root)) as found:
        made = run_recipe(load_recipe("lenet5-digits", quick), run, lambda line: None, threads=1)
    assert made.done >= 12, "all steps from calibration on"
    assert any("gate" in callee for _, callee in found), "a recipe reaches the gate: it was not watched"
    back = [f"{caller} -> {callee}" for (caller, callee), higher in found.items() if higher]
    assert len(back) <= MOST, "\n".join(back)
