"""JSON and dataclasses: what is no record is refused, with every problem in one message."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal

import pytest

from edgecnn import records
from edgecnn.errors import ArtifactError, RecipeError
from edgecnn.records import FLAT, STRICT, mapping_from_json, record_from_json, record_from_mapping, to_plain
from edgecnn.results.accuracy import AccuracyFile
from edgecnn.results.baseline import Baseline, BaselineRow
from edgecnn.results.device import Device
from edgecnn.results.engine import EngineFacts
from edgecnn.results.latency import LatencyFile, LatencyRow
from edgecnn.results.report import Measurement, RunReport
from edgecnn.results.verdict import Check, Verdict
from tests.fakes.measurements import accuracy, engine, latency, measured, measurement, ratio


@dataclass(frozen=True)
class Lens:
    """A part that stands beside the others."""

    __pydantic_config__ = STRICT
    RENAMED: ClassVar[dict[str, str]] = {"focus": "focal_mm"}

    focal_mm: float
    coated: bool = False


@dataclass(frozen=True)
class Strap:
    """A part that may be absent, and whose empty values are not written."""

    __pydantic_config__ = STRICT
    SPARSE: ClassVar[bool] = True

    color: str = ""
    length_cm: float | None = None
    holes: tuple[int, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Camera:
    """A record with every feature."""

    __pydantic_config__ = STRICT
    RENAMED: ClassVar[dict[str, str]] = {"title": "name"}
    DERIVED: ClassVar[tuple[str, ...]] = ("wide",)

    name: str
    kind: Literal["still", "film"] = "still"
    shots: int
    lens: Lens = field(metadata=FLAT)
    strap: Strap | None = field(default=None, metadata=FLAT)
    bag: Strap | None = None
    owners: tuple[Lens, ...] = ()

    @property
    def wide(self) -> bool:
        return self.lens.focal_mm < 35


CAMERA: dict[str, Any] = {"name": "K", "shots": 3, "focal_mm": 28.5}
WHERE, HINT = "camera.json: damaged", "make it again"


def read(content: dict[str, Any]) -> Camera:
    return record_from_json(Camera, json.dumps(content), WHERE, HINT)


def refused(content: Any) -> str:
    """The message about one file: it names the file first, and is one line."""
    with pytest.raises(ArtifactError) as caught:
        record_from_json(Camera, content if isinstance(content, str) else json.dumps(content), WHERE, HINT)
    assert caught.value.hint == HINT
    message = caught.value.message
    assert message.startswith(f"{WHERE}: ")
    assert "\n" not in message
    return message.removeprefix(f"{WHERE}: ")


def test_a_record_is_read_with_its_defaults_and_written_back() -> None:
    made = read(CAMERA)
    assert made == Camera(name="K", shots=3, lens=Lens(28.5))
    assert to_plain(made) == {
        "wide": True, "name": "K", "kind": "still", "shots": 3, "focal_mm": 28.5, "coated": False, "bag": None,
        "owners": [],
    }  # fmt: skip
    assert read(to_plain(made)) == made


def test_a_key_that_is_missing_is_named() -> None:
    assert refused({"name": "K", "focal_mm": 1.0}) == "shots is missing"
    assert refused({"name": "K", "shots": 3, "coated": True}) == "lens.focal_mm is missing"


def test_a_flat_part_without_any_of_its_keys_is_named() -> None:
    assert refused({"name": "K", "shots": 3}) == "lens is missing"


def test_a_key_that_is_not_known_is_named() -> None:
    assert refused({**CAMERA, "zoom": 2}) == "zoom is not known; allowed: name, kind, shots, bag, owners"
    assert refused({**CAMERA, "bag": {"colour": "red"}}) == "bag.colour is not known; did you mean 'color'?"


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("shots", "3", "shots = '3': must be a whole number"),
        ("shots", 3.0, "shots = 3.0: must be a whole number"),
        ("shots", True, "shots = True: must be a whole number"),
        ("shots", None, "shots = None: must be a whole number"),
        ("name", 7, "name = 7: must be a string"),
        ("focal_mm", "28", "lens.focal_mm = '28': must be a number"),
        ("coated", 1, "lens.coated = 1: must be true or false"),
        ("kind", "video", "kind = 'video': must be one of 'still' or 'film'"),
        ("bag", [], "bag = []: "),
        ("owners", {}, "owners = {}: must be a list"),
        ("owners", ["me"], "owners.0 = 'me': "),
        ("name", "K" * 1000, ""),
    ],
)
def test_a_value_of_another_type_is_not_made_to_fit(key: str, value: Any, said: str) -> None:
    if not said:
        assert read({**CAMERA, key: value}).name == value
        return
    message = refused({**CAMERA, key: value})
    assert message.startswith(said)
    assert len(message) < 120


def test_a_whole_number_may_stand_for_a_float() -> None:
    made = read({**CAMERA, "focal_mm": 28})
    assert made.lens.focal_mm == 28
    assert isinstance(made.lens.focal_mm, float)


@pytest.mark.parametrize("text", ["NaN", "Infinity", "-Infinity", "1e999"])
def test_what_is_not_finite_is_no_number(text: str) -> None:
    assert "focal_mm" in refused(f'{{"name": "K", "shots": 3, "focal_mm": {text}}}')


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{", "not valid JSON"),
        ("[]", "a JSON object was expected"),
        ("null", "a JSON object was expected"),
        ('{"name": "K", "name": "L", "shots": 3, "focal_mm": 1}', "the key 'name' stands twice"),
        ('{"a": ' * 100_000, "nested too deep"),
    ],
)
def test_what_is_no_json_object_is_refused(text: str, said: str) -> None:
    assert said in refused(text)


def test_every_problem_stands_in_one_message() -> None:
    message = refused({"shots": "3", "coated": "yes", "zoom": 2, "strap_color": 1, "owners": [{"focal_mm": "x"}]})
    assert set(message.split("; ")) >= {"name is missing", "lens.focal_mm is missing", "zoom is not known"}
    for start in ("shots = '3'", "lens.coated = 'yes'", "strap_color is not known", "owners.0.focal_mm = 'x'"):
        assert any(part.startswith(start) for part in message.split("; ")), start
    many = refused({**CAMERA, **{f"key{k}": k for k in range(20)}})
    assert many.count(" is not known") == 8
    assert many.endswith(" (and 12 more)")


def test_keys_of_earlier_versions_are_read_under_their_present_names() -> None:
    assert read({"title": "K", "shots": 3, "focus": 28.5, "owners": [{"focus": 1}]}) == Camera(
        name="K", shots=3, lens=Lens(28.5), owners=(Lens(1.0),)
    )
    assert "title" not in to_plain(read({"title": "K", "shots": 3, "focus": 28.5}))
    assert refused({**CAMERA, "title": "L"}) == "title is not known; allowed: name, kind, shots, bag, owners", (
        "one of the two would be passed over"
    )
    assert "focus is not known" in refused({**CAMERA, "focus": 2.0})


def test_keys_of_a_flat_part_stand_beside_the_others() -> None:
    made = read({**CAMERA, "coated": True, "color": "red", "holes": [1, 2]})
    assert (made.lens, made.strap) == (Lens(28.5, coated=True), Strap("red", holes=(1, 2)))
    written = to_plain(made)
    assert (written["coated"], written["color"], written["holes"]) == (True, "red", [1, 2])
    assert not {"lens", "strap", "length_cm"} & written.keys()
    assert read(CAMERA).strap is None
    for part in ("lens", "strap"):
        assert f"{part} is not known" in refused({**CAMERA, part: {}}), part
        assert f"{part} is not known" in refused({**CAMERA, part: None}), part


def test_what_is_empty_is_not_written_where_a_record_says_so() -> None:
    assert to_plain(Strap()) == {}
    assert to_plain(Strap("red", 0.0)) == {"color": "red", "length_cm": 0.0}
    assert to_plain(Device(cpu="a", threads=2)) == {"cpu": "a", "threads": 2}
    assert to_plain(Lens(1.0)) == {"focal_mm": 1.0, "coated": False}


def test_what_is_derived_is_written_and_must_fit() -> None:
    assert read({**CAMERA, "wide": True}) == read(CAMERA)
    assert refused({**CAMERA, "wide": False}) == "wide is False, its other values say True"
    check = Check("int8", "size_mb_max", 2.0, None, 1.0, "FAIL", "size 2 MB")
    written = to_plain(Verdict((check,)))
    assert (written["verdict"], written["exit_code"]) == ("FAIL", 1)
    for key, value in (("verdict", "PASS"), ("exit_code", 0)):
        with pytest.raises(ArtifactError, match=f"{key} is {value!r}, its other values say"):
            record_from_mapping(Verdict, {**written, key: value}, WHERE, HINT)


def test_what_is_derived_must_fit_below_a_record_too() -> None:
    """A report whose verdict says PASS over a check that failed, or whose simulated engine says that it is none."""
    failed = Verdict((Check("fp16", "size_mb_max", 2.0, None, 1.0, "FAIL", "size 2 MB"),))
    report = RunReport(
        recipe="r",
        title="",
        target="cpu",
        device=Device(cpu="a"),
        device_key="a",
        reference=None,
        measurements=(measurement("int8", size_mb=1.0), measurement("fp16", size_mb=2.0)),
        verdict=failed,
        artifacts=(),
        notes=(),
    )
    written = json.loads(json.dumps(to_plain(report)))
    assert record_from_mapping(RunReport, written, WHERE, HINT) == report
    written["verdict"] |= {"verdict": "PASS", "exit_code": 0}
    written["measurements"][1]["simulated"] = False
    with pytest.raises(ArtifactError) as caught:
        record_from_mapping(RunReport, written, WHERE, HINT)
    assert caught.value.message.split("; ") == [
        f"{WHERE}: measurements.1.simulated is False, its other values say True",
        "verdict.verdict is 'PASS', its other values say 'FAIL'",
        "verdict.exit_code is 0, its other values say 1",
    ]


def test_a_reader_names_its_own_error() -> None:
    with pytest.raises(RecipeError, match="r.toml: shots is missing"):
        record_from_mapping(Camera, {"name": "K", "focal_mm": 1}, "r.toml", HINT, RecipeError)


def test_the_provenance_that_a_file_carries_is_no_part_of_its_content() -> None:
    assert read({**CAMERA, "provenance": {"kind": "camera"}}) == read(CAMERA)
    assert mapping_from_json('{"provenance": {}}', WHERE, HINT) == {"provenance": {}}


def test_paths_and_tuples_become_json() -> None:
    assert to_plain({"a": (Path("b/c"), [Strap("red")]), 3: None}) == {"a": ["b/c", [{"color": "red"}]], "3": None}


RESULTS = [
    AccuracyFile(accuracy=accuracy(100, 3, 1), engine=engine()),
    LatencyFile(
        device=Device(cpu="a", threads=2),
        reference="fp32",
        measurements=(
            LatencyRow(latency=latency("fp32"), engine=engine("fp32")),
            LatencyRow(latency=latency("int8"), engine=engine(), facts=EngineFacts(size_mb=0.1), ratio=ratio()),
            LatencyRow(latency=latency("foreign", latency_ms_p99=None, latency_ms_p99_ci=None)),
        ),
    ),
    Verdict((Check("int8", "top1_drop_pp_max", 0.1, (-0.1, 0.3), 1.0, "PASS", "drop"),), "pass", ("a note",)),
    Baseline("cpu-2threads", {"int8": BaselineRow(mode="single-shot", batch=1, latency_ms_p50=2.0)}),
    measured("int8", 100, 3, 1, latency=latency(), ratio=ratio(), size_mb=0.1),
    measurement("fp16", size_mb=0.2),
]


@pytest.mark.parametrize("made", RESULTS, ids=lambda made: type(made).__name__)
def test_every_result_comes_back_as_it_was(made: Any) -> None:
    text = json.dumps(to_plain(made), allow_nan=False)
    assert record_from_json(type(made), text, WHERE, HINT) == made


def test_judgements_and_accepted_numbers_of_earlier_versions_are_read() -> None:
    written = to_plain(RESULTS[2])
    written["judgements"] = written.pop("checks")
    assert record_from_mapping(Verdict, written, WHERE, HINT) == RESULTS[2]
    baseline = to_plain(RESULTS[3])
    baseline["accepted"] = baseline.pop("engines")
    for row in baseline["accepted"].values():
        row["mode"] = "latency"
    assert record_from_mapping(Baseline, baseline, WHERE, HINT) == RESULTS[3]


def test_a_measurement_tells_whether_it_is_simulated_and_must_mean_it() -> None:
    written = to_plain(measurement("fp16", size_mb=0.2))
    assert written["simulated"] is True
    with pytest.raises(ArtifactError, match="simulated is False, its other values say True"):
        record_from_mapping(Measurement, {**written, "simulated": False}, WHERE, HINT)


def test_no_field_of_a_flat_part_hides_one_of_another_part() -> None:
    """Two parts with a key of the same name would be written as one and read as either."""
    for kind, shared in ((AccuracyFile, set()), (LatencyRow, set()), (Measurement, {"name"})):
        parts = [f for f in dataclasses.fields(kind) if f.metadata.get("flat")]
        hints = {f.name: f.type for f in parts}
        assert hints, kind
        sample = next(r for r in (*RESULTS, *RESULTS[1].measurements) if type(r) is kind)
        keys = [
            key.name for f in parts if (part := getattr(sample, f.name)) is not None for key in dataclasses.fields(part)
        ]
        assert {key for key in keys if keys.count(key) > 1} <= shared, kind


@pytest.mark.parametrize(("numbers", "said"), [([], "_pp.0 is missing"), ([1.0], "_pp.1 is missing"), ([1.0] * 3, "3")])
def test_an_interval_of_other_than_two_numbers_is_refused_by_its_place(numbers: list[float], said: str) -> None:
    content = {**to_plain(measured()), "top1_drop_ci_pp": numbers}
    with pytest.raises(ArtifactError, match="top1_drop_ci_pp") as caught:
        record_from_mapping(Measurement, content, WHERE, HINT)
    assert said in caught.value.message


def test_what_pydantic_finds_installed_has_no_part_in_reading() -> None:
    """To look for plugins takes longer than to read most files."""
    script = (
        "import importlib.metadata, os\n"
        "def look(**given): raise AssertionError('looked for plugins')\n"
        "importlib.metadata.entry_points = look\n"
        "from edgecnn.artifact.sidecar import Sidecar\n"
        "from edgecnn.records import record_from_mapping\n"
        "before = dict(os.environ)\n"
        "print(record_from_mapping(Sidecar, {'kind': 'graph'}, 'x', 'y').kind, os.environ == before)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout == "graph True\n"


def test_threads_that_read_their_first_records_leave_the_environment_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    import pydantic

    def slowly(kind: Any) -> Any:
        time.sleep(0.1)
        return kind

    monkeypatch.setattr(pydantic, "TypeAdapter", slowly)
    monkeypatch.setattr(records, "_ADAPTERS", {})
    before = dict(os.environ)
    reading = [threading.Thread(target=records._adapter, args=(kind,)) for kind in (int, float, str)]
    for thread in reading:
        thread.start()
        time.sleep(0.03)
    for thread in reading:
        thread.join()
    assert os.environ == before
    assert {int: int, float: float, str: str} == records._ADAPTERS
