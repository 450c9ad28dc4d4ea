"""Which build routes are tried, and what comes of them, on times and losses that are made up."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from edgecnn.errors import DeviceError, RecipeError
from edgecnn.records import to_plain
from edgecnn.results.build_routes import Knob
from edgecnn.results.latency import LatencyRatio
from edgecnn.results.search import Candidate, ComparedLine, ImageSet, JudgedLine
from edgecnn.targets import find_target
from edgecnn.tuning.budget import Budget
from edgecnn.tuning.choice import choose
from edgecnn.tuning.routes import FIRST, choose_routes, try_routes
from edgecnn.tuning.trials import Trials
from edgecnn.tuning.workbench import Kept, SearchTask, Workbench

KNOBS = (
    Knob("-lowering", ("on", "off"), "on"),
    Knob("-tactics", (), "10"),
    Knob("-tiling", ("0", "1", "2"), "1"),
)
PLAIN: Kept = ("a", "b")
SINGLE = ("-lowering=off", "-tiling=0", "-tiling=2")


class MadeUp(Trials):
    """A graph with the nodes a and b: all INT8 takes half the time of float. `words` of a route: the time that each
    leaves, None where it cannot be built, and how many of 1 000 images it loses."""

    def __init__(self, words: dict[str, tuple[float | None, int]]) -> None:
        made: dict[str, object] = dict.fromkeys(SearchTask.__dataclass_fields__)
        made |= {"nodes": PLAIN, "weighted": PLAIN, "objective": "latency", "target": find_target("gpu")}
        self.task = SearchTask(**made)  # type: ignore[arg-type]
        self.words = words
        self.built: list[str] = []
        self.unlucky = 0  # which of the builds that are timed anew
        self.tried: dict[tuple[ImageSet, Kept, str], JudgedLine] = {}

    def compare(
        self, against: Kept, others: Sequence[Kept], seconds: float, route: str = "", nth: int = 0
    ) -> list[ComparedLine]:
        self.built.append(f"{route} again" if nth else route)
        ratio = 1.0 if nth != self.unlucky or not nth else 1.2
        for word in route.split():
            left = self.words.get(word, (1.0, 0))[0]
            if left is None:
                return []
            ratio *= left
        cost = {PLAIN: 2.0, ("a",): 1.5, (): 1.0}
        ratios = {kept: ratio * cost[kept] / cost[against] for kept in others}
        return [
            ComparedLine(
                seconds=seconds, against=against, kept=kept, route=route, ratio=r, ratio_ci=(0.98 * r, 1.02 * r)
            )
            for kept, r in ratios.items()
        ]

    def judge(self, kept: Kept, images: ImageSet = "held-out", route: str = "") -> JudgedLine:
        lost = sum(self.words.get(word, (1.0, 0))[1] for word in route.split())
        line = JudgedLine(images=images, kept=kept, route=route, n=1000, lost=lost)
        return self.tried.setdefault((images, kept, route), line)

    @property
    def judged(self) -> tuple[JudgedLine, ...]:
        return tuple(line for (images, *_), line in self.tried.items() if images == "held-out")


COSTS: dict[Candidate, float] = {(PLAIN, ""): 1.0, (("a",), ""): 0.75, ((), ""): 0.5}


def tried(words: dict[str, tuple[float | None, int]]) -> tuple[MadeUp, dict[Candidate, float]]:
    trials = MadeUp(words)
    return trials, try_routes(Budget(trials, 1000, 0.01), COSTS, SINGLE)


def test_each_value_of_a_closed_set_alone() -> None:
    assert choose_routes(KNOBS, "all").tried == SINGLE
    assert choose_routes(KNOBS, "").tried == SINGLE
    many = tuple(Knob(f"-k{n}", ("0", "1", "2"), "1") for n in range(FIRST))
    assert (len(choose_routes(many, "").tried), choose_routes(many, "").known) == (FIRST, 2 * FIRST)
    assert len(choose_routes(many, "all").tried) == 2 * FIRST
    assert choose_routes((), "") == choose_routes(KNOBS, "none") == choose_routes((), "none")


def test_an_expression_names_what_varies_and_what_stands() -> None:
    assert choose_routes(KNOBS, "-tiling=[0|1|2] -tactics=[5|10]").tried == ("-tiling=0", "-tiling=2", "-tactics=5")
    named = choose_routes(KNOBS, "-lowering=off  -tiling=[2|0]")
    assert named.tried == ("-lowering=off", "-lowering=off -tiling=2", "-lowering=off -tiling=0")
    assert choose_routes(KNOBS, "-lowering=on -tiling=[2]").tried == ("-lowering=on -tiling=2",)


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        ("-lowerin=off", "no knob -lowerin"),
        ("-lowering=[on|of]", "-lowering=of: no value"),
        ("-lowering", "neither -knob=value nor"),
        ("tiling", "neither -knob=value nor"),
        ("-tiling=[0|2", "neither -knob=value nor"),
        ("-tiling=[0 | 2]", "neither -knob=value nor"),
        ("-tiling=[1]", "nothing but defaults"),
        ("-tiling=1 -lowering=on", "nothing but defaults"),
        ("-tactics=5|20", "-tactics=5|20: no value"),
        ("-tactics=[5|...]", "-tactics=...: no value"),
        ("-tactics=[5|\x1b]", "no value of that knob"),
        ("-tactics=é", "no value of that knob"),
        ("-tiling=0 -tiling=2", "more than once"),
    ],
)
def test_what_no_expression_is(asked: str, words: str) -> None:
    with pytest.raises(RecipeError) as told:
        choose_routes(KNOBS, asked)
    assert words in told.value.message
    for missing in (asked, "all"):
        with pytest.raises(RecipeError, match="has no build routes"):
            choose_routes((), missing)


def test_what_helps_is_joined_and_the_fastest_is_taken() -> None:
    trials, found = tried({"-lowering=off": (0.9, 0), "-tiling=0": (0.8, 0), "-tiling=2": (0.7, 0)})
    joint = "-tiling=2 -lowering=off"
    assert trials.built == [*SINGLE, joint, *[f"{joint} again"] * 3]
    assert found == {((), "-tiling=2 -lowering=off"): pytest.approx(0.5 * 0.63)}
    assert [route for (_, _, route) in trials.tried] == ["", "", "", "-tiling=2 -lowering=off"]


def test_what_helps_within_the_noise_alone_is_none() -> None:
    trials, found = tried({"-lowering=off": (0.99, 0), "-tiling=0": (1.3, 0)})
    assert found == {}
    assert trials.built == list(SINGLE)


@pytest.mark.parametrize("unlucky", [0, 1, 2, 3])
def test_what_one_of_three_more_builds_does_not_confirm_is_luck(unlucky: int) -> None:
    trials = MadeUp({"-tiling=2": (0.9, 0)})
    trials.unlucky = unlucky
    found = try_routes(Budget(trials, 1000, 0.01), COSTS, SINGLE)
    assert found == ({} if unlucky else {((), "-tiling=2"): pytest.approx(0.45)})


def test_a_route_is_judged_like_any_candidate() -> None:
    """The fastest loses what the budget does not allow; the next cannot be built; one is left."""
    trials, found = tried({"-lowering=off": (0.5, 40), "-tiling=0": (None, 0), "-tiling=2": (0.9, 0)})
    assert found == {((), "-tiling=2"): pytest.approx(0.45)}
    assert [route for (images, _, route) in trials.tried if route] == ["-lowering=off -tiling=2", *SINGLE[::2]]


@pytest.mark.parametrize(("lost", "route"), [(0, "-tiling=2"), (30, "")])
def test_the_test_images_are_asked_about_it_last(lost: int, route: str) -> None:
    trials = MadeUp({"-tiling=2": (0.7, 0)})
    for kept in (PLAIN, ("a",), ()):
        trials.judge(kept)
    budget = Budget(trials, 1000, 0.01)
    costs = COSTS | try_routes(budget, COSTS, SINGLE)
    trials.words["-tiling=2"] = (0.7, lost)
    chosen = choose(trials, budget, 0.01, costs)
    assert chosen.answer is not None
    assert chosen.answer.candidate == ((), route)
    assert [*chosen.asked] == [(PLAIN, ""), (("a",), ""), ((), ""), ((), "-tiling=2")]


def test_nothing_holds_and_nothing_is_tried() -> None:
    trials = MadeUp({})
    for kept in (PLAIN, ("a",), ()):
        line = JudgedLine(images="held-out", kept=kept, n=1000, lost=99)
        trials.tried["held-out", kept, ""] = line
    assert try_routes(Budget(trials, 1000, 0.01), COSTS, SINGLE) == {}
    assert trials.built == []


class Failing(Workbench):
    """A device that is too small for what a route asks of it, and, where it `is_gone`, for anything; with `lost` it was
    there until then."""

    def __init__(self, where: str, is_gone: bool = False, lost: Exception | None = None) -> None:
        made: dict[str, object] = dict.fromkeys(SearchTask.__dataclass_fields__)
        made |= {"nodes": PLAIN, "weighted": PLAIN, "objective": "latency", "target": find_target("gpu")}
        super().__init__(SearchTask(**made), Path(), "")  # type: ignore[arg-type]
        self.where, self.is_gone, self.lost = where, is_gone, lost

    def require_device(self) -> None:
        if self.lost is not None:
            raise self.lost

    def _fail(self, where: str) -> None:
        if where == self.where and (self.route or self.is_gone):
            raise DeviceError("out of memory", "free some")

    def require_made(self, kept: Kept) -> None:
        self._fail("made")

    def compare(self, against: Kept, others: Sequence[Kept], seconds: float) -> dict[Kept, LatencyRatio]:
        self._fail("compared")
        raise AssertionError

    def judge(self, kept: Kept, images: ImageSet) -> JudgedLine:
        self._fail("judged")
        raise AssertionError


class Lines(list[dict[str, object]]):
    """A log."""


@pytest.mark.parametrize("where", ["made", "compared", "judged"])
def test_a_route_that_asks_for_too_much_is_a_failed_trial(where: str) -> None:
    log = Lines()
    for _ in range(2):  # and is known after a kill
        trials = Trials(Failing(where), log, lambda line: None)
        if where == "judged":
            assert trials.judge((), route="-tiling=2").failed == "out of memory; free some"
        else:
            assert trials.compare((), [()], 1.0, "-tiling=2") == []
        assert trials.failed == ("all INT8, by -tiling=2: out of memory; free some",)
    assert len(log) == 1
    gone = Trials(Failing(where, is_gone=True), Lines(), lambda line: None)
    with pytest.raises(DeviceError):
        gone.judge(()) if where == "judged" else gone.compare((), [()], 1.0)


@pytest.mark.parametrize("where", ["made", "compared", "judged"])
def test_a_route_by_which_the_device_was_lost_was_not_tried(where: str) -> None:
    log = Lines()
    trials = Trials(Failing(where, lost=DeviceError("no device", "look at dmesg")), log, lambda line: None)
    with pytest.raises(DeviceError, match="no device"):
        trials.judge((), route="-tiling=2") if where == "judged" else trials.compare((), [()], 1.0, "-tiling=2")
    assert (log, trials.failed) == ([], ())


@pytest.mark.parametrize(
    "damage",
    [
        {},
        {"ratio_ci": (0.95, 0.85)},
        {"ratio": 0.0},
        {"route": "-tiling=2 "},
        {"route": 2},
        {"build": -1},
        {"kept": ("z",)},
    ],
)
def test_a_line_that_no_search_has_written_is_tried_again(damage: dict[str, object]) -> None:
    line = ComparedLine(seconds=1.0, against=(), kept=(), route="-tiling=2", ratio=0.9, ratio_ci=(0.85, 0.95))
    trials = Trials(Failing("compared"), Lines([to_plain(line) | damage]), lambda said: None)
    assert bool(trials.compare((), [()], 1.0, "-tiling=2")) == (not damage)
