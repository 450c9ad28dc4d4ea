"""The model repository for Triton, read back by the protobuf messages of NVIDIA's own client."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from edgecnn.artifact.sidecar import Sidecar
from edgecnn.bundle.served import Served
from edgecnn.bundle.triton import config_text
from edgecnn.cli import main
from edgecnn.recipe.schema import BatchSettings, Recipe
from tests.bundle.conftest import Build

if TYPE_CHECKING:
    from google.protobuf import text_format

pytestmark = pytest.mark.torch

PREPROCESSING = {"resize": 256, "crop": 224, "mean": [0.5] * 3, "std": [0.5] * 3, "channels": 3}


def served(batch: BatchSettings, **facts: Any) -> Served:
    sidecar = Sidecar(kind="graph", preprocessing=PREPROCESSING, facts={"classes": 1000, **facts})
    recipe = Recipe(batch=batch, path=Path("flowers.toml"), targets=("agx-orin",))
    here = Path("model.onnx")
    return Served(recipe, "int8", here, sidecar, here, here, "10.3")


@pytest.fixture
def messages(tritonclient: Any) -> Any:
    """Triton's model_config.proto as its client carries it."""
    return tritonclient.model_config_pb2


def parsed(text: str, messages: Any) -> Any:
    return text_format.Parse(text, messages.ModelConfig())


@pytest.mark.nvidia
def test_tritons_own_messages_read_the_settings(messages: Any) -> None:
    found = parsed(config_text(served(BatchSettings(1, 4, 16))), messages)
    assert (found.name, found.platform, found.max_batch_size) == ("flowers", "tensorrt_plan", 16)
    (takes,), (gives,) = found.input, found.output
    assert (takes.name, takes.data_type, list(takes.dims)) == ("input", messages.TYPE_FP32, [3, 224, 224])
    assert (gives.name, gives.data_type, list(gives.dims)) == ("logits", messages.TYPE_FP32, [1000])
    assert gives.label_filename == "labels.txt"
    assert list(found.dynamic_batching.preferred_batch_size) == [4]
    (group,) = found.instance_group
    assert (group.count, group.kind, list(group.profile)) == (1, messages.ModelInstanceGroup.KIND_GPU, [])
    assert [w.batch_size for w in found.model_warmup] == [1, 4, 16]
    for warm in found.model_warmup:
        assert warm.inputs["input"].zero_data
        assert list(warm.inputs["input"].dims) == [3, 224, 224]
        assert warm.inputs["input"].data_type == messages.TYPE_FP32


@pytest.mark.nvidia
def test_tritons_own_messages_read_every_serving_contract(messages: Any) -> None:
    contract = {"serving_input": "uint8-nhwc", "serving_output": "top-k"}
    found = parsed(config_text(served(BatchSettings(1, 1, 1), **contract)), messages)
    (takes,) = found.input
    assert (takes.data_type, list(takes.dims)) == (messages.TYPE_UINT8, [224, 224, 3])
    assert [(o.name, o.data_type, list(o.dims), o.label_filename) for o in found.output] == [
        ("top_probabilities", messages.TYPE_FP32, [5], ""),
        ("top_classes", messages.TYPE_INT32, [5], ""),
    ]
    assert not found.HasField("dynamic_batching")
    assert [w.batch_size for w in found.model_warmup] == [1]
    batch = BatchSettings(1, 1, 16, profiles=((1, 1, 1), (2, 8, 16)))
    several = parsed(config_text(served(batch, serving_input="raw-nchw", serving_output="probabilities")), messages)
    assert list(several.instance_group[0].profile) == ["0", "1"]
    assert [o.name for o in several.output] == ["probabilities"]
    assert list(several.dynamic_batching.preferred_batch_size) == [8]


def test_the_plan_is_built_into_the_repository_inside_the_stated_container(
    digits: Path, tmp_path: Path, build: Build
) -> None:
    out = tmp_path / "out"
    assert main(["bundle", str(digits), "--for", "triton", "-o", str(out)]) == 0
    model = out / "repository" / "lenet5-digits"
    assert sorted(p.relative_to(out).as_posix() for p in out.rglob("*") if p.is_file()) == [
        "README.txt", "build.sh", "model.onnx", "repository/lenet5-digits/config.pbtxt",
        "repository/lenet5-digits/labels.txt",
    ]  # fmt: skip
    assert (model / "labels.txt").read_text().splitlines() == [str(k) for k in range(10)]
    assert "tritonserver:24.08-py3 /bundle/build.sh" in (out / "README.txt").read_text()
    assert "max_batch_size: 64\n" in (model / "config.pbtxt").read_text()
    code, asked, said = build(out / "build.sh", 101303, header=(10, 13, 3, 9))
    assert (code, asked) == (2, "")
    assert "this is for 10.3" in said
    assert build(out / "build.sh", 100300)[0] == 0
    plan = model / "1" / "model.plan"
    plan.write_bytes(plan.read_bytes()[:25] + b"\x0d" + plan.read_bytes()[26:])
    code, asked, said = build(out / "build.sh", 100300)
    assert (code, asked) == (2, "")
    assert "1/model.plan was built by TensorRT 10.13" in said


def test_a_container_is_chosen_by_its_tensorrt_or_refused(
    digits: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["bundle", str(digits), "--for", "triton", "--tensorrt", "10.16", "-o", str(tmp_path / "a")]) == 2
    assert "no container of Triton is known to carry it; known are 10.3, 10.4" in capsys.readouterr().err
    assert main(["bundle", str(digits), "--for", "triton", "--tensorrt", "10.13", "-o", str(tmp_path / "b")]) == 0
    assert "tritonserver:25.10-py3 " in (tmp_path / "b" / "README.txt").read_text()
    assert served(BatchSettings()).on_jetson
    cpu = dataclasses.replace(served(BatchSettings()).recipe, targets=("cpu",))
    assert not dataclasses.replace(served(BatchSettings()), recipe=cpu).on_jetson
