"""What each quantizer of a graph costs alone, and what the quantized graph gains without it."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import onnx

from edgecnn.data.dataset import Dataset
from edgecnn.errors import GraphError, RecipeError, nearest
from edgecnn.graph.calibration.collect import images_at_once
from edgecnn.graph.calibration.observe import fill_batch, frozen_batch
from edgecnn.graph.onnx_graph import OnnxGraph
from edgecnn.graph.staged import Part, Quantizer, Stage, StagedGraph
from edgecnn.machine.threads import allowed_threads
from edgecnn.records import record_and_problems, to_plain
from edgecnn.results.sensitivity import NodeSensitivity, QuantizedPart, Sensitivity, TrialKind, TrialLine

Array = npt.NDArray[Any]
Progress = Callable[[int, int], None]
HELD_BYTES = 1 << 30  # of tensors that are held for the trials: more images come in turns
EQUAL_DB = 300.0


class Log(Protocol):
    """Where trials are kept: its lines are those of before."""

    def __iter__(self) -> Iterator[dict[str, object]]: ...

    def append(self, line: dict[str, object]) -> None:
        """Keep one more."""


@dataclass(frozen=True)
class Difference:
    """Logits on `n` images beside the float graph's: `noise` is the sum of the squared differences, `kl_nats` that of
    the KL divergences, `agreed` counts equal predictions."""

    n: int = 0
    noise: float = 0.0
    kl_nats: float = 0.0
    agreed: int = 0

    def __add__(self, other: Difference) -> Difference:
        return Difference(
            self.n + other.n, self.noise + other.noise, self.kl_nats + other.kl_nats, self.agreed + other.agreed
        )


@dataclass(frozen=True)
class Trial:
    """One quantizer alone on the float graph, or the quantized graph without it."""

    quantizer: Quantizer
    kind: TrialKind


@dataclass
class Found:
    """What was measured: `signal` is the power of the float graph's logits, summed."""

    signal: float
    whole: Difference
    trials: dict[Trial, Difference]


