"""The zoo's table against the code, and the promises that every network keeps."""

from __future__ import annotations

import ast
import functools
import inspect
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from edgecnn.errors import ModelError
from edgecnn.zoo import cards, check_size, find_model

if TYPE_CHECKING:  # imported before the first test of this file
    import torch
    from torch import nn

    from edgecnn.pytorch.models import build_model, variants
    from edgecnn.pytorch.summary import summarize

pytestmark = pytest.mark.torch

NETWORKS = 65
MODELS = Path(__file__).resolve().parents[2] / "edgecnn" / "pytorch" / "models"


def _one_of_each_class() -> list[Any]:
    """All networks; slow are those that a cheaper variant of the same class stands for. The class is read from the
    source, for importing it costs the collection seconds."""
    class_of = {
        function.name: (path.stem, ast.unparse(function.returns))
        for path in MODELS.glob("*.py")
        for function in ast.parse(path.read_text(encoding="utf-8")).body
        if isinstance(function, ast.FunctionDef) and function.returns
    }
    cheapest: dict[tuple[str, str], str] = {}
    for name in sorted(cards(), key=lambda name: cards()[name].macs):
        cheapest.setdefault(class_of[name], name)
    chosen = set(cheapest.values())
    return [pytest.param(name, marks=() if name in chosen else pytest.mark.slow) for name in cards()]


@functools.cache
def on_meta(name: str) -> Any:
    """The network without memory or arithmetic, in eval mode."""
    with torch.device("meta"):
        return build_model(name).eval()


def test_every_entry_has_a_function_and_every_function_an_entry() -> None:
    assert set(cards()) == set(variants())
    assert len(cards()) == NETWORKS


@pytest.mark.parametrize("name", cards())
def test_a_variant_takes_the_number_of_classes_and_nothing_else(name: str) -> None:
    parameters = inspect.signature(variants()[name]).parameters
    assert list(parameters) == ["classes"]
    assert parameters["classes"].default == cards()[name].classes
    assert (variants()[name].__doc__ or "").strip()


def test_the_order_is_that_of_the_papers_and_aliases_are_unique() -> None:
    years = [card.year for card in cards().values()]
    assert years == sorted(years)
    names = [*cards(), *(alias for card in cards().values() for alias in card.aliases)]
    assert len(names) == len(set(names))


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=pytest.mark.slow if n == "resnet1202_cifar" else ()) for n in cards()]
)
def test_parameters_and_multiply_adds_are_those_of_the_table(name: str) -> None:
    card, found = cards()[name], summarize(name)
    assert (found.params, found.macs) == (card.params, card.macs)
    assert (found.peak_activation_bytes, found.weight_layers) == (card.peak_activation_bytes, card.weight_layers)
    assert found.layers[-1].output_shape == (card.classes,)


@pytest.mark.parametrize("name", _one_of_each_class())
def test_head_stages_and_auxiliary_branches_hold_every_parameter_once(name: str) -> None:
    model = on_meta(name)
    heads, stages = tuple(model.head_names), tuple(model.stage_names)
    branches = tuple(getattr(model, "aux_names", ()))
    for path in (*heads, *stages, *branches):
        model.get_submodule(path)
    assert heads
    assert all(isinstance(model.get_submodule(h), nn.Linear | nn.Conv2d) for h in heads)
    main = [h for h in heads if not h.startswith(tuple(f"{b}." for b in branches))]
    assert len(main) == 1

    def owners(parameter: str) -> Iterator[str]:
        return (p for p in (*main, *stages, *branches) if parameter.startswith(f"{p}."))

    for parameter, _ in model.named_parameters():
        assert len(list(owners(parameter))) == 1, parameter
    assert all(any(True for _ in model.get_submodule(s).parameters()) for s in stages)


@pytest.mark.parametrize("name", _one_of_each_class())
def test_stages_stand_in_the_order_in_which_they_run(name: str) -> None:
    model, order, hooks = on_meta(name), [], []
    for stage in model.stage_names:
        hooks.append(model.get_submodule(stage).register_forward_hook(lambda *_, stage=stage: order.append(stage)))
    model(torch.empty(1, *cards()[name].input_shape, device="meta"))
    for hook in hooks:
        hook.remove()
    assert tuple(order) == tuple(model.stage_names)


@pytest.mark.parametrize("name", _one_of_each_class())
def test_another_number_of_classes_changes_the_head_alone(name: str) -> None:
    model = on_meta(name)
    with torch.device("meta"):
        other = build_model(name, 7)
    before = {key: value.shape for key, value in model.state_dict().items()}
    after = {key: value.shape for key, value in other.state_dict().items()}
    assert before.keys() == after.keys()
    changed = {key.rpartition(".")[0] for key in before if before[key] != after[key]}
    assert changed == set(model.head_names)
    assert other.training


@pytest.mark.parametrize("name", _one_of_each_class())
def test_the_smallest_input_is_the_smallest(name: str) -> None:
    card, model = cards()[name], on_meta(name)
    channels = card.input_shape[0]
    classes = model(torch.empty(2, channels, card.min_size, card.min_size, device="meta")).shape
    assert classes == (2, card.classes)
    check_size(card, card.min_size, card.min_size)
    if card.min_size > 1:
        too_small = card.min_size * 3 // 4 if card.fixed_size else card.min_size - 1
        with pytest.raises((RuntimeError, ValueError)):
            model(torch.empty(2, channels, too_small, too_small, device="meta"))
        with pytest.raises(ModelError, match=f"{card.min_size}x{card.min_size}"):
            check_size(card, too_small, too_small)
    if card.fixed_size:
        assert (card.min_size, card.min_size) == card.input_shape[1:]
        with pytest.raises(ModelError, match=f"{card.min_size}x{card.min_size}"):
            check_size(card, card.min_size + 32, card.min_size + 32)


def test_the_callers_seed_decides_the_weights() -> None:
    def weights(seed: int) -> torch.Tensor:
        torch.manual_seed(seed)
        return torch.cat([p.detach().flatten() for p in build_model("resnet20_cifar").parameters()])

    assert torch.equal(weights(3), weights(3))
    assert not torch.equal(weights(3), weights(4))


def test_an_unknown_network_is_refused_with_the_nearest_names() -> None:
    with pytest.raises(ModelError) as caught:
        find_model("resnet19")
    assert "resnet18" in caught.value.hint


def test_inception_says_at_what_resolution_its_auxiliary_head_trains() -> None:
    with torch.device("meta"):
        model = build_model("inception_v3")
        assert len(model(torch.empty(2, 3, 299, 299))) == 2
        with pytest.raises(ModelError, match="17x17, found 4x4") as caught:
            model(torch.empty(2, 3, 96, 96))
    assert "299" in caught.value.hint


@pytest.mark.parametrize("name", ["lenet5", "nin_cifar", "resnet20_cifar", "squeezenet1_1", "mobilenet_v3_small"])
def test_every_parameter_gets_a_gradient(name: str) -> None:
    torch.manual_seed(0)
    model, card = build_model(name, 5), cards()[name]
    size = card.input_shape[-1] if card.fixed_size else 32
    logits = model(torch.randn(4, card.input_shape[0], size, size))
    nn.functional.cross_entropy(logits, torch.arange(4)).backward()
    still = [path for path, p in model.named_parameters() if p.grad is None or not bool(p.grad.abs().max() > 0)]
    assert still == []
