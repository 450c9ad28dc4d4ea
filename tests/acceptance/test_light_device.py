"""A device has neither PyTorch nor ONNX: what runs there imports none of them, and what is installed stays small."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.acceptance.channel_pictures import RED, class_model, level, save_color
from tests.fakes.on_disk import SITE

pytestmark = [pytest.mark.torch, pytest.mark.slow]

# Refused to edgecnn's modules, also in the processes that it starts; the fake, which computes with them, has them. So
# has `_half`, which is ONNX Runtime's and which the fake uses.
GUARD = """
import builtins, importlib.util, sys
HOST = {"torch", "torchvision", "onnx", "onnxruntime", "onnxscript", "safetensors"}
imported, found = builtins.__import__, importlib.util.find_spec
def ours(frame):
    name = frame.f_globals.get("__name__", "")
    return name.startswith("edgecnn.") and name != "edgecnn.backends._half"
def guarded(name, globals=None, locals=None, fromlist=(), level=0):
    if level == 0 and name.partition(".")[0] in HOST and ours(sys._getframe(1)):
        raise ModuleNotFoundError(f"No module named {name!r}", name=name)
    return imported(name, globals, locals, fromlist, level)
def absent(name, package=None):
    return None if name.partition(".")[0] in HOST and ours(sys._getframe(1)) else found(name, package)
builtins.__import__, importlib.util.find_spec = guarded, absent
"""
RECIPE = """
precisions = ["fp32", "fp16"]
targets = ["gpu"]
[model]
onnx = "net.onnx"
[input]
size = 8
mean = [0.0, 0.0, 0.0]
std = [1.0, 1.0, 1.0]
[data]
source = "images"
[bench]
duration_s = 0.1
warmup_ms = 0
[tolerances]
agreement_pct_min = 60
"""
COMMANDS = """
import sys
from edgecnn.cli import main
for line in sys.stdin.read().splitlines():
    assert main(line.split("\\t")) in (0, 1, 3), line
"""


def on_device(folder: Path, root: Path, *commands: list[str], guard: str = GUARD) -> subprocess.CompletedProcess[str]:
    """Commands one after the other in a process of a device, with a TensorRT that is a fake."""
    (folder / "guard").mkdir(exist_ok=True)
    (folder / "guard" / "sitecustomize.py").write_text(guard)
    path = os.pathsep.join(map(str, (folder / "guard", SITE, root)))
    text, own = "\n".join("\t".join(words) for words in commands), {"XDG_CACHE_HOME": str(folder)}
    return subprocess.run(
        [sys.executable, "-c", COMMANDS],
        input=text, cwd=folder, env={**os.environ, "PYTHONPATH": path, "FAKE_TENSORRT": "10.13.3.9", **own},
        capture_output=True, text=True,
    )  # fmt: skip


def test_build_validate_bench_gate_monitor_and_drift_import_nothing_of_the_host(
    digits: Path, root: Path, tmp_path: Path
) -> None:
    run = str(digits)
    rows = [json.dumps({"logits": row.tolist(), "time": None}) for row in np.eye(10).repeat(40, axis=0)]
    (tmp_path / "rows").write_text("\n".join(rows))
    done = on_device(
        tmp_path,
        root,
        ["build", f"{run}/model.fp32.onnx", "--backend", "trt", "--target", "gpu", "-o", "m.plan"],
        ["validate", "m.plan", "--reference", f"{run}/reference.npz", "--data", "digits"],
        ["bench", "--engine", "m.plan", "--duration", "0.05", "--warmup", "0"],
        ["gate", run],
        ["monitor", "rows", "-o", "log.jsonl"],
        ["drift", run, "log.jsonl"],
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "m.plan").exists()
    refused = on_device(tmp_path, root, ["calibrate", f"{run}/model.fp32.onnx", "--data", "digits", "-o", "c.json"])
    assert refused.returncode != 0
    assert "needs the package" in refused.stderr, "the guard holds"


def test_install_tests_an_engine_and_rollback_serves_the_one_before_without_the_host_s_packages(
    root: Path, tmp_path: Path
) -> None:
    for label in range(4):
        for k in range(14):
            split = "test" if k > 1 else "train"
            save_color(tmp_path / f"images/{split}/c{label}/{k}.png", (level(label, 4), 40 * label + k, 10 * k))
    (tmp_path / "net.onnx").write_bytes(class_model(4, RED).SerializeToString())
    (tmp_path / "net.toml").write_text(RECIPE)
    made = on_device(
        tmp_path,
        root,
        ["run", "net.toml", "--out", "run", "--threads", "1"],
        ["release", "run", "-o", "a.tar", "--unsigned"],
        ["release", "run", "-o", "b.tar", "--unsigned", "--engine", "fp32"],
        guard="",
    )
    assert made.returncode == 0, made.stderr
    done = on_device(
        tmp_path,
        root,
        ["install", "a.tar", "--to", "there"],
        ["install", "b.tar", "--to", "there", "--json"],
        ["rollback", "--to", "there"],
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("PASS there/current/model.plan")
    assert '"precision": "fp32"' in done.stdout
    assert "serves again" in done.stdout + done.stderr


def reaches_an_index(folder: Path) -> bool:
    download = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(folder)]
    return subprocess.run([*download, "annotated-types"], capture_output=True, check=False).returncode == 0


def test_the_core_is_small_and_cold_starts_are_short(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(root / "benchmarks"))
    light: Any = import_module("light")
    try:
        python = light.install(tmp_path)
    except subprocess.CalledProcessError as exc:
        if "pip" not in exc.cmd or reaches_an_index(tmp_path):
            raise
        pytest.skip("pip cannot install the core here: no package index is reached")
    assert light.size_mb(tmp_path / "env") < 150
    (tmp_path / "stub").mkdir()
    empty, imported = (
        min(light.cost_ms([str(python), "-c", code], tmp_path)[0] for _ in range(5))
        for code in ("pass", "import edgecnn")
    )
    assert imported - empty < 60