def measure_quantizers(
    graph: StagedGraph, data: Dataset, chosen: Collection[Quantizer], log: Log, progress: Progress | None = None
) -> Found:
    """Both trials of each quantizer that was `chosen`, over all images of `data`; what `log` holds is not run again.

    The float graph and the quantized one run once; of each trial only what lies behind the quantizer does. Raises
    `GraphError` where the logits are not finite.
    """
    batch = frozen_batch(graph.index) or images_at_once(data)
    size = max(1, HELD_BYTES // max(1, bytes_held(graph)) // batch) * batch
    known = _read_log(log)
    sides: dict[TrialKind, _Side] = {"alone": _Side(graph, ()), "without": _Side(graph, graph.quantizers)}
    found = Found(0.0, Difference(), {})
    starts = range(0, len(data), size)
    done, total = 0, 2 * len(chosen) * len(starts)
    for first in starts:
        part = data.subset(range(first, min(first + size, len(data))))
        images = [
            fill_batch(graph.index, np.stack([part.tensor(k) for k in range(start, min(start + batch, len(part)))]))
            for start in range(0, len(part), batch)
        ]
        for side in sides.values():
            side.hold(images)
        expected = _finite(sides["alone"].logits)[: len(part)]
        found.signal += float(np.square(expected, dtype=np.float64).sum())
        found.whole += compare_logits(expected, sides["without"].logits[: len(part)])
        done_before = {trial: d for trial, d in known.get(first, {}).items() if d.n == len(part)}
        for trial, difference in _run_trials(graph, sides, chosen, expected, done_before):
            if trial not in done_before:
                line = TrialLine(first=first, **asdict(trial.quantizer), kind=trial.kind, **asdict(difference))
                log.append(to_plain(line))
            found.trials[trial] = found.trials.get(trial, Difference()) + difference
            done += 1
            if progress is not None:
                progress(done, total)
    return found


class _Side:
    """The graph with the quantizers `on`: what goes into each stage is held, and the logits [N, classes]."""

    def __init__(self, graph: StagedGraph, on: Iterable[Quantizer]) -> None:
        self.graph, self.on = graph, frozenset(on)
        self._chain = [graph.open(stage.nodes, self.on, [stage.end]) for stage in graph.stages]
        self._later = self._chain if self.on else [*self._chain[:1], *self._open_fast(graph.stages[1:])]
        self.held: list[list[Array]] = []

    @property
    def logits(self) -> npt.NDArray[np.float32]:
        """Those of all images held, and of what fills the last batch of a frozen one."""
        return np.concatenate(self.held[-1])

    def hold(self, images: Sequence[Array]) -> None:
        """Run the graph once, all `images` through one stage after the other."""
        self.held = [list(images)]
        for part in self._chain:
            self.held.append([self._through(part, value) for value in self.held[-1]])

    def inside(self, k: int, names: Sequence[str]) -> list[dict[str, Array]]:
        """These tensors of stage `k`, by batch."""
        stage = self.graph.stages[k]
        made = [name for name in names if name != stage.start]
        part = self.graph.open(stage.nodes, self.on, made) if made else None
        return [
            {stage.start: value, **(dict(zip(made, part.run({stage.start: value}), strict=True)) if part else {})}
            for value in self.held[k]
        ]

    def run_changed(self, k: int, part: Part, inside: Sequence[Mapping[str, Array]]) -> npt.NDArray[np.float32]:
        """The logits where `part` makes the end of stage `k` out of tensors in it."""
        made = []
        for batch, values in enumerate(inside):
            (value,) = part.run(values)
            if np.array_equal(value, self.held[k + 1][batch]):
                made.append(self.held[-1][batch])
                continue
            for later in self._later[k + 1 :]:
                value = self._through(later, value)
            made.append(value)
        return np.concatenate(made)

    def _open_fast(self, stages: Sequence[Stage]) -> list[Part]:
        return [self.graph.open(stage.nodes, (), [stage.end], "all") for stage in stages]

    @staticmethod
    def _through(part: Part, value: Array) -> Array:
        return part.run({part.inputs[0]: value})[0]


def _run_trials(
    graph: StagedGraph,
    sides: Mapping[TrialKind, _Side],
    chosen: Collection[Quantizer],
    expected: npt.NDArray[np.float32],
    known: Mapping[Trial, Difference],
) -> Iterator[tuple[Trial, Difference]]:
    """Each trial on the images held; `known` first, then as they are done."""
    yield from ((t, d) for t, d in known.items() if t.quantizer in chosen)

    def run(trial: Trial, k: int, nodes: Sequence[onnx.NodeProto], inside: Sequence[Mapping[str, Array]]) -> Difference:
        side = sides[trial.kind]
        part = graph.open(nodes, side.on ^ {trial.quantizer}, [graph.stages[k].end])
        return compare_logits(expected, side.run_changed(k, part, inside)[: len(expected)])

    with ThreadPoolExecutor(allowed_threads()) as pool:
        for k, stage in enumerate(graph.stages):
            changed = {q: graph.behind(q, stage) for q in _quantizers_of(stage, chosen)}
            waiting = [Trial(q, kind) for q in changed for kind in sides]
            waiting = [trial for trial in waiting if trial not in known]
            names = dict.fromkeys(name for t in waiting for name in graph.read_from_before(changed[t.quantizer]))
            inside = {kind: sides[kind].inside(k, list(names)) for kind in {t.kind for t in waiting}}
            running: dict[Future[Difference], Trial] = {
                pool.submit(run, t, k, changed[t.quantizer], inside[t.kind]): t for t in waiting
            }
            try:
                for future in as_completed(running):
                    yield running[future], future.result()
            finally:
                for future in running:
                    future.cancel()


def _quantizers_of(stage: Stage, chosen: Collection[Quantizer]) -> Iterator[Quantizer]:
    parts: tuple[QuantizedPart, ...] = ("weights", "activation")
    return (q for node in stage.nodes for part in parts if (q := Quantizer(node.name, part)) in chosen)


def _read_inside(graph: StagedGraph, stage: Stage, chosen: Collection[Quantizer]) -> dict[str, None]:
    """The tensors of a stage from which what lies behind its quantizers is made."""
    changed = (graph.behind(q, stage) for q in _quantizers_of(stage, chosen))
    return {name: None for nodes in changed for name in graph.read_from_before(nodes)}


def bytes_held(graph: StagedGraph) -> int:
    """Of one image, on both sides: what goes into the stages, and what is read within the one that holds most."""
    size = {name: 4 * math.prod(n or 1 for n in shape[1:]) for name, shape in graph.index.shapes.items()}
    inside = [
        sum(size.get(name, 0) for name in _read_inside(graph, stage, graph.quantizers) if name != stage.start)
        for stage in graph.stages
    ]
    return 2 * (sum(size.get(stage.start, 0) for stage in graph.stages) + max(inside, default=0))


def compare_logits(expected: npt.NDArray[np.float32], found: npt.NDArray[np.float32]) -> Difference:
    """How the logits `found` [N, classes] differ from those of the float graph."""
    noise = float(np.square(expected - _finite(found), dtype=np.float64).sum())
    p, q = (_log_probabilities(logits) for logits in (expected, found))
    kl = float((np.exp(p) * (p - q)).sum())
    return Difference(len(expected), noise, max(kl, 0.0), int((expected.argmax(1) == found.argmax(1)).sum()))


def _log_probabilities(logits: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
    shifted = logits.astype(np.float64) - logits.max(axis=1, keepdims=True)
    return np.asarray(shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True)))


