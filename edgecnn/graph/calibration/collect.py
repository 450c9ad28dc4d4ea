"""One pass of the float graph over the calibration images, with statistics taken from every activation."""

from __future__ import annotations

import contextlib
import hashlib
import io
import threading
import zipfile
from collections.abc import Callable, Generator, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime

from edgecnn.artifact.sidecar import sha256_of
from edgecnn.artifact.write import write_bytes
from edgecnn.backends._onnxruntime import onnxruntime_errors, open_session, run_session
from edgecnn.data.dataset import Batch, Dataset, batches
from edgecnn.errors import DataError, GraphError
from edgecnn.graph.calibration.histogram import (
    Ranges,
    TensorStatistics,
    empty_statistics,
    find_constant_tensors,
    join_statistics,
)
from edgecnn.graph.onnx_graph import OnnxGraph, attribute
from edgecnn.graph.serving import load_body
from edgecnn.graph.simplify import simplify_graph
from edgecnn.machine.cpu import available_cores

Progress = Callable[[int, int], None]
_FUSED = {"Relu", "Clip", "BatchNormalization"}
_SAVE_EVERY = 256  # images
PIXELS = 2 * 224 * 224  # in one run of the graph
WATCHED_BYTES = 160 << 20  # that one run of the graph may give out
_RUNS = 4  # of the graph at a time


