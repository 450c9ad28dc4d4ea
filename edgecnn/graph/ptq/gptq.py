"""Weights of one layer that undo what quantization did to its input: least squares, then rounding with feedback.

Given second moments of a layer's quantized input X and of the error R that its float weights make there, the best
change of the weights is a ridge regression of R on X. The changed weights are rounded column by column, and what a
column loses is made up by the columns not rounded yet (E. Frantar et al., "GPTQ", ICLR 2023, after optimal brain
surgeon). All arrays carry a leading axis for the groups of a convolution.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from edgecnn.quantization import HARMLESS, round_scales
from edgecnn.statistics import mean_half_width

Floats = npt.NDArray[np.floating[Any]]
BLOCK, PANEL, SPAN = 64, 192, 768  # columns at a time, of the rounding, of the factor and of sums
SAMPLES = 2048  # that wait to be summed up together
DAMPING = 0.01  # of the mean diagonal, for the rounding
DOUBT = 4 * float(np.finfo(np.float32).eps)  # of a sum of squares, for one column; errors add up as their squares do
FEW_SAMPLES = 30  # below so many the mean gain says little; of more, small gains of many layers add up
LARGE = 1000  # columns from which on single precision is used, and fewer strengths are tried


@dataclass
class Moments:
    """Sums over samples: X [g, d] and R [g, o], X'X, R'X and the squares of R; X less `pilot`, the mean of the first
    samples, so that a large channel that hardly varies keeps its digits."""

    count: int
    pilot: npt.NDArray[np.float32] | None
    x: Floats
    r: Floats
    xx: Floats
    rx: Floats
    rr: Floats
    _waiting: list[tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]] = field(default_factory=list)

    @staticmethod
    def empty(groups: int, outputs: int, columns: int) -> Moments:
        """Of no samples."""
        kind = np.float32 if columns >= LARGE else np.float64
        return Moments(
            count=0,
            pilot=None,
            x=np.zeros((groups, columns)),
            r=np.zeros((groups, outputs)),
            xx=np.zeros((groups, columns, columns), kind),
            rx=np.zeros((groups, outputs, columns), kind),
            rr=np.zeros((groups, outputs)),
        )

    def add(self, x: npt.NDArray[np.float32], r: npt.NDArray[np.float32]) -> None:
        """Samples x [g, n, d] and r [g, n, o]."""
        if self.pilot is None:
            self.pilot = x.mean(axis=1, dtype=np.float64).astype(np.float32)
        x = x - self.pilot[:, None]
        self.count += x.shape[1]
        self.x += x.sum(axis=1, dtype=np.float64)
        self.r += r.sum(axis=1, dtype=np.float64)
        self.rr += np.square(r, dtype=np.float64).sum(axis=1)
        self._waiting.append((x, r))
        if sum(one.shape[1] for one, _ in self._waiting) >= min(x.shape[2], SAMPLES):
            self._settle()

    def _settle(self) -> None:
        if self._waiting:
            x, r = (np.concatenate(parts, axis=1) for parts in zip(*self._waiting, strict=True))
            self._waiting = []
            _add_gram(self.xx, x)
            self.rx += np.matmul(r.transpose(0, 2, 1), x)

    def centered(self) -> Covariance:
        """Per sample, less the means; these moments are spent."""
        assert self.pilot is not None, "no samples"
        self._settle()
        n = self.count
        x, r = self.x / n, self.r / n
        self.xx /= n
        self.rx /= n
        doubt = DOUBT * self.xx.shape[1] ** 0.5 * np.einsum("gdd->gd", self.xx)
        narrow = x.astype(self.xx.dtype)
        for rows, left in _spans(self.xx):
            self.xx[:, rows, left] -= narrow[:, rows, None] * narrow[:, None, left]
        _mirror(self.xx)
        self.rx -= r[:, :, None].astype(self.rx.dtype) * narrow[:, None, :]
        return Covariance(n, self.pilot + x, r, self.xx, self.rx, self.rr / n - r * r, doubt)


@dataclass
class Samples:
    """Samples X [g, n, d] and R [g, n, o] themselves, X less `pilot`: few enough to be kept, an error over them costs
    less than one over their moments, and they leave no second matrix of all columns."""

    pilot: npt.NDArray[np.float32] | None = None
    _parts: list[tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]] = field(default_factory=list)

    def add(self, x: npt.NDArray[np.float32], r: npt.NDArray[np.float32]) -> None:
        """Samples x [g, n, d] and r [g, n, o]."""
        if self.pilot is None:
            self.pilot = x.mean(axis=1, dtype=np.float64).astype(np.float32)
        self._parts.append((x - self.pilot[:, None], r))

    @property
    def count(self) -> int:
        """How many there are."""
        return sum(x.shape[1] for x, _ in self._parts)

    def joined(self) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
        """X and R."""
        if len(self._parts) > 1:
            x, r = (np.concatenate(parts, axis=1) for parts in zip(*self._parts, strict=True))
            self._parts = [(x, r)]
        return self._parts[0]

    def left(self, change: Floats) -> Floats:
        """[g, n, o]: errors of the outputs with weights moved by `change`."""
        x, r = self.joined()
        return np.asarray(r - np.matmul(x, change.astype(np.float32).transpose(0, 2, 1)))

    def tell(self, change: Floats, other: Floats) -> bool:
        """Whether `change`, which leaves less error than `other`, each with its best bias, is to be believed: of fewer
        than `FEW_SAMPLES`, where the 95 % interval of the mean gain lies above zero."""
        if self.count >= FEW_SAMPLES:
            return True
        left = [self.left(c) for c in (other, change)]
        before, after = (np.square(e - e.mean(axis=1, keepdims=True)).sum(axis=(0, 2), dtype=np.float64) for e in left)
        gain = before - after
        return bool(len(gain) > 1 and gain.mean() > mean_half_width(gain.tolist()))

    def error(self, change: Floats, offset: Floats | None = None) -> Floats:
        """[g, o]: mean squared error of the outputs with weights moved by `change`; with the best bias, if no `offset`
        is given."""
        assert self.pilot is not None, "no samples"
        left = self.left(change)
        spread = left.var(axis=1, dtype=np.float64)
        if offset is None:
            return np.asarray(spread)
        mean = left.mean(axis=1, dtype=np.float64) - np.matmul(change, self.pilot[:, :, None])[:, :, 0]
        return np.asarray(spread + np.square(mean - offset))


@dataclass(frozen=True)
class Covariance:
    """Means of X and R over `count` samples; covariance of X, and of R with X; variance of R; and how little of the
    variance of X [g, d] is known, where it is a small difference of large sums in single precision (a channel that is
    nearly constant)."""

    count: int
    x: Floats
    r: Floats
    xx: Floats
    rx: Floats
    rr: Floats
    doubt: Floats

    def plus(self, other: Samples) -> Covariance:
        """With the `other` samples too (T. Chan et al., "Updating formulae", 1982); this one is spent."""
        assert other.pilot is not None, "no samples"
        x, r = other.joined()
        share = x.shape[1] / (self.count + x.shape[1])
        means = x.mean(axis=1, dtype=np.float64), r.mean(axis=1, dtype=np.float64)
        apart = means[0] + other.pilot - self.x, means[1] - self.r
        doubt = DOUBT * x.shape[2] ** 0.5 * np.square(x, dtype=np.float64).mean(axis=1)
        x, r = (
            np.concatenate(
                [(v - m[:, None]) * (share / v.shape[1]) ** 0.5, d[:, None] * (share - share**2) ** 0.5], axis=1
            ).astype(np.float32)
            for v, m, d in zip((x, r), means, apart, strict=True)
        )
        xx, rx = self.xx, self.rx
        xx *= 1 - share
        _add_gram(xx, x)
        _mirror(xx)
        rx *= 1 - share
        rx += np.matmul(r.transpose(0, 2, 1), x)
        return Covariance(
            count=self.count + other.count,
            x=self.x + share * apart[0],
            r=self.r + share * apart[1],
            xx=xx,
            rx=rx,
            rr=(1 - share) * self.rr + np.square(r, dtype=np.float64).sum(axis=1),
            doubt=(1 - share) * self.doubt + share * doubt,
        )

    def level(self, strength: float) -> Floats:
        """[g]: `strength` times the mean variance of X."""
        return np.asarray(strength * np.maximum(np.trace(self.xx, axis1=1, axis2=2) / self.xx.shape[1], 1e-20))

    def raised(self, strength: float) -> Floats:
        """The covariance of X plus `level(strength)` and the doubt on its diagonal; a copy."""
        made: Floats = self.xx.copy()
        raise_diagonal(made, self.level(strength)[:, None] + self.doubt)
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


def _spans(square: Floats) -> Iterator[tuple[slice, slice]]:
    """Rows of `square` [g, d, d], some at a time, and the columns up to their diagonal."""
    for start in range(0, square.shape[1], SPAN):
        yield slice(start, start + SPAN), slice(0, start + SPAN)


def _add_gram(total: Floats, x: npt.NDArray[np.float32]) -> None:
    """Add X'X of x [g, n, d] to `total` [g, d, d], in place, on and left of the diagonal."""
    turned = x.transpose(0, 2, 1)
    for rows, left in _spans(total):
        total[:, rows, left] += np.matmul(turned[:, rows], x[:, :, left])


