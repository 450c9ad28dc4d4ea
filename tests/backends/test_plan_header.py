"""Plan files without a GPU: headers, foreign files, mismatches, and what `inspect` shows."""

from __future__ import annotations

import dataclasses
import json
import struct
from pathlib import Path

import pytest

from edgecnn.artifact.sidecar import Sidecar, read_sidecar
from edgecnn.artifact.write import write_artifact
from edgecnn.backends.trt.plan import describe_plan, foreign_prefix_error, plan_mismatch, read_plan_header
from edgecnn.errors import ArtifactError
from edgecnn.results.device import Device
from edgecnn.results.layers import EngineLayer, layers_to_json

pytestmark = pytest.mark.onnx

ORIN = Device(gpu_name="Orin", compute_capability="8.7")
ADA = Device(gpu_name="NVIDIA L4", compute_capability="8.9")


def plan_bytes(version: tuple[int, int, int, int] = (10, 3, 0, 26), serialisation: int = 0) -> bytes:
    """A header as the layout has it, and some content."""
    return b"ftrt" + struct.pack("<I", serialisation) + bytes(16) + bytes(version) + b"content" * 10


def plan_with_sidecar(folder: Path, **facts: object) -> Path:
    layers = [
        EngineLayer("conv1", "CaskConvolution", "compute", "int8", macs=300),
        EngineLayer("fc", "CaskGemm", "compute", "fp16", macs=100),
        EngineLayer("copy", "Reformat", "reformat", "fp16"),
    ]
    sidecar = Sidecar(
        kind="engine",
        parents={"model.int8.onnx": "00"},
        device=ORIN,
        target="agx-orin",
        precision_requested="int8",
        precision_obtained="int8",
        facts={"layers": layers_to_json(layers), "profiles": [{"min": [1, 3, 8, 8]}], **facts},
    )
    path = folder / "model.int8.plan"
    write_artifact(path, lambda p: p.write_bytes(plan_bytes()), sidecar)
    return path


def test_version_is_read_from_the_header(tmp_path: Path) -> None:
    path = tmp_path / "a.plan"
    path.write_bytes(plan_bytes((11, 4, 0, 106)))
    header = read_plan_header(path)
    assert (header.tensorrt, header.offset, header.prefix) == ("11.4.0.106", 0, "")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "empty"),
        (plan_bytes()[:20], "cut off after 20 bytes"),
        (plan_bytes(serialisation=3), "serialisation version 3"),
        (b"PK\x03\x04" + bytes(40), "zip archive"),
        (b"\x08\x09\x12\x07pytorch" + bytes(40), "an ONNX graph"),
        (b"version https://git-lfs.github.com/spec/v1\n" + bytes(40), "Git LFS"),
        (b"garbage" * 10, "starts with b'garb'"),
        (struct.pack("<I", 9) + b'{"a": 1}x' + bytes(30), "not a TensorRT plan"),
    ],
)
def test_what_is_no_plan_is_named(tmp_path: Path, content: bytes, words: str) -> None:
    path = tmp_path / "a.plan"
    path.write_bytes(content)
    with pytest.raises(ArtifactError, match=words.replace("(", r"\(")):
        read_plan_header(path)


def test_a_json_prefix_is_named_with_the_way_to_cut_it_off(tmp_path: Path) -> None:
    metadata = json.dumps({"author": "Ultralytics", "names": ["cat"] * 40}).encode()
    path = tmp_path / "a.engine"
    path.write_bytes(struct.pack("<I", len(metadata)) + metadata + plan_bytes())
    header = read_plan_header(path)
    assert header.tensorrt == "10.3.0.26"
    assert header.prefix == f"a JSON prefix of {len(metadata)} bytes written by Ultralytics"
    assert path.read_bytes()[header.offset :] == plan_bytes()
    assert f"tail -c +{header.offset + 1} " in foreign_prefix_error(path, header).hint


def test_a_mismatch_says_who_built_it_and_how_to_rebuild(tmp_path: Path) -> None:
    path = plan_with_sidecar(tmp_path)
    found = plan_mismatch(path, read_plan_header(path), read_sidecar(path), "11.4.0", ADA)
    assert found is not None
    message, hint = found
    assert "built by TensorRT 10.3.0.26 (sidecar: Orin, SM 8.7); here are 11.4.0 and SM 8.9" in message
    assert hint.endswith(f"edgecnn build {tmp_path}/model.int8.onnx --backend trt --target agx-orin -o {path}")


