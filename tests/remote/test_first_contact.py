"""`make first-contact` with its processes, on a TensorRT on disk: a crash or a hang is an answer, and not the end."""

from __future__ import annotations

import json
import os
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.first_contact import __main__ as program
from benchmarks.first_contact.answer import Question, Work
from benchmarks.first_contact.contact import Contact, fatal_lines
from benchmarks.first_contact.questions import QUESTIONS
from benchmarks.first_contact.table import MARKS, read_results, table
from edgecnn.cli import main
from edgecnn.steps.calibrate import calibrate
from tests.fakes.device_flow import find_trtexec

pytestmark = pytest.mark.onnx

ROOT = Path(__file__).resolve().parents[2]
OF = {question.key: question for question in QUESTIONS}


@pytest.fixture
def work(trt_on_disk: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Work:
    """A work folder, and graphs of a small network."""
    from tests.fakes.on_disk import SITE
    from tests.fakes.tiny import tiny_graph

    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(SITE), str(ROOT)]))
    graphs, folder = tmp_path / "graphs", tmp_path / "work"
    graphs.mkdir()
    folder.mkdir()
    for precision in ("fp32", "fp16", "int8"):
        (graphs / f"tiny.{precision}.onnx").write_bytes(tiny_graph(precision).SerializeToString())
    (graphs / "tiny.calib.json").write_text("{}")
    return Work(folder, graphs, "tiny", "tiny", 0.01, "", sys.executable)


