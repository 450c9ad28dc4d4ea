"""One pass of the float graph over the calibration images, with statistics taken from every activation."""

from __future__ import annotations

import contextlib
import hashlib
import io
import math
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx

from edgecnn.artifact.journal import Journal
from edgecnn.artifact.sidecar import sha256_of
from edgecnn.data.dataset import Batch, Dataset, batches
from edgecnn.errors import DataError, GraphError
from edgecnn.graph.calibration.derive import find_derived, find_step_groups
from edgecnn.graph.calibration.histogram import BINS, Ranges, TensorStatistics, find_constant_tensors
from edgecnn.graph.calibration.observe import Observer
from edgecnn.graph.calibration.watch import choose_steps, is_pooled
from edgecnn.graph.load import naming
from edgecnn.graph.onnx_graph import OnnxGraph
from edgecnn.graph.qdq.pairs import activated_output
from edgecnn.graph.serving import gives_features, load_body
from edgecnn.graph.simplify import simplify_graph
from edgecnn.limits import DAMAGED_ZIP, require_arrays
from edgecnn.machine.threads import Seats, allowed_threads

Progress = Callable[[int, int], None]
_SAVE_EVERY = 256  # images
_MOST_IMAGES = 16  # in one run of the graph
PIXELS = 2 * 224 * 224  # in one run of the graph
WATCHED_BYTES = 160 << 20  # that one run of the graph may give out
CACHED_BYTES = 5 << 19  # of a tensor: of small maps more images than by their pixels come at a time


def collect_ranges(
    graph: Path,
    dataset: Dataset,
    *,
    batch: int | None = None,
    threads: int | None = None,
    of: int | None = None,
    progress: Progress | None = None,
    resume: Path | None = None,
) -> Ranges:
    """Run `graph` once over `dataset` and keep statistics of every tensor that may be quantized.

    Memory does not depend on the number of images; without `batch`, larger images come fewer at a time. Where `dataset`
    is a part of a set, `of` is how many images that has: what is counted of each image depends on it, so that parts add
    up. With `resume`, what was counted is saved there now and then, and an interrupted run goes on from it. Raises
    `GraphError` and `DataError`, which name the tensor or image.
    """
    digest = sha256_of(graph)
    with naming(graph):
        simple = simplify_graph(load_body(graph), features=gives_features(graph))
    return collect_from_model(
        simple,
        digest,
        dataset,
        batch=batch,
        threads=threads,
        of=of,
        progress=progress,
        resume=resume,
    )


