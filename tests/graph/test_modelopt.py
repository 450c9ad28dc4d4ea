"""The rules on what stays out of INT8, held against what ModelOpt itself did on a grid of layers.

    EDGECNN_MODELOPT=PYTHON python -m pytest -m slow tests/graph/test_modelopt.py

PYTHON is the interpreter of an environment with nvidia-modelopt[onnx].
"""

from __future__ import annotations

import importlib.util
import os
import sys

import pytest

from edgecnn.graph.qdq.exclude import RULES, find_by_rules
from tests.fakes.modelopt_grid import GRID, make_graph, read_table, run_modelopt

pytestmark = pytest.mark.onnx


def test_our_rules_leave_out_what_modelopt_left_out() -> None:
    _, found = read_table()
    ruled = {str(layer): [rule for rule, nodes in find_by_rules(make_graph(layer)).items() if nodes] for layer in GRID}
    assert found["default"].keys() == ruled.keys()
    for layer in GRID:
        rule = "gemv" if layer.op != "Conv" else "few-channels" if layer.group == 1 else "odd-depthwise"
        assert ruled[str(layer)] in ([], [rule]), layer
    expected = {layer: "-" if rules else "data weight" for layer, rules in ruled.items()}
    assert expected == found["default"]
    left_out = [rule for rules in ruled.values() for rule in rules]
    for rule in RULES:
        assert left_out.count(rule) >= 20, "each rule is tried"
    assert len(ruled) - len(left_out) >= 100, "and so is what none of them leaves out"


def test_modelopt_leaves_nothing_out_for_a_dla() -> None:
    assert set(read_table()[1]["dla"].values()) == {"data weight"}


@pytest.mark.slow
def test_the_table_is_what_modelopt_does() -> None:
    python = os.environ.get("EDGECNN_MODELOPT", "")
    if not python and importlib.util.find_spec("modelopt") is None:
        pytest.skip("ModelOpt is not installed here, and EDGECNN_MODELOPT names no Python that has it")
    (recorded, table), (version, found) = read_table(), run_modelopt(python or sys.executable)
    assert found == table, f"ModelOpt {version} does otherwise than {recorded}, which the table is of"