def test_an_engine_that_crashes_and_one_that_hangs_end_their_question_alone(
    work: Work, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAKE_DIES", "SIGSEGV")
    monkeypatch.setenv("FAKE_DIES_OF", "QuantizeLinear")
    keys = ("gpu", "tensorrt", "small_graphs", "trt_build", "trt_logits", "kernel", "clocks")
    questions = [replace(OF[key], limit_s=0.05) if key == "kernel" else OF[key] for key in keys]
    found = Contact(work, 100, questions).ask_all()
    rows = found["questions"]
    assert {key: row["state"] for key, row in rows.items()} == {
        **dict.fromkeys(keys, "answered"),
        "trt_logits": "crashed",
        "kernel": "no end",
    }
    assert found["gpu"] == "NVIDIA L4"
    assert rows["trt_logits"]["why"].startswith("SIGSEGV")
    assert rows["trt_logits"]["why"].endswith("(in int8)")
    assert rows["trt_logits"]["answer"].keys() == {"fp32", "fp16"}
    assert str(work.folder) not in json.dumps(found)


def test_what_nothing_was_found_for_is_not_asked(work: Work) -> None:
    (work.graphs / "tiny.int8.onnx").write_bytes(b"no graph")
    keys = ("gpu", "tensorrt", "small_graphs", "trt_build")
    found = Contact(work, 100, [OF[key] for key in keys]).ask_all()["questions"]
    assert found["trt_build"]["state"] == "answered"
    assert found["trt_build"]["refused"] == ["int8"]
    assert found["trt_build"]["answer"]["fp16"]["precision_obtained"] == "fp16"
    contact = Contact(replace(work, folder=work.folder.parent / "again"), 100, ())
    for state in ("absent", "failed", "crashed", "no end", "not asked"):
        contact.found = {"trt_build": {"state": state, "why": "why"}}
        refused = contact.why_not(OF["locked"])
        assert refused is not None
        assert refused[0] == ("absent" if state == "absent" else "not asked")
        assert "why" in refused[1]
    for state in ("crashed", "no end", "failed", "answered"):
        row = {"state": state, "why": "why", "answer": {"int8": {"error": "no"}}, "refused": ["int8"]}
        contact.found = {"trt_build": row}
        assert contact.why_not(OF["locked"]) == ("not asked", f"it needs trt_build: {state} why")
        row["answer"] = {"fp16": {}, "int8": {"error": "no"}}
        assert contact.why_not(OF["locked"]) is None
    contact.ends = 0.0
    assert contact.why_not(OF["machine"]) == ("not asked", "the time is used up")


@pytest.mark.slow
def test_the_whole_of_it(work: Work, on_the_host: Path, tmp_path: Path) -> None:
    """With a bundle, of which each engine is built twice and then qualified."""
    bundle, output = tmp_path / "tiny.tar", tmp_path / "found.json"
    images = np.random.default_rng(0).standard_normal((8, 3, 8, 8)).astype(np.float32)
    np.savez(tmp_path / "images.npz", input=images)
    (work.graphs / "tiny.calib.json").unlink()
    calibrate(work.graphs / "tiny.fp32.onnx", work.graphs / "tiny.calib.json", data=str(tmp_path / "images.npz"))
    assert main(["bundle", str(on_the_host / "run"), "--for", "gpu", "-o", str(bundle)]) == 0
    given = ["--graphs", work.graphs, "--recipe", bundle, "--networks", "tiny", "tiny", "--seconds", 0.1]
    assert program.main([str(word) for word in (*given, "--output", output)]) == 0
    rows = json.loads(output.read_text())["questions"]
    states = {key: row["state"] for key, row in rows.items()}
    absent = {key for key in states if key.startswith(("ort_", "rtx_", "tensorrt_rtx"))}
    assert states == {
        **dict.fromkeys(states, "answered"),
        **dict.fromkeys(absent, "absent"),
        "trtexec": "answered" if find_trtexec() else "absent",
    }
    assert {key: row["refused"] for key, row in rows.items() if row.get("refused")} == {}
    (report,) = rows["run"]["answer"]["run"]["result"]["reports"]
    assert [len(row["rebuilds_latency_ms_p50"]) for row in report["measurements"]] == [2, 2]
    assert rows["qualify"]["answer"]["other_environment"] is False
    assert rows["qualify"]["answer"]["qualify"]["result"]["verdict"] in ("PASS", "INCONCLUSIVE")
    assert str(tmp_path) not in output.read_text()


def test_a_program_that_is_interrupted_keeps_what_it_found(
    work: Work, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def row(self: Contact, question: Question) -> dict[str, Any]:
        if question.key == "clocks":
            raise KeyboardInterrupt
        return {**self.row(question, "answered", ""), "answer": {"found": 1}}

    monkeypatch.setattr(Contact, "ask", row)
    output = tmp_path / "found.json"
    assert program.main(["--output", str(output)]) == 130
    found = json.loads(output.read_text())
    states = [row["state"] for row in found["questions"].values()]
    assert states == [*["answered"] * 3, *["not asked"] * (len(QUESTIONS) - 3)]
    assert "interrupted" in capsys.readouterr().out


def test_what_cannot_be_asked_is_refused_before_anything_is(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").write_text("")
    for arguments, why in (
        (["--output", str(tmp_path)], "name a file"),
        (["--output", str(tmp_path / "file" / "found.json")], "cannot be written to"),
        (["--networks", "resnet5", "resnet50", "--output", str(tmp_path / "found.json")], "resnet50"),
        (["--networks", "resnet5", "resnet50", "--make-graphs", str(tmp_path / "made")], "resnet5"),
        (["--graphs", str(tmp_path / "none"), "--output", str(tmp_path / "found.json")], "no such folder"),
    ):
        with pytest.raises(SystemExit) as ended:
            program.main(arguments)
        assert ended.value.code == 2
        assert why in capsys.readouterr().err
    assert not (tmp_path / "found.json").exists()


def test_the_table_of_the_documentation_is_that_of_the_results(tmp_path: Path) -> None:
    page = (ROOT / "docs" / "tensorrt.md").read_text(encoding="utf-8")
    shown = page.partition(f"{MARKS[0]}\n")[2].partition(MARKS[1])[0]
    assert shown == table(read_results(program.RESULTS))
    asked = {
        "state": "answered",
        "why": "",
        "refused": ["int8"],
        "answer": {"ran": True, "nvml": False, "fp16": [{"ms": 1.23456}]},
    }
    for name, gpu in (("none", ""), ("card", "NVIDIA L4")):
        rows = {"kernel": asked, "clocks": {"state": "crashed", "why": "SIGSEGV | at once"}}
        document = {"gpu": gpu, "compute_capability": "8.9", "questions": rows}
        (tmp_path / f"{name}.json").write_text(json.dumps(document))
    assert [one["gpu"] for one in read_results(tmp_path)] == ["NVIDIA L4"]
    lines = table(read_results(tmp_path)).splitlines()
    assert lines[0] == "| key | what is asked | NVIDIA L4 (8.9) |"
    assert f"| `kernel` | {OF['kernel'].asks} | ran True, refused: int8 |" in lines
    assert f"| `clocks` | {OF['clocks'].asks} | crashed: SIGSEGV / at once |" in lines
    assert f"| `run` | {OF['run'].asks} | not asked |" in lines
    assert program.file_name("NVIDIA GeForce RTX 4090") == "nvidia-geforce-rtx-4090"


def test_how_a_process_ended_is_told_from_what_it_said(tmp_path: Path) -> None:
    log = tmp_path / "log.txt"
    log.write_text(
        "first\nsecond\nterminate called\nFatal Python error: Aborted\n\nCurrent thread 0x1 (most recent call first):\n"
        '  File "engine.py", line 7 in synchronize\n  File "main.py", line 1 in main\n'
    )
    assert fatal_lines(log) == ["second", "terminate called", 'File "engine.py", line 7 in synchronize']
    log.write_text("alone\n")
    assert fatal_lines(log) == ["alone"]
    log.write_text("")
    assert fatal_lines(log) == []