def collect_from_model(
    model: onnx.ModelProto,
    graph_sha256: str,
    dataset: Dataset,
    *,
    batch: int | None = None,
    threads: int | None = None,
    of: int | None = None,
    progress: Progress | None = None,
    resume: Path | None = None,
) -> Ranges:
    """`collect_ranges` of a graph in memory that is prepared already."""
    graph = OnnxGraph(model)
    _require_images(graph, dataset)
    names = find_observed_tensors(graph)
    derived = find_derived(graph, names)
    watched = [graph.input, *(n for n in names if n not in derived)]
    steps = choose_steps(graph, watched, find_step_groups(derived), of or len(dataset))
    threads = threads or allowed_threads()
    at_once = max(images_at_once(dataset), min(2 * _images_cached(graph), _MOST_IMAGES))
    batch = _frozen_batch(graph, batch) or min(at_once, _images_within(WATCHED_BYTES, graph, steps))
    key = _resume_key(graph_sha256, dataset, batch, steps)
    seats, parts_at_once = Seats(threads), 1 if _frozen_batch(graph, None) else min(threads, batch)
    with contextlib.ExitStack() as opened:
        journal = None if resume is None else opened.enter_context(Journal(resume, key))
        contents, tensors = _read_resumed(journal, dataset, steps)
        done = len(contents)
        observer = Observer(graph, steps, tensors, images=len(dataset) - done, threads=threads // parts_at_once)
        parts = batches(dataset.subset(range(done, len(dataset))), batch, threads, seats=seats)
        counted = _observe(observer, parts, seats, parts_at_once, threads // parts_at_once)
        for part in opened.enter_context(contextlib.closing(counted)):
            contents += [dataset.content_sha256(k) for k in range(done, done + len(part.input))]
            before, done = done, done + len(part.input)
            if progress is not None:
                progress(done, len(dataset))
            if journal is not None and before // _SAVE_EVERY != done // _SAVE_EVERY and done < len(dataset):
                journal.append(_saved(contents, observer.statistics()))
        tensors = observer.statistics()
        if journal is not None:
            journal.remove()
    for name, one in derived.items():
        tensors[name] = one.statistics(name, tensors)
    if graph.input in find_constant_tensors(tensors):
        raise DataError(f"{dataset.name}: every pixel has the same value", "calibrate with real images")
    return Ranges(
        graph_sha256=graph_sha256,
        data=dataset.name,
        data_sha256=hashlib.sha256("\n".join(dataset.sha256s or contents).encode()).hexdigest(),
        images=len(dataset),
        tensors={n: tensors[n] for n in [graph.input, *names]},
    )


def images_at_once(dataset: Dataset) -> int:
    """How many images to run together so that memory is bounded and small ones do not come one by one."""
    if len(dataset) == 0:
        return 1
    return int(np.clip(PIXELS // np.prod(dataset.tensor(0).shape[1:]), 2, _MOST_IMAGES))


def _images_cached(graph: OnnxGraph) -> int:
    """Of how many images the largest tensor stays near the core that makes it."""
    sizes = (math.prod(n or 1 for n in graph.shapes[name][1:]) for name in graph.shapes if graph.is_activation(name))
    return CACHED_BYTES // (4 * max(sizes, default=1))


def _images_within(size: int, graph: OnnxGraph, steps: Mapping[str, int]) -> int:
    """How many images' watched tensors, float32, are within `size` bytes; at least one."""
    values = 0
    for name, step in steps.items():
        whole = int(np.prod([n or 1 for n in graph.shapes[name][1:]]))
        values += whole // step**2 if is_pooled(graph.shapes[name], step) else whole
    return max(1, size // max(4 * values, 1))


def find_observed_tensors(graph: OnnxGraph) -> list[str]:
    """Activations with a channel axis, but for those that one Relu or Clip alone reads (they are fused)."""
    wanted = []
    for node in graph.nodes:
        for name in node.output:
            fused = node.op_type in ("Conv", "Gemm", "Add") and activated_output(graph, node) != name
            if graph.is_activation(name) and not fused:
                wanted.append(name)
    return wanted


def _observe(observer: Observer, parts: Iterable[Batch], seats: Seats, at_once: int, threads: int) -> Generator[Batch]:
    """Each of `parts` once it is counted: divided, and so many pieces of it run `at_once` with their own `threads`.
    Threads that run one piece together wait for each other at every node, which costs more than most nodes."""

    def observe(images: npt.NDArray[np.float32]) -> None:
        with seats.take(threads, first=True):
            counting = observer.run(images)
        with seats.take(1, first=True):
            counting()

    with ThreadPoolExecutor(at_once) as pool:
        for part in parts:
            observer.begin_batch(len(part.input))
            pieces = np.array_split(part.input, min(at_once, len(part.input)))
            for running in [pool.submit(observe, piece) for piece in pieces]:
                running.result()
            yield part


def _frozen_batch(graph: OnnxGraph, batch: int | None) -> int | None:
    """`batch`, or the one that is frozen in the graph; raises `GraphError` for more than that."""
    frozen = graph.shapes[graph.input][0]
    if frozen is not None and batch is not None and batch > frozen:
        raise GraphError(f"its batch is frozen at {frozen}, asked for are {batch}", f"calibrate with --batch {frozen}")
    return batch or frozen


def _require_images(graph: OnnxGraph, dataset: Dataset) -> None:
    if len(dataset) == 0:
        raise DataError(f"{dataset.name}: no images to calibrate with", "give at least one image, better some hundred")
    expected = graph.shapes[graph.input]
    found = dataset.tensor(0).shape
    if any(e is not None and e != f for e, f in zip(expected[1:], found, strict=False)) or len(found) != 3:
        allowed = "x".join("?" if e is None else str(e) for e in expected[1:])
        raise DataError(
            f"{dataset.name}: images are {'x'.join(map(str, found))}, input {graph.input!r} takes {allowed}",
            "use the preprocessing that belongs to this network",
        )


def _resume_key(graph_sha256: str, dataset: Dataset, batch: int, steps: Mapping[str, int]) -> str:
    preprocessing = dataset.preprocessing.sha256 if dataset.preprocessing else ""
    numbers = [str(batch), *map(str, steps.values())]
    return hashlib.sha256("\n".join([graph_sha256, preprocessing, *numbers, *dataset.ids]).encode()).hexdigest()


def _saved(contents: Sequence[str], tensors: dict[str, TensorStatistics]) -> bytes:
    """What was counted of the images with these hashes, as a block of a journal."""
    content: dict[str, npt.NDArray[np.generic]] = {"images": np.array(len(contents)), "hash": np.array(_hash(contents))}
    for number, s in enumerate(tensors.values()):
        content[f"name{number}"] = np.array(s.name)
        for field in ("positive", "channel_low", "channel_high"):
            content[f"{field}{number}"] = getattr(s, field)
        if s.negative is not None:
            content[f"negative{number}"] = s.negative
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **content)  # type: ignore[arg-type]
    return buffer.getvalue()


def _hash(contents: Sequence[str]) -> str:
    return hashlib.sha256("".join(contents).encode()).hexdigest()


def _read_resumed(
    journal: Journal | None, dataset: Dataset, steps: Mapping[str, int]
) -> tuple[list[str], dict[str, TensorStatistics]]:
    """What an interrupted run has counted, and the hashes of its images: as far as it is whole, and these are still
    the same."""
    contents, tensors, kept = list[str](), dict[str, TensorStatistics](), 0
    for block in [] if journal is None else journal.blocks():
        try:
            count, known, found = _read_block(block, steps)
        except (TypeError, *DAMAGED_ZIP):
            break
        if not len(contents) <= count <= len(dataset):
            break
        more = [*contents, *(dataset.content_sha256(k) for k in range(len(contents), count))]
        if _hash(more) != known:
            break
        contents, tensors, kept = more, found, kept + 1
    if journal is not None:
        journal.keep(kept)
    return contents, tensors


def _read_block(block: bytes, steps: Mapping[str, int]) -> tuple[int, str, dict[str, TensorStatistics]]:
    """How many images a block is of, their hash, and what was counted; raises what `DAMAGED_ZIP` names for another."""
    require_arrays(io.BytesIO(block))
    tensors: dict[str, TensorStatistics] = {}
    with np.load(io.BytesIO(block)) as held:
        images = int(held["images"])
        for number in range(len(steps)):
            negative = f"negative{number}"
            name = str(held[f"name{number}"])
            tensors[name] = TensorStatistics(
                name=name,
                positive=held[f"positive{number}"],
                negative=held[negative] if negative in held.files else None,
                channel_low=held[f"channel_low{number}"],
                channel_high=held[f"channel_high{number}"],
                images=images,
                step=steps[name],
            )
            one = tensors[name]
            counts = (one.positive, one.positive if one.negative is None else one.negative)
            if any(c.shape != (BINS,) or c.dtype != np.int64 for c in counts):
                raise ValueError(f"{name}: not {BINS} bins")
            if one.channel_low.shape != one.channel_high.shape or one.channel_low.ndim != 1:
                raise ValueError(f"{name}: not the extremes of channels")
        return images, str(held["hash"]), tensors
