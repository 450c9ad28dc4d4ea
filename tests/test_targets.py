"""Targets: the table is whole, every row has its source, and a machine that is another device is told apart."""

from __future__ import annotations

import dataclasses
import json
import re
from typing import Any

import pytest

from edgecnn import cli
from edgecnn.errors import DeviceError, RecipeError
from edgecnn.results.device import Device
from edgecnn.targets import Target, find_target, jetpacks, target_mismatch, targets, version_tuple

ORIN_NX = Device(
    gpu_name="Orin",
    board="NVIDIA Jetson Orin NX Engineering Reference Developer Kit",
    compute_capability="8.7",
    memory_gb=15.6,
    tensorrt="10.3.0",
)


def test_every_row_is_whole() -> None:
    rows = targets()
    assert len(rows) >= 20
    fields = {f.name for f in dataclasses.fields(Target)}
    for row in rows.values():
        assert row.source
        assert set(row.unverified) <= fields
        for pattern in row.match:
            re.compile(pattern)
        for name in row.jetpack:
            assert name in jetpacks(), f"{row.name}: JetPack {name} is not in the table"
        if row.backend == "trt" and row.name != "gpu":
            assert re.fullmatch(r"\d+\.\d", row.compute_capability)
            assert row.match
            assert row.unsupported or version_tuple(row.tensorrt_min) >= (10, 3)


@pytest.mark.parametrize(
    "name",
    ["orin-nano", "orin-nx-8gb", "orin-nx-16gb", "agx-orin", "thor", "rtx-20", "rtx-30", "rtx-40", "rtx-50", "t4"]
    + ["a10", "l4", "l40s", "a100", "h100", "h200", "b200"],
)
def test_supported_devices_are_found(name: str) -> None:
    assert find_target(name).backend == "trt"


def test_cpu_runs_under_onnx_runtime() -> None:
    target = find_target("cpu")
    assert target.backend == "ort"
    assert target_mismatch(target, Device(cpu="some CPU", threads=2)) is None


@pytest.mark.parametrize("version", ["10.3.0", "10.4.0", "10.7.0"])
def test_jetpack_6_is_known_with_the_releases_that_are_installed_on_it(version: str) -> None:
    assert target_mismatch(find_target("orin-nx-16gb"), dataclasses.replace(ORIN_NX, tensorrt=version)) is None
    assert "10.4 - 10.7" in jetpacks()["6.2"].tensorrt


def test_xavier_is_refused_and_says_why() -> None:
    with pytest.raises(DeviceError, match=r"Xavier and carries TensorRT 8\.5"):
        find_target("agx-xavier")


def test_an_unknown_target_names_the_nearest() -> None:
    with pytest.raises(RecipeError) as caught:
        find_target("orin-nanno")
    assert "orin-nano" in caught.value.hint


def test_the_right_machine_has_no_mismatch() -> None:
    assert target_mismatch(find_target("orin-nx-16gb"), ORIN_NX) is None
    assert target_mismatch(find_target("gpu"), ORIN_NX) is None
    hidden = dataclasses.replace(ORIN_NX, board="")  # by a container
    assert target_mismatch(find_target("orin-nx-16gb"), hidden) is None
    rtx = Device(gpu_name="NVIDIA GeForce RTX 4090", compute_capability="8.9", memory_gb=25.4, tensorrt="11.4.0")
    assert target_mismatch(find_target("rtx-40"), rtx) is None


@pytest.mark.parametrize(
    ("target", "change", "words"),
    [
        ("orin-nx-8gb", {}, "has 8 GB"),
        ("agx-orin", {}, "Jetson AGX Orin"),
        ("rtx-40", {}, "8.9"),
        ("cpu", {}, "not NVIDIA Jetson"),
        ("orin-nx-16gb", {"compute_capability": ""}, "is none"),
        ("orin-nx-16gb", {"tensorrt": "8.6.2"}, "10.3 or later"),
        ("orin-nx-16gb", {"tensorrt": "11.4.0"}, "up to 10.16"),
        ("thor", {"compute_capability": "11.0", "board": "Jetson AGX Thor", "memory_gb": 122.8}, "10.13"),
        ("l4", {"compute_capability": "8.9", "board": "", "gpu_name": "NVIDIA L40S", "memory_gb": 47.7}, "L4 "),
    ],
)
def test_another_machine_is_told_apart(target: str, change: dict[str, Any], words: str) -> None:
    reason = target_mismatch(find_target(target), dataclasses.replace(ORIN_NX, **change))
    assert reason is not None
    assert words in reason


def test_the_command_lists_every_row_with_its_source(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["targets"]) == 0
    text = capsys.readouterr().out
    assert text.count("source: ") == len(targets())
    assert "unsupported: JetPack 5.1" in text
    assert cli.main(["targets", "--json"]) == 0
    assert {row["name"] for row in json.loads(capsys.readouterr().out)} == set(targets())
    assert cli.main(["targets", "--jetpack", "--json"]) == 0
    assert {row["name"] for row in json.loads(capsys.readouterr().out)} == set(jetpacks())


def test_what_is_built_anywhere_needs_no_gpu_and_still_its_release() -> None:
    rtx = find_target("rtx")
    assert target_mismatch(rtx, Device(tensorrt="1.7.1.116")) is None
    assert "needs TensorRT 1.0" in str(target_mismatch(rtx, Device(tensorrt="0.9.0")))
    assert "is a GPU" in str(target_mismatch(find_target("gpu"), Device(cpu="x")))
