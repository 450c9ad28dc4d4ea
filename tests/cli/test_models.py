"""`edgecnn models` and `edgecnn summary`, as a user runs them."""

from __future__ import annotations

import importlib
import json
import sys
from collections.abc import Callable
from typing import Any

import pytest

from edgecnn.zoo import cards

pytestmark = pytest.mark.torch


def test_models_lists_every_network_in_the_order_of_the_zoo(edgecnn: Callable[..., Any]) -> None:
    listed = json.loads(edgecnn("models", "--json").out)
    assert [row["name"] for row in listed] == list(cards())
    fields = {"name", "family", "year", "params", "macs", "input_shape", "weights", "top1_pct", "top5_pct", "paper"}
    assert all(fields <= row.keys() for row in listed)
    resnet50 = next(row for row in listed if row["name"] == "resnet50")
    assert (resnet50["params"], resnet50["macs"], resnet50["year"]) == (25_557_032, 4_089_184_256, 2015)
    assert resnet50["weights"].endswith(f"-{resnet50['weights_sha256'][:8]}.pth")
    assert resnet50["weights_license"] == "BSD-3-Clause"


def test_models_of_one_family(edgecnn: Callable[..., Any]) -> None:
    table = edgecnn("models", "--family", "vgg").out.splitlines()
    assert [line.split()[0] for line in table[1:]] == [n for n in cards() if n.startswith("vgg")]
    assert table[1].endswith("yes")
    assert "'vgg'" in edgecnn("models", "--family", "vvg").refused()


def test_summary_of_alexnet(edgecnn: Callable[..., Any]) -> None:
    pytest.importorskip("torch")
    found = json.loads(edgecnn("summary", "alexnet", "--json").out)
    conv1 = found["layers"][0]
    assert (conv1["name"], conv1["weights"], conv1["output_shape"]) == ("conv1", 34_848, [96, 55, 55])
    assert conv1["activation_bytes"] == 4 * 96 * 55 * 55
    for total in ("params", "weights", "macs", "activation_bytes"):
        assert found[total] == sum(row[total] for row in found["layers"])
    assert found["params"] == 62_378_344
    # the worst moment: conv1's output and its ReLU's, or the input beside the former
    assert found["peak_activation_bytes"] == 2 * 4 * 96 * 55 * 55


def test_summary_as_a_table_has_totals_and_says_what_only_training_runs(edgecnn: Callable[..., Any]) -> None:
    pytest.importorskip("torch")
    lines = edgecnn("summary", "googlenet", "--classes", 37, "--size", 96).out.splitlines()
    total = next(line.split() for line in lines if line.startswith("total"))
    assert total[4] == "5637829"  # 6 624 904 less 963 rows of 1025
    assert any(line.startswith("aux2.fc2") and "37925" in line for line in lines)
    assert "googlenet for 3x96x96 and 37 classes" in "\n".join(lines)


def test_an_addition_is_a_row_and_a_view_costs_nothing(edgecnn: Callable[..., Any]) -> None:
    pytest.importorskip("torch")
    rows = {row["name"]: row for row in json.loads(edgecnn("summary", "resnet18", "--json").out)["layers"]}
    assert rows["layer1.0.add"]["activation_bytes"] == 4 * 64 * 56 * 56
    assert rows["flatten"]["activation_bytes"] == 0
    assert rows["fc"]["macs"] == 512_000
    assert "layer3 layer4; head: fc" in edgecnn("summary", "resnet18").out


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("summary", "resnet19"), "resnet18"),
        (("summary", "vgg16", "--size", 31), "32x32"),
        (("summary", "alexnet", "--size", 224), "227x227"),
        (("summary", "inception_v3", "--size", 74), "75x75"),
        (("summary", "resnet18", "--classes", 0), "--classes"),
    ],
)
def test_what_cannot_be_summarised_is_refused(edgecnn: Callable[..., Any], arguments: tuple[Any], said: str) -> None:
    assert said in edgecnn(*arguments).refused()


def test_without_torch_the_package_and_the_way_to_it_are_named(
    edgecnn: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edgecnn.pytorch", importlib.import_module("edgecnn.pytorch"))  # comes back after the test
    for module in [m for m in sys.modules if m.startswith("edgecnn.pytorch")]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setitem(sys.modules, "torch", None)
    said = edgecnn("summary", "resnet18").refused()
    assert "'torch'" in said
    assert "edgecnn[cpu]" in said
