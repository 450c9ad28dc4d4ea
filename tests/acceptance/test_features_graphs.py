"""Features of a network of one's own: what they are called, what each output keeps in INT8, and who resembles whom."""

from __future__ import annotations

import json
import math
import runpy
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from PIL import Image

from tests.acceptance.nets import SIZE, normalized, pictures, write_npz

if TYPE_CHECKING:  # imported before the first test of this file
    import edgecnn as ec
    from tests.acceptance.channel_pictures import Result

pytestmark = [pytest.mark.torch, pytest.mark.onnx]

NETWORK = """
import torch
from torch import nn


class Net(nn.Module):
    def __init__(self, first, second, third):
        super().__init__()
        torch.manual_seed(5)
        self.names = (first, second, third)
        self.add_module(first, nn.Sequential(nn.Conv2d(3, 8, 3, stride=2, padding=1), nn.BatchNorm2d(8), nn.ReLU()))
        self.add_module(second, nn.Sequential(nn.ZeroPad2d((0, 1, 0, 1)), nn.Conv2d(8, 8, 3, stride=2), nn.ReLU()))
        self.add_module(third, nn.AdaptiveAvgPool2d(1))
        self.fc = nn.Linear(8, 6)

    def forward(self, x):
        for name in self.names:
            x = getattr(self, name)(x)
        return self.fc(x.flatten(1))


def plain():
    return Net("stem", "body", "pool")


def odd():
    return Net("C2", "embedding", "input")
"""


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a network's code, its features as a graph, and pictures of six classes."""
    folder = tmp_path_factory.mktemp("made")
    (folder / "net.py").write_text(NETWORK)
    about = {"resize": SIZE, "crop": SIZE, "mean": [0.5] * 3, "std": [0.25] * 3, "channels": 3}
    (folder / "p.json").write_text(json.dumps(about | {"interpolation": "bilinear"}))
    for split, count, seed in (("train", 48, 1), ("val", 18, 2)):
        for k, (pixels, label) in enumerate(zip(*pictures(count, seed=seed), strict=True)):
            (folder / "data" / split / f"<{label}>").mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(folder / "data" / split / f"<{label}>" / f"{k}.png")
    ec.export(
        f"{folder / 'net.py'}:plain",
        folder / "f.fp32.onnx",
        trust_code=True,
        preprocess=folder / "p.json",
        features=["C2", "stem", "pool"],
    )
    return folder


def run(path: Path, images: np.ndarray) -> dict[str, np.ndarray]:
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, {"input": images}), strict=True))


def exported(edgecnn: Callable[..., Result], made: Path, network: str, *more: object) -> Result:
    named = f"{made / 'net.py'}:{network}"
    return edgecnn("export", named, "--trust-code", "--preprocess", made / "p.json", *more)


def test_outputs_are_the_networks_at_both_opsets(edgecnn: Callable[..., Result], made: Path, tmp_path: Path) -> None:
    import onnx
    import torch

    old = tmp_path / "old.onnx"
    said = exported(edgecnn, made, "plain", "--features", "C2,stem,pool", "--opset", 17, "-o", old, "--json")
    assert said.code == 0, said.said
    assert json.loads(said.out)["features"] == {"C2": [8, 3, 3], "stem": [8, 6, 6], "pool": [8]}
    assert {o.domain: o.version for o in onnx.load(old).opset_import} == {"": 17}
    network = runpy.run_path(str(made / "net.py"))["plain"]().eval()
    images = normalized(pictures(5, seed=3)[0])
    with torch.no_grad():
        stem = network.stem(torch.from_numpy(images))
        deep = network.body(stem)
    wanted = {"C2": deep, "stem": stem, "pool": deep.mean((2, 3))}
    for path in (made / "f.fp32.onnx", old):
        found = run(path, images)
        for name, values in wanted.items():
            np.testing.assert_allclose(found[name], values.numpy(), rtol=1e-4, atol=1e-5)


def test_names_mean_what_is_documented_or_are_refused(
    edgecnn: Callable[..., Result], made: Path, tmp_path: Path
) -> None:
    path = tmp_path / "f.onnx"
    said = exported(edgecnn, made, "odd", "--features", "C1,C2,pool", "-o", path, "--json")
    assert said.code == 0, said.said
    found = json.loads(said.out)["features"]
    assert found == {"C1": [8, 6, 6], "C2": [8, 3, 3], "pool": [8]}, "C2 is the map of stride 4, not the part C2"
    for name in ("input", "embedding"):
        refused = exported(edgecnn, made, "odd", "--features", name, "-o", path)
        refused.refused(f"features '{name}'", "there are C1, C2, pool")
    exported(edgecnn, made, "plain", "--features", "stam", "-o", path).refused("'stam'", "'stem'")
    exported(edgecnn, made, "plain", "--features", "C2,body", "-o", path).refused("are the same map")


