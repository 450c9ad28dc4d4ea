"""Training images by position: all in memory where they fit, else decoded ahead by threads.

Threads are enough: decoding and resizing release the interpreter's lock, and nothing has to be copied between
processes.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from edgecnn.data.dataset import Dataset
from edgecnn.errors import DataError
from edgecnn.machine.threads import allowed_threads
from edgecnn.pytorch.training.augment import Augmenter, color_components, crop_image_for_training, draw_crops, key
from edgecnn.recipe.schema import AugmentSettings

MEMORY_BYTES = 512 << 20  # decoded crops up to this size stay in memory
COLOR_SAMPLE = 512  # images whose principal colors are taken
AHEAD = 3  # batches being decoded while one is trained on

Positions = npt.NDArray[np.int64]
Pixels = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Batch:
    """uint8 [B, C, H, W] (or cached features), labels and positions in the data set, on the training device."""

    input: Tensor
    label: Tensor
    position: Tensor


class Source(Protocol):
    """Labeled inputs by position."""

    device: torch.device
    labels: Tensor
    readable: Positions
    corrupt: dict[str, str]

    @property
    def sha256(self) -> str:
        """The identity of the list of images."""
        ...

    def __len__(self) -> int: ...

    def batches(self, order: Iterable[Positions], epoch: int = 0) -> Iterator[Batch]:
        """One batch for each array of positions."""
        ...

    def inputs(self, batch: Batch, epoch: int | None = None) -> Tensor:
        """What the network takes: varied for training in `epoch`, plain without one."""
        ...


class ImageLoader:
    """The labeled images of a data set, as batches of uint8 crops.

    With `skip_corrupt` an unreadable image is left out of its batch and its id kept in `corrupt`; else it raises
    `DataError`.
    """

    def __init__(
        self,
        dataset: Dataset,
        augment: AugmentSettings,
        device: torch.device,
        *,
        seed: int = 0,
        workers: int | None = None,
        skip_corrupt: bool = False,
    ) -> None:
        if dataset.labels is None or dataset.preprocessing is None or dataset.image is None:
            raise DataError(f"{dataset.name}: training needs labeled pictures", "name an image folder or a data set")
        self.dataset, self.augment, self.device, self.seed = dataset, augment, device, seed
        self.preprocessing, self.image = dataset.preprocessing, dataset.image
        self.labels = torch.from_numpy(np.ascontiguousarray(dataset.labels, np.int64)).to(device)
        self.workers = allowed_threads() if workers is None else max(1, workers)
        self.skip_corrupt, self.corrupt = skip_corrupt, dict[str, str]()
        self.memory: Tensor | None = None
        self.readable = np.arange(len(dataset), dtype=np.int64)
        channels, height, width = self.preprocessing.input_shape
        if augment.area is None and augment.jitter is None and len(dataset) * channels * height * width <= MEMORY_BYTES:
            self._fill()
        components = None
        if augment.pca_color and channels == 3:
            components = color_components(self._sample(COLOR_SAMPLE))
        self.augmenter = Augmenter(augment, self.preprocessing, seed, device, components)

    def __len__(self) -> int:
        return len(self.dataset)

    @property
    def sha256(self) -> str:
        """The identity of the list of images: their ids and labels."""
        pairs = zip(self.dataset.ids, self.labels.tolist(), strict=True)
        return hashlib.sha256("\n".join(f"{i} {label}" for i, label in pairs).encode()).hexdigest()[:12]

    def batches(self, order: Iterable[Positions], epoch: int = 0) -> Iterator[Batch]:
        """One batch for each array of positions."""
        if self.memory is not None:
            for positions in order:
                there = torch.from_numpy(positions).to(self.device)
                yield Batch(self.memory[there], self.labels[there], there)
            return
        for positions, crops in self._decoded(order, epoch):
            if not crops:
                name, problem = next(iter(self.corrupt.items()))
                raise DataError(f"no image of a batch is readable, first {name}: {problem}", "check the data set")
            there = torch.from_numpy(positions)
            pixels = torch.from_numpy(np.stack(crops)).to(self.device, non_blocking=True)
            there = there.to(self.device)
            yield Batch(pixels.permute(0, 3, 1, 2), self.labels[there], there)

    def inputs(self, batch: Batch, epoch: int | None = None) -> Tensor:
        """Normalized float32, varied for training in `epoch`, plain without one."""
        if epoch is None:
            return self.augmenter.normalize(batch.input)
        return self.augmenter.augment(batch.input, batch.position, epoch)

    def _sample(self, count: int) -> Tensor:
        """About `count` images, evenly spaced: uint8 [N, C, H, W] on the host."""
        step = max(1, len(self.readable) // count)
        [batch] = self.batches([self.readable[::step][:count]])
        return batch.input.cpu()

    def _fill(self) -> None:
        """Decode everything once; unreadable images leave `readable`."""
        channels, height, width = self.preprocessing.input_shape
        memory = np.zeros((len(self.dataset), height, width, channels), np.uint8)
        found: list[Positions] = []
        chunks = np.array_split(self.readable, max(1, len(self.dataset) // 256))
        for positions, crops in self._decoded(chunks, 0):
            if crops:
                memory[positions] = np.stack(crops)
            found.append(positions)
        self.readable = np.concatenate(found)
        self.memory = torch.from_numpy(np.ascontiguousarray(memory.transpose(0, 3, 1, 2))).to(self.device)

    def _decoded(self, order: Iterable[Positions], epoch: int) -> Iterator[tuple[Positions, list[Pixels]]]:
        pending: list[tuple[Positions, list[Future[Pixels | None]]]] = []
        with ThreadPoolExecutor(self.workers, "decode") as pool:
            try:
                for positions in order:
                    draws = draw_crops(key(self.seed, epoch), torch.from_numpy(positions))
                    futures = [pool.submit(self._crop, int(p), d) for p, d in zip(positions, draws, strict=True)]
                    pending.append((positions, futures))
                    if len(pending) > AHEAD:
                        yield self._collected(*pending.pop(0))
                while pending:
                    yield self._collected(*pending.pop(0))
            finally:
                pool.shutdown(wait=True, cancel_futures=True)

    def _crop(self, position: int, draw: npt.NDArray[np.float32]) -> Pixels | None:
        try:
            picture = self.image(position)
        except DataError as exc:
            if not self.skip_corrupt:
                raise
            self.corrupt[self.dataset.ids[position]] = exc.message
            return None
        pixels = crop_image_for_training(picture, self.preprocessing, self.augment, draw)
        return pixels[:, :, None] if pixels.ndim == 2 else pixels

    def _collected(
        self, positions: Positions, futures: Sequence[Future[Pixels | None]]
    ) -> tuple[Positions, list[Pixels]]:
        crops = [f.result() for f in futures]
        keep = [k for k, crop in enumerate(crops) if crop is not None]
        return positions[keep], [crop for crop in crops if crop is not None]


class CachedFeatures:
    """Frozen features in place of pictures: float32 [N, ...], computed once."""

    def __init__(self, features: Tensor, labels: Tensor, corrupt: dict[str, str], sha256: str) -> None:
        self.features, self.labels, self.corrupt, self.sha256 = features, labels, corrupt, sha256
        self.device = features.device
        self.readable = np.arange(len(features), dtype=np.int64)

    def __len__(self) -> int:
        return len(self.features)

    def batches(self, order: Iterable[Positions], epoch: int = 0) -> Iterator[Batch]:
        """One batch for each array of positions."""
        for positions in order:
            there = torch.from_numpy(positions).to(self.device)
            yield Batch(self.features[there], self.labels[there], there)

    def inputs(self, batch: Batch, epoch: int | None = None) -> Tensor:
        """The features as they are."""
        return batch.input
