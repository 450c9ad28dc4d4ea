"""A run to the Hub and a network from it, against a server on this machine."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import onnx
import pytest

from edgecnn.artifact.sidecar import read_sidecar
from edgecnn.cli import main
from tests.fakes.hub import Handler, StandIn, stand_in

if TYPE_CHECKING:  # imported before the first test of this file
    import timm
    import torch
    from safetensors.torch import save

pytestmark = pytest.mark.torch


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[StandIn]:
    with stand_in() as server:
        monkeypatch.setenv("HF_ENDPOINT", server.address)
        constants = "huggingface_hub.constants"  # read from the environment at import, which may be long ago
        monkeypatch.setattr(f"{constants}.ENDPOINT", server.address)
        template = server.address + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(f"{constants}.HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setenv("HF_TOKEN", "of-a-test")
        monkeypatch.setenv("EDGECNN_CACHE", str(tmp_path / "cache"))
        monkeypatch.chdir(tmp_path)
        yield server


def refusal(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    capsys.readouterr()
    assert main([str(a) for a in arguments]) == 2
    said = capsys.readouterr().err
    assert "Traceback" not in said
    assert [line.split()[0] for line in said.splitlines()] == ["error:", "hint:"]
    return said


def test_a_run_goes_there_and_its_network_comes_back(
    hub: StandIn, digits: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["push", str(digits), "me/digits", "--dry-run"]) == 0
    assert hub.asked == [], "nothing is sent"
    listed = capsys.readouterr().out.splitlines()
    assert main(["push", str(digits), "me/digits", "--json"]) == 0
    made = json.loads(capsys.readouterr().out)
    there = hub.repositories["me/digits"]
    assert sorted(there) == sorted(listed) == sorted(made["files"])
    assert made["commit"].endswith(hub.commit_of("me/digits"))
    assert there["README.md"].decode().startswith("---\n")
    for name, content in there.items():
        if name != "README.md":
            assert content == (digits / name).read_bytes(), name
    assert {"model.safetensors", "model.int8-tensorrt.onnx.json", "cpu/verdict.json"} <= there.keys()
    assert not [name for name in there if name.startswith("cpu/") and not name.endswith(".json")], "no engine"

    assert main(["export", "hf://me/digits"]) == 0
    names = [
        {n.name: n.raw_data for n in onnx.load(p).graph.initializer}
        for p in ("digits.fp32.onnx", digits / "model.fp32.onnx")
    ]
    assert names[0] == names[1]
    sidecar = read_sidecar(Path("digits.fp32.onnx"))
    assert any(hub.commit_of("me/digits") in parent for parent in sidecar.parents)
    assert (sidecar.facts["model"], sidecar.labels) == ("lenet5", [str(d) for d in range(10)])
    assert main(["export", "hf://me/digits", "--features", "pool"]) == 0
    assert read_sidecar(Path("digits.features.fp32.onnx")).facts["features"] == {"pool": [84]}


def test_a_network_of_timm(hub: StandIn, capsys: pytest.CaptureFixture[str]) -> None:
    torch.manual_seed(0)
    network = timm.create_model("test_resnet", num_classes=3)
    given = {
        "input_size": [3, 64, 64],
        "mean": [0.5] * 3,
        "std": [0.25] * 3,
        "crop_pct": 1.0,
        "interpolation": "bilinear",
    }
    config = {"architecture": "test_resnet", "num_classes": 3, "pretrained_cfg": given, "label_names": ["a", "b", "c"]}
    files = {"model.safetensors": save(network.state_dict()), "config.json": json.dumps(config).encode()}
    hub.repositories["them/tiny"] = files
    address = f"hf://them/tiny@{hub.commit_of('them/tiny')}"
    assert main(["export", address, "-o", "tiny.fp32.onnx"]) == 0
    sidecar = read_sidecar(Path("tiny.fp32.onnx"))
    assert sidecar.facts["weights_url"] == address
    assert sidecar.labels == ["a", "b", "c"]
    assert sidecar.preprocessing is not None
    assert (sidecar.preprocessing["mean"], sidecar.facts["input_shape"]) == ([0.5] * 3, [3, 64, 64])
    assert main(["export", address, "--features", "layer2,pool"]) == 0
    vectors = read_sidecar(Path("tiny.features.fp32.onnx")).facts["features"]
    assert vectors.keys() == {"layer2", "pool"}
    assert vectors["pool"] == [network.num_features]
    assert "leave the other options out" in refusal(capsys, "export", address, "--classes", 3)

    wrong = {
        '{"architectures": ["ViT"]}': "names no architecture of timm",
        '{"architecture": ': "not valid JSON",
        json.dumps(config | {"num_classes": 10**9}): "num_classes = 1000000000",
        json.dumps(config | {"pretrained_cfg": given | {"input_size": "large"}}): "input_size",
        json.dumps(config | {"architecture": "no_such"}): "has no network",
    }
    for text, said in wrong.items():
        hub.repositories["them/tiny"] = files | {"config.json": text.encode()}
        assert said in refusal(capsys, "export", "hf://them/tiny")
    unnamed = {"kind": "checkpoint", "schema": 1, "sha256": hashlib.sha256(files["model.safetensors"]).hexdigest()}
    hub.repositories["them/tiny"] = files | {"model.safetensors.json": json.dumps(unnamed).encode()}
    assert "not of the zoo" in refusal(capsys, "export", "hf://them/tiny")
    hub.repositories["them/tiny"] = {"pytorch_model.bin": b"pickle"}
    assert "has no model.safetensors" in refusal(capsys, "export", "hf://them/tiny")


def test_what_is_not_there_is_refused(
    hub: StandIn, digits: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "no repository of the Hub" in refusal(capsys, "export", "hf://only-a-name")
    assert "the Hub's client says" in refusal(capsys, "export", "hf://nobody/nothing")
    assert "write OWNER/REPO" in refusal(capsys, "push", digits, "a/b/c")
    monkeypatch.setenv("HF_TOKEN", "another")
    assert "the Hub's client says" in refusal(capsys, "push", digits, "me/digits")
    monkeypatch.setattr("importlib.util.find_spec", lambda name, package=None: None)
    assert "edgecnn[hub]" in refusal(capsys, "push", digits, "me/digits")


@pytest.mark.parametrize("endpoint", ["localhost:9", "http://host:port", "http://127.0.0.1:9"])
def test_an_endpoint_that_is_none_is_a_mistake(
    endpoint: str, hub: StandIn, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("HF_ENDPOINT", endpoint)
    assert "the Hub's client says" in refusal(capsys, "export", "hf://nobody/nothing")


@pytest.mark.parametrize("answer", [b"<html>Log in first</html>", b'{"status": "ok"}'])
def test_an_answer_that_is_not_the_hubs_is_refused(
    answer: bytes, hub: StandIn, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Such as that of a network's login page."""
    monkeypatch.setattr(Handler, "do_GET", lambda handler: handler._send(200, answer))
    assert "the Hub's client says" in refusal(capsys, "export", "hf://nobody/nothing")


