"""The outside is as the golden files say; `python -m tests.pinned.rewrite` rewrites them, and says what changed."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from tests.fakes.graphs import build
from tests.pinned.command_line import call, commands
from tests.pinned.contents import Content, contents
from tests.pinned.golden import FOLDER, differences, read_golden
from tests.pinned.graphs import graph_facts, graph_hash
from tests.pinned.old_files import OLD_RUN, REFUSED_RUN
from tests.pinned.schema import agreed, schema_of

pytestmark = [pytest.mark.xdist_group("pinned"), pytest.mark.torch]

NAMES = ("artifacts", "commands", "exit_codes", "graphs", "old_files", "outputs")


@pytest.fixture(scope="module", autouse=True)
def _torch() -> None:
    pytest.importorskip("torch")


@pytest.fixture(scope="module")
def makers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Callable[[Content], Content]]]:
    """What each golden file should hold; they share one run. Latencies are not held, and measured shortly."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("edgecnn.measure.comparison.BLOCK_S", 0.005)
        yield contents(tmp_path_factory.mktemp("pinned"))


@pytest.mark.cpu_s(40)  # every graph, every command
@pytest.mark.parametrize("name", NAMES)
def test_the_outside_is_as_it_was(name: str, makers: dict[str, Callable[[Content], Content]]) -> None:
    old = read_golden(name)
    assert old, f"golden/{name}.json is missing"
    changed = list(differences(old, makers[name](old)))
    assert not changed, "\n".join([f"{len(changed)} changes, `python -m tests.pinned.rewrite {name}`", *changed[:40]])


def test_a_result_of_before_is_refused_with_what_is_wrong_and_what_helps() -> None:
    """Its chance levels are no probabilities of guessing, and it does not say which engine it is of."""
    told = call("gate", REFUSED_RUN, "--recipe", OLD_RUN / "old.toml")
    error, hint = told.err.splitlines()
    assert (told.code, told.out) == (2, "")
    assert "int8.accuracy.json: damaged, or of another version: " in error
    for problem in ("top1_guess_p is missing", "engine is missing", "top1_guess_pct is not known"):
        assert problem in error
    assert hint == "hint: remove it, and make it again: `edgecnn validate` or `edgecnn run`"


def test_every_golden_file_is_held(makers: dict[str, Callable[[Content], Content]]) -> None:
    assert {p.stem for p in FOLDER.glob("*.json")} == set(NAMES) == makers.keys()


def test_every_command_with_json_is_held() -> None:
    with_json = {c.removeprefix("edgecnn ") for c, options in commands().items() if "--json" in options}
    held = set(read_golden("outputs"))
    assert len(with_json) > 15
    with_json -= {"qualify", "repro"}  # these ask a TensorRT: tests/remote and tests/diagnose hold their keys
    with_json -= {"sign", "verify"}  # these ask OpenSSH: tests/acceptance holds their keys
    with_json -= {"compare", "explain", "history"}  # tests/report and tests/diagnose hold theirs
    with_json -= {"push", "remote doctor", "remote setup"}  # these ask a server: tests/{bundle,remote}
    with_json -= {"search", "release", "install", "rollback", "same", "transfer-table"}  # docs/schema holds theirs
    with_json -= {"features", "neighbours"}  # tests/cli holds theirs
    assert [c for c in sorted(with_json) if not any(name == c or name.startswith(f"{c} ") for name in held)] == []


def test_a_schema_tells_types_and_missing_keys() -> None:
    rows = [{"name": "a", "n": 1}, {"name": "b", "n": None, "tools": {"x": "1"}}]
    found = schema_of({"rows": rows})
    assert found == {
        "$": "object",
        "$.rows": "list",
        "$.rows[]": "object",
        "$.rows[].n": "int|null",
        "$.rows[].name": "str",
        "$.rows[].tools?": "object",
        "$.rows[].tools?.*": "str",
    }


@pytest.mark.parametrize(
    ("old", "new", "same"),
    [
        ({"a": 1}, {"a": 2}, True),
        ({"a": 1}, {"a": None}, True),
        ({"a": 1}, {"a": 1.5}, False),
        ({"a": 1}, {}, False),
        ({"a": 1}, {"a": 1, "b": 1}, False),
        ({"a": [{"b": 1}]}, {"a": []}, True),
        ({"a": []}, {"a": [{"b": 1}]}, True),
        ({"a": [{"b": 1}]}, {"a": [{"c": 1}]}, False),
        ({"a": {"b": 1}}, {"a": None}, True),
    ],
)
def test_schemas_agree_where_values_alone_differ(old: object, new: object, same: bool) -> None:
    before = schema_of(old)
    assert (agreed(before, schema_of(new)) == before) is same


def test_a_graph_is_known_by_what_it_computes() -> None:
    model = build("c = Conv(input)\nr = Relu(c)\np = GlobalAveragePool(r)\nf = Flatten(p)\nlogits = Gemm(f)")
    renamed, turned, changed = onnx.ModelProto(), onnx.ModelProto(), onnx.ModelProto()
    for copy in (renamed, turned, changed):
        copy.CopyFrom(model)
    for node in renamed.graph.node:
        node.name = f"x_{node.name}"
        for names in (node.input, node.output):
            for k, name in enumerate(names):
                names[k] = name if name in ("input", "logits") else f"x_{name}"
    for tensor in renamed.graph.initializer:
        tensor.name = f"x_{tensor.name}"
    tensors = list(turned.graph.initializer)
    del turned.graph.initializer[:]
    turned.graph.initializer.extend(reversed(tensors))
    weight = next(t for t in changed.graph.initializer if len(t.dims) == 4)
    value = numpy_helper.to_array(weight).copy()
    value.flat[0] = np.nextafter(value.flat[0], np.float32(9))
    weight.CopyFrom(numpy_helper.from_array(value, weight.name))
    assert graph_hash(renamed) == graph_hash(turned) == graph_hash(model) != graph_hash(changed)
    assert graph_facts(renamed)["names"] != graph_facts(model)["names"] == graph_facts(turned)["names"]


def test_a_difference_names_its_place() -> None:
    found = list(differences({"a": {"b": 1, "c": 2}}, {"a": {"b": 2, "d": 3}}))
    assert found == ["a / b: 1 -> 2", "a / c: gone (was 2)", "a / d: new (3)"]