@pytest.mark.parametrize(
    ("facts", "tensorrt", "device", "fits"),
    [
        ({}, "10.3.0", ORIN, True),  # JetPack's package names three numbers
        ({}, "10.3.0.26", ORIN, True),
        ({}, "10.3.0.30", ORIN, False),
        ({}, "10.3.1", ORIN, False),
        ({"version_compatible": True}, "10.16.1", ORIN, True),
        ({"version_compatible": True}, "10.0.1", ORIN, False),
        ({}, "10.3.0", ADA, False),
        ({"hardware_compatibility": "ampere_plus"}, "10.3.0", ADA, True),
        ({"hardware_compatibility": "ampere_plus"}, "10.3.0", Device(compute_capability="7.5"), False),
        ({"hardware_compatibility": "ampere_plus"}, "10.3.0", Device(board="Orin", compute_capability="8.9"), False),
        ({"system": "Linux aarch64"}, "10.3.0", ORIN, True),
        ({"system": "Linux x86_64"}, "10.3.0", ORIN, False),
        ({"system": "Windows aarch64"}, "10.3.0", ORIN, False),
        ({"hardware_compatibility": "same_compute_capability"}, "10.3.0", ADA, False),
        ({}, "10.3.0", Device(), True),
    ],
)
def test_where_a_plan_runs(
    tmp_path: Path,
    facts: dict[str, object],
    tensorrt: str,
    device: Device,
    fits: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("platform.machine", lambda: "aarch64")
    path = plan_with_sidecar(tmp_path, **facts)
    found = plan_mismatch(path, read_plan_header(path), read_sidecar(path), tensorrt, device)
    assert (found is None) is fits


def test_a_plan_of_another_architecture_is_refused_in_words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = plan_with_sidecar(tmp_path, system="Linux x86_64")
    for machine, fits in (("AMD64", True), ("arm64", False)):
        monkeypatch.setattr("platform.machine", lambda machine=machine: machine)
        found = plan_mismatch(path, read_plan_header(path), read_sidecar(path), "10.3.0", ORIN)
        assert (found is None) is fits
    assert found is not None
    assert found[0].endswith("built for Linux x86_64, here is Linux aarch64: a plan is native code")
    assert "rebuild it here: edgecnn build" in found[1]
    assert describe_plan(path)["system"] == "Linux x86_64"


def test_inspect_shows_header_and_sidecar(tmp_path: Path) -> None:
    shown = describe_plan(plan_with_sidecar(tmp_path))
    assert shown["built_by_tensorrt"] == "10.3.0.26"
    assert shown["sha256_matches"] is True
    assert shown["device"] == {"gpu_name": "Orin", "compute_capability": "8.7"}
    assert shown["profiles"] == [{"min": [1, 3, 8, 8]}]
    assert shown["int8_macs_pct"] == 75.0
    assert shown["int8_layers_pct"] == 50.0
    assert shown["reformat_layers"] == 1


def test_inspect_without_a_sidecar_says_that_trust_is_needed(tmp_path: Path) -> None:
    path = tmp_path / "a.plan"
    path.write_bytes(plan_bytes())
    assert "--trust" in describe_plan(path)["note"]


def test_inspect_tells_a_changed_plan(tmp_path: Path) -> None:
    path = plan_with_sidecar(tmp_path)
    path.write_bytes(plan_bytes((10, 3, 0, 27)))
    assert describe_plan(path)["sha256_matches"] is False
    assert dataclasses.asdict(read_plan_header(path))["tensorrt"] == "10.3.0.27"


def test_a_prefix_nested_too_deep_is_no_prefix(tmp_path: Path) -> None:
    deep = b'{"a":' * 100_000
    path = tmp_path / "e.plan"
    path.write_bytes(struct.pack("<I", len(deep)) + deep + b"ftrt" + bytes(64))
    with pytest.raises(ArtifactError):
        read_plan_header(path)


@pytest.mark.parametrize(
    ("built_for", "here", "said", "hint"),
    [
        ([], "8.6", "", ""),
        ([], "12.5", "", ""),
        ([], "", "", ""),
        (["8.9"], "8.6", "for SM 8.9", "--target rtx -o"),  # rebuilt for this GPU, not for the same others again
        ([], "7.5", "for SM 8.0 and later", "--target rtx -o"),
        ([], "9.0", "here is 9.0", "--provider cuda"),  # an H200's words: "does not support this compute capability"
        (["9.0"], "9.0", "here is 9.0", "--backend trt"),
        ([], "8.7", "here is 8.7", "--backend trt"),
        ([], "10.0", "here is 10.0", "--backend trt"),
    ],
)
def test_gpus_that_a_plan_of_tensorrt_rtx_runs_on(
    tmp_path: Path, built_for: list[str], here: str, said: str, hint: str
) -> None:
    path = plan_with_sidecar(tmp_path, **({"compute_capabilities": built_for} if built_for else {}))
    path.write_bytes(b"vtrt" + path.read_bytes()[4:])
    header = read_plan_header(path)
    sidecar = dataclasses.replace(read_sidecar(path), device=Device(), target="rtx")
    found = plan_mismatch(path, header, sidecar, header.tensorrt, Device(compute_capability=here))
    if not said:
        assert found is None
        return
    assert found is not None
    assert said in found[0]
    assert hint in found[1]
    assert "--sm" not in found[1]
