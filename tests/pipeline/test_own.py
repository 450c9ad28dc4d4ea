"""Recipes of networks that are not of the zoo, from the file to the verdict."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from edgecnn.artifact.sidecar import read_sidecar
from edgecnn.data.open import open_dataset
from edgecnn.data.preprocess import Preprocessing
from edgecnn.errors import ArtifactError, EdgecnnError, ModelError, RecipeError
from edgecnn.pipeline.preflight import check_recipe
from edgecnn.pipeline.run import run_recipe
from edgecnn.recipe.load import load_recipe

if TYPE_CHECKING:  # imported before the first test of this file
    import torch

    from edgecnn.pytorch import run_factory

pytestmark = [pytest.mark.torch, pytest.mark.usefixtures("short_blocks")]

NET = """from torch import nn


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(1, 24, 3, padding=1), nn.BatchNorm2d(24), nn.GELU(),
            nn.Conv2d(24, 32, 3, stride=2, padding=1), nn.BatchNorm2d(32), nn.SiLU(),
        )
        self.head = nn.Linear(512, 10)

    def forward(self, images):
        return self.head(self.features(images).flatten(1))
"""
RECIPE = """
precisions = ["int8"]
[model]
python = "net.py:Net"
weights = "net.pth"
[input]
size = 8
mean = [0.3]
std = [0.35]
[data]
source = "digits"
[quantize]
method = "mse"
[bench]
duration_s = 0.1
warmup_ms = 10
[tolerances]
top1_drop_pp_max = 2.0
agreement_pct_min = 96.0
"""
GRAPH = RECIPE.replace('python = "net.py:Net"\nweights = "net.pth"', 'onnx = "theirs.onnx"')
DIGITS = Preprocessing(resize=8, crop=8, mean=(0.3,), std=(0.35,), channels=1)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with net.py and its weights: seeded filters, and a head fitted to their features (ridge regression)."""
    folder = tmp_path_factory.mktemp("own")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        Path("net.py").write_text(NET)
        Path("mine.toml").write_text(RECIPE)
        network, _ = run_factory.build_from_code("net.py:Net", trust_code=True)
        digits = open_dataset("digits", DIGITS, "train")
        images = torch.from_numpy(np.stack([digits.tensor(i) for i in range(len(digits))]))
        with torch.no_grad():
            x = network.features(images).flatten(1)  # type: ignore[operator, union-attr]
            x = torch.cat([x, torch.ones(len(x), 1)], 1)
            y = torch.eye(10)[torch.from_numpy(digits.labels)] * 10
            solved = torch.linalg.solve(x.T @ x + 3 * torch.eye(x.shape[1]), x.T @ y)
            network.head.weight.copy_(solved[:-1].T)  # type: ignore[operator, union-attr]
            network.head.bias.copy_(solved[-1])  # type: ignore[operator, union-attr]
        torch.save(network.state_dict(), "net.pth")
    return folder


