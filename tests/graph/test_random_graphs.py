"""Random valid classifiers through every step: equal to the original in ONNX Runtime, and no noisier in INT8 than what
its own quantizer makes of them. A seed ends well, or with exit code 2 for a reason that is true; any other error fails
the test. One seed alone: `pytest tests/graph/test_random_graphs.py -k 'slow and 25' -m slow`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import onnx
import pytest

from tests.fakes.random_graphs import BLOCKS, OPSETS, random_graph

if TYPE_CHECKING:  # imported before the first test of this file
    import onnxruntime

    from tests.fakes.random_flow import Outcome, carry, is_true_reason, measure_peer

pytestmark = [pytest.mark.onnx, pytest.mark.filterwarnings("ignore::UserWarning:onnxruntime")]

CHUNK = 20
PARITY = 1e-4  # of the largest logit
SHARE_THROUGH = 0.98
MARGIN_DB, SHARE_WITHIN = 0.5, 0.9  # of the graphs that both carry
FP16_DB, INT8_DB = 30.0, 0.0  # what no seed falls below: INT8 of few channels behind Mul loses much with any tool


@pytest.fixture(autouse=True)
def quiet() -> None:
    onnxruntime.set_default_logger_severity(4)


def judge_seeds(seeds: Sequence[int], folder: Path, by_steps: bool = False) -> list[Outcome]:
    """Each seed's outcome, with the differences that no seed may have asserted; beside the peer are all or half."""
    made = []
    for seed in seeds:
        outcome = carry(seed, folder, by_steps)
        assert not outcome.refused or is_true_reason(outcome.refused), (seed, outcome.refused)
        assert outcome.difference <= PARITY, seed
        if not outcome.refused:
            figures = outcome.sqnr_db
            assert figures["fp16"] > FP16_DB, (seed, figures)
            assert min(figures.values()) > INT8_DB, (seed, figures)
            peer = measure_peer(outcome, folder) if by_steps or seed % 2 == 0 else None
            outcome.sqnr_db |= {} if peer is None else {"peer": peer}
        made.append(outcome)
    return made


def require_shares(outcomes: Sequence[Outcome], write: Callable[[str, object], None]) -> None:
    """The shares of all seeds together; they stand in the JUnit file too."""
    through = [o.seed for o in outcomes if not o.refused]
    both = {o.seed: o.sqnr_db["ort-cpu"] - o.sqnr_db["peer"] for o in outcomes if "peer" in o.sqnr_db}
    below = {seed: round(db, 2) for seed, db in both.items() if db < -MARGIN_DB}
    write("random_graphs", f"{len(through)} of {len(outcomes)} through, {len(below)} of {len(both)} below the peer")
    assert len(through) >= SHARE_THROUGH * len(outcomes), [(o.seed, o.refused) for o in outcomes if o.refused]
    assert len(both) > 0.25 * len(outcomes), "the peer carries too few to be compared with"
    assert len(below) <= (1 - SHARE_WITHIN) * len(both), below


KEPT: dict[int, list[Outcome]] = {}


@pytest.mark.parametrize("first", range(0, 200, CHUNK))
def test_a_chunk_goes_through(tmp_path: Path, first: int) -> None:
    KEPT[first] = judge_seeds(range(first, first + CHUNK), tmp_path)


def test_shares_of_the_chunks(record_testsuite_property: Callable[[str, object], None]) -> None:
    """Of the chunks that ran in this process: workers share them."""
    outcomes = [outcome for chunk in KEPT.values() for outcome in chunk]
    if len(outcomes) < 3 * CHUNK:
        pytest.skip("fewer than three chunks ran in this process")
    require_shares(outcomes, record_testsuite_property)


def test_the_steps_with_their_files_give_the_same(tmp_path: Path) -> None:
    """Import, calibrate, quantize as a program calls them."""
    for seed in range(1000, 1006):
        files, memory = (carry(seed, tmp_path, by_steps) for by_steps in (True, False))
        assert files.refused == memory.refused == ""
        assert files.sqnr_db == pytest.approx(memory.sqnr_db, abs=0.05), seed


@pytest.mark.slow
@pytest.mark.parametrize("first", range(0, 5000, 500))
def test_five_thousand_seeds(
    tmp_path: Path, first: int, record_testsuite_property: Callable[[str, object], None]
) -> None:
    outcomes = judge_seeds(range(first, first + 500), tmp_path, by_steps=True)
    require_shares(outcomes, record_testsuite_property)


def test_the_generator_makes_what_it_says() -> None:
    """The same graph of a seed; every block, opset, form of input; checked by ONNX."""
    assert random_graph(3).model.SerializeToString() == random_graph(3).model.SerializeToString()
    graphs = [random_graph(seed) for seed in range(400)]
    assert {kind for graph in graphs for kind in graph.kinds} == {block.__name__ for block in BLOCKS}
    assert {graph.model.opset_import[0].version for graph in graphs} == set(OPSETS)
    assert {graph.shape[0] for graph in graphs} == {1, 3, 4}
    assert {graph.batch for graph in graphs} == {None, 1, 4}
    assert {graph.external for graph in graphs} == {False, True}
    assert any(graph.shape[1] != graph.shape[2] for graph in graphs)
    assert min(graph.model.ir_version for graph in graphs) == 3
    seen = Counter(name for graph in graphs for node in graph.model.graph.node for name in described(node))
    wanted = ["group", "dilations", "asymmetric", "auto_pad", "ceil_mode", "count_include_pad", "parallel edges"]
    assert any(n.op_type == "MaxPool" and "dilations" in described(n) for g in graphs for n in g.model.graph.node)
    assert [name for name in wanted if not seen[name]] == []
    for graph in graphs[:40]:
        onnx.checker.check_model(graph.model, full_check=True)


def described(node: onnx.NodeProto) -> list[str]:
    """The names under which the test asks for what a node has."""
    found = ["parallel edges"] if len(node.input) > 1 and node.input[0] == node.input[1] else []
    for attribute in node.attribute:
        values = list(attribute.ints)
        if attribute.name == "pads" and len(values) == 4 and values[:2] != values[2:]:
            found.append("asymmetric")
        if attribute.name in ("ceil_mode", "count_include_pad") and attribute.i == 1:
            found.append(attribute.name)
        if attribute.name == "auto_pad" or (attribute.name == "group" and attribute.i > 1):
            found.append(attribute.name)
        if attribute.name == "dilations" and max(values) > 1:
            found.append("dilations")
    return found
