"""A recipe goes down the layers: how often is it handed from a lower one back to a higher one?"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

from edgecnn.pipeline.run import run_recipe
from edgecnn.recipe.load import load_recipe
from edgecnn.recipe.schema import Recipe

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

    def watch(frame: FrameType, event: str, _: Any) -> None:
        if event != "call" or (mine := rank_of(frame, ranks)) is None:
            return
        names = frame.f_code.co_varnames[: frame.f_code.co_argcount + frame.f_code.co_kwonlyargcount]
        if not any(isinstance(frame.f_locals.get(name), Recipe) for name in names):
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
def test_a_recipe_is_seldom_handed_back(tmp_path: Path, root: Path) -> None:
    pytest.importorskip("torch")
    quick = ["train.epochs=1", "bench.duration_s=0.1", "bench.warmup_ms=0", "quantize.method='mse'"]
    recipe = load_recipe("lenet5-digits", quick)
    run_recipe(recipe, tmp_path, lambda line: None, threads=1, until="export")
    with handed_on(layer_ranks(root)) as found:
        run_recipe(recipe, tmp_path, lambda line: None, threads=1)
    assert any("gate" in callee for _, callee in found), "a recipe reaches the gate: it was not watched"
    back = [f"{caller} -> {callee}" for (caller, callee), higher in found.items() if higher]
    assert len(back) <= MOST, "\n".join(back)
