"""Baselines over the commits of a repository."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from lxml import etree

from edgecnn.errors import ArtifactError, MeasurementError
from edgecnn.output import width_of
from edgecnn.report.charts.history import history_svg
from edgecnn.report.history import history_text, read_history
from edgecnn.statistics import wilson_interval

pytestmark = pytest.mark.skipif(shutil.which("git") is None, reason="no git")
Commit = Callable[..., None]


def latency_file(p50: float, engine: str = "int8") -> dict[str, Any]:
    row = {"batch": 1, "mode": "single-shot", "latency_ms_p50": p50, "latency_ms_p50_ci": [p50, None], "size_mb": 0.07}
    return {"device_key": "amd", "engines": {engine: row, "int8-tensorrt": {"size_mb": 0.06}}}


def accuracy_file(right: int) -> dict[str, Any]:
    known = {"data": "d", "images_sha256": "", "n_labelled": 200, "classes": 10, "agreement_pct": 99.0, "top1_bits": ""}
    accepted = {**known, "top1_n": right}
    one = {"provider": "p", "scheme": "tensorrt", "last": accepted, "best": accepted}
    return {"backend": "ort", "precision": "int8", "engines": [one]}


@pytest.fixture
def commit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Commit:
    """Write files into `tmp_path`/baselines/r and commit them."""
    for name in ("GIT_CONFIG_GLOBAL", "GIT_CONFIG_SYSTEM"):
        monkeypatch.setenv(name, os.devnull)

    def git(*arguments: str) -> None:
        who = ("-c", "user.name=n", "-c", "user.email=e")
        subprocess.run(["git", "-C", str(tmp_path), *who, *arguments], check=True, capture_output=True)

    def make(subject: str, **files: Any) -> None:
        folder = tmp_path / "baselines" / "r"
        folder.mkdir(parents=True, exist_ok=True)
        for name, content in files.items():
            text = content if isinstance(content, str) else json.dumps(content)
            (folder / f"{name}.json").write_text(text)
        git("add", ".")
        git("commit", "-q", "--allow-empty", "-m", subject)

    git("init", "-q")
    return make


def test_every_commit_that_recorded_a_baseline_is_a_row(tmp_path: Path, commit: Commit) -> None:
    commit("first", amd=latency_file(1.0), **{"ort-int8": accuracy_file(190)})
    commit("nothing of it")
    commit("<b>slower\x1b[2J", amd=latency_file(1.2, "=int8\n"))
    commit("damaged", amd="{", **{"ort-int8": accuracy_file(180)})
    found = read_history("r", tmp_path / "baselines" / "r")
    assert [(r.engine, r.latency_ms_p50) for r in found.rows if r.device_key == "amd" and r.latency_ms_p50] == [
        ("int8", 1.0),
        ("=int8\n", 1.2),
    ]
    accuracies = [r for r in found.rows if not r.device_key]
    assert [(r.engine, r.top1_pct, r.n) for r in accuracies] == [
        ("int8 tensorrt ort", 95.0, 200),
        ("int8 tensorrt ort", 90.0, 200),
    ]
    assert accuracies[1].top1_ci_pct == tuple(100 * e for e in wilson_interval(180, 200))
    (unread,) = found.unreadable
    assert "amd.json: not a baseline: not valid JSON" in unread
    text = history_text(found)
    assert "-5.00" in text
    assert "baselines of 3 commits" in text
    assert max(map(width_of, text.splitlines())) <= 80
    assert "\x1b" not in text
    svg = etree.fromstring(history_svg(found).encode())
    names = ["".join(t.itertext()) for t in svg.iter("{*}text")]
    assert {"top-1 %, on any device", "p50 ms, amd", "int8 tensorrt ort", "=int8\\n"} <= set(names)
    assert len(list(svg.iter("{*}circle"))) == 4
    assert any("<b>slower\\x1b[2J" in "".join(t.itertext()) for t in svg.iter("{*}title"))
    box = [float(v) for v in svg.get("viewBox").split()]
    assert all(0 <= float(c.get("cx")) <= box[2] and 0 <= float(c.get("cy")) <= box[3] for c in svg.iter("{*}circle"))


def test_what_has_no_history_says_so(tmp_path: Path, commit: Commit, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "baselines" / "r"
    with pytest.raises(MeasurementError, match="no commit has a baseline"):
        read_history("r", folder)
    commit("empty")
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "amd.json").write_text(json.dumps(latency_file(1.0)))
    with pytest.raises(MeasurementError, match="its baselines are in no commit"):
        read_history("r", folder)
    shutil.rmtree(tmp_path / ".git")
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    with pytest.raises(ArtifactError, match="git cannot be asked: fatal: not a git repository"):
        read_history("r", folder)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ArtifactError, match="git: not installed here"):
        read_history("r", folder)
