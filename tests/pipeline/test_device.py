"""From the host to a device and to the verdict: pack, copy, run; and what stands in the way."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from edgecnn.artifact.sidecar import read_json, sha256_of
from edgecnn.bundle.manifest import installed_bundle
from edgecnn.cli import main
from edgecnn.data.open import images_sha256
from edgecnn.pipeline.device import unpack
from edgecnn.recipe.load import load_recipe
from edgecnn.steps.recipe_copy import keep_recipe

pytestmark = pytest.mark.torch

RECIPE = """
title = "an Orin"
targets = ["agx-orin", "orin-nano"]
[model]
name = "lenet5"
[data]
source = "SOURCE"
[train]
epochs = 6
batch = 16
learning_rate = 0.02
[quantize]
method = "minmax"
[bench]
duration_s = 0.1
warmup_ms = 0
[tolerances]
agreement_pct_min = 60
latency_ratio_max = 2
"""


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of images, a recipe for it and its run on a host without a GPU."""
    root = tmp_path_factory.mktemp("host")
    rng = np.random.default_rng(0)
    for split, each in (("train", 8), ("test", 30)):
        for digit in range(4):
            folder = root / "images" / split / f"d{digit}"
            folder.mkdir(parents=True)
            for k in range(each):
                picture = rng.integers(0, 60, (30, 34), np.uint8)
                picture[:, 7 * digit : 7 * digit + 7] += 150
                Image.fromarray(picture).save(folder / f"{k}.png")
    (root / "insects.toml").write_text(RECIPE.replace("SOURCE", str(root / "images")))
    ask = ["run", str(root / "insects.toml"), "--out", str(root / "run"), "--threads", "1", "--until", "reference"]
    assert main(ask) == 0
    return root


@pytest.fixture(scope="module")
def archive(host: Path) -> Path:
    assert main(["bundle", str(host / "run"), "--for", "agx-orin", "-o", str(host / "x.tar")]) == 0
    return host / "x.tar"


def on_an_orin(folder: Path, root: Path, *commands: list[str]) -> tuple[list[int], str, str]:
    """Exit codes and both streams of command lines in a process that has nothing of the host."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.fakes.orin", json.dumps(commands)],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(root), "XDG_CACHE_HOME": str(folder / "cache")},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    out, _, codes = done.stdout.rpartition("codes ")
    return json.loads(codes), out, done.stderr


@pytest.mark.cpu_s(30)  # a process of its own, which builds three engines and measures them
def test_a_bundle_goes_whole_to_each_verdict_without_torch_and_onnx(archive: Path, root: Path, tmp_path: Path) -> None:
    """Neither the images' folder nor the recipe of the host is there: the tar is all that the device has."""
    shutil.copy(archive, tmp_path / "x.tar")
    codes, out, err = on_an_orin(
        tmp_path,
        root,
        ["run", "x.tar"],
        ["gate", "runs/insects"],
        ["run", "x.tar", "--set", "tolerances.latency_ratio_max=0.5"],
        ["run", "x.tar", "--set", "tolerances.agreement_pct_min=99.9"],
        ["gate", "runs/insects/agx-orin"],
        ["run", "runs/insects", "--dry-run"],
        ["run", "x.tar"],
        ["run", "x.tar", "--dry-run", "--out", "other"],
    )
    assert "Traceback" not in err
    assert codes == [0, 0, 1, 3, 3, 0, 0, 2]
    assert [f"insects on agx-orin: {v}" in out for v in ("PASS", "FAIL", "INCONCLUSIVE")] == [True] * 3
    folder = tmp_path / "runs" / "insects"
    accuracy = read_json(folder / "agx-orin" / "int8.accuracy.json")
    assert accuracy["n"] == 120
    assert accuracy["backend"] == "trt"
    assert accuracy["provenance"]["facts"]["test_images_sha256"]
    assert read_json(folder / "agx-orin" / "latency.json")["device"]["gpu_name"] == "Orin"
    assert [p.name for p in folder.glob("*.safetensors")] == []
    assert "unpacked x.tar" in err
    assert not (tmp_path / "other").exists()