def _mirror(total: Floats) -> None:
    """Make `total` [g, d, d] symmetric: what is left of the diagonal counts."""
    for rows, _ in _spans(total):
        behind = slice(0, rows.start)
        total[:, behind, rows] = total[:, rows, behind].transpose(0, 2, 1)


def raise_diagonal(matrix: Floats, more: Floats) -> None:
    """Add `more` [g, d] to the diagonals of `matrix` [g, d, d], in place."""
    matrix.reshape(len(matrix), -1)[:, :: matrix.shape[1] + 1] += more.astype(matrix.dtype)


def solve_ridge(seen: Covariance, strength: float) -> Floats:
    """The change of the weights with the least squared error plus strength x mean variance x its squared size."""
    lower = _factor_cholesky(seen.raised(strength))
    made: Floats = np.array(seen.rx.transpose(0, 2, 1), order="C")
    starts = range(0, lower.shape[1], PANEL)
    corners = [np.linalg.inv(lower[:, k : k + PANEL, k : k + PANEL]) for k in starts]
    for k, corner in zip(starts, corners, strict=True):
        left = made[:, k : k + PANEL] - np.matmul(lower[:, k : k + PANEL, :k], made[:, :k])
        made[:, k : k + PANEL] = np.matmul(corner, left)
    for k, corner in reversed(list(zip(starts, corners, strict=True))):
        below = slice(k + PANEL, None)
        left = made[:, k : k + PANEL] - np.matmul(lower[:, below, k : k + PANEL].transpose(0, 2, 1), made[:, below])
        made[:, k : k + PANEL] = np.matmul(corner.transpose(0, 2, 1), left)
    return np.asarray(made.transpose(0, 2, 1))


