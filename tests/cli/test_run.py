"""The whole flow, as a user runs it: one recipe, from training to the verdict."""

from __future__ import annotations

import csv
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from edgecnn.artifact.sidecar import read_json, read_sidecar, sha256_of, sidecar_path
from edgecnn.machine.cpu import available_cores

if TYPE_CHECKING:  # imported before the first test of this file
    import torch  # noqa: F401 - which a training loads

pytestmark = [pytest.mark.torch, pytest.mark.cpu_s(30)]  # whole flows, with PyTorch in two processes

VARIANTS = ("fp32", "fp16", "int8", "int8-tensorrt")


@pytest.fixture
def copied(digits: Path, tmp_path: Path) -> Path:
    """A copy to change."""
    return Path(shutil.copytree(digits, tmp_path / "lenet5-digits"))


def steps(err: str) -> set[str]:
    """The steps that a run says it did."""
    return {line.split()[0] for line in err.splitlines() if line[:1].isalpha() and ": " in line} - {"the"}


def test_the_verdict_is_pass_with_its_evidence(digits: Path) -> None:
    report = read_json(digits / "cpu" / "report.json")
    assert report["verdict"]["verdict"] == "PASS"
    rows = {m["name"]: m for m in report["measurements"]}
    assert tuple(rows) == VARIANTS
    for row in rows.values():
        assert row["n"] == 540
        assert row["top1_pct"] >= 96.0
        assert row["latency_ms_p50"] > 0
        assert row["size_mb"] > 0
        low, high = row["top1_drop_ci_pp"]
        assert low <= row["top1_drop_pp"] <= high
    assert rows["fp32"]["reference_top1_pct"] >= 98.0, "the recipe promises 98 % top-1"
    assert rows["fp32"]["agreement_pct"] == 100.0
    assert rows["fp16"]["size_mb"] < 0.6 * rows["fp32"]["size_mb"]
    text = (digits / "cpu" / "report.md").read_text()
    assert "simulated" in text
    assert "storage only" in text


def test_int8_is_real(digits: Path) -> None:
    cpu = read_sidecar(digits / "cpu" / "int8.onnx")
    assert cpu.facts["integer_kernels"] == cpu.facts["weighted_nodes"] == 5, "2 Conv and 3 Gemm"
    tensorrt = read_sidecar(digits / "cpu" / "int8-tensorrt.onnx")
    assert tensorrt.facts["int8_share_pct"] == 100.0
    assert sha256_of(digits / "cpu" / "int8.onnx") != sha256_of(digits / "cpu" / "int8-tensorrt.onnx")


def test_every_artifact_is_described(digits: Path) -> None:
    files = [p for p in digits.rglob("*") if p.suffix in {".onnx", ".npz"}] + [digits / "model.safetensors"]
    assert len(files) == 10
    for path in files:
        sidecar = read_sidecar(path)
        assert sidecar.sha256 == sha256_of(path)
        assert sidecar.preprocessing is not None
        assert sidecar.labels == [str(d) for d in range(10)], path
        assert sidecar.tools


def test_a_second_run_redoes_nothing(copied: Path, edgecnn: Callable[..., Any]) -> None:
    result = edgecnn("run", "lenet5-digits", "--out", copied)
    assert result.code == 0
    assert "everything is up to date" in result.err
    assert "PASS" in result.out


def test_a_second_run_takes_at_most_three_seconds(copied: Path, root: Path) -> None:
    same = ["--threads", str(available_cores())]  # as many as the first run counted
    command = [sys.executable, "-m", "edgecnn", "run", "lenet5-digits", "--out", str(copied), *same]
    seconds = []
    for _ in range(2):  # of processor time: the clock on the wall runs on while others have the processor
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        done = subprocess.run(command, check=True, capture_output=True, cwd=root, text=True)
        assert "everything is up to date" in done.stderr
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        seconds.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    assert 0 < min(seconds) <= 3.0


@pytest.mark.usefixtures("short_blocks")
@pytest.mark.parametrize(
    ("setting", "expected"),
    [
        ("tolerances.top1_drop_pp_max=5", {"gate", "report"}),
        ("bench.duration_s=0.1", {"bench", "gate", "report"}),
        ("title=other", {"report"}),
    ],
)
def test_one_field_redoes_its_readers_and_says_why(
    copied: Path, edgecnn: Callable[..., Any], setting: str, expected: set[str]
) -> None:
    result = edgecnn("run", "lenet5-digits", "--out", copied, "--set", setting)
    assert result.code == 0
    assert steps(result.err) == expected
    assert f"{setting.split('=')[0]} changed from" in result.err


