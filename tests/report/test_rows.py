"""What other programs read: CSV with stable columns, JSON lines, a model card in Hugging Face's form."""

from __future__ import annotations

import csv
import io
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from edgecnn.errors import WriteError
from edgecnn.recipe.schema import ModelSettings, Recipe
from edgecnn.report.card import model_card
from edgecnn.report.csv_file import csv_report
from edgecnn.report.markdown import markdown_report
from edgecnn.report.rows import csv_lines, write_rows
from edgecnn.results.device import Device
from edgecnn.results.report import RunReport
from edgecnn.results.startup import Startup
from edgecnn.results.verdict import Check, Verdict
from edgecnn.statistics import wilson_interval
from edgecnn.zoo import find_model
from tests.fakes.measurements import accuracy, energy, engine, latency, measurement, ratio

COLUMNS = (
    "model,target,device,device_key,engine,precision,scheme,simulated,mode,batch,latency_ms_p50,latency_ms_p90,"
    "latency_ms_p99,throughput_images_per_s,device_memory_mb,size_mb,data,n,top1_pct,top1_ci_low_pct,top1_ci_high_pct,"
    "top1_drop_pp,top1_drop_ci_low_pp,top1_drop_ci_high_pp,agreement_pct,verdict,"
    "power_w,joules_per_inference,joules_per_inference_ci_low,joules_per_inference_ci_high"
)


def results(name: str = "r", data: str = "d", **more: Any) -> RunReport:
    """INT8 that was timed, INT8 that is simulated, and FP32 without an accuracy."""
    timed = measurement(
        "int8",
        accuracy=accuracy(1000, 30, 10, data=data),
        latency=latency(batch=4),
        startup=Startup(0.1, 2.0, 33.0),
        energy=energy(0.022, (0.02, 0.024)),
        size_mb=0.07,
    )
    simulated = measurement(
        "int8-tensorrt",
        engine=engine("int8", scheme="tensorrt"),
        accuracy=accuracy(1000, 3, 1, data=data),
        latency=latency("int8-tensorrt", latency_ms_p50=77.7, warnings=("told of it",)),
        ratio=ratio(0.777),
    )
    known: dict[str, Any] = {
        "recipe": name,
        "title": "",
        "target": "cpu",
        "device": Device(cpu="AMD", threads=2),
        "device_key": "amd-2threads",
        "reference": "fp32",
        "measurements": (timed, simulated, measurement("fp32", latency=latency("fp32"))),
        "verdict": Verdict((Check("int8", "top1_drop_pp_max", 2.0, None, 1.0, "FAIL", "2 pp"),)),
        "artifacts": (),
        "notes": (),
    }
    return RunReport(**{**known, **more})


def test_csv_has_columns_that_stay_and_no_latency_of_what_is_simulated() -> None:
    text = csv_report(results())
    assert text.partition("\n")[0] == COLUMNS
    timed, simulated, fp32 = csv.DictReader(io.StringIO(text, newline=""))
    low, high = (100 * end for end in wilson_interval(880, 1000))
    assert (float(timed["top1_pct"]), float(timed["top1_ci_low_pct"]), float(timed["top1_ci_high_pct"])) == (
        88,
        low,
        high,
    )
    said = [timed[k] for k in ("batch", "latency_ms_p50", "throughput_images_per_s", "device_memory_mb", "verdict")]
    assert said == ["4", "1.0", "1000.0", "33.0", "FAIL"]
    assert {simulated[k] for k in ("mode", "batch", "latency_ms_p50", "latency_ms_p99", "throughput_images_per_s")} == {
        ""
    }
    joules = [float(timed[f"joules_per_inference{end}"]) for end in ("", "_ci_low", "_ci_high")]
    assert (joules, fp32["joules_per_inference"]) == ([0.022, 0.02, 0.024], "")
    assert (simulated["simulated"], simulated["top1_drop_pp"]) == ("true", "0.2")
    assert (fp32["top1_pct"], fp32["latency_ms_p50"]) == ("", "1.0")


def test_energy_stands_in_the_tables_with_its_rails_and_what_it_is_above() -> None:
    text = markdown_report(results())
    for said in ("J/inference [95 %]", "0.022 [0.02, 0.024]", "3.00 W idle, which is taken off", "VDD_IN by INA3221"):
        assert said in text, said
    assert "J/inference" not in markdown_report(results(measurements=(measurement("fp32", latency=latency("fp32")),)))