@pytest.fixture
def folder(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of it, as the current folder."""
    shutil.copytree(trained, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(recipe: str = "mine.toml", until: Any = "report", trust_code: bool = True) -> list[str]:
    """What a run says; its exit code is the last entry."""
    lines: list[str] = []
    outcome = run_recipe(load_recipe(recipe), Path("run"), lines.append, until=until, trust_code=trust_code)
    return [*lines, str(outcome.exit_code)]


def made(lines: list[str]) -> list[str]:
    return [line.split(":")[0].split()[-1] for line in lines if line[0] != " " and ": " in line]


@pytest.mark.cpu_s(20)
def test_from_a_file_of_python_to_a_pass_on_int8(folder: Path) -> None:
    with pytest.raises(ArtifactError, match="it is not run unasked"):
        run(trust_code=False)
    assert not Path("run").exists()
    assert run()[-1] == "0"
    report = (Path("run") / "cpu" / "report.md").read_text()
    assert "PASS" in report
    checkpoint, fp32 = (read_sidecar(Path("run") / name) for name in ("model.safetensors", "model.fp32.onnx"))
    assert set(checkpoint.parents) == {"../net.py", "../net.pth"}
    assert (checkpoint.labels, fp32.labels) == ([str(d) for d in range(10)],) * 2
    assert fp32.facts["max_difference"] <= 1e-5
    assert run(trust_code=False)[:1] == ["run: everything is up to date"]  # nothing is run, so nothing is trusted
    Path("net.py").write_text(NET + "\n# another line\n")
    with pytest.raises(ArtifactError, match="not run unasked"):
        run(trust_code=False)
    assert run(until="export")[0] == "train      model.safetensors: ../net.py changed"


def test_a_file_that_the_code_imports_is_part_of_it(folder: Path) -> None:
    Path("width.py").write_text("WIDTH = 24\n")
    Path("net.py").write_text("from width import WIDTH\n" + NET.replace("(1, 24", "(1, WIDTH"))
    run(until="export")
    assert run(until="export")[0] == "run: everything is up to date"
    Path("width.py").write_text("WIDTH = 23 + 1\n")
    assert run(until="export")[0] == "train      model.safetensors: ../width.py changed"


def test_code_that_changed_beside_the_checkpoint_is_not_its_network(folder: Path) -> None:
    from edgecnn.pytorch.reference import open_reference

    run(until="train")
    checkpoint = Path("run/model.safetensors")
    with pytest.raises(ArtifactError, match="not run unasked"):
        open_reference(checkpoint)
    with open_reference(checkpoint, trust_code=True) as session:
        assert session.output.shape == (None, 10)
    Path("net.py").write_text(NET + "# more\n")
    with pytest.raises(ArtifactError, match="net.py: changed since"):
        open_reference(checkpoint, trust_code=True)
    Path("net.py").unlink()
    with pytest.raises(ArtifactError, match="net.py: no such file"):
        open_reference(checkpoint, trust_code=True)


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("size = 8\n", "", r"mine.toml: input.size missing"),
        ("net.py:Net", "net.py:Ne", "net.py: has no function 'Ne'"),
        ("net.py:Net", "nets.py:Net", "nets.py: cannot be read"),
        ("net.pth", "other.pth", "model.weights = 'other.pth': no such file"),
        ('python = "net.py:Net"\nweights = "net.pth"', 'onnx = "none.onnx"', "model.onnx = 'none.onnx': no such file"),
        ('python = "net.py:Net"\nweights = "net.pth"', 'timm = "resnet10t"', "resnet10t would stay random"),
        ("std = [0.35]", "std = [0]", r"\[input\]: a standard deviation must be positive"),
        ("size = 8\n", "size = 8\nresize = 4\n", r"\[input\]: crop 8 must be between 1 and resize 4"),
    ],
)
def test_what_can_be_told_before_anything_runs(old: str, new: str, words: str, folder: Path) -> None:
    Path("mine.toml").write_text(RECIPE.replace(old, new))
    recipe = load_recipe("mine.toml")
    with pytest.raises(EdgecnnError, match=words) as refused:
        check_recipe(recipe)
    if "none.onnx" in words:
        assert str(Path.cwd()) in refused.value.hint
    with pytest.raises(EdgecnnError, match=words):
        run()
    assert not Path("run").exists()


def test_input_and_labels_that_contradict_the_network(folder: Path) -> None:
    Path("mine.toml").write_text(RECIPE.replace("size = 8", "size = 16"))
    with pytest.raises(ModelError, match="net.py:Net: cannot take 1x16x16 images"):
        run()
    Path("labels.txt").write_text("\n".join("abcdefghijk"))
    Path("mine.toml").write_text(RECIPE.replace("[input]", 'labels = "labels.txt"\n[input]'))
    with pytest.raises(RecipeError, match=r"11 classes in labels.txt, 10 in the network net.py:Net"):
        run()


@contextmanager
def graph_of(folder: Path, name: str = "theirs.onnx") -> Iterator[onnx.ModelProto]:
    """A graph of the network's shape with names of its own, to be changed before it is written."""
    arrays = np.random.default_rng(0).standard_normal((10, 64)).astype(np.float32)
    nodes = [
        helper.make_node("Flatten", ["images"], ["flat"]),
        helper.make_node("Gemm", ["flat", "w"], ["scores"], transB=1),
        helper.make_node("Softmax", ["scores"], ["probabilities"]),
    ]
    images = helper.make_tensor_value_info("images", TensorProto.FLOAT, ["N", 1, 8, 8])
    probabilities = helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, ["N", 10])
    weights = [onnx.numpy_helper.from_array(arrays, "w")]
    graph = helper.make_graph(nodes, "g", [images], [probabilities], weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    yield model
    onnx.save(model, folder / name)


def test_a_graph_is_its_own_reference(folder: Path) -> None:
    with graph_of(folder):
        pass
    Path("mine.toml").write_text(GRAPH.replace("size = 8\n", ""))  # which the graph says itself
    lines = run(trust_code=False)
    assert not Path("run/model.safetensors").exists()
    assert any("the Softmax at the end" in line for line in lines)
    assert any("its classes are taken to be those of digits, in that order" in line for line in lines)
    fp32, saved = read_sidecar(Path("run/model.fp32.onnx")), read_sidecar(Path("run/reference.npz"))
    assert (fp32.parents.keys(), saved.parents.keys()) == ({"../theirs.onnx"}, {"model.fp32.onnx"})
    assert fp32.labels == [str(d) for d in range(10)]
    assert (Path("run/cpu/report.md")).is_file()
    assert run()[0] == "run: everything is up to date"
    Path("theirs.onnx").rename("elsewhere.onnx")  # as on a device, to which the run folder alone was copied
    assert run()[0] == "run: everything is up to date"
    with graph_of(folder) as model:
        model.doc_string = "another"
    assert run(until="export")[0] == "export     model.fp32.onnx: ../theirs.onnx changed"


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        (
            "size = 8",
            "size = 9",
            r"\[input\] contradicts theirs.onnx: the preprocessing makes 1x9x9, the graph takes 1x8",
        ),
        ("size = 8", "size = [8, 12]", "the preprocessing makes 1x8x12, the graph takes 1x8x8"),
        ("size = 8", 'layout = "nhwc"', "input.layout = 'nhwc', the input of theirs.onnx is nchw"),
        ("mean = [0.3]\nstd = [0.35]", "mean = [0, 0, 0]\nstd = [1, 1, 1]", "the preprocessing makes 3x8x8"),
        ("mean = [0.3]\n", "", "input.mean missing"),
    ],
)
def test_an_input_that_contradicts_the_graph(old: str, new: str, words: str, folder: Path) -> None:
    with graph_of(folder):
        pass
    Path("mine.toml").write_text(GRAPH.replace(old, new))
    with pytest.raises(RecipeError, match=words):
        run()


