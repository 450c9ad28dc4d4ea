"""Weights of one layer that undo what quantization did to its input: least squares, then rounding with feedback.

Given second moments of a layer's quantized input X and of the error R that its float weights make there, the best
change of the weights is a ridge regression of R on X. The changed weights are rounded column by column, and what a
column loses is made up by the columns not rounded yet (E. Frantar et al., "GPTQ", ICLR 2023, after optimal brain
surgeon). All arrays carry a leading axis for the groups of a convolution.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from edgecnn.quantization import HARMLESS, round_scales

Floats = npt.NDArray[np.floating[Any]]
BLOCK, PANEL = 64, 192  # columns at a time, of the rounding and of the factor
DAMPING = 0.01  # of the mean diagonal, for the rounding
DOUBT = 4 * float(np.finfo(np.float32).eps)  # of a sum of squares, for one column; errors add up as their squares do
LARGE = 1000  # columns from which on single precision is used, and fewer strengths are tried


@dataclass
class Moments:
    """Sums over samples: X [g, d] and R [g, o], X'X, R'X and the squares of R; X less `pilot`, the mean of the first
    samples, so that a large channel that hardly varies keeps its digits."""

    count: int
    pilot: npt.NDArray[np.float32]
    x: Floats
    r: Floats
    xx: Floats
    rx: Floats
    rr: Floats

    @staticmethod
    def empty(groups: int, outputs: int, columns: int) -> Moments:
        """Of no samples."""
        kind = np.float32 if columns >= LARGE else np.float64
        return Moments(
            count=0,
            pilot=np.zeros((groups, columns), np.float32),
            x=np.zeros((groups, columns)),
            r=np.zeros((groups, outputs)),
            xx=np.zeros((groups, columns, columns), kind),
            rx=np.zeros((groups, outputs, columns), kind),
            rr=np.zeros((groups, outputs)),
        )

    def add(self, x: npt.NDArray[np.float32], r: npt.NDArray[np.float32]) -> None:
        """Samples x [g, n, d] and r [g, n, o]."""
        if self.count == 0:
            self.pilot = x.mean(axis=1, dtype=np.float64).astype(np.float32)
        x = x - self.pilot[:, None]
        self.count += x.shape[1]
        self.x += x.sum(axis=1, dtype=np.float64)
        self.r += r.sum(axis=1, dtype=np.float64)
        self.xx += np.matmul(x.transpose(0, 2, 1), x)
        self.rx += np.matmul(r.transpose(0, 2, 1), x)
        self.rr += np.square(r, dtype=np.float64).sum(axis=1)

    def plus(self, other: Moments) -> Moments:
        """Of both sets of samples."""
        if other.count == 0:
            return self
        moved = other.pilot.astype(np.float64) - self.pilot
        tied = other.x[:, :, None] * moved[:, None]
        xx = tied + tied.transpose(0, 2, 1) + other.count * moved[:, :, None] * moved[:, None]
        return Moments(
            self.count + other.count,
            self.pilot,
            self.x + other.x + other.count * moved,
            self.r + other.r,
            self.xx + other.xx + xx.astype(self.xx.dtype),
            self.rx + other.rx + (other.r[:, :, None] * moved[:, None]).astype(self.rx.dtype),
            self.rr + other.rr,
        )

    def centered(self) -> Covariance:
        """Per sample, less the means."""
        n = max(self.count, 1)
        x, r = self.x / n, self.r / n
        xx, rx = self.xx / n, self.rx / n
        doubt = DOUBT * xx.shape[1] ** 0.5 * np.einsum("gdd->gd", xx)
        xx -= x[:, :, None].astype(xx.dtype) * x[:, None, :].astype(xx.dtype)
        rx -= r[:, :, None].astype(rx.dtype) * x[:, None, :].astype(rx.dtype)
        return Covariance(self.pilot + x, r, xx, rx, self.rr / n - r * r, doubt)


@dataclass(frozen=True)
class Covariance:
    """Means of X and R; covariance of X, and of R with X; variance of R; and how little of the variance of X [g, d] is
    known, where it is a small difference of large sums in single precision (a channel that is nearly constant)."""

    x: Floats
    r: Floats
    xx: Floats
    rx: Floats
    rr: Floats
    doubt: Floats

    def level(self, strength: float) -> Floats:
        """[g]: `strength` times the mean variance of X."""
        return np.asarray(strength * np.maximum(np.trace(self.xx, axis1=1, axis2=2) / self.xx.shape[1], 1e-20))

    def raised(self, strength: float) -> Floats:
        """The covariance of X plus `level(strength)` and the doubt on its diagonal; a copy."""
        made: Floats = self.xx.copy()
        more = self.level(strength)[:, None] + self.doubt
        made.reshape(len(made), -1)[:, :: made.shape[1] + 1] += more.astype(made.dtype)
        return made

    def offset(self, change: Floats) -> Floats:
        """[g, o]: the mean error that `change` of the weights leaves, to go into the bias."""
        return np.asarray(self.r - np.matmul(change, self.x[:, :, None])[:, :, 0])

    def error(self, change: Floats, offset: Floats | None = None) -> Floats:
        """[g, o]: mean squared error of the outputs; with the best bias, if no `offset` is given."""
        change = change.astype(self.xx.dtype, copy=False)
        moved = np.matmul(change, self.xx) - 2 * self.rx
        spread = np.maximum(self.rr + np.einsum("god,god->go", moved, change, dtype=np.float64), 0.0)
        return np.asarray(spread if offset is None else spread + np.square(self.offset(change) - offset))


def solve_ridge(seen: Covariance, strength: float) -> Floats:
    """The change of the weights with the least squared error plus strength x mean variance x its squared size."""
    return np.asarray(np.linalg.solve(seen.raised(strength), seen.rx.transpose(0, 2, 1)).transpose(0, 2, 1))


@dataclass(frozen=True)
class GptqRounding:
    """The order in which columns are rounded, those of large variance first, and what each gets from those before."""

    order: npt.NDArray[np.intp]
    shares: Floats

    @staticmethod
    def of(seen: Covariance) -> GptqRounding:
        """With C = R R' and R upper triangular, the error e C e' is the sum of (e R)_j squared: column j is rounded so
        that (e R)_j is least, given the e of the columns before (the same codes as GPTQ's, without an inverse)."""
        order = np.argsort(-np.einsum("gdd->gd", seen.xx), axis=1, kind="stable")
        back, groups = order[:, ::-1], np.arange(len(order))
        turned = _factor_cholesky(seen.raised(DAMPING)[groups[:, None, None], back[:, :, None], back[:, None, :]])
        shares = np.ascontiguousarray(turned[:, ::-1, ::-1].transpose(0, 2, 1))
        return GptqRounding(order, shares / np.einsum("gdd->gd", shares)[:, :, None])

    def rounded(self, weight: Floats, scale: Floats) -> npt.NDArray[np.float64]:
        """Codes [g, o, d] of `weight` for `scale` [g, o]."""
        kind = self.shares.dtype
        work = np.take_along_axis(weight, self.order[:, None, :], axis=2).transpose(0, 2, 1).astype(kind, order="C")
        steps = scale.astype(kind)
        codes, lost = np.empty_like(work), np.empty_like(work)
        for start in range(0, work.shape[1], BLOCK):
            stop = min(start + BLOCK, work.shape[1])
            wanted = work[:, start:stop] + np.matmul(self.shares[:, start:stop, :start], lost[:, :start])
            for j in range(start, stop):
                column = wanted[:, j - start]
                column = column + np.matmul(self.shares[:, j, None, start:j], lost[:, start:j])[:, 0]
                codes[:, j] = np.clip(np.rint(column / steps), -127, 127)
                lost[:, j] = work[:, j] - codes[:, j] * steps
        back = np.argsort(self.order, axis=1, kind="stable")
        return np.asarray(np.take_along_axis(codes, back[:, :, None], axis=1).transpose(0, 2, 1), np.float64)


def _factor_cholesky(matrix: Floats) -> Floats:
    """The lower factor [g, d, d]; by blocks, most of it matrix products, which NumPy's LAPACK is slow without."""
    made = matrix.copy()
    for start in range(0, matrix.shape[1], PANEL):
        stop = start + PANEL
        corner = np.linalg.cholesky(made[:, start:stop, start:stop])
        made[:, start:stop, start:stop] = corner
        below = np.matmul(made[:, stop:, start:stop], np.linalg.inv(corner).transpose(0, 2, 1))
        made[:, stop:, start:stop] = below
        for k in range(0, below.shape[1], 4 * PANEL):
            right = below[:, k : k + 4 * PANEL].transpose(0, 2, 1)
            made[:, stop + k :, stop + k : stop + k + 4 * PANEL] -= np.matmul(below[:, k:], right)
    return np.tril(made)


def search_row_scales(weight: Floats, seen: Covariance, half: bool) -> Floats:
    """[g, o]: for each row the scale whose nearest rounding moves the output least; with `half` normal FP16 numbers."""
    largest = np.abs(weight).max(axis=2)
    full = np.where(largest > 0, largest / 127, HARMLESS)
    best, chosen = np.full(full.shape, np.inf), round_scales(full, half).astype(np.float64)
    spread = np.einsum("gdd->gd", seen.xx)
    for share in (1.0, 0.95, 0.9, 0.85, 0.8, 0.7, 0.6):
        tried = round_scales(full * share, half).astype(np.float64)
        moved = weight - np.clip(np.rint(weight / tried[:, :, None]), -127, 127) * tried[:, :, None]
        error = np.einsum("god,god,gd->go", moved, moved, spread)
        better = error < best
        best, chosen = np.where(better, error, best), np.where(better, tried, chosen)
    return np.asarray(chosen)
