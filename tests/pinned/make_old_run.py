"""Make `old_run` anew with the code of today: `python -m tests.pinned.make_old_run`.

For a change after which earlier results are refused: `old_files` holds what is read, and has nothing to hold then.
"""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from pathlib import Path

from tests.pinned.command_line import done
from tests.pinned.flow import ALONE, Flow
from tests.pinned.old_files import OLD_RUN


def main() -> int:
    """Run `old.toml` on the pictures of the flow, and keep what is judged."""
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        pictures = Flow(work).pictures
        for split in ("train", "test"):
            shutil.copytree(pictures, work / "split" / split)
        shutil.rmtree(pictures)
        (work / "split").rename(pictures)
        shutil.copy(OLD_RUN / "old.toml", work / "old.toml")
        os.chdir(work)  # whose `pictures` the recipe names
        done("run", "old.toml", "--out", "old", *ALONE)
        os.chdir(OLD_RUN.parent)
        kept = [work / "old" / name for name in ("reference.npz", "reference.npz.json")]
        kept += [p for p in (work / "old" / "cpu").glob("*.json") if not p.name.endswith(".onnx.json")]
        shutil.rmtree(OLD_RUN)
        for path in [*kept, work / "old.toml"]:
            to = OLD_RUN / path.relative_to(work / "old" if path.name != "old.toml" else work)
            to.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(path, to)
        (OLD_RUN / "cpu" / "report.json").unlink()
    return 0


if __name__ == "__main__":
    sys.exit(main())
