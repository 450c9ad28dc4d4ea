"""What the page of a large run costs."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.fakes.judged_run import make_judged_run


@pytest.mark.slow
def test_ten_thousand_images_and_twenty_networks_take_two_seconds_and_three_megabytes(tmp_path: Path) -> None:
    """The whole command, of a thousand classes; other work on the machine costs, hence the best of three."""
    out, page, spent = make_judged_run(tmp_path, networks=20, images=10_000, classes=1000), tmp_path / "r.html", []
    for _ in range(3):
        before = os.times()
        subprocess.run([sys.executable, "-m", "edgecnn", "report", str(out), "-o", str(page)], check=True)
        after = os.times()
        spent.append(after.children_user + after.children_system - before.children_user - before.children_system)
    assert min(spent) < 2, "seconds of processor time"
    assert 100_000 < page.stat().st_size < 3_000_000
    content = page.read_text(encoding="utf-8")
    assert content.count("<img ") == 36
    assert "10000 images" in content