@pytest.mark.parametrize("bug", [TypeError, AttributeError, NameError, AssertionError, IndexError])
def test_a_call_that_is_wrong_is_our_bug_and_no_failure_of_the_network(
    bug: type[Exception],
    hub: StandIn,
    digits: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def wrong(*given: object, **options: object) -> None:
        raise bug("unexpected keyword argument")

    monkeypatch.setattr("huggingface_hub.HfApi.model_info", wrong)
    monkeypatch.setattr("huggingface_hub.HfApi.create_commit", wrong)
    for command in (["export", "hf://me/digits"], ["push", str(digits), "me/digits"]):
        capsys.readouterr()
        assert main(command) == 101
        said = capsys.readouterr().err
        assert "this is a bug in edgecnn" in said
        assert f"{bug.__name__}: unexpected keyword argument" in said


@pytest.mark.parametrize("bug", [ValueError, RuntimeError, KeyError])
def test_what_is_wrong_between_the_calls_is_our_bug_too(
    bug: type[Exception],
    hub: StandIn,
    digits: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Of a kind that the client raises of the network as well."""
    hub.repositories["me/digits"] = {"model.safetensors": b""}

    def wrong(*given: object, **options: object) -> None:
        raise bug("ours")

    monkeypatch.setattr("edgecnn.artifact.hub.HubFiles", wrong)
    monkeypatch.setattr("huggingface_hub.CommitOperationAdd", wrong)
    for command in (["export", "hf://me/digits"], ["push", str(digits), "me/digits"]):
        assert main(command) == 101
