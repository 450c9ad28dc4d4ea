"""A small net, and noise for it as a data set."""

from __future__ import annotations

import numpy as np

from edgecnn.data.dataset import Dataset

NET = """
c1 = Conv(input, out=6, k=3)
r1 = Relu(c1)
p = MaxPool(r1, kernel_shape=[2, 2], strides=[2, 2])
c2 = Conv(p, out=6, k=3)
s = Add(c2, p)
g = GlobalAveragePool(s)
f = Flatten(g)
logits = Gemm(f, out=3)
"""


def images(count: int, shape: tuple[int, ...] = (4, 8, 8), seed: int = 1) -> Dataset:
    values = np.random.default_rng(seed).normal(0, 1, (count, *shape)).astype(np.float32)
    return dataset_of(values)


def dataset_of(values: np.ndarray) -> Dataset:
    return Dataset(
        name="noise",
        ids=tuple(f"noise/{i}" for i in range(len(values))),
        labels=None,
        label_names=None,
        preprocessing=None,
        content=lambda i: values[i].tobytes(),
        image=None,
        array=lambda i: values[i],
    )
