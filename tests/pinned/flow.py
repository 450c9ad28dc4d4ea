"""One small run and every command beside it: the schemas of what they print and write, and their exit codes.

The network is LeNet-5 after one epoch on the digits; the recipe lies in the folder and keeps only what the flow needs.
"""

from __future__ import annotations

import io
import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from tests.pinned.command_line import Result, call, done
from tests.pinned.schema import Schema, schema_of

ROOT = Path(__file__).resolve().parents[2]
OLD_RUN = Path(__file__).parent / "old_run"
RECIPE = """
title = "pinned"
[model]
name = "lenet5"
[data]
source = "digits"
calibration = "lenet5-digits"
[train]
epochs = 1
batch = 32
learning_rate = 0.05
schedule = "one-cycle"
validation = 0
[batch]
max = 64
[bench]
batch = 64
duration_s = 0.1
warmup_ms = 0
[tolerances]
top1_drop_pp_max = 30
top5_drop_pp_max = 30
agreement_pct_min = 50
latency_ratio_max = 1000
size_mb_max = 10
"""
# Several threads of these small networks wait for each other while the machine is busy, minutes instead of seconds.
ALONE = ("--threads", 1)
MANIFEST = ROOT / "calibration" / "lenet5-digits.txt"
OLD_PLAN = Path(__file__).parent / "old_plan" / "model.int8.plan"  # a header; its sidecar tells of three layers