def _finite(logits: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    if logits.ndim != 2 or not np.isfinite(logits).all():
        raise GraphError("its logits are not finite numbers [N, classes]", "check the weights and the preprocessing")
    return logits


def _read_log(log: Log) -> dict[int, dict[Trial, Difference]]:
    known: dict[int, dict[Trial, Difference]] = {}
    for content in log:
        line, problems = record_and_problems(TrialLine, content)
        if line is not None and not problems:
            trial = Trial(Quantizer(line.node, line.part), line.kind)
            known.setdefault(line.first, {})[trial] = Difference(line.n, line.noise, line.kl_nats, line.agreed)
    return known


def choose_quantizers(graph: StagedGraph, nodes: Sequence[str]) -> tuple[Quantizer, ...]:
    """Those of `nodes`, of all without any; raises `RecipeError` for a node that has none, naming the nearest."""
    known = dict.fromkeys(q.node for q in graph.quantizers)
    for name in nodes:
        if name not in known:
            hint = nearest(name, known) or f"nodes that do: {', '.join(list(known)[:5])} ..."
            raise RecipeError(f"no node {name!r} becomes INT8", hint)
    return tuple(q for q in graph.quantizers if not nodes or q.node in nodes)


def sqnr_db(signal: float, noise: float) -> float:
    """10 log10 of their ratio, at most `EQUAL_DB`."""
    return round(min(EQUAL_DB, 10 * math.log10(max(signal, 1e-300) / max(noise, 1e-300))), 4)


def summarize(
    graph: StagedGraph,
    found: Found,
    *,
    graph_name: str,
    graph_sha256: str,
    data: str,
    method: str,
    nodes: Sequence[str],
) -> Sensitivity:
    """What was measured, as a record."""
    rows, whole = _rank_rows(graph, found), found.whole
    noise = sum(difference.noise for trial, difference in found.trials.items() if trial.kind == "alone")
    return Sensitivity(
        graph=graph_name,
        graph_sha256=graph_sha256,
        data=data,
        n=whole.n,
        scheme="tensorrt",
        method=method,
        nodes=tuple(nodes),
        sqnr_db=sqnr_db(found.signal, whole.noise),
        kl_nats=whole.kl_nats / whole.n,
        agreement_pct=round(100 * whole.agreed / whole.n, 2),
        predicted_sqnr_db=None if nodes else sqnr_db(found.signal, noise),
        rows=rows,
    )


def _rank_rows(graph: StagedGraph, found: Found) -> tuple[NodeSensitivity, ...]:
    """A row for each quantizer that was measured, the one that costs most alone first."""
    pairs = {q: (found.trials[Trial(q, "alone")], found.trials[Trial(q, "without")])
             for q in dict.fromkeys(t.quantizer for t in found.trials)}  # fmt: skip
    by_cost = sorted(pairs, key=lambda q: (-pairs[q][0].noise, graph.quantizers.index(q)))
    by_gain = sorted(pairs, key=lambda q: (pairs[q][1].noise, graph.quantizers.index(q)))
    total = sum(alone.noise for alone, _ in pairs.values())
    whole = sqnr_db(found.signal, found.whole.noise)
    rows = []
    for rank, q in enumerate(by_cost, 1):
        alone, without = pairs[q]
        reached = sqnr_db(found.signal, without.noise)
        node = graph.index.node[q.node]
        rows.append(
            NodeSensitivity(
                node=q.node,
                part=q.part,
                operator=node.op_type,
                layer=layer_of(graph.index, node),
                cost_rank=rank,
                gain_rank=by_gain.index(q) + 1,
                noise_pct=round(100 * alone.noise / (total or 1.0), 4),
                alone_sqnr_db=sqnr_db(found.signal, alone.noise),
                alone_kl_nats=alone.kl_nats / alone.n,
                alone_agreement_pct=round(100 * alone.agreed / alone.n, 2),
                gain_db=round(reached - whole, 4),
                without_sqnr_db=reached,
                without_kl_nats=without.kl_nats / without.n,
                without_agreement_pct=round(100 * without.agreed / without.n, 2),
            )
        )
    return tuple(rows)


def layer_of(graph: OnnxGraph, node: onnx.NodeProto) -> str:
    """The PyTorch module that a node comes from: by the key of its weight in the state dict; else by its name, which is
    the path of the call in graphs of `edgecnn export`, and of torch.onnx ("/layer1/layer1.0/conv1/Conv")."""
    for name in node.input[1:2]:
        if name in graph.initializers and name.endswith(".weight"):
            return str(name.removesuffix(".weight"))
    if not node.name.startswith("/"):
        return str(node.name) if "." in node.name else ""
    parts: list[str] = []
    for part in node.name.split("/")[1:-1]:
        if parts and part.startswith(f"{parts[-1]}."):
            parts[-1] = part
        else:
            parts.append(part)
    return ".".join(parts)
