"""`edgecnn models --plot`."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.torch


def test_the_zoo_as_a_picture(edgecnn: Callable[..., Any], tmp_path: Path) -> None:
    path = tmp_path / "zoo.svg"
    result = edgecnn("models", "--plot", path)
    assert (result.code, result.out.strip()) == (0, str(path))
    assert "not drawn" in result.err
    assert "lenet5" in result.err
    texts = {t.text for t in ET.parse(path).iter("{http://www.w3.org/2000/svg}text")}
    assert {"resnet18", "nasnet_large", "multiply-adds per image"} <= texts


def test_one_family(edgecnn: Callable[..., Any], tmp_path: Path) -> None:
    path = tmp_path / "zoo.svg"
    assert edgecnn("models", "--family", "nasnet", "--plot", path).code == 0
    text = path.read_text(encoding="utf-8")
    assert "nasnet_mobile" in text
    assert "resnet18" not in text


@pytest.mark.parametrize(("against", "said"), [("memory", "peak activations, MiB"), ("year", "weight layers")])
def test_other_axes(edgecnn: Callable[..., Any], tmp_path: Path, against: str, said: str) -> None:
    assert edgecnn("models", "--family", "vgg", "--plot", tmp_path / "f.svg", "--against", against).code == 0
    assert said in (tmp_path / "f.svg").read_text(encoding="utf-8")
    assert "--plot" in edgecnn("models", "--against", against).refused()
    runs = ("--plot", tmp_path / "g.svg", "--runs", tmp_path)
    assert "without --runs" in edgecnn("models", *runs, "--against", against).refused()


def test_mistakes(edgecnn: Callable[..., Any], tmp_path: Path) -> None:
    assert "SVG" in edgecnn("models", "--plot", tmp_path / "zoo.png").refused()
    assert "--plot" in edgecnn("models", "--runs", tmp_path).refused()
    assert "report.json" in edgecnn("models", "--plot", tmp_path / "f.svg", "--runs", tmp_path).refused()
    assert list(tmp_path.iterdir()) == []
