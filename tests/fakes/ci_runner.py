"""What a CI service does with a job, and what a machine has that it runs on: stubs in place of network and board."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

STUBS = {
    "pip": 'echo "pip $*" >> "$LOG"',
    "sudo": 'echo "sudo $*" >> "$LOG"; exec "$@"',
    "gh": 'echo "gh $*" >> "$LOG"',
    "python3": f"""
if [ "$1 $2" = "-m venv" ]; then
  echo "python3 $*" >> "$LOG"; for last; do :; done; mkdir -p "$last/bin"
  for name in pip edgecnn; do ln -sf "$(command -v "$name")" "$last/bin/$name"; done
  ln -sf {sys.executable} "$last/bin/python"
else exec {sys.executable} "$@"; fi""",
    # a board whose power mode and clocks are two files
    "nvpmodel": """
echo "nvpmodel $*" >> "$LOG"
if [ "$1" = "-q" ]; then echo "NV Power Mode: MODE_$(cat "$BOARD/mode")"; cat "$BOARD/mode"
else echo "$2" > "$BOARD/mode"; fi""",
    "jetson_clocks": """
echo "jetson_clocks $*" >> "$LOG"
case "$1" in
--store) cp "$BOARD/clocks" "$2";;
--restore) cp "$2" "$BOARD/clocks";;
*) echo locked > "$BOARD/clocks";;
esac""",
}
EDGECNN_STUB = """
echo "edgecnn $*; mode $(cat "$BOARD/mode"), $(cat "$BOARD/clocks")" >> "$LOG"
case "$*" in *${FAILS:-nothing}*) exit 1;; *--record*) mkdir -p recipes/baselines;; esac"""


def edgecnn_here() -> str:
    """`edgecnn` itself, on as many cores as this process counts: on others all that was measured is made anew."""
    cores = f"os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:{len(os.sched_getaffinity(0))}])"
    return f'exec {sys.executable} -c "import os, sys; {cores}; from edgecnn.cli import main; sys.exit(main())" "$@"'


@dataclass
class Runner:
    """A clean `folder` in which jobs are run, with stubs first on the PATH; `board` holds its power mode and clocks."""

    folder: Path
    bin: Path
    log: Path
    board: Path
    facts: dict[str, str] = field(default_factory=dict)

    @property
    def said(self) -> list[str]:
        """Every call of a stub, in order."""
        return self.log.read_text().splitlines() if self.log.exists() else []

    def shell(self, script: str, environment: Mapping[str, str]) -> int:
        """Run a script as CI services do, with `bash -e`; its exit code."""
        known = {
            "PATH": f"{self.bin}:{os.environ['PATH']}",
            "HOME": str(self.folder),
            "LOG": str(self.log),
            "BOARD": str(self.board),
            "RUNNER_TEMP": str(self.board.with_name("temp")),
            **{key: value for key, value in os.environ.items() if key.startswith(("PYTHON", "EDGECNN_"))},
            **self.facts,
            **{key: str(value) for key, value in environment.items()},
        }
        done = subprocess.run(
            ["bash", "-e", "-c", script], cwd=self.folder, env=known, text=True, capture_output=True, check=False
        )
        self.output = done.stdout + done.stderr
        return done.returncode

    def github(self, text: str, job: str, event: Mapping[str, Any]) -> dict[str, int]:
        """Run the steps of a job that have a script; the exit code of each that ran, by its name."""
        workflow = yaml.safe_load(text)
        found, failed = dict[str, int](), False
        for step in workflow["jobs"][job]["steps"]:
            condition = step.get("if", "success()")
            wanted = self._holds(condition, event) and ("always()" in condition or not failed)
            if "run" not in step or not wanted:
                continue
            environment = {**workflow.get("env", {}), **workflow["jobs"][job].get("env", {}), **step.get("env", {})}
            code = self.shell(step["run"], {k: re.sub(r"\$\{\{.*?\}\}", "7", str(v)) for k, v in environment.items()})
            found[step["name"]] = code
            failed = failed or (code != 0 and not step.get("continue-on-error"))
        return found

    def _holds(self, condition: str, event: Mapping[str, Any]) -> bool:
        words = condition.replace("&&", " and ").replace("||", " or ").replace("== false", "== False")
        words = words.replace("always()", "True").replace("success()", "True")
        words = words.replace("github.event_name", repr(event["name"])).replace("inputs.record", repr(event["record"]))
        files = re.sub(r"hashFiles\('([^']+)'\)", lambda m: repr("x" * (self.folder / m[1]).exists()), words)
        return bool(eval(files, {"__builtins__": {}}))  # noqa: S307 - of files of this project

    def gitlab(self, text: str, job: str) -> tuple[int, int]:
        """Run a job; the exit codes of its script and of what comes after it."""
        jobs = yaml.safe_load(text)
        own = jobs[job]
        base = jobs.get(own.get("extends"), {})
        merged = {**base, **own, "variables": {**base.get("variables", {}), **own.get("variables", {})}}
        variables = {
            key: str(value).replace("$CI_PROJECT_DIR", str(self.folder)) for key, value in merged["variables"].items()
        }
        script = "\n".join([*merged.get("before_script", []), *merged["script"]])
        code = self.shell(f"set -o pipefail\n{script}", variables)
        output = self.output
        after = self.shell("\n".join(merged.get("after_script", [])), variables)
        self.output = output
        return code, after


def clean_runner(folder: Path, *, edgecnn: str) -> Runner:
    """A machine with an empty checkout, whose `edgecnn` is this one (`edgecnn_here`) or a stub (`EDGECNN_STUB`)."""
    runner = Runner(folder / "checkout", folder / "bin", folder / "log", folder / "board")
    for path in (runner.folder, runner.bin, runner.board, folder / "temp"):
        path.mkdir()
    (runner.board / "mode").write_text("2\n")
    (runner.board / "clocks").write_text("free\n")
    for name, script in {**STUBS, "edgecnn": edgecnn}.items():
        stub = runner.bin / name
        stub.write_text(f"#!/bin/bash\n{script.strip()}\n")
        stub.chmod(0o755)
    return runner