@pytest.mark.parametrize("images", ["files", "none"])
@pytest.mark.cpu_s(20)
def test_images_as_files_and_images_that_the_device_has(host: Path, root: Path, tmp_path: Path, images: str) -> None:
    pack = ["bundle", str(host / "run"), "--for", "agx-orin", "--images", images, "-o", str(tmp_path / "x.tar")]
    assert main(pack) == 0
    other = [] if images == "files" else ["--set", f"data.source={tmp_path / 'elsewhere'}"]
    shutil.copytree(host / "images" / "test", tmp_path / "elsewhere" / "test")
    commands = [["run", "x.tar", *other], ["run", "runs/insects", "--dry-run", "--json"]]
    if images == "none":
        victim = tmp_path / "changed" / "test" / "d1" / "7.png"
        shutil.copytree(host / "images" / "test", victim.parents[1])
        commands += [["validate", "runs/insects/agx-orin/int8.plan", "--reference", "runs/insects/reference.npz"]]
        commands[-1] += ["--data", str(victim.parents[2])]
        size = victim.stat().st_size
        Image.fromarray(255 - np.asarray(Image.open(victim))).save(victim)
        victim.write_bytes(victim.read_bytes().ljust(size, b"\0")[:size])
    codes, out, err = on_an_orin(tmp_path, root, *commands)
    assert codes[:2] == [0, 0], err
    assert json.loads(out[out.rindex('{\n "folder"') :])["due"] == []
    if images == "none":
        assert codes[2] == 2
        assert "image 'd1/7.png' is not the one that the reference was made on" in err


def test_what_is_in_it_and_that_packing_twice_gives_the_same(host: Path, archive: Path, tmp_path: Path) -> None:
    again = tmp_path / "again.tar"
    assert main(["bundle", str(host / "run"), "--for", "agx-orin", "-o", str(again)]) == 0
    folders = [unpack(path, tmp_path / str(k), lambda line: None) for k, path in enumerate((archive, again))]
    bundles = [installed_bundle(folder) for folder in folders]
    assert bundles[0] is not None
    names = [f.path for f in bundles[0].files]
    assert sorted(names) == sorted(
        [
            *(f"model.{p}.onnx{s}" for p in ("fp32", "fp16", "int8-tensorrt") for s in ("", ".json")),
            *("insects.toml", "insects.toml.json", "reference.npz", "reference.npz.json", "images.npz"),
        ]
    )
    different = {n for n in names if sha256_of(folders[0] / n) != sha256_of(folders[1] / n)}
    assert different <= {"insects.toml.json"}, "which says when it was made"
    assert 'targets = ["agx-orin"]' in (folders[0] / "insects.toml").read_text()
    assert images_sha256(str(folders[0] / "images.npz"), "test") == images_sha256(str(host / "images"), "test")


def test_a_bundle_carries_the_baselines(host: Path, tmp_path: Path) -> None:
    for name in ("insects.toml", "run"):
        (shutil.copytree if name == "run" else shutil.copy)(host / name, tmp_path / name)
    baseline = tmp_path / "baselines" / "insects" / "some device.json"
    baseline.parent.mkdir(parents=True)
    baseline.write_text("{}")
    assert main(["bundle", str(tmp_path / "run"), "--for", "orin-nano", "-o", str(tmp_path / "y.tar")]) == 0
    there = unpack(tmp_path / "y.tar", tmp_path / "there", lambda line: None)
    assert (there / "baselines" / "insects" / "some device.json").read_text() == "{}"