def test_no_table_for_readers_carries_the_latency_of_what_is_simulated() -> None:
    for text in (markdown_report(results()), model_card(results(), Recipe())):
        assert "77.7" not in text
        assert "0.777" not in text
        assert "told of it" not in text


@pytest.mark.parametrize(
    "name", ["=1+1", "+1", "-1", "@x", " =x", "＝x", "\t=x", '=HYPERLINK("u")', "a\r\nb,c", "\x00"]
)
def test_no_name_is_a_formula_or_breaks_a_line(name: str, tmp_path: Path) -> None:
    head, row = csv.reader(csv_lines(("name", "value"), [{"name": name, "value": -1.5}]))
    assert head == ["name", "value"]
    assert row[1] == "-1.5"
    assert row[0].lstrip()[:1] not in "=+-@＝"
    assert row[0].isprintable()
    write_rows(tmp_path / "x.jsonl", ("name", "none"), [{"name": name}])
    (line,) = (tmp_path / "x.jsonl").read_bytes().splitlines()
    assert json.loads(line) == {"name": name, "none": None}


def test_rows_are_whole_or_not_there(tmp_path: Path) -> None:
    def rows() -> Any:
        yield {"a": 1}
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_rows(tmp_path / "deep" / "x.csv", ("a",), rows())
    assert list((tmp_path / "deep").iterdir()) == []
    with pytest.raises(WriteError, match=r"x\.txt: rows are written as \.csv or \.jsonl"):
        write_rows(tmp_path / "x.txt", ("a",), rows())


def metadata(card: str) -> Any:
    yaml = pytest.importorskip("yaml")
    _, head, body = card.split("---\n", 2)
    assert body.startswith("\n# Model card\n")
    return yaml.safe_load(head)


def test_the_card_is_what_the_hub_reads() -> None:
    recipe = Recipe(model=ModelSettings(name="resnet18", weights="default"))
    card = model_card(results(), recipe)
    head = metadata(card)
    weights = find_model("resnet18").weights
    assert weights is not None
    assert (head["base_model"], head["base_model_relation"]) == ("resnet18", "quantized")
    assert (head["pipeline_tag"], head["license"]) == ("image-classification", weights.license.lower())
    (entry,) = head["model-index"]
    assert len(entry["results"]) == 2
    first = entry["results"][0]["metrics"][0]
    low, high = (100 * end for end in wilson_interval(880, 1000))
    assert (first["type"], first["value"]) == ("accuracy", 88.0)
    assert first["args"] == {"n": 1000, "confidence_pct": 95, "low": round(low, 4), "high": round(high, 4)}
    assert "| cpu AMD, threads 2 | int8 | int8 | 4, single-shot | 1 | 1.2 | 1000 | 33 | 0.07 |" in card
    assert "| int8-tensorrt | int8 | d, n = 1000 | 89.80" in card
    float_only = replace(results(), measurements=results().measurements[2:])
    assert "base_model_relation" not in metadata(model_card(float_only, recipe))
    for model, base in (
        (ModelSettings(timm="resnet18.a1_in1k"), "timm/resnet18.a1_in1k"),
        (ModelSettings(python="nets/net.py:make"), "net.py"),
        (ModelSettings(onnx="their/x.onnx"), "x.onnx"),
    ):
        assert metadata(model_card(results(), Recipe(model=model)))["base_model"] == base


@pytest.mark.slow
def test_hugging_faces_own_reader_takes_the_card() -> None:
    hub = pytest.importorskip("huggingface_hub")
    read = hub.ModelCard(model_card(results(), Recipe(model=ModelSettings(name="lenet5")))).data
    assert (read.base_model, read.eval_results[0].metric_value) == ("lenet5", 88.0)
    assert read.eval_results[0].metric_args["confidence_pct"] == 95


@pytest.mark.parametrize("name", ['"', "a: b", "- x", "\n---\n", "no", "\u2028\x85\ufeff\x7f", "{[&*!|>%@`", "漢", "#"])
def test_no_name_changes_the_metadata(name: str) -> None:
    head = metadata(model_card(results(name, data=name), Recipe(model=ModelSettings(name="lenet5"))))
    assert set(head) == {
        "library_name", "pipeline_tag", "tags", "base_model", "base_model_relation", "metrics", "model-index",
    }  # fmt: skip
    shown = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in name)
    assert head["model-index"][0]["name"] == shown
    assert head["model-index"][0]["results"][0]["dataset"]["name"] == shown