def test_each_output_is_judged_by_its_own_values(edgecnn: Callable[..., Result], made: Path, tmp_path: Path) -> None:
    graph, ranges, int8 = made / "f.fp32.onnx", tmp_path / "f.calib.json", tmp_path / "f.int8.onnx"
    assert edgecnn("calibrate", graph, "--data", made / "data", "-o", ranges).code == 0
    assert (
        edgecnn("quantize", graph, "--precision", "int8", "--ranges", ranges, "--method", "mse", "-o", int8).code == 0
    )
    images = normalized(pictures(18, seed=2)[0])
    held = write_npz(tmp_path / "held.npz", images)
    engine = tmp_path / "engine.onnx"
    assert edgecnn("build", int8, "-o", engine).code == 0
    for judged in (int8, engine):
        said = edgecnn("validate", judged, "--reference", graph, "--data", held, "--json")
        rows = {row["name"]: row for row in json.loads(said.out)["outputs"]}
        theirs, ours = run(graph, images), run(int8, images)
        assert rows.keys() == theirs.keys() == {"C2", "stem", "pool"}
        for name, row in rows.items():
            f, q = (side[name].reshape(18, -1).astype(float) for side in (theirs, ours))
            level = 10 * math.log10((f**2).sum() / ((f - q) ** 2).sum())
            cosines = (f * q).sum(1) / np.linalg.norm(f, axis=1) / np.linalg.norm(q, axis=1)
            assert row["sqnr_db"] == pytest.approx(level, abs=0.5)
            assert row["cosine_min"] == pytest.approx(cosines.min(), abs=1e-3)
            assert (row["n"], row["nan_count"], row["shape"]) == (18, 0, list(theirs[name].shape[1:]))
    edgecnn("bench", "--engine", engine).refused("engine.onnx: a features graph: it gives C2, stem, pool")


def test_neighbours_are_those_of_brute_force(edgecnn: Callable[..., Result], made: Path, tmp_path: Path) -> None:
    data, index = made / "data", tmp_path / "F.npz"
    assert edgecnn("features", made / "f.fp32.onnx", data, "-o", index).code == 0
    with np.load(index) as content:
        ids, splits, vectors = content["ids"], content["splits"], content["vectors"].astype(float)
    files = [data / ("train" if s == "train" else "val") / i for s, i in zip(splits, ids, strict=True)]
    pixels = np.stack([np.asarray(Image.open(file)) for file in files])
    np.testing.assert_allclose(run(made / "f.fp32.onnx", normalized(pixels))["pool"], vectors, rtol=1e-4, atol=1e-5)
    train = splits == "train"
    unit = vectors - vectors[train].mean(0)
    unit /= np.linalg.norm(unit, axis=1, keepdims=True)
    asked = int(np.flatnonzero(~train)[4])
    wanted = ids[train][np.argsort(-(unit[train] @ unit[asked]))[:4]].tolist()
    for image in (f"test:{ids[asked]}", files[asked]):
        found = json.loads(edgecnn("neighbours", index, image, "-k", 4, "--json").out)
        assert [row["image"] for row in found["nearest"]] == wanted
        assert (found["image"], found["split"], found["n_train"], found["n_test"]) == (ids[asked], "test", 48, 18)
    edgecnn("neighbours", index, "<3>/3.pg", "-k", 4).refused("'<3>/3.pg'", "<3>/3.png")
    edgecnn("neighbours", index, made / "net.py").refused("no image")
    edgecnn("neighbours", index, files[asked], "-k", 48).refused("from 1 to 47")
    page = tmp_path / "near.html"
    assert edgecnn("neighbours", index, files[asked], "-k", 4, "-o", page).code == 0
    assert "<3>" not in page.read_text()
    assert page.read_text().count("data:image/png") >= 5


def test_an_interrupted_run_looks_again_at_what_it_could_not_read(made: Path, tmp_path: Path) -> None:
    data, graph, broken = tmp_path / "data", made / "f.fp32.onnx", tmp_path / "data" / "05.png"
    data.mkdir()
    for k, pixels in enumerate(pictures(24)[0]):
        Image.fromarray(pixels).save(data / f"{k:02}.png")
    whole = ec.features(graph, tmp_path / "whole.npz", data=data, batch=4)
    right = broken.read_bytes()
    broken.write_bytes(b"no picture")

    def stop(done: int, of: int) -> None:
        if done > 12:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        ec.features(graph, tmp_path / "F.npz", data=data, batch=4, progress=stop)
    with pytest.raises(ec.EdgecnnError, match=r"05\.png"):
        ec.features(graph, tmp_path / "F.npz", data=data, batch=4, strict=True)
    broken.write_bytes(right)
    again = ec.features(graph, tmp_path / "F.npz", data=data, batch=4)
    assert (again.ids, again.unreadable) == (whole.ids, ())
    np.testing.assert_allclose(again.vectors, whole.vectors, rtol=1e-5, atol=1e-6)
    assert not list(tmp_path.glob(".*partial"))


def test_two_images_have_no_second_neighbor(edgecnn: Callable[..., Result], made: Path, tmp_path: Path) -> None:
    (tmp_path / "one").mkdir()
    Image.fromarray(pictures(1)[0][0]).save(tmp_path / "one" / "a.png")
    assert edgecnn("features", made / "f.fp32.onnx", tmp_path / "one", "-o", tmp_path / "one.npz").code == 0
    edgecnn("neighbours", tmp_path / "one.npz", "a.png").refused("1 training images", "index more images")
