"""The CI files in docs/ci: valid by the schemas of GitHub and GitLab, and every command in them exists."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml

from edgecnn.cli.app import application
from edgecnn.report.markdown import MARKER

pytestmark = pytest.mark.torch

FILES = {
    "github.yml": "vendor.github-workflows",
    "github-jetson.yml": "vendor.github-workflows",
    "gitlab.yml": "vendor.gitlab-ci",
}


def check_schema(schema: str, path: Path) -> tuple[int, str]:
    """Exit code and output of `check-jsonschema`, in this process: importing it takes seconds."""
    from check_jsonschema import main
    from click.testing import CliRunner

    done = CliRunner().invoke(main, ["--builtin-schema", schema, str(path)])
    return done.exit_code, done.output


@pytest.mark.parametrize(("name", "schema"), FILES.items())
def test_schema(root: Path, name: str, schema: str) -> None:
    assert check_schema(schema, root / "docs" / "ci" / name) == (0, "ok -- validation done\n")


def test_the_schemas_refuse_a_mistake(root: Path, tmp_path: Path) -> None:
    for name, schema in FILES.items():
        wrong = tmp_path / name
        text = (root / "docs" / "ci" / name).read_text()
        wrong.write_text(text.replace("runs-on:", "run-on:").replace("when: always", "when: sometimes"))
        code, said = check_schema(schema, wrong)
        assert (code, "Schema validation errors were encountered" in said) == (1, True), name


def strings(value: Any) -> list[str]:
    if isinstance(value, dict):
        return [s for v in value.values() for s in strings(v)]
    if isinstance(value, list):
        return [s for v in value for s in strings(v)]
    return [value] if isinstance(value, str) else []


@pytest.mark.parametrize("name", FILES)
def test_every_command_and_option_exists(root: Path, name: str) -> None:
    content = yaml.safe_load((root / "docs" / "ci" / name).read_text())
    lines = [line.strip() for text in strings(content) for line in text.splitlines()]
    calls = [shlex.split(line)[1:] for line in lines if line.split(" ")[0].endswith("edgecnn") and " " in line]
    assert [c[0] for c in calls][:2] == ["run", "run" if "jetson" in name else "gate"]
    assert {c[0] for c in calls} == {"run", "gate"}
    commands = typer.main.get_command(application()).commands  # type: ignore[attr-defined]
    for call in calls:
        known = {option for parameter in commands[call[0]].params for option in parameter.opts}
        assert {word for word in call if word.startswith("--")} <= known


@pytest.mark.parametrize("name", FILES)
def test_every_artifact_that_is_kept_is_made(root: Path, name: str) -> None:
    text = (root / "docs" / "ci" / name).read_text()
    kept = re.findall(r"runs/\*/\*/(\S+)", text)
    made = [Path(p) for p in ("int8.onnx", "int8.accuracy.json", "latency.json", "verdict.json")]
    assert "--until bench" in text  # no step after it makes a file but `gate`
    for pattern in kept:
        assert any(p.match(pattern) for p in made), pattern


def test_a_comment_is_replaced_by_its_own_marker(root: Path, tmp_path: Path) -> None:
    """Runs the step with a `gh` that knows two comments, the newer one of another workflow."""
    steps = yaml.safe_load((root / "docs" / "ci" / "github.yml").read_text())["jobs"]["gate"]["steps"]
    (script,) = [step["run"] for step in steps if step.get("name") == "Comment"]
    gh = tmp_path / "gh"
    gh.write_text(
        "#!/bin/sh\n"
        'case "$*" in\n'
        f'*PATCH*) echo "$@" >> {tmp_path}/calls;;\n'
        f"'pr comment'*) echo \"$@\" >> {tmp_path}/calls;;\n"
        f'*--jq*) jq -r "$5" {tmp_path}/comments.json;;\n'
        "esac\n"
    )
    gh.chmod(0o755)
    if shutil.which("jq") is None:
        assert json.dumps(MARKER) in script
        return
    environment = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}", "PULL_REQUEST": "7"}
    environment["GITHUB_REPOSITORY"] = "me/mine"
    others = [{"url": "u/2", "body": "coverage 90 %"}]
    for there, call in ((others, "pr comment 7"), ([{"url": "u/1", "body": f"{MARKER}\n\nold"}, *others], "u/1")):
        (tmp_path / "calls").unlink(missing_ok=True)
        (tmp_path / "comments.json").write_text(json.dumps(there))
        subprocess.run(["bash", "-e", "-c", script], env=environment, check=True)
        assert call in (tmp_path / "calls").read_text()


def test_what_the_gate_writes_is_what_the_files_read(root: Path) -> None:
    for name in FILES:
        text = (root / "docs" / "ci" / name).read_text()
        for written in re.findall(r"--(?:junit|gitlab|markdown) (\S+)", text):
            assert text.count(written) >= 2, (name, written)


def test_a_report_of_a_bug_asks_for_what_doctor_prints(root: Path, edgecnn: Callable[..., Any]) -> None:
    path = root / ".github" / "ISSUE_TEMPLATE" / "bug.yml"
    assert check_schema("vendor.github-issue-forms", path)[0] == 0
    fields = {field["id"]: field for field in yaml.safe_load(path.read_text())["body"]}
    asked = re.findall(r"`edgecnn ([^`]+)`", fields["doctor"]["attributes"]["label"])
    assert asked == ["doctor --json"]
    assert fields["doctor"]["validations"] == {"required": True}
    result = edgecnn(*shlex.split(asked[0]))
    assert result.code == 0
    assert {"python", "packages"} <= json.loads(result.out).keys()
