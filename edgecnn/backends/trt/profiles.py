"""Optimization profiles: ranges of batch sizes, each with kernels of its own, chosen for the batch that comes."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from edgecnn.backends._cuda import load_cuda
from edgecnn.backends.trt.library import Message, failure
from edgecnn.errors import GraphError
from edgecnn.recipe.schema import BatchSettings

Shape = tuple[int, ...]
OF_PROFILE = re.compile(r"\[profile (\d+)\]")  # in the names of a layer of every profile but the first


def add_profiles(
    builder: Any, config: Any, network: Any, graph: Path, batch: BatchSettings, messages: Sequence[Message]
) -> Any:
    """Add every profile that `batch` asks for; returns the first. Raises `GraphError` for a graph that cannot serve
    them."""
    tensor = network.get_input(0)
    shape = tuple(tensor.shape)
    if any(n < 0 for n in shape[1:]):
        raise GraphError(f"{graph}: input shape {shape}: only the batch may be dynamic", "export it with a fixed size")
    made = []
    for sizes in batch.all_profiles:
        if shape[0] >= 0 and sizes != (shape[0],) * 3:
            raise GraphError(
                f"{graph}: its batch is frozen at {shape[0]}, asked for are {sizes[0]} to {sizes[2]}",
                "export it with a dynamic batch axis, or set batch.min, opt and max to the frozen one: --profile "
                + ":".join([str(shape[0])] * 3),
            )
        profile = builder.create_optimization_profile()
        try:
            profile.set_shape(tensor.name, *((n, *shape[1:]) for n in sizes))
        except ValueError as exc:
            raise failure(
                f"{graph}: optimization profile: {exc}", messages, "batch: min <= opt <= max, all positive"
            ) from exc
        if config.add_optimization_profile(profile) < 0:
            raise failure(
                f"{graph}: TensorRT refuses the optimization profile", messages, "check batch.min, opt and max"
            )
        made.append(profile)
    return made[0]


def profiles_of(engine: Any, name: str) -> list[tuple[Shape, Shape, Shape]]:
    """(smallest, optimal, largest) shape of the input `name` in each profile of an engine."""
    shapes = (engine.get_tensor_profile_shape(name, k) for k in range(engine.num_optimization_profiles))
    return [(tuple(least), tuple(best), tuple(most)) for least, best, most in shapes]


def profile_for(profiles: Sequence[tuple[Shape, Shape, Shape]], shape: Shape) -> int | None:
    """The first profile whose range holds `shape`; None where there is none."""
    return next((k for k, (least, _, most) in enumerate(profiles) if _holds(least, most, shape)), None)


def _holds(least: Shape, most: Shape, shape: Shape) -> bool:
    same = len(least) == len(shape)
    return same and all(a <= n <= b for a, n, b in zip(least, shape, most, strict=True))


def profile_text(profiles: Sequence[tuple[Shape, Shape, Shape]], shape: Shape) -> str:
    """Which profile serves `shape`, of engines that have several: "2 of 2, batch 8..16..32"; else ""."""
    index = profile_for(profiles, shape)
    if len(profiles) < 2 or index is None:
        return ""
    return f"{index + 1} of {len(profiles)}, batch " + "..".join(str(s[0]) for s in profiles[index])


def select_profile(engine: Any, context: Any, name: str, shape: Shape, messages: Sequence[Message]) -> None:
    """Switch a new context, which starts with the first profile, to the one for `shape`; raises where it refuses."""
    index = profile_for(profiles_of(engine, name), shape)
    if not index:
        return
    cuda = load_cuda()
    stream = cuda.create_stream()
    try:
        if not context.set_optimization_profile_async(index, cuda.handle(stream)):
            raise failure(f"TensorRT refuses profile {index + 1}", messages, "report it with TensorRT's version")
        cuda.synchronize_stream(stream)
    finally:
        cuda.destroy_stream(stream)


def records_of_profile(records: Sequence[Any], index: int) -> list[Any]:
    """Of the inspector's layers, which are those of every profile, those of one; all where none is of another."""
    of = [_profile_of(record) for record in records]
    return [record for record, k in zip(records, of, strict=True) if k == index] if any(of) else list(records)


def _profile_of(record: Any) -> int:
    name = record.get("Name", "") if isinstance(record, Mapping) else record
    found = OF_PROFILE.search(str(name))
    return int(found[1]) if found else 0