def test_a_graph_with_its_network_in_pytorch_as_the_reference(folder: Path) -> None:
    run(until="export")
    shutil.copy("run/model.fp32.onnx", "theirs.onnx")
    shutil.rmtree("run")
    Path("mine.toml").write_text(RECIPE.replace("[input]", 'onnx = "theirs.onnx"\n[input]'))
    run(until="reference")
    assert read_sidecar(Path("run/reference.npz")).parents.keys() == {"model.safetensors"}
    assert read_sidecar(Path("run/model.fp32.onnx")).parents.keys() == {"../theirs.onnx", "model.safetensors"}
    assert run(until="reference")[0] == "run: everything is up to date"
    assert read_sidecar(Path("run/model.fp32.onnx")).made_by == "edgecnn import theirs.onnx"


def test_a_network_of_timm(folder: Path) -> None:
    from edgecnn.pytorch.own import build_timm

    torch.save(build_timm("test_resnet", 10)[0].state_dict(), "timm.pth")
    given = '[model]\ntimm = "test_resnet"\nclasses = 10\nweights = "timm.pth"\n[input]\nsize = 32\n'
    Path("mine.toml").write_text(f'{given}[data]\nsource = "digits"\n')
    run(until="export", trust_code=False)
    fp32 = read_sidecar(Path("run/model.fp32.onnx"))
    assert (fp32.facts["model"], fp32.facts["input_shape"]) == ("test_resnet", [3, 32, 32])
    assert fp32.preprocessing is not None
    assert fp32.preprocessing["mean"] == [0.5] * 3
