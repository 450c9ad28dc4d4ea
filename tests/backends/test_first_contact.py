"""`make first-contact`: to its end without a GPU, and every question once on the fakes."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from benchmarks.first_contact.answer import ABSENT, ANSWERED, Answer, Work, failed_parts
from benchmarks.first_contact.questions import QUESTIONS
from benchmarks.first_contact.table import by_gpu, table
from tests.backends.conftest import install
from tests.fakes.fake_cuda import FakeDevice

if TYPE_CHECKING:
    from tests.fakes.fake_onnxruntime import FakeRuntime

pytestmark = pytest.mark.onnx

NAMES = [question.key for question in QUESTIONS]
OF = {question.key: question for question in QUESTIONS}


@pytest.fixture(scope="module")
def graphs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Graphs of a small network and its ranges."""
    from edgecnn.steps.calibrate import calibrate
    from tests.fakes.tiny import tiny_graph

    folder = tmp_path_factory.mktemp("graphs")
    for precision in ("fp32", "fp16", "int8"):
        (folder / f"tiny.{precision}.onnx").write_bytes(tiny_graph(precision).SerializeToString())
    np.savez(folder / "images.npz", input=np.random.default_rng(0).standard_normal((8, 3, 8, 8)).astype(np.float32))
    calibrate(folder / "tiny.fp32.onnx", folder / "tiny.calib.json", data=str(folder / "images.npz"))
    return folder


@pytest.fixture
def work(graphs: Path, tmp_path: Path) -> Work:
    folder = tmp_path / "work"
    folder.mkdir()
    return Work(folder, graphs, "tiny", "tiny", 0.01, "lenet5-digits", sys.executable)


def asked(work: Work, *keys: str) -> dict[str, dict[str, Any]]:
    """The answers to questions, asked in this process one after the other."""
    (work.folder / "answers").mkdir(exist_ok=True)
    found = {}
    for key in keys:
        answer = Answer(work.folder / "answers" / f"{key}.json")
        reason = OF[key].ask(work, answer)
        assert not failed_parts(answer.found), answer.found
        assert reason is None, (key, reason)
        answer.close()
        found[key] = json.loads((work.folder / "answers" / f"{key}.json").read_text())
    return found


def test_without_a_gpu_it_runs_to_its_end_and_everything_is_absent(root: Path, tmp_path: Path) -> None:
    output = tmp_path / "found.json"
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.first_contact", "--output", str(output)],
        cwd=root,
        env={**os.environ, "CUDA_VISIBLE_DEVICES": "", "PYTHONPATH": str(root)},
        capture_output=True,
        text=True,
        timeout=50,
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert done.returncode == 0, done.stderr
    found = json.loads(output.read_text())
    assert list(found["questions"]) == NAMES
    states = {key: row["state"] for key, row in found["questions"].items()}
    assert states.pop("machine") == "answered"
    assert set(states.values()) == {"absent"}
    assert all(found["questions"][key]["why"] for key in states)
    assert found["gpu"] == ""
    assert str(tmp_path) not in output.read_text()
    assert str(root) not in output.read_text()
    assert after.ru_utime - before.ru_utime < 10


def test_tensorrt_is_asked_everything(one_trt: Any, work: Work, short_blocks: None) -> None:
    found = asked(
        work,
        *("machine", "gpu", "kernel", "clocks", "cuda_graphs", "tensorrt", "small_graphs", "large_graphs"),
        *(
            "trt_build",
            "trt_logits",
            "graph_capture",
            "trt_bench",
            "contexts",
            "inspector",
            "locked",
            "profiles",
            "rebuilds",
        ),
        *("int8_speed", "weakly_typed"),
    )
    assert found["gpu"]["properties"]["name"] == "NVIDIA L4"
    assert found["kernel"] == {"ran": True}
    assert found["cuda_graphs"]["replayed_after_it"]
    assert [found["trt_build"][p]["precision_obtained"] for p in ("fp32", "fp16", "int8")] == ["fp32", "fp16", "int8"]
    assert found["trt_logits"]["int8"] > 0.999
    assert [row["mode"] for row in found["trt_bench"]["fp16"]][:2] == ["single-shot", "pipelined"]
    assert found["graph_capture"]["int8_batch8"]["graph"]
    assert found["contexts"]["fp16_streams2_mb"] > found["contexts"]["fp16_streams1_mb"]
    assert found["inspector"]["int8"]["read"]["compute int8"]
    assert found["inspector"]["int8"]["layer_keys"]
    assert found["profiles"]["inspector"]["of_profiles"] == ["[profile 1]"]
    assert found["profiles"]["bench"][1]["profile"].startswith("2 of 2")
    assert found["rebuilds"]["int8"]["different_engines"] == 1
    assert found["weakly_typed"]["tiny"]["precision_obtained"]
    assert found["int8_speed"]["batch8"]["latency_ratio"] > 0


