"""Learning rates against torch's own schedulers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from edgecnn.recipe.schema import TrainSettings

if TYPE_CHECKING:  # imported before the first test of this file
    import torch
    from torch import nn, optim
    from torch.optim import lr_scheduler

    from edgecnn.pytorch.training.lr_schedule import Plateau, learning_rate_factor
    from edgecnn.pytorch.training.optimizer import MovingAverage

pytestmark = pytest.mark.torch

STEPS = 7


def ours(settings: TrainSettings) -> list[float]:
    return [learning_rate_factor(settings, s, STEPS, Plateau()) for s in range(settings.epochs * STEPS)]


def torchs(make: object, count: int) -> list[float]:
    optimizer = optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0, momentum=0.9)
    scheduler = make(optimizer)  # type: ignore[operator]
    rates = []
    for _ in range(count):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return rates


def test_one_cycle_is_torchs() -> None:
    theirs = torchs(lambda o: lr_scheduler.OneCycleLR(o, 1.0, total_steps=5 * STEPS, cycle_momentum=False), 5 * STEPS)
    assert ours(TrainSettings(epochs=5, lr_schedule="one-cycle")) == pytest.approx(theirs, abs=1e-9)


def test_cosine_is_torchs() -> None:
    theirs = torchs(lambda o: lr_scheduler.CosineAnnealingLR(o, 5 * STEPS), 5 * STEPS)
    assert ours(TrainSettings(epochs=5, lr_schedule="cosine")) == pytest.approx(theirs, abs=1e-9)


def test_steps_fall_after_their_epochs() -> None:
    rates = ours(TrainSettings(epochs=5, lr_schedule="step", milestones=(2, 4), factor=0.1))
    assert rates == pytest.approx([1.0] * 2 * STEPS + [0.1] * 2 * STEPS + [0.01] * STEPS)


def test_warm_up_rises_to_the_schedule() -> None:
    rates = ours(TrainSettings(epochs=4, lr_schedule="cosine", warmup_epochs=1))
    assert rates[:STEPS] == pytest.approx([(k + 1) / STEPS for k in range(STEPS)])
    assert rates[STEPS] == 1.0
    assert rates == [*rates[:STEPS], *sorted(rates[STEPS:], reverse=True)]


@pytest.mark.parametrize("schedule", ["one-cycle", "cosine"])
def test_after_the_warm_up_the_schedule_is_that_of_the_epochs_left(schedule: Any) -> None:
    warmed = ours(TrainSettings(epochs=6, lr_schedule=schedule, warmup_epochs=2))
    assert warmed[2 * STEPS :] == pytest.approx(ours(TrainSettings(epochs=4, lr_schedule=schedule)))


def test_the_rate_is_whole_until_the_plateau() -> None:
    assert ours(TrainSettings(epochs=2, lr_schedule="plateau")) == [1.0] * 2 * STEPS
    assert ours(TrainSettings(epochs=2, lr_schedule="constant")) == [1.0] * 2 * STEPS


def test_plateau_waits_and_falls() -> None:
    settings, plateau, scales = TrainSettings(lr_schedule="plateau", patience=2, factor=0.1), Plateau(), []
    for top1 in (50, 60, 60, 59, 61, 61, 61, 62):
        plateau.after_epoch(top1, settings)
        scales.append(plateau.scale)
    assert scales == pytest.approx([1, 1, 1, 0.1, 0.1, 0.1, 0.01, 0.01])


def test_the_moving_average_is_one() -> None:
    network = nn.Linear(1, 1, bias=False)
    with torch.no_grad():
        network.weight.fill_(0.0)
    average = MovingAverage(network, 0.99)
    expected = 0.0
    for step in range(1, 200):
        with torch.no_grad():
            network.weight.fill_(float(step))
        average.update(network)
        keep = min(0.99, (1 + step) / (10 + step))
        expected = keep * expected + (1 - keep) * step
    assert float(average.weights["weight"]) == pytest.approx(expected, rel=1e-5)