def refusal(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    capsys.readouterr()
    assert main([str(a) for a in arguments]) == 2
    err = capsys.readouterr().err
    assert err.count("error: ") == err.count("hint: ") == 1
    assert "Traceback" not in err
    return err


def test_what_cannot_be_packed(host: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run, out = tmp_path / "run", tmp_path / "x.tar"
    shutil.copytree(host / "run", run)
    assert "the recipe's targets are agx-orin, orin-nano, not thor" in refusal(
        capsys, "bundle", run, "--for", "thor", "-o", out
    )
    assert "does not end in .tar" in refusal(capsys, "bundle", run, "--for", "agx-orin", "-o", tmp_path / "x.zip")
    (tmp_path / "empty").mkdir()
    assert "carries no recipe" in refusal(capsys, "bundle", tmp_path / "empty", "--for", "cpu", "-o", out)
    graph = run / "model.fp16.onnx"
    content = graph.read_bytes()
    graph.write_bytes(content[:-1])
    assert "model.fp16.onnx" in refusal(capsys, "bundle", run, "--for", "agx-orin", "-o", out)
    graph.write_bytes(content)
    (run / "reference.npz").unlink()
    assert "reference.npz: not made yet" in refusal(capsys, "bundle", run, "--for", "agx-orin", "-o", out)
    assert not out.exists()


def test_a_cpu_is_sent_nothing_of_what_tensorrt_is_told(host: Path, tmp_path: Path) -> None:
    """Its recipe would be refused there."""
    run, packed = tmp_path / "run", tmp_path / "x.tar"
    shutil.copytree(host / "run", run)
    changes = ('targets=["cpu", "agx-orin"]', 'build.routes.int8="-conv_lowering=off"', "build.weakly_typed=true")
    ask = ["run", str(run), "--threads", "1", "--until", "reference"]
    assert main([*ask, *(word for change in changes for word in ("--set", change))]) == 0
    for target, has in (("cpu", False), ("agx-orin", True)):
        assert main(["bundle", str(run), "--for", target, "-o", str(packed)]) == 0
        folder = unpack(packed, tmp_path / target, lambda line: None)
        found = load_recipe(str(folder / "insects.toml")).build
        assert (bool(found.routes), found.weakly_typed) == (has, has)


def test_a_device_remakes_nothing_that_the_bundle_has_to_bring(
    archive: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "there"
    err = refusal(capsys, "run", archive, "--out", folder, "--set", "quantize.around=fp32")
    assert "model.int8-tensorrt.onnx: quantize.around changed from 'fp16' to 'fp32'; a device makes nothing" in err
    assert not (folder / "agx-orin").exists()
    assert "carries no recipe" not in refusal(capsys, "run", folder, "--set", "batch.max=3")


def test_the_way_to_a_device_is_said(host: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["run", str(host / "run"), "--threads", "1"])
    err = capsys.readouterr().err
    pack = f"edgecnn bundle {host / 'run'} --for agx-orin -o insects-agx-orin.tar"
    assert f"pack it with `{pack}`" in err
    assert "go on there with `edgecnn run insects-agx-orin.tar`" in err


def test_where_the_images_lie_is_not_what_they_are(
    host: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Moved images change nothing, not even the weights; other ones do, and the weights are not replaced unasked."""
    shutil.copytree(host / "run", tmp_path / "run")
    shutil.copytree(host / "images", tmp_path / "moved")
    recipe = str(host / "insects.toml")
    ask = ["run", recipe, "--out", str(tmp_path / "run"), "--until", "reference", "--threads", "1"]
    ask += ["--set", f"data.source={tmp_path / 'moved'}"]
    capsys.readouterr()
    assert main(ask) == 0
    assert "everything is up to date" in capsys.readouterr().err
    other = tmp_path / "moved" / "test" / "d0" / "0.png"
    other.write_bytes(other.read_bytes() + b"more")
    assert main([*ask, "--dry-run", "--json"]) == 0
    assert [due["step"] for due in json.loads(capsys.readouterr().out)["due"]] == ["reference"]
    (tmp_path / "moved" / "train" / "d0" / "0.png").unlink()
    err = refusal(capsys, *ask)
    assert "train_images_sha256 changed from" in err
    assert "--retrain" in err


def test_images_that_changed_since_the_reference_are_not_packed(
    host: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of the same name and size: what is stale does not show it."""
    shutil.copytree(host / "run", tmp_path / "run")
    shutil.copytree(host / "images", tmp_path / "images")
    picture = tmp_path / "images" / "test" / "d2" / "5.png"
    content = bytearray(picture.read_bytes())
    content[-1] ^= 1
    picture.write_bytes(content)
    keep_recipe(load_recipe(str(host / "insects.toml"), [f"data.source={tmp_path / 'images'}"]), tmp_path / "run")
    for images in ("packed", "files"):
        err = refusal(
            capsys, *("bundle", tmp_path / "run", "--for", "orin-nano", "--images", images, "-o", tmp_path / "x.tar")
        )
        assert "image 'd2/5.png' is not the one that the reference was made on" in err
    assert not (tmp_path / "x.tar").exists()
    assert list(tmp_path.glob(".*")) == []