def collect_ranges(
    graph: Path,
    dataset: Dataset,
    *,
    batch: int | None = None,
    threads: int | None = None,
    progress: Progress | None = None,
    resume: Path | None = None,
) -> Ranges:
    """Run `graph` once over `dataset` and keep statistics of every tensor that may be quantized.

    Memory does not depend on the number of images; without `batch`, larger images come fewer at a time. With
    `resume`, what was counted is saved there now and then, and an interrupted run goes on from it. Raises
    `GraphError` and `DataError`, which name the tensor or image.
    """
    digest = sha256_of(graph)
    return collect_from_model(
        simplify_graph(load_body(graph)),
        digest,
        dataset,
        batch=batch,
        threads=threads,
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
    progress: Progress | None = None,
    resume: Path | None = None,
) -> Ranges:
    """`collect_ranges` of a graph in memory that is prepared already."""
    graph = OnnxGraph(model)
    _require_images(graph, dataset)
    names = find_observed_tensors(graph)
    joined = _find_joined(graph, names)
    watched = [n for n in names if n not in joined]
    at_once = batch or _images_within(WATCHED_BYTES, graph, watched)
    batch = batch or images_at_once(dataset)
    threads = threads or available_cores()
    workers = min(threads, _RUNS)
    with onnxruntime_errors("the graph", hint="check it with onnx.checker", error=GraphError):
        session = open_session(model, watched, threads=threads // workers)

    held = threading.local()

    def taken(part: Batch) -> dict[str, TensorStatistics]:
        made: dict[str, TensorStatistics] = {}
        for start in range(0, len(part.input), at_once):
            images = part.input[start : start + at_once]
            outputs = _run_again(session, {graph.input: images}, watched, held.__dict__)
            seen = zip([graph.input, *watched], [images, *outputs], strict=True)
            _merge(made, {n: _measure_statistics(n, v) for n, v in seen})
        return made

    key = _resume_key(graph_sha256, dataset, batch)
    done, digests, tensors = _read_resumed(resume, key, watched)
    parts = batches(dataset.subset(range(done, len(dataset))), batch, threads)
    with contextlib.closing(_side_by_side(taken, parts, workers)) as results:
        for part, seen in results:
            _merge(tensors, seen)
            digests += [dataset.sha256(k) for k in range(done, done + len(part.input))]
            before, done = done, done + len(part.input)
            if progress is not None:
                progress(done, len(dataset))
            if resume is not None and before // _SAVE_EVERY != done // _SAVE_EVERY and done < len(dataset):
                _save(resume, key, digests, tensors)
    if resume is not None:
        resume.unlink(missing_ok=True)
    for name, sources in joined.items():
        tensors[name] = join_statistics(name, [tensors[n] for n in sources])
    if graph.input in find_constant_tensors(tensors):
        raise DataError(f"{dataset.name}: every pixel has the same value", "calibrate with real images")
    return Ranges(
        graph_sha256=graph_sha256,
        data=dataset.name,
        data_sha256=hashlib.sha256("\n".join(digests).encode()).hexdigest(),
        images=len(dataset),
        tensors={n: tensors[n] for n in [graph.input, *names]},
    )


def images_at_once(dataset: Dataset) -> int:
    """How many images to run together so that memory is bounded and small ones do not come one by one."""
    if len(dataset) == 0:
        return 1
    return int(np.clip(PIXELS // np.prod(dataset.tensor(0).shape[1:]), 2, 64))


def _images_within(size: int, graph: OnnxGraph, watched: Sequence[str]) -> int:
    """How many images' watched tensors, float32, are within `size` bytes; at least one."""
    values = sum(int(np.prod([n or 1 for n in graph.shapes[name][1:]])) for name in watched)
    return max(1, size // max(4 * values, 1))


def _merge(tensors: dict[str, TensorStatistics], seen: dict[str, TensorStatistics]) -> None:
    for name, statistics in seen.items():
        if name in tensors:
            tensors[name].merge(statistics)
        else:
            tensors[name] = statistics


def find_observed_tensors(graph: OnnxGraph) -> list[str]:
    """Activations with a channel axis, but for those that only an activation function reads (they are fused)."""
    wanted = []
    for node in graph.nodes:
        for name in node.output:
            readers = graph.readers.get(name, [])
            fused = bool(readers) and all(n.op_type in _FUSED and k == 0 for n, k in readers)
            if graph.is_activation(name) and not (fused and node.op_type in ("Conv", "Gemm", "Add")):
                wanted.append(name)
    return wanted


def _find_joined(graph: OnnxGraph, names: Sequence[str]) -> dict[str, list[str]]:
    """Those of `names` whose statistics follow from others': concatenations of channels, and what they are made of."""
    known = {graph.input, *names}
    return {
        node.output[0]: list(node.input)
        for node in graph.nodes
        if node.op_type == "Concat"
        and attribute(node, "axis", 0) == 1
        and known.issuperset([*node.input, *node.output])
    }


def _run_again(
    session: onnxruntime.InferenceSession,
    feeds: dict[str, npt.NDArray[np.float32]],
    names: Sequence[str],
    held: dict[str, Any],
) -> list[npt.NDArray[np.float32]]:
    """All outputs of one run, in the arrays of the run before that `held` keeps when the shapes are the same.

    Runs side by side that allocate their outputs anew leave holes in ONNX Runtime's memory, which then grows.
    """
    shape = [v.shape for v in feeds.values()]
    if held.get("shape") != shape:
        held.clear()
        held |= {"outputs": run_session(session, feeds), "shape": shape}
        return list(held["outputs"])
    binding = session.io_binding()
    for name, value in feeds.items():
        binding.bind_cpu_input(name, value)
    for name, value in zip(names, held["outputs"], strict=True):
        binding.bind_output(name, "cpu", 0, np.float32, value.shape, value.ctypes.data)
    with onnxruntime_errors("the graph", "failed while running it", "check the graph's input"):
        session.run_with_iobinding(binding)
    return list(held["outputs"])


def _side_by_side(
    work: Callable[[Batch], dict[str, TensorStatistics]], parts: Iterable[Batch], workers: int
) -> Generator[tuple[Batch, dict[str, TensorStatistics]]]:
    """Each of `parts` in order with what `work` makes of it; as many as there are `workers` are in work at a time."""
    with ThreadPoolExecutor(workers) as pool:
        pending: list[tuple[Batch, Future[dict[str, TensorStatistics]]]] = []
        for part in parts:
            pending.append((part, pool.submit(work, part)))
            if len(pending) > workers:
                first, future = pending.pop(0)
                yield first, future.result()
        for part, future in pending:
            yield part, future.result()


def _measure_statistics(name: str, value: npt.NDArray[np.float32]) -> TensorStatistics:
    statistics = empty_statistics(name, value.shape[1])
    try:
        statistics.add(value)
    except ValueError as exc:
        raise GraphError(
            f"tensor {name!r} is NaN or infinite on calibration images",
            "check the weights and the preprocessing: the float graph itself overflows",
        ) from exc
    return statistics


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


def _resume_key(graph_sha256: str, dataset: Dataset, batch: int) -> str:
    preprocessing = dataset.preprocessing.sha256 if dataset.preprocessing else ""
    return hashlib.sha256("\n".join([graph_sha256, preprocessing, str(batch), *dataset.ids]).encode()).hexdigest()


def _save(path: Path, key: str, digests: list[str], tensors: dict[str, TensorStatistics]) -> None:
    content: dict[str, npt.NDArray[np.generic]] = {"key": np.array(key), "digests": np.array(digests)}
    for number, s in enumerate(tensors.values()):
        content[f"name{number}"] = np.array(s.name)
        for field in ("positive", "channel_low", "channel_high", "channel_sum"):
            content[f"{field}{number}"] = getattr(s, field)
        if s.negative is not None:
            content[f"negative{number}"] = s.negative
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **content)  # type: ignore[arg-type]
    write_bytes(path, buffer.getvalue())


def _read_resumed(
    path: Path | None, key: str, names: Sequence[str]
) -> tuple[int, list[str], dict[str, TensorStatistics]]:
    """What an interrupted run left in `path`; nothing when it was another run, or damaged."""
    if path is None or not path.is_file():
        return 0, [], {}
    tensors: dict[str, TensorStatistics] = {}
    with contextlib.suppress(OSError, ValueError, KeyError, zipfile.BadZipFile), np.load(path) as held:
        if str(held["key"]) != key:
            return 0, [], {}
        digests = [str(d) for d in held["digests"]]
        for number in range(len(names) + 1):
            negative = f"negative{number}"
            name = str(held[f"name{number}"])
            tensors[name] = TensorStatistics(
                name=name,
                positive=held[f"positive{number}"],
                negative=held[negative] if negative in held.files else None,
                channel_low=held[f"channel_low{number}"],
                channel_high=held[f"channel_high{number}"],
                channel_sum=held[f"channel_sum{number}"],
                images=len(digests),
            )
        return len(digests), digests, tensors
    return 0, [], {}
