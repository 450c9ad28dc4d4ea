"""Gradient norms of trainings, as a table and as a picture."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

from edgecnn.artifact.sidecar import Sidecar
from edgecnn.artifact.write import write_json_artifact
from edgecnn.cli import main
from edgecnn.errors import ArtifactError
from edgecnn.records import to_plain
from edgecnn.report.charts.gradients import gradients_svg
from edgecnn.report.details import RunDetails
from edgecnn.report.gradients import chosen_epochs, gradients_text, require_gradients
from edgecnn.report.html_page import gradient_section
from edgecnn.results.gradients import GradientNorms

SVG = "{http://www.w3.org/2000/svg}"


def norms(name: str = "plain", epochs: int = 9, scale: float = 1.0) -> GradientNorms:
    rows = tuple((0.1 * scale, 0.01 * scale, 0.0) for _ in range(epochs))
    return GradientNorms(name, "net", ("conv1", "conv2", "dead"), tuple(range(1, epochs + 1)), rows)


def test_the_first_and_the_last_epoch_are_among_those_shown() -> None:
    assert chosen_epochs(norms(epochs=9), 4) == [0, 3, 5, 8]
    assert chosen_epochs(norms(epochs=1), 4) == [0]
    text = "\n".join(gradients_text([norms(), norms("\x1b[2Jresidual")]))
    assert "epoch 9: smallest 0 (dead), largest 0.1 (conv1)" in text
    assert "\\x1b[2Jresidual (net)" in text
    assert max(map(len, text.split("\n"))) <= 80


def test_runs_are_drawn_on_one_scale_and_names_stay_text() -> None:
    root = ET.fromstring(gradients_svg([norms("<b>&"), norms("residual", scale=100)]))
    first, second = root.findall(f"{SVG}g")
    assert "<b>& (net): gradient norm by layer" in [t.text for t in first.iter(f"{SVG}text")]
    heights = [{float(c.get("cy", 0)) for c in panel.iter(f"{SVG}circle")} for panel in (first, second)]
    assert len(list(first.iter(f"{SVG}polyline"))) == 8
    assert all(a > b for a, b in zip(sorted(heights[0]), sorted(heights[1]), strict=True))
    assert gradient_section(RunDetails(gradients=norms())).count("<polyline") == 8
    assert gradient_section(RunDetails()) == ""


def test_they_are_read_from_a_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("a", "b"):
        write_json_artifact(tmp_path / name / "gradient-norms.json", to_plain(norms(name)), Sidecar(kind="gradients"))
    command = ("report", str(tmp_path / "a"), "--beside", str(tmp_path / "b"), "--format", "gradients")
    assert main([*command]) == 0
    assert "a (net)" in capsys.readouterr().out
    assert main([*command, "-o", str(tmp_path / "g.svg")]) == 0
    assert len(ET.parse(tmp_path / "g.svg").getroot().findall(f"{SVG}g")) == 2
    assert main([*command, "-o", str(tmp_path / "g.html")]) == 2
    assert main(["report", str(tmp_path), "--format", "gradients"]) == 2
    assert "train.gradient_norms=true" in capsys.readouterr().err
    assert main([*command[:4], "--format", "md"]) == 2
    assert main([*command, "--recipe", "lenet5-digits"]) == 2
    broken = {**to_plain(norms()), "epochs": [1]}
    write_json_artifact(tmp_path / "a" / "gradient-norms.json", broken, Sidecar(kind="gradients"))
    with pytest.raises(ArtifactError, match="do not belong together"):
        require_gradients(tmp_path / "a")
