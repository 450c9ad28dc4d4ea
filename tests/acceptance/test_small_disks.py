"""A run on disks of 0.1 to 12 MB: what does not fit is said with its name and its size, and nothing is lost."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from edgecnn.artifact.sidecar import sidecar_path, verified_sidecar
from edgecnn.cli import main

pytestmark = [pytest.mark.torch, pytest.mark.slow]

SIZES_KB = (100, 200, 400, 700, 1000, 1500, 2000, 3000, 4000, 6000, 8000, 10000, 12000)
SAID = r"error: \S+: cannot be written: No space left on device: (more than )?[\d.]+ [kM]B needed, [\d.]+ [kM]B free\n"


def test_a_run_on_small_disks(tmp_path: Path, root: Path) -> None:
    """Each size is a disk of its own, and then one disk that grows: what was made on it stays and is not made again."""
    if shutil.which("unshare") is None or subprocess.run(["unshare", "-rm", "true"], check=False).returncode:
        pytest.skip("no file system can be mounted here: `unshare -rm` is refused")
    answer = tmp_path / "answer.json"
    program = f"from tests.acceptance.test_small_disks import measure; measure({str(tmp_path)!r}, {str(answer)!r})"
    subprocess.run(["unshare", "-rm", sys.executable, "-c", program], cwd=root, check=True)
    rows = json.loads(answer.read_text())
    assert {row["disk"] for row in rows} == {"own", "growing"}
    for row in rows:
        assert row["code"] in (0, 2), row
        assert row["hidden"] == [], row
        if row["code"] == 2:
            assert re.search(SAID, row["said"]), row
            assert "hint: " in row["said"]
            assert "Traceback" not in row["said"]
        assert row["broken"] == [], row
        assert row["lost"] == [], row
    for disk in ("own", "growing"):
        codes = [row["code"] for row in rows if row["disk"] == disk]
        assert codes[0] == 2
        assert codes[-1] == 0, "12 MB are enough"


def measure(folder: str, answer: str) -> None:
    """In a mount namespace of its own."""
    import contextlib
    import io

    place, rows = Path(folder) / "disk", []
    for disk in ("own", "growing"):
        (place / disk).mkdir(parents=True)
        before = dict[str, str]()
        for number, size in enumerate(SIZES_KB):
            again = ["-o", f"remount,size={size}k"] if disk == "growing" and number else ["-o", f"size={size}k"]
            subprocess.run(["mount", "-t", "tmpfs", *again, "none", str(place / disk)], check=True)
            said = io.StringIO()
            run = place / disk / "run"
            with contextlib.redirect_stderr(said), contextlib.redirect_stdout(io.StringIO()):
                code = main(
                    ["run", "lenet5-digits", "--out", str(run), "--set", "train.epochs=1", "--until", "reference"]
                )
            pairs, broken = dict[str, str](), []
            for path in sorted(run.rglob("*")) if run.exists() else []:
                if sidecar_path(path).exists():
                    try:
                        pairs[str(path.relative_to(run))] = verified_sidecar(path).sha256
                    except Exception as exc:  # noqa: BLE001 - told to the test
                        broken.append(str(exc))
            lost = [name for name in before if name not in pairs] if disk == "growing" else []
            hidden = [str(p) for p in run.rglob(".*edgecnn-*")] if run.exists() else []
            rows.append({"disk": disk, "kb": size, "code": code, "said": said.getvalue(), "hidden": hidden,
                         "broken": broken, "lost": lost})  # fmt: skip
            before = pairs
            if disk == "own":
                subprocess.run(["umount", str(place / disk)], check=True)
    Path(answer).write_text(json.dumps(rows))