def test_a_tolerance_that_is_broken_fails_with_exit_code_1(copied: Path, edgecnn: Callable[..., Any]) -> None:
    result = edgecnn("run", "lenet5-digits", "--out", copied, "--set", "tolerances.size_mb_max=0.01", "--json")
    assert result.code == 1
    assert json.loads(result.out)["reports"][0]["verdict"]["verdict"] == "FAIL"


def test_until_stops_early(tmp_path: Path, edgecnn: Callable[..., Any], copied: Path) -> None:
    shutil.rmtree(copied / "cpu")
    assert edgecnn("run", "lenet5-digits", "--out", copied, "--until", "build").code == 0
    assert sorted(p.name for p in (copied / "cpu").glob("*.onnx")) == sorted(f"{v}.onnx" for v in VARIANTS)
    assert not list((copied / "cpu").glob("*.accuracy.json"))
    edgecnn("run", "lenet5-digits", "--out", copied, "--until", "bilud").refused()


def test_a_target_that_is_not_this_machine(copied: Path, edgecnn: Callable[..., Any]) -> None:
    for name in ("model.int8-tensorrt.onnx", "model.int8-tensorrt.onnx.json"):
        (copied / name).unlink()
    result = edgecnn("run", "lenet5-digits", "--out", copied, "--set", 'targets=["orin-nano"]')
    assert result.code == 3
    assert result.out == "orin-nano: not measured: build, validate, bench of fp32, fp16, int8 remain\n"
    assert "orin-nano is not this machine" in result.err
    assert f"edgecnn bundle {copied} --for orin-nano" in result.err
    assert (copied / "model.int8-tensorrt.onnx").exists()
    assert not (copied / "orin-nano").exists()


BOTH = ("--set", 'targets=["cpu", "orin-nano"]')


def test_a_target_that_was_not_judged_is_never_a_pass(
    copied: Path, edgecnn: Callable[..., Any], tmp_path: Path
) -> None:
    result = edgecnn("run", "lenet5-digits", "--out", copied, *BOTH)
    assert result.code == 3, "the other one passed"
    assert "PASS" in result.out
    assert "orin-nano: not measured" in result.out
    assert result.out.splitlines()[-1].endswith("checks inconclusive: orin-nano not measured")
    assert edgecnn("run", "lenet5-digits", "--out", copied, *BOTH, "--until", "bench").code == 3
    assert edgecnn("run", "lenet5-digits", "--out", copied, *BOTH, "--until", "quantize").code == 0, "as was asked"
    found = json.loads(edgecnn("run", "lenet5-digits", "--out", copied, *BOTH, "--json").out)
    assert [one["target"] for one in found["not_measured"]] == ["orin-nano"]
    broken = ("--set", "tolerances.size_mb_max=0.01")
    assert edgecnn("run", "lenet5-digits", "--out", copied, *BOTH, *broken).code == 1, "a failure is worse"


def test_one_target_of_several_can_be_asked_for(copied: Path, edgecnn: Callable[..., Any]) -> None:
    result = edgecnn("run", "lenet5-digits", "--out", copied, *BOTH, "--target", "cpu")
    assert result.code == 0
    assert "orin-nano" not in result.out + result.err
    said = edgecnn("run", "lenet5-digits", "--out", copied, *BOTH, "--target", "agx-orin").refused()
    assert "target 'agx-orin': " in said
    assert "has cpu, orin-nano" in said