@dataclass(frozen=True)
class GptqRounding:
    """The order in which columns are rounded, those of large variance first, and the lower Cholesky factor of their
    covariance in the reverse of it."""

    order: npt.NDArray[np.intp]
    factor: Floats

    @staticmethod
    def of(seen: Covariance) -> GptqRounding:
        """With C = R R' and R upper triangular, the error e C e' is the sum of (e R)_j squared: column j is rounded so
        that (e R)_j is least, given the e of the columns before (the same codes as GPTQ's, without an inverse)."""
        order = np.argsort(-np.einsum("gdd->gd", seen.xx), axis=1, kind="stable")
        back, groups = order[:, ::-1], np.arange(len(order))
        turned = seen.xx[groups[:, None, None], back[:, :, None], back[:, None, :]]
        raise_diagonal(turned, seen.level(DAMPING)[:, None] + np.take_along_axis(seen.doubt, back, axis=1))
        return GptqRounding(order, _factor_cholesky(turned))

    def shares(self, start: int, stop: int) -> Floats:
        """[g, stop - start, stop]: what each of these columns gets from those before."""
        size = self.factor.shape[1]
        block = self.factor[:, size - stop :, size - stop : size - start][:, ::-1, ::-1].transpose(0, 2, 1)
        return np.ascontiguousarray(block / np.einsum("gjj->gj", block[:, :, start:])[:, :, None])

    def rounded(self, weight: Floats, scale: Floats) -> npt.NDArray[np.float64]:
        """Codes [g, o, d] of `weight` for `scale` [g, o]."""
        kind = self.factor.dtype
        work = np.take_along_axis(weight, self.order[:, None, :], axis=2).transpose(0, 2, 1).astype(kind, order="C")
        steps = scale.astype(kind)
        codes, lost = np.empty_like(work), np.empty_like(work)
        for start in range(0, work.shape[1], BLOCK):
            stop = min(start + BLOCK, work.shape[1])
            shares = self.shares(start, stop)
            wanted = work[:, start:stop] + np.matmul(shares[:, :, :start], lost[:, :start])
            for j in range(start, stop):
                column = wanted[:, j - start]
                column = column + np.matmul(shares[:, j - start, None, start:j], lost[:, start:j])[:, 0]
                codes[:, j] = np.clip(np.rint(column / steps), -127, 127)
                lost[:, j] = work[:, j] - codes[:, j] * steps
        back = np.argsort(self.order, axis=1, kind="stable")
        return np.asarray(np.take_along_axis(codes, back[:, :, None], axis=1).transpose(0, 2, 1), np.float64)


def _factor_cholesky(made: Floats) -> Floats:
    """The lower factor [g, d, d], in the place of the matrix, whose blocks above the diagonal are left as they come;
    by blocks, most of it matrix products, which NumPy's LAPACK is slow without."""
    for start in range(0, made.shape[1], PANEL):
        stop = start + PANEL
        corner = np.linalg.cholesky(made[:, start:stop, start:stop])
        made[:, start:stop, start:stop] = corner
        below = np.matmul(made[:, stop:, start:stop], np.linalg.inv(corner).transpose(0, 2, 1))
        made[:, stop:, start:stop] = below
        for k in range(0, below.shape[1], 4 * PANEL):
            right = below[:, k : k + 4 * PANEL].transpose(0, 2, 1)
            made[:, stop + k :, stop + k : stop + k + 4 * PANEL] -= np.matmul(below[:, k:], right)
    return made


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
