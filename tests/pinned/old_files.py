"""Files that an earlier version wrote: what the command line says of them.

`old_run` is a run of the recipe in it, on a folder of 40 pictures, without its graphs, ranges and weights:
`python -m tests.pinned.make_old_run` makes it anew. `refused_run` holds a result that is not read any more.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from tests.pinned.command_line import call

HERE = Path(__file__).parent
OLD_RUN, OLD_PLAN = HERE / "old_run", HERE / "old_plan" / "model.int8.plan"
REFUSED_RUN = HERE / "refused_run"


def old_files(work: Path) -> dict[str, Any]:
    """call -> its exit code and the part of its result that follows from the files alone."""
    run = Path(shutil.copytree(OLD_RUN, work / "old_run"))
    judge = ("--recipe", run / "old.toml")
    stricter = run / "stricter" / "old.toml"
    stricter.parent.mkdir()
    found: dict[str, Any] = {}
    for name, change in VARIANTS.items():
        stricter.write_text((run / "old.toml").read_text(encoding="utf-8") + change, encoding="utf-8")
        told = call("gate", run, "--recipe", stricter, "--json")
        rows = told.json[0]["checks"] if told.out else []
        found[f"gate {name}"] = {
            "code": told.code,
            "checks": {f"{r['name']} {r['tolerance']}": r["verdict"] for r in rows},
            "images_needed": {f"{r['name']} {r['tolerance']}": r["images_needed"] for r in rows if r["images_needed"]},
        }
    found["gate"] = {"code": call("gate", run, *judge).code}
    for suffix in ("md", "html", "json", "xml"):
        path = work / f"report.{suffix}"
        found[f"report .{suffix}"] = {"code": call("report", run, *judge, "-o", path).code, "written": path.exists()}
    files = [run / "reference.npz", OLD_PLAN, *sorted((run / "cpu").glob("*.json"))]
    for path in files:
        if not path.name.endswith(".onnx.json"):
            found[f"inspect {path.name}"] = {"code": call("inspect", path, "--json").code}
    table = call("layers", OLD_PLAN, "--json")
    found["layers"] = {"code": table.code, "table": table.json if table.out else None}
    return found


# name -> what is added to the recipe of the old run
VARIANTS = {
    "as its recipe says": "",
    "with a tolerance that it breaks": "size_mb_max = 0.1\n",
    "with a tolerance that it cannot settle": "top1_drop_pp_max = 1\n",
    "with one that it cannot settle and may pass": "top1_drop_pp_max = 1\ninconclusive = 'pass'\n",
}