def test_a_gate_of_a_whole_run_asks_for_every_target(
    copied: Path, edgecnn: Callable[..., Any], tmp_path: Path, root: Path
) -> None:
    own = tmp_path / "lenet5-digits.toml"
    text = (root / "recipes/lenet5-digits.toml").read_text().replace('["cpu"]', '["cpu", "orin-nano"]')
    for mapping in ("inconclusive", "pass", "fail"):
        own.write_text(f'{text}inconclusive = "{mapping}"\n')
        result = edgecnn("gate", copied, "--recipe", own, "--junit", tmp_path / "j.xml", "--github")
        assert result.code == 3, "no recipe lets pass what was not measured"
        assert "orin-nano: not measured" in result.out
        assert result.out.splitlines()[-1].endswith("inconclusive: orin-nano not measured")
        assert "orin-nano: not measured" in (tmp_path / "j.xml").read_text()
    verdicts = json.loads(edgecnn("gate", copied, "--recipe", own, "--json").out)
    assert [(v["target"], v["exit_code"]) for v in verdicts] == [("cpu", 0), ("orin-nano", 3)]
    assert edgecnn("gate", copied / "cpu", "--recipe", own).code == 0, "one target was named"


def test_gate_finds_the_recipe_of_a_run_from_elsewhere(
    digits: Path, edgecnn: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert edgecnn("recipe", "copy", "lenet5-digits", "out/mine.toml").code == 0
    shutil.copytree(digits, "runs/mine", ignore=lambda _, names: [n for n in names if ".toml" in n])
    assert "everything is up to date" in edgecnn("run", "out/mine.toml").err
    for run in ("runs/mine", "runs/mine/cpu", "out/mine.toml"):
        result = edgecnn("gate", run)
        assert result.code == 0, result.err
        assert "mine on cpu: PASS" in result.out
    assert "carries its recipe: name runs/mine" in edgecnn("gate", "mine").refused()


def test_a_tampered_engine_is_refused_and_remade(copied: Path, edgecnn: Callable[..., Any]) -> None:
    engine = copied / "cpu" / "int8.onnx"
    made = engine.read_bytes()
    engine.write_bytes(made + b"x")
    assert "sha256" in edgecnn("predict", engine, "digit.png").refused()
    result = edgecnn("run", "lenet5-digits", "--out", copied, "--until", "build")
    assert result.code == 0
    assert "sha256" in result.err
    assert engine.read_bytes() == made


def test_a_truncated_checkpoint_graph_and_sidecar(copied: Path, edgecnn: Callable[..., Any]) -> None:
    for name in ("model.safetensors", "model.fp32.onnx"):
        path = copied / name
        path.write_bytes(path.read_bytes()[:1000])
        assert name in edgecnn("inspect", path).refused()
        sidecar_path(path).unlink()
        assert name in edgecnn("inspect", path).refused()
    sidecar = sidecar_path(copied / "cpu" / "fp32.onnx")
    sidecar.write_text(sidecar.read_text()[:100])
    assert sidecar.name in edgecnn("inspect", copied / "cpu" / "fp32.onnx").refused()


@pytest.mark.cpu_s(20)  # a training of its own, begun twice
def test_an_interrupt_in_training_is_resumable(tmp_path: Path, root: Path, edgecnn: Callable[..., Any]) -> None:
    """SIGINT after the first epoch's checkpoint: 130; the run then goes on to the weights of one never interrupted."""

    def arguments(name: str) -> list[str]:
        settings = ["--set", "train.epochs=5", "--until", "train", "--threads", "1"]
        return ["run", "lenet5-digits", "--out", str(tmp_path / name), *settings]

    process = subprocess.Popen(
        [sys.executable, "-m", "edgecnn", *arguments("a")],
        cwd=root,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a shell's background job ignores it
    )
    deadline = time.monotonic() + 200
    while not (tmp_path / "a" / "training-state.pt").exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert "Traceback" not in err
    assert "resuming after epoch" in edgecnn(*arguments("a")).err
    assert edgecnn(*arguments("b")).code == 0
    digests = [sha256_of(tmp_path / name / "model.safetensors") for name in "ab"]
    assert digests[0] == digests[1]


def test_predict_names_the_digit(copied: Path, tmp_path: Path, edgecnn: Callable[..., Any]) -> None:
    from edgecnn.data.open import open_dataset
    from edgecnn.data.preprocess import preprocessing_from_json
    from edgecnn.zoo import find_model

    dataset = open_dataset("digits", preprocessing_from_json(find_model("lenet5").preprocessing), "test")
    assert dataset.image is not None
    assert dataset.labels is not None
    right = 0
    for k in range(0, 50, 10):
        dataset.image(k).save(tmp_path / f"{k}.png")
        result = edgecnn("predict", copied / "cpu" / "int8.onnx", tmp_path / f"{k}.png", "--json")
        best = json.loads(result.out)[0]["top5"][0]
        right += best["label"] == str(dataset.labels[k])
    assert right >= 4
    pictures, engine, found = tmp_path / "pictures", copied / "cpu" / "int8.onnx", tmp_path / "out" / "found.csv"
    (pictures / "below").mkdir(parents=True)
    (pictures / "=empty.png").write_bytes(b"")
    for k, name in ((0, "a.png"), (10, "below/b.png")):
        (tmp_path / f"{k}.png").rename(pictures / name)
    assert "empty.png" in edgecnn("predict", engine, pictures / "=empty.png").refused()
    said = edgecnn("predict", engine, pictures, "--json")
    assert "1 of 3 images are without a result" in said.refused()
    bad, *good = json.loads(said.out)
    assert [(len(row["top5"]), Path(row["image"]).name) for row in good] == [(5, "a.png"), (5, "b.png")]
    assert "not a readable image" in bad["error"]
    edgecnn("predict", engine, pictures, "-o", found).refused()
    rows = list(csv.DictReader(found.read_text().splitlines()))
    assert [row["top1_label"] for row in rows] == ["", *(row["top5"][0]["label"] for row in good)]
    assert edgecnn("predict", engine, pictures, "-o", found, "--skip-corrupt").code == 0
    assert len(found.read_text().splitlines()) == 3


def test_steps_alone(copied: Path, tmp_path: Path, edgecnn: Callable[..., Any]) -> None:
    """The same graph through the single commands, without a recipe."""
    graph, data = copied / "model.fp32.onnx", "digits"
    ranges, int8, engine = tmp_path / "l.calib.json", tmp_path / "l.int8.onnx", tmp_path / "l.engine.onnx"
    reference = tmp_path / "reference.npz"
    assert edgecnn("calibrate", graph, "--data", "calibration/lenet5-digits.txt", "-o", ranges).code == 0
    quantize = ("quantize", graph, "--precision", "int8", "--scheme", "ort-cpu", "--ranges", ranges, "-o", int8)
    assert edgecnn(*quantize).code == 0
    assert edgecnn("build", int8, "--backend", "ort", "-o", engine).code == 0
    assert edgecnn("reference", copied / "model.safetensors", "--data", data, "-o", reference).code == 0


def test_a_calibration_set_is_written_down(
    copied: Path, tmp_path: Path, root: Path, edgecnn: Callable[..., Any]
) -> None:
    packaged = root / "calibration" / "lenet5-digits.txt"
    count = sum(not line.startswith("#") for line in packaged.read_text().splitlines())
    assert edgecnn("calibration-set", "digits", "--images", count, "-o", tmp_path / "same.txt").code == 0
    assert (tmp_path / "same.txt").read_bytes() == packaged.read_bytes()
    assert edgecnn("calibration-set", "digits", "--images", 40, "--seed", 1, "-o", tmp_path / "mine.txt").code == 0
    call = ("calibrate", copied / "model.fp32.onnx", "--data", tmp_path / "mine.txt", "-o", tmp_path / "x.calib.json")
    assert json.loads(edgecnn(*call, "--json").out)["n"] == 40
    lines = (tmp_path / "mine.txt").read_text().splitlines()
    (tmp_path / "mine.txt").write_text("\n".join([*lines[:-1], lines[-1].split()[0] + " " + "0" * 64]) + "\n")
    assert lines[-1].split()[0] in edgecnn(*call).refused()
    assert "1257 images" in edgecnn("calibration-set", "digits", "--images", 2000, "-o", tmp_path / "big.txt").refused()
    assert not (tmp_path / "big.txt").exists()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["run", "nowhere"], "no recipe"),
        (["run", "lenet5-digits", "--set", "model.name=lenet6"], "lenet5"),
        (["run", "lenet5-digits", "--set", "data.source=digitz"], "digits"),
        (["run", "lenet5-digits", "--set", "train.epochs=-1"], "at least 0"),
        (["run", "lenet5-digits", "--set", "train.epoch=1"], "'epochs'"),
        (["run", "lenet5-digits", "--set", "targets=['cpuu']"], "cpu"),
        (["run", "lenet5-digits", "--set", "data.calibration=none"], "calibration"),
        (["build", "nothing.onnx"], "nothing.onnx"),
        (["build", "nothing.onnx", "--backend", "tpu"], "tpu"),
        (["inspect", "nothing.onnx"], "nothing.onnx"),
        (["reference", "nothing.safetensors", "--data", "digits"], "nothing.safetensors"),
        (["recipe", "show", "lenet5-digit"], "'lenet5-digits'"),
    ],
)
def test_mistakes(tmp_path: Path, edgecnn: Callable[..., Any], arguments: list[str], words: str) -> None:
    out = ["--out", str(tmp_path / "run")] if arguments[0] == "run" else []
    assert words in edgecnn(*arguments, *out).refused()
    assert not (tmp_path / "run").exists(), "nothing is begun"


