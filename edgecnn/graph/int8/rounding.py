"""Weights of one layer that undo what quantisation did to its input: least squares, then rounding with feedback.

Given second moments of a layer's quantised input X and of what its float output Y should be, the best weights are
those of a ridge regression of Y on X towards the float weights. They are rounded column by column, and what a column
loses is put into the columns not rounded yet (E. Frantar et al., "GPTQ", ICLR 2023, after optimal brain surgeon).
All arrays carry a leading axis for the groups of a convolution.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from edgecnn.graph.int8.codes import HARMLESS, weight_scales

Floats = npt.NDArray[np.float64]
BLOCK = 128
DAMPING = 0.01  # of the mean diagonal, for the rounding
LARGE = 2000  # columns from which on fewer candidates are tried


@dataclass
class Moments:
    """Sums over samples: X [g, d] and Y [g, o], X'X, Y'X and the squares of Y."""

    count: int
    x: Floats
    y: Floats
    xx: Floats
    yx: Floats
    yy: Floats

    @staticmethod
    def empty(groups: int, outputs: int, columns: int) -> Moments:
        """Of no samples."""
        return Moments(
            count=0,
            x=np.zeros((groups, columns)),
            y=np.zeros((groups, outputs)),
            xx=np.zeros((groups, columns, columns)),
            yx=np.zeros((groups, outputs, columns)),
            yy=np.zeros((groups, outputs)),
        )

    def add(self, x: npt.NDArray[np.float32], y: npt.NDArray[np.float32]) -> None:
        """Samples x [g, n, d] and y [g, n, o]."""
        self.count += x.shape[1]
        self.x += x.sum(axis=1, dtype=np.float64)
        self.y += y.sum(axis=1, dtype=np.float64)
        turned = x.transpose(0, 2, 1)
        self.xx += np.matmul(turned, x)
        self.yx += np.matmul(y.transpose(0, 2, 1), x)
        self.yy += np.square(y, dtype=np.float64).sum(axis=1)

    def plus(self, other: Moments) -> Moments:
        """Of both sets of samples."""
        return Moments(
            self.count + other.count,
            self.x + other.x,
            self.y + other.y,
            self.xx + other.xx,
            self.yx + other.yx,
            self.yy + other.yy,
        )

    def centred(self) -> tuple[Floats, Floats, Floats]:
        """(covariance of X, of Y with X, variance of Y), per sample."""
        n = max(self.count, 1)
        x, y = self.x / n, self.y / n
        return (
            self.xx / n - x[:, :, None] * x[:, None, :],
            self.yx / n - y[:, :, None] * x[:, None, :],
            self.yy / n - y * y,
        )

    def bias(self, weight: Floats) -> Floats:
        """[g, o]: the bias with which `weight` has no mean error."""
        n = max(self.count, 1)
        return np.asarray(self.y / n - np.einsum("god,gd->go", weight, self.x / n))

    def error(self, weight: Floats, bias: Floats | None = None) -> Floats:
        """[g, o]: mean squared error of the outputs; with the best bias, if none is given."""
        xx, yx, yy = self.centred()
        spread = yy - 2 * (weight * yx).sum(axis=2) + (np.matmul(weight, xx) * weight).sum(axis=2)
        offset = 0.0 if bias is None else np.square(self.bias(weight) - bias)
        return np.asarray(np.maximum(spread, 0.0) + offset)


def ridge(weight: Floats, moments: Moments, strength: float) -> Floats:
    """The weights of least squared error plus strength x mean variance x squared distance from `weight`."""
    xx, yx, _ = moments.centred()
    level = strength * np.maximum(np.trace(xx, axis1=1, axis2=2) / xx.shape[1], 1e-20)
    eye = np.eye(xx.shape[1])
    left = xx + level[:, None, None] * eye
    right = yx - np.matmul(weight, xx)
    return np.asarray(weight + np.linalg.solve(left, right.transpose(0, 2, 1)).transpose(0, 2, 1))


def rounded_with_feedback(weight: Floats, scale: Floats, moments: Moments) -> Floats:
    """Codes [g, o, d] of `weight` for `scale` [g, o]; columns of large variance first."""
    xx, _, _ = moments.centred()
    groups, _, columns = weight.shape
    level = DAMPING * np.maximum(np.trace(xx, axis1=1, axis2=2) / columns, 1e-20)
    order = np.argsort(-np.einsum("gdd->gd", xx), axis=1, kind="stable")
    rows = np.arange(groups)[:, None]
    left = xx[rows[:, :, None], order[:, :, None], order[:, None, :]] + level[:, None, None] * np.eye(columns)
    upper = np.linalg.cholesky(np.linalg.inv(left)).transpose(0, 2, 1)
    work = np.take_along_axis(weight, order[:, None, :], axis=2).copy()
    codes = np.empty_like(work)
    for start in range(0, columns, BLOCK):
        stop = min(start + BLOCK, columns)
        losses = np.empty((groups, work.shape[1], stop - start))
        for j in range(start, stop):
            column = work[:, :, j]
            codes[:, :, j] = np.clip(np.rint(column / scale), -127, 127)
            loss = (column - codes[:, :, j] * scale) / upper[:, j, j][:, None]
            losses[:, :, j - start] = loss
            work[:, :, j + 1 : stop] -= loss[:, :, None] * upper[:, j, None, j + 1 : stop]
        work[:, :, stop:] -= np.matmul(losses, upper[:, start:stop, stop:])
    back = np.argsort(order, axis=1, kind="stable")
    return np.take_along_axis(codes, back[:, None, :], axis=2)


def row_scales(weight: Floats, moments: Moments, half: bool) -> Floats:
    """[g, o]: for each row the scale whose nearest rounding moves the output least."""
    xx, _, _ = moments.centred()
    largest = np.abs(weight).max(axis=2)
    full = np.where(largest > 0, largest / 127, HARMLESS)
    best, chosen = np.full(full.shape, np.inf), weight_scales(full, half).astype(np.float64)
    shares = (1.0, 0.9, 0.8) if weight.shape[2] >= LARGE else (1.0, 0.95, 0.9, 0.85, 0.8, 0.7, 0.6)
    for share in shares:
        tried = weight_scales(full * share, half).astype(np.float64)
        moved = weight - np.clip(np.rint(weight / tried[:, :, None]), -127, 127) * tried[:, :, None]
        error = (np.matmul(moved, xx) * moved).sum(axis=2)
        better = error < best
        best, chosen = np.where(better, error, best), np.where(better, tried, chosen)
    return np.asarray(chosen)