def test_build_routes_are_asked_about_where_there_are_any(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, work: Work, short_blocks: None
) -> None:
    install(monkeypatch, tmp_path, "10.16.1.11", FakeDevice())
    reason = OF["routes"].ask(work, Answer(work.folder / "answers" / "routes.json"))
    assert reason == "TensorRT 10.16.1.11 has no build routes"
    newest = install(monkeypatch, tmp_path, "11.4.0.106", FakeDevice())
    newest._by_route["-conv_lowering=off"] = 3
    found = asked(work, "tensorrt", "trt_build", "routes")["routes"]
    assert found["knobs"] == {"count": 4, "closed_sets": 2}
    assert found["known"]["after"] == found["known"]["set"] == "-conv_lowering=off"
    assert found["unknown"]["after"] == "-no_such_knob=on"
    assert found["kernels"] == {"same": False}
    assert found["ratio"]["latency_ratio"] == pytest.approx(1.3, rel=0.05)


def test_tensorrt_rtx_is_asked_everything(fake_rtx: Any, work: Work, short_blocks: None) -> None:
    found = asked(work, "tensorrt_rtx", "rtx_build", "rtx_run", "rtx_cache", "rtx_speed")
    jit_ms = found["rtx_cache"]["fp16_jit_ms"]
    assert jit_ms["first_start"] > 0
    assert jit_ms["second"] > 0
    assert found["rtx_run"]["fp16_pipelined"][0]["graph"] is True
    assert found["rtx_run"]["fp16_cosine"] > 0.999
    assert len(found["rtx_cache"]["cache_bytes"]) == 3


@pytest.mark.parametrize("provider", ["cuda", "tensorrt", "rtx"])
def test_a_provider_is_asked_everything(runtime: FakeRuntime, work: Work, short_blocks: None, provider: str) -> None:
    (found,) = asked(work, f"ort_{provider}").values()
    for precision in ("fp32", "fp16", "int8"):
        assert found[precision]["graph_nodes"] > 0
        assert found[f"{precision}_cosine"] > 0.99
        assert len(found[f"{precision}_events_over_host"]) == 2
    assert found["fp16_bench"][0]["clock"] == "cuda events"


def test_trtexec_is_asked_where_it_is(
    one_trt: Any, work: Work, short_blocks: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr("tests.fakes.device_flow.find_trtexec", lambda: None)
    asked(work, "tensorrt", "trt_build")
    reason = OF["trtexec"].ask(work, Answer(work.folder / "answers" / "trtexec.json"))
    assert reason is not None
    assert "trtexec" in reason
    for precision in ("fp32", "fp16"):
        work.engine(f"{precision}.plan").unlink()
    program = tmp_path / "trtexec"
    program.write_text(
        f"#!{sys.executable}\nimport sys, json, pathlib\n"
        "times = next(a for a in sys.argv if a.startswith('--exportTimes=')).partition('=')[2]\n"
        "pathlib.Path(times).write_text(json.dumps([{'latencyMs': 2.5, 'computeMs': 2.0}]))\n"
    )
    program.chmod(0o755)
    monkeypatch.setattr("tests.fakes.device_flow.find_trtexec", lambda: str(program))
    (found,) = asked(work, "trtexec").values()
    assert found["int8"]["ratio"]["compute_ms_p50"] == pytest.approx(found["int8"]["ours"][0]["compute_ms_p50"] / 2)


@pytest.mark.slow
@pytest.mark.torch
def test_graphs_are_made_where_pytorch_is(work: Work, tmp_path: Path) -> None:
    here = replace(work, graphs=work.folder / "graphs", small="lenet5")
    (found,) = asked(here, "small_graphs").values()
    assert set(found["graphs"]) == {f"lenet5.{part}" for part in ("fp32.onnx", "fp16.onnx", "int8.onnx", "calib.json")}
    elsewhere = replace(work, graphs=tmp_path / "given")
    reason = OF["small_graphs"].ask(elsewhere, Answer(tmp_path / "answer.json"))
    assert reason is not None
    assert "--make-graphs" in reason


def test_what_one_environment_lacks_another_answers() -> None:
    """A GPU has one column, from the files of all its environments."""
    absent = {"state": ABSENT, "why": "not installed"}
    answered = {"state": ANSWERED, "why": "", "answer": {"ran": True}}
    of_rtx = {"gpu": "A", "compute_capability": "9.0", "questions": {"kernel": absent, "gpu": answered}}
    of_ort = {"gpu": "A", "compute_capability": "9.0", "questions": {"kernel": answered, "gpu": absent}}
    (merged,) = by_gpu([of_rtx, of_ort])
    assert {key: row["state"] for key, row in merged["questions"].items()} == {"kernel": ANSWERED, "gpu": ANSWERED}
    assert of_rtx["questions"]["kernel"] == absent
    assert len(by_gpu([of_rtx, {**of_ort, "gpu": "B"}])) == 2
    assert table([of_rtx, of_ort]).startswith("| key | what is asked | A (9.0) |\n")