def test_a_missing_tensorrt_is_a_hint(copied: Path, edgecnn: Callable[..., Any]) -> None:
    text = edgecnn("build", copied / "model.fp32.onnx", "--backend", "trt").refused()
    assert "tensorrt" in text


def test_an_unwritable_folder(edgecnn: Callable[..., Any], tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    assert "file" in edgecnn("run", "lenet5-digits", "--out", tmp_path / "file" / "run", "--until", "train").refused()


def test_recipes_are_listed_shown_and_copied(
    tmp_path: Path, edgecnn: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert "lenet5-digits" in edgecnn("recipe", "list").out
    assert "train.epochs" in edgecnn("recipe", "show", "lenet5-digits").out
    assert edgecnn("recipe", "check", "lenet5-digits").code == 0
    assert edgecnn("recipe", "copy", "lenet5-digits").code == 0
    assert (tmp_path / "recipes" / "lenet5-digits.toml").exists()
    assert "exists already" in edgecnn("recipe", "copy", "lenet5-digits").refused()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (("epochs = 20", "epochs = 0"), "the network would stay random"),
        (('name = "lenet5"', 'name = "lenet5"\nweights = "gone.pth"'), "model.weights = 'gone.pth': no such file"),
        (('source = "digits"', 'source = "digit"'), "no data set 'digit'"),
        (('targets = ["cpu"]', 'targets = ["orin"]'), "there is no device 'orin'"),
        (('"lenet5-digits"', '"none"'), "no calibration set 'none'"),
        (
            ("[batch]", "[decision]\nthreshold = {nine = 0.5}\n[batch]"),
            "r.toml: decision.threshold names the class 'nine'",
        ),
        (("[batch]", "[decision]\nthreshold = 0.5\n[batch]"), "what is decided below it, of 10 classes, is not said"),
    ],
    ids=["random", "weights", "data", "target", "calibration", "class", "threshold"],
)
def test_a_recipe_is_checked_before_it_is_run(
    edgecnn: Callable[..., Any], root: Path, tmp_path: Path, change: tuple[str, str], words: str
) -> None:
    text = (root / "recipes" / "lenet5-digits.toml").read_text()
    assert text.count(change[0]) == 1
    recipe = tmp_path / "r.toml"
    recipe.write_text(text.replace(*change))
    assert words in edgecnn("recipe", "check", recipe).refused()


def test_what_gate_has_judged_is_not_judged_again(edgecnn: Callable[..., Any], copied: Path) -> None:
    assert edgecnn("gate", copied).code == 0
    again = edgecnn("run", "lenet5-digits", "--out", copied)
    assert again.code == 0
    assert steps(again.err) == set(), "the verdict is the one that was there"


@pytest.mark.parametrize("name", ["cpu/int8-tensorrt.onnx", "model.safetensors", "reference.npz", "cpu/latency.json"])
def test_inspect_shows_what_the_sidecar_says_of_device_and_scheme(
    digits: Path, edgecnn: Callable[..., Any], name: str
) -> None:
    found = edgecnn("inspect", digits / name, "--json")
    assert found.code == 0, found.err
    content = json.loads(found.out)
    if name == "cpu/int8-tensorrt.onnx":
        told = read_json(sidecar_path(digits / name))
        assert {content["sidecar"][k] for k in ("scheme", "provider")} == {"tensorrt", "CPUExecutionProvider"}
        assert content["sidecar"]["device"] == told["device"]
        assert content["sidecar"]["device"].keys() == {"cpu", "cpu_id", "threads"}
    assert edgecnn("inspect", digits / name).code == 0
