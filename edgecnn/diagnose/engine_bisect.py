"""The first layer of an engine that differs from its graph: by looking at the tensors of builds of it.

Tensors form a directed acyclic graph, and are bisected as git bisects commits: a tensor that differs clears all that
does not lead to it, one that agrees clears all that leads to it; the next to be looked at is the one after which the
fewest suspects are left at worst.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass

from edgecnn.output import say
from edgecnn.results.divergence import EngineDivergence, TensorDifference

FEW = 12  # suspects that are few fused layers: seams alone would take more builds than half by half


@dataclass(frozen=True)
class Suspect:
    """A tensor in the order of its graph, the ONNX node that makes it, and all suspects that it is made from, itself
    among them. An engine that tells a tensor `at_a_seam` has all its layers as they were; one within a fused layer
    would take that apart. `can_be_output` is false for what is quantized, which engines give out in their own ways."""

    tensor: str
    node: str
    operator: str
    ancestors: frozenset[str]
    at_a_seam: bool
    can_be_output: bool = True


@dataclass(frozen=True)
class Blamed:
    """What a search ends at: the tensor that differs first, and all suspects that are left; or, with `cured`, the
    tensor with which as an output the engine does not differ any more. No `tensor`: it was all that are told."""

    tensor: str
    left: tuple[str, ...]
    cured: bool = False


Looked = Mapping[str, TensorDifference]  # at the tensors that a build tells, and at its output
Look = Callable[[str], Looked]


def blame_by_debug_tensors(suspects: Sequence[Suspect], output: str, seen: Looked) -> Blamed | None:
    """The first tensor that differs of those that one build has told; `Blamed("", ...)` where its output agrees, None
    where it has told none of the graph's but the output."""
    if not seen[output].differs:
        return Blamed("", (), cured=True)
    known = {suspect.tensor: suspect for suspect in suspects}
    told = [suspect for suspect in suspects if suspect.tensor in seen]
    if not [suspect for suspect in told if suspect.tensor != output]:
        return None
    wrong = {suspect.tensor for suspect in told if seen[suspect.tensor].differs}
    first = next(s for s in told if s.tensor in wrong and not (s.ancestors - {s.tensor}) & wrong)
    left = set(first.ancestors)
    for suspect in told:
        left -= set() if suspect.tensor in wrong else suspect.ancestors
    return Blamed(first.tensor, tuple(s for s in known if s in left))


def blame_by_outputs(suspects: Sequence[Suspect], output: str, look: Look) -> Blamed:
    """Bisect, with one extra output in each build; `look` makes a build that gives a tensor and tells what differs."""
    known = {suspect.tensor: suspect for suspect in suspects}
    wrong, left = output, set(known[output].ancestors)
    while len(left) > 1 and (probe := _next_probe(known, left, wrong)):
        seen = look(probe)
        if not seen[output].differs:
            return Blamed(probe, tuple(t for t in known if t in left), cured=True)
        if seen[probe].differs:
            wrong, left = probe, left & known[probe].ancestors
        else:
            left -= known[probe].ancestors
        said = "differs" if seen[probe].differs else "agrees"
        say(f"build {seen[probe].build}: {probe} {said}; {len(left)} tensors are left")
    return Blamed(wrong, tuple(t for t in known if t in left))


def _next_probe(known: Mapping[str, Suspect], left: Collection[str], wrong: str) -> str:
    """The tensor that halves the suspects best, one at a seam while many are left; "" where none can be looked at."""
    open_ = [known[t] for t in known if t in left and t != wrong and known[t].can_be_output]
    seen = {t for t in left if known[t].can_be_output}
    candidates = [s for s in open_ if s.at_a_seam and len(seen) > FEW] or open_

    def at_worst(suspect: Suspect) -> int:
        before = len(suspect.ancestors & seen)
        return max(before, len(seen) - before)

    best = min(candidates, key=at_worst, default=None)
    return best.tensor if best else ""


def describe_divergence(found: EngineDivergence) -> Iterator[str]:
    """What a search has found, in sentences."""
    output = f"{_db(found.output_sqnr_db)} where {found.output_explained_db:.1f} dB are explained"
    if found.cause == "none":
        yield f"{found.engine} agrees with {found.graph} on {found.n} images ({output}): nothing to bisect"
        return
    yield f"{found.engine} differs from {found.graph} on {found.n} images: {output}"
    builds = f"{found.builds} build{'s' if found.builds != 1 else ''}"
    if found.cause == "fusion-or-tactic":
        how = f"with {found.tensor} as an output" if found.tensor else "with debug tensors"
        yield f"a build {how} agrees ({builds}): fusion or tactic is the suspect"
        yield "hint: build again with `--rebuilds 3`, or with another `--optimization-level`, and validate each"
        return
    explained = f"{found.explained_db:.1f} dB are explained"
    yield f"first at {found.operator} {found.node}: {_db(found.sqnr_db)} where {explained}"
    if others := [node for node in found.nodes if node != found.node]:
        yield f"or before it, in what no tensor was seen of: {', '.join(others)}"
    yield f"{builds}, by {found.method.replace('-', ' ')}"


def _db(value: float | None) -> str:
    return "not finite" if value is None else f"{value:.1f} dB"
