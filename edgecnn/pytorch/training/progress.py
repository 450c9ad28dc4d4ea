"""What training reports while it runs: a bar on a terminal, plain lines elsewhere; always on stderr."""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass
from typing import Protocol

from edgecnn.output import inert, is_terminal, say
from edgecnn.results.training import Epoch


@dataclass(frozen=True)
class Step:
    """The state within an epoch; `loss` and `top1_pct` are means since its start. Epochs and steps count from 1."""

    epoch: int
    epochs: int
    step: int
    steps: int
    loss: float
    top1_pct: float
    images_per_s: float
    learning_rate: float


class Progress(Protocol):
    """Told about each step, each epoch, and anything worth a line."""

    def step(self, step: Step) -> None: ...

    def epoch(self, epoch: Epoch) -> None: ...

    def note(self, message: str) -> None: ...

    def close(self) -> None: ...


class Silent:
    """Says nothing."""

    def step(self, step: Step) -> None:
        pass

    def epoch(self, epoch: Epoch) -> None:
        pass

    def note(self, message: str) -> None:
        pass

    def close(self) -> None:
        pass


class Lines(Silent):
    """One plain line for each epoch, and one every ten seconds within a long one; both tell the time left of all epochs
    at the pace since the first was told of."""

    def __init__(self) -> None:
        self.last = time.monotonic()
        self.begin: tuple[float, float] | None = None  # when, and how many epochs were done then

    def step(self, step: Step) -> None:
        left = self._left(step.epoch - 1 + step.step / step.steps, step.epochs)
        if time.monotonic() - self.last > 10:
            self.last = time.monotonic()
            self.note(
                f"epoch {step.epoch}/{step.epochs} step {step.step}/{step.steps} loss {step.loss:.4f} "
                f"top-1 {step.top1_pct:.2f} % {step.images_per_s:.0f} images/s{left}"
            )

    def epoch(self, epoch: Epoch) -> None:
        self.last = time.monotonic()
        self.note(epoch_line(epoch) + self._left(epoch.epoch, epoch.epochs))

    def _left(self, done: float, epochs: int) -> str:
        if self.begin is None:
            self.begin = time.monotonic(), done
        started, first = self.begin
        if done <= first or done >= epochs:
            return ""
        return f", {(time.monotonic() - started) / (done - first) * (epochs - done):.0f} s left"

    def note(self, message: str) -> None:
        say(message)


class Bar(Silent):
    """A rich bar over the steps of all epochs, with a line left behind for each completed one."""

    def __init__(self) -> None:
        from rich import progress
        from rich.console import Console

        self.bar = progress.Progress(
            progress.TextColumn("{task.description}"),
            progress.BarColumn(),
            progress.MofNCompleteColumn(),
            progress.TextColumn("{task.fields[figures]}"),
            progress.TimeRemainingColumn(),
            console=Console(stderr=True, color_system=None),
            transient=True,
        )
        self.task = self.bar.add_task("training", total=None, figures="")
        self.bar.start()

    def step(self, step: Step) -> None:
        figures = f"loss {step.loss:.4f}  top-1 {step.top1_pct:.2f} %  {step.images_per_s:.0f} images/s"
        description = f"epoch {step.epoch}/{step.epochs}"
        total, done = step.epochs * step.steps, (step.epoch - 1) * step.steps + step.step
        self.bar.update(self.task, description=description, total=total, completed=done, figures=figures)

    def epoch(self, epoch: Epoch) -> None:
        self.note(epoch_line(epoch))

    def note(self, message: str) -> None:
        self.bar.console.print(inert(message), markup=False, highlight=False, soft_wrap=True)

    def close(self) -> None:
        self.bar.stop()


def open_progress() -> Progress:
    """A bar where stderr is a terminal, else lines."""
    return Bar() if is_terminal(sys.stderr) else Lines()


def epoch_line(epoch: Epoch) -> str:
    """An epoch's figures on one line."""
    held_out = ""
    if epoch.validation_loss is not None and epoch.validation_top1_pct is not None:
        held_out = f" | held out: loss {epoch.validation_loss:.4f} top-1 {epoch.validation_top1_pct:.2f} %"
    return (
        f"epoch {epoch.epoch}/{epoch.epochs}: loss {epoch.loss:.4f} top-1 {epoch.top1_pct:.2f} %{held_out} | "
        f"{epoch.images_per_s:.0f} images/s, rate {epoch.learning_rate:.2g}, {epoch.seconds:.1f} s"
    )
