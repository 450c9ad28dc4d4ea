"""Our use of pycuda against pycuda itself: names and numbers of arguments of a compiled pycuda 2026.1, read from its
docstrings ([fewest, most] of each overload, `self` counted; of its modules, from its documentation), hold for our calls
and for the fake."""

from __future__ import annotations

import ast
import inspect
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgecnn.backends._pycuda import PyCuda
from edgecnn.errors import DeviceError
from tests.fakes.fake_cuda import FakeDevice, pycuda_module
from tests.fakes.round_trip import round_trip

REAL = json.loads((Path(__file__).parent / "pycuda_2026.1.json").read_text())
RECEIVERS = {
    "self._device": "Device",
    "self._context": "Context",
    "module": "Module",
    "stream": "Stream",
    "event": "Event",
    "start": "Event",
    "end": "Event",
    "base": "PagelockedHostAllocation",
    "self._held.pop(address)": "DeviceAllocation",
}


def uses() -> Iterator[tuple[str, str, int | None]]:
    """(receiver, name, number of arguments where it is called) of what the seam takes from pycuda."""
    tree = ast.parse(inspect.getsource(PyCuda))
    called: dict[int, int] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "self._check":
            called[id(node.args[0])] = len(node.args) - 1
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute):
            yield ast.unparse(node.value), node.attr, called.get(id(node))


def test_every_call_of_the_seam_is_pycuda_s() -> None:
    seen = set()
    for receiver, name, arguments in uses():
        if receiver in ("self._driver", "driver"):
            if name in REAL["classes"]:
                overloads, bound = REAL["classes"][name]["methods"]["__init__"], 1
            elif name in (*REAL["exceptions"], *REAL["constants"]):
                seen.add(name)
                continue
            else:
                overloads, bound = REAL["functions"][name], 0
        elif receiver in RECEIVERS:
            kind = REAL["classes"][RECEIVERS[receiver]]
            if name in kind["properties"] or (receiver, name) == ("self._held.pop(address)", "base"):  # an array's
                seen.add(name)
                continue
            overloads, bound = kind["methods"][name], 0 if name in ("pop",) else 1
        elif receiver == "attribute":
            assert name in REAL["constants"]["device_attribute"]
            continue
        else:
            continue
        seen.add(name)
        if arguments is not None:
            assert any(least <= arguments + bound <= most for least, most in overloads), f"{name}: {arguments} given"
    assert {"mem_alloc", "pagelocked_empty", "Stream", "Event", "handle", "time_since", "free", "push", "pop"} <= seen
    assert len(seen) > 20


def test_the_fake_has_nothing_that_pycuda_has_not() -> None:
    fake = pycuda_module(FakeDevice())
    offered = {name: value for name, value in vars(fake).items() if not name.startswith("__")}
    known = {*REAL["functions"], *REAL["classes"], *REAL["exceptions"], *REAL["constants"]}
    assert set(offered) <= known
    for name, kind in REAL["classes"].items():
        members = {m for m in vars(offered[name]) if not m.startswith("__") or m == "__int__"}
        assert members <= {*kind["methods"], *kind["properties"]}, name
    assert set(vars(offered["device_attribute"])) == set(REAL["constants"]["device_attribute"])


def test_graphs_are_refused_by_name() -> None:
    """pycuda has none: `captures` says so before anyone asks, and who asks is told what has them."""
    assert REAL["graphs"] == []
    cuda = PyCuda(pycuda_module(FakeDevice()))
    assert not cuda.captures
    stream = cuda.create_stream()
    for ask in (
        lambda: cuda.begin_capture(stream),
        lambda: cuda.end_capture(stream),
        lambda: cuda.launch_graph(0, stream),
    ):
        with pytest.raises(DeviceError, match="pycuda cannot record CUDA graphs") as caught:
            ask()
        assert "cuda-bindings" in caught.value.hint


@pytest.mark.gpu
def test_a_round_trip_by_the_real_pycuda() -> None:
    driver: Any = pytest.importorskip("pycuda.driver", reason="pycuda is not installed", exc_type=ImportError)
    result, ms = round_trip(PyCuda(driver))
    np.testing.assert_array_equal(result, np.arange(1 << 16).astype(np.uint8))
    assert ms > 0