@dataclass(frozen=True)
class Flow:
    """The folder of the small run and what is derived from it; everything is made once, when it is first asked for."""

    work: Path

    @cached_property
    def run(self) -> Path:
        """The run folder; its recipe is `small.toml` beside it."""
        (self.work / "small.toml").write_text(RECIPE, encoding="utf-8")
        done("run", self.recipe, "--out", self.work / "small", *ALONE)
        return self.work / "small"

    @property
    def recipe(self) -> Path:
        """The recipe of the run."""
        return self.work / "small.toml"

    @cached_property
    def pictures(self) -> Path:
        """A folder with four digits in each of ten classes, as PNG."""
        from PIL import Image

        from edgecnn.data.sources.pixels import _digits_table

        table = _digits_table()
        images, labels = table[:, :64].reshape(-1, 8, 8), table[:, 64]
        for label in range(10):
            for k in np.flatnonzero(labels == label)[:4]:
                path = self.work / "pictures" / str(label) / f"{k:04d}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray((images[k] * 15.9).astype(np.uint8)).resize((32, 32)).save(path)
        return self.work / "pictures"

    def cache(self) -> Path:
        """A calibration cache of TensorRT's for the graph of the run."""
        made = ("-o", self.work / "cached.calib.json", "--trt-cache", self.work / "CalibrationTable")
        done("calibrate", self.run / "model.fp32.onnx", "--data", MANIFEST, *made)
        return self.work / "CalibrationTable"

    def outputs(self) -> dict[str, Schema]:
        """call -> schema of the JSON that it printed."""
        return {name: schema_of(ask().json) for name, ask in self._json_calls().items()}

    def _json_calls(self) -> dict[str, Callable[[], Result]]:
        run, work, cpu = self.run, self.work, self.run / "cpu"
        graph, checkpoint, ranges = run / "model.fp32.onnx", run / "model.safetensors", run / "model.calib.json"
        reference, picture = run / "reference.npz", next(self.pictures.rglob("*.png"))
        int8 = ("quantize", graph, "--precision", "int8", "-o")
        against = ("--reference", reference, "--data", "digits", *ALONE)

        def ask(*arguments: object) -> Callable[[], Result]:
            return lambda: done(*arguments, "--json")

        return {
            "bench --engine ONNX": ask("bench", "--engine", cpu / "fp32.onnx", "--duration", 0.05, "--batch", 64),
            "bench --vs": ask(
                *("bench", "--engine", cpu / "int8.onnx", "--vs", cpu / "fp32.onnx", "--duration", 0.05),
                *("--batch", 64),
            ),
            "build": ask("build", graph, "-o", work / "engine.onnx"),
            "bundle": ask("bundle", run, "--for", "cpu", "-o", work / "small.tar"),
            "calibrate": ask("calibrate", graph, "--data", MANIFEST, "-o", work / "again.calib.json"),
            "calibrate --check": ask("calibrate", graph, "--data", self.pictures, "--check", "--test", "digits"),
            "calibration-set": ask("calibration-set", "digits", "-o", work / "set.txt", "--images", 20),
            "check": ask("check", graph),
            "doctor": ask("doctor"),
            "export": ask("export", "lenet5", "--checkpoint", checkpoint, "-o", work / "exported.onnx"),
            "gate": ask("gate", self.copied(), "--recipe", self.recipe),
            "import": ask("import", self.foreign(), "-o", work / "imported.onnx"),
            "import-ranges": ask("import-ranges", self.cache(), "--graph", graph, "-o", work / "cache.calib.json"),
            "inspect CALIB.JSON": ask("inspect", ranges),
            "inspect NPZ": ask("inspect", reference),
            "inspect ONNX": ask("inspect", graph),
            "inspect ONNX int8": ask("inspect", cpu / "int8-tensorrt.onnx"),
            "inspect SAFETENSORS": ask("inspect", checkpoint),
            "inspect VERDICT.JSON": ask("inspect", cpu / "verdict.json"),
            "inspect PLAN": ask("inspect", OLD_PLAN),
            "layers": ask("layers", OLD_PLAN),
            "models": ask("models"),
            "monitor": ask("monitor", self.logits(), "-o", work / "log.jsonl"),
            "drift": ask("drift", reference, work / "log.jsonl"),
            "predict": ask("predict", cpu / "int8.onnx", picture),
            "probe": ask("probe", "lenet5", "--weights", "none", "--data", "digits", "--images", 10),
            "quantize fp16": ask("quantize", graph, "--precision", "fp16", "-o", work / "fp16.onnx"),
            "quantize int8 --explain": ask(
                *int8, work / "explained.onnx", "--data", MANIFEST, "--images", 64, "--explain"
            ),
            "quantize int8 --scheme ort-cpu": ask(
                *int8, work / "cpu.onnx", "--ranges", ranges, "--scheme", "ort-cpu", "--method", "minmax"
            ),
            "quantize int8 --ranges": ask(*int8, work / "int8.onnx", "--ranges", ranges),
            "recipe list": ask("recipe", "list"),
            "recipe show": ask("recipe", "show", self.recipe),
            "reference": ask("reference", graph, "--data", self.pictures, "-o", work / "reference.npz"),
            "routes": ask("routes", "--target", "cpu"),
            "run": ask("run", self.recipe, "--out", self.copied(), *ALONE),
            "sensitivity": ask(
                "sensitivity", graph, "--ranges", ranges, "--data", "digits", "--images", 32, "-o", work / "nodes.json"
            ),
            "summary": ask("summary", "lenet5"),
            "targets": ask("targets"),
            "targets --jetpack": ask("targets", "--jetpack"),
            "train": ask("train", self.recipe, "--out", work / "trained", *ALONE),
            "validate": ask("validate", cpu / "int8.onnx", *against),
            "validate --stages": ask("validate", cpu / "int8.onnx", *against, "--stages"),
            "validate --tta": ask(
                *("validate", self.cropped, "--reference", self.cropped, "--data", self.pictures),
                *("--tta", "ten-crop"),
            ),
        }

    @cached_property
    def cropped(self) -> Path:
        """The graph with a preprocessing that leaves corners for ten crops."""
        known = json.loads((self.run / "model.fp32.onnx.json").read_text(encoding="utf-8"))["preprocessing"]
        (self.work / "cropped.json").write_text(json.dumps(known | {"resize": 36}), encoding="utf-8")
        path = self.work / "cropped.onnx"
        (self.work / "labels.txt").write_text("\n".join("0123456789"), encoding="utf-8")
        told = ("--preprocess", self.work / "cropped.json", "--labels", self.work / "labels.txt")
        done("import", self.foreign(), *told, "-o", path)
        return path

    def logits(self) -> Path:
        """The logits of the run's reference as a monitor reads them."""
        with np.load(self.run / "reference.npz") as archive:
            np.save(self.work / "logits.npy", archive["logits"])
        return self.work / "logits.npy"

    def copied(self) -> Path:
        """A copy of the run, to judge or to damage."""
        copy = self.work / "copies" / str(len(list((self.work / "copies").glob("*"))))
        return Path(shutil.copytree(self.run, copy))

    def foreign(self) -> Path:
        """The graph as it would come from elsewhere: without a sidecar."""
        return Path(shutil.copy(self.run / "model.fp32.onnx", self.work / "foreign.onnx"))

    def artifacts(self) -> dict[str, Schema]:
        """Schemas of sidecars and results by kind and precision, equal ones together; and the arrays of the npz."""
        groups: dict[str, list[Any]] = {}
        for path in sorted(p for p in self.run.rglob("*") if p.suffix == ".json"):
            content = json.loads(path.read_text(encoding="utf-8"))
            told = content.get("provenance", content)
            name = f"{told['kind']} {told['precision_requested']}".strip() if "kind" in told else path.name
            groups.setdefault(name, []).append(content)
        found = {name: schema_of(group) for name, group in groups.items()}
        with np.load(self.run / "reference.npz") as archive:
            found["reference.npz"] = {
                f"$.{name}": f"{archive[name].dtype.kind}, {archive[name].ndim} axes" for name in sorted(archive.files)
            }
        return found

    def files(self) -> list[str]:
        """Every file of the run folder, but for the training events."""
        files = (p.relative_to(self.run) for p in self.run.rglob("*") if p.is_file())
        return sorted(str(p) for p in files if p.parts[0] != "tensorboard")

    def exit_codes(self) -> dict[str, dict[str, Any]]:
        """situation -> exit code, and how many `error:` and `hint:` lines there were."""
        found = {}
        for name, ask in self._situations().items():
            result = ask()
            lines = result.err.splitlines()
            said = {f"{w}_lines": sum(line.startswith(f"{w}: ") for line in lines) for w in ("error", "hint")}
            found[name] = {"code": result.code, **said, "traceback": "Traceback" in result.err}
        return found

    def _situations(self) -> dict[str, Callable[[], Result]]:
        run, work = self.run, self.work
        graph, int8 = run / "model.fp32.onnx", run / "cpu" / "int8.onnx"
        broken, other, half = work / "broken.onnx", self.copied(), self.copied()
        broken.write_bytes(graph.read_bytes()[:1000])
        (half / "cpu" / "verdict.json").unlink()
        tampered, untold = other / "cpu" / "int8.onnx", other / "cpu" / "fp32.onnx"
        tampered.write_bytes(tampered.read_bytes() + b"x")
        untold.with_name("fp32.onnx.json").unlink()
        wrong = work / "wrong.toml"
        wrong.write_text(RECIPE.replace("epochs", "epoch"), encoding="utf-8")
        no_bundle = work / "no_bundle.tar"
        no_bundle.write_bytes(bytes(1024))
        picture = next(self.pictures.rglob("*.png"))
        quantize = ("quantize", graph, "-o", work / "q.onnx", "--precision")
        judge = ("--recipe", self.recipe)

        def ask(*arguments: object) -> Callable[[], Result]:
            return lambda: call(*arguments)

        def rerun(*settings: str) -> Callable[[], Result]:
            return ask("run", self.recipe, "--out", self.copied(), *ALONE, *(x for s in settings for x in ("--set", s)))

        return {
            "nothing given": ask(),
            "help": ask("--help"),
            "version": ask("--version"),
            "a command's help": ask("run", "--help"),
            "no such command": ask("quantise"),
            "no such option": ask("models", "--jsn"),
            "an argument is missing": ask("export"),
            "an option's value is missing": ask("quantize", graph),
            "a number is out of bounds": ask("predict", int8, picture, "--threads", 0),
            "a run that is up to date": rerun(),
            "a run that fails a tolerance": rerun("tolerances.size_mb_max=0.001"),
            "a run that cannot be settled": rerun("tolerances.top1_drop_pp_max=0.001"),
            "a run whose inconclusive passes": rerun(
                "tolerances.top1_drop_pp_max=0.001", "tolerances.inconclusive='pass'"
            ),
            "a run whose inconclusive fails": rerun(
                "tolerances.top1_drop_pp_max=0.001", "tolerances.inconclusive='fail'"
            ),
            "a run for a device elsewhere": rerun('targets=["orin-nano"]'),
            "a run until a step": ask("run", self.recipe, "--out", self.copied(), *ALONE, "--until", "build"),
            "a run until no such step": ask("run", self.recipe, "--out", work / "never", "--until", "bilud"),
            "a setting that is none": ask("run", self.recipe, "--out", work / "never", "--set", "train.epoch=3"),
            "a setting without value": ask("run", self.recipe, "--out", work / "never", "--set", "train.epochs"),
            "a wrong recipe": ask("recipe", "check", wrong),
            "a valid recipe": ask("recipe", "check", self.recipe),
            "no such recipe": ask("recipe", "show", "lenet5-digit"),
            "a recipe copied over a file": ask("recipe", "copy", "lenet5-digits", wrong),
            "no such network": ask("export", "lenet6", "-o", work / "never.onnx"),
            "two sources of weights": ask("export", "lenet5", "--checkpoint", "a.pth", "--weights", "none"),
            "no such checkpoint": ask("export", "lenet5", "--checkpoint", work / "no.pth", "-o", work / "never.onnx"),
            "a name without its suffix": ask("export", "lenet5", "--weights", "none", "-o", work / "never.bin"),
            "an output that is read from": ask("quantize", graph, "--precision", "fp16", "-o", graph),
            "no such file": ask("inspect", work / "no.onnx"),
            "no artifact": ask("inspect", picture),
            "a truncated graph": ask("inspect", broken),
            "a truncated graph is quantized": ask("quantize", broken, "--precision", "fp16", "-o", work / "q.onnx"),
            "a tampered engine": ask("predict", tampered, picture),
            "an engine without its sidecar": ask("predict", untold, picture),
            "no such picture": ask("predict", int8, work / "no.png"),
            "a file that is no picture": ask("predict", int8, wrong),
            "no such precision": ask(*quantize, "int4"),
            "int8 without ranges or images": ask(*quantize, "int8"),
            "ranges of another graph": ask(
                "quantize", int8, "-o", work / "q.onnx", "--precision", "int8", "--ranges", run / "model.calib.json"
            ),
            "no such method": ask(*quantize, "int8", "--ranges", run / "model.calib.json", "--method", "mean"),
            "calibration without an output": ask("calibrate", graph, "--data", self.pictures),
            "calibration images are test images": ask(
                "calibrate", graph, "--check", "--data", self.pictures, "--test", self.pictures
            ),
            "no such data set": ask("calibrate", graph, "--data", "digit", "-o", work / "r.calib.json"),
            "a bundle for another target": ask("bundle", run, "--for", "l4", "-o", work / "n.tar"),
            "a bundle that is none": ask("run", no_bundle),
            "finished weights of other settings": rerun("train.epochs=2"),
            "a run of a run folder that carries no recipe": ask("run", self.pictures),
            "a judged run": ask("gate", self.copied(), *judge),
            "a run judged by another recipe": ask("gate", self.copied(), "--recipe", "lenet5-mnist"),
            "a changed engine is judged": ask("gate", other, *judge),
            "nothing was measured": ask("gate", self.pictures, *judge),
            "a report": ask("report", self.copied(), *judge, "-o", work / "r.md"),
            "a report of no format": ask("report", self.copied(), *judge, "-o", work / "r.doc"),
            "a report before the verdict": ask("report", half, *judge, "-o", work / "r.md"),
            "no such target": ask("build", graph, "--target", "orin-nan", "-o", work / "b.onnx"),
            "no such backend": ask("build", graph, "--backend", "tensorflow", "-o", work / "b.onnx"),
            "no such batch sizes": ask("bench", "--engine", int8, "--batch", "1,x"),
            "a layer table of no plan": ask("layers", graph),
            "interrupted": lambda: call("targets", out=_Raising(KeyboardInterrupt())),
            "a disk that is full": lambda: call("targets", out=_Raising(OSError(28, "No space left on device"))),
            "memory runs out": lambda: call("targets", out=_Raising(MemoryError())),
            "a bug": lambda: call("targets", out=_Raising(RuntimeError("a bug"))),
        }  # fmt: skip


class _Raising(io.StringIO):
    """A stdout on which nothing can be written."""

    def __init__(self, error: BaseException) -> None:
        super().__init__()
        self.error = error

    def write(self, text: str) -> int:
        raise self.error
