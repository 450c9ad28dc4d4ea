"""The steps of the CI files in docs/ci, run in a clean folder: `edgecnn` itself where that is cheap, and a board that
is made of files."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.fakes.ci_runner import EDGECNN_STUB, Runner, clean_runner, edgecnn_here

pytestmark = [pytest.mark.torch, pytest.mark.cpu_s(30)]

PULL_REQUEST = {"name": "pull_request", "record": False}
RECORD = {"name": "workflow_dispatch", "record": True}


@pytest.fixture
def text(root: Path) -> Any:
    """The text of a CI file by its name."""
    return lambda name: (root / "docs" / "ci" / name).read_text()


@pytest.fixture
def board(tmp_path: Path) -> Runner:
    """A Jetson at power mode 2 with free clocks."""
    return clean_runner(tmp_path, edgecnn=EDGECNN_STUB)


@pytest.fixture
def checkout(tmp_path: Path, root: Path, digits: Path, monkeypatch: pytest.MonkeyPatch) -> Runner:
    """A clone on a hosted runner, with the graphs of an earlier run from the cache and its measurements."""
    monkeypatch.setenv("PYTHONPATH", str(root))
    runner = clean_runner(tmp_path, edgecnn=edgecnn_here())
    for name in ("recipes", "calibration"):
        shutil.copytree(root / name, runner.folder / name)
    shutil.copytree(digits, runner.folder / "runs" / "lenet5-digits")
    return runner


def state(board: Runner) -> tuple[str, str]:
    """Power mode and clocks."""
    mode, clocks = ((board.board / name).read_text().strip() for name in ("mode", "clocks"))
    return mode, clocks


def test_every_action_is_pinned_by_its_hash(text: Any) -> None:
    used = re.findall(r"uses: (\S+)(.*)", text("github.yml") + text("github-jetson.yml"))
    assert len(used) > 8
    assert all(re.fullmatch(r"actions/[a-z-]+@[0-9a-f]{40}", action) for action, _ in used)
    assert all(re.fullmatch(r" # v\d+\.\d+\.\d+", version) for _, version in used)


def test_a_pull_request_is_measured_and_judged(text: Any, checkout: Runner) -> None:
    """Of an earlier run the cache holds what is made before anything is measured."""
    shutil.rmtree(checkout.folder / "runs" / "lenet5-digits" / "cpu")
    codes = checkout.github(text("github.yml"), "gate", PULL_REQUEST)
    assert codes == dict.fromkeys(("Install", "Measure", "Judge", "Comment"), 0), checkout.output
    assert checkout.said[0] == "pip install .[cpu]"
    assert checkout.said[-1] == "gh pr comment 7 --body-file comment.md"
    assert "lenet5-digits on cpu: PASS" in (checkout.folder / "comment.md").read_text()
    assert (checkout.folder / "edgecnn.xml").exists()


def test_a_baseline_is_proposed_as_a_pull_request(text: Any, checkout: Runner) -> None:
    def git(*arguments: str) -> str:
        return subprocess.run(
            ["git", "-c", "user.name=x", "-c", "user.email=x@y", *arguments],
            cwd=checkout.folder,
            check=True,
            capture_output=True,
            text=True,
        ).stdout

    for call in (("init", "--bare", "../origin.git"), ("init", "--initial-branch", "main"), ("add", "recipes")):
        git(*call)
    git("commit", "-m", "recipes")
    git("remote", "add", "origin", "../origin.git")
    checkout.facts = {"GITHUB_RUN_ID": "5", "GITHUB_SHA": "abc", "GITHUB_REF_NAME": "main"}
    codes = checkout.github(text("github.yml"), "record", RECORD)
    assert codes == dict.fromkeys(("Install", "Measure", "Record", "Propose"), 0), checkout.output
    pushed = git("ls-tree", "-r", "--name-only", "origin/baseline-lenet5-digits-cpu-5", "recipes/baselines")
    assert pushed.startswith("recipes/baselines/lenet5-digits/")
    assert "--base main --head baseline-lenet5-digits-cpu-5" in checkout.said[-1]


def test_gitlab_measures_judges_and_records(text: Any, checkout: Runner) -> None:
    assert checkout.gitlab(text("gitlab.yml"), "edgecnn") == (0, 0), checkout.output
    assert json.loads((checkout.folder / "gl-code-quality-report.json").read_text()) == []
    kept = yaml.safe_load(text("gitlab.yml"))["edgecnn"]["artifacts"]
    assert all(list(checkout.folder.glob(p)) for p in (*kept["paths"], *kept["reports"].values()))
    assert checkout.gitlab(text("gitlab.yml"), "edgecnn-record") == (0, 0), checkout.output
    assert list(checkout.folder.glob("recipes/baselines/lenet5-digits/*.json"))


def on_github(text: Any, board: Runner, event: Any = PULL_REQUEST) -> int:
    """Run the board's job of GitHub's file; the worst exit code."""
    return max(board.github(text("github-jetson.yml"), "device", event).values())


def on_gitlab(text: Any, board: Runner) -> int:
    """Run the board's job of GitLab's file; the exit code of its script."""
    code, after = board.gitlab(text("gitlab.yml"), "edgecnn-jetson")
    assert after == 0
    return code


@pytest.mark.parametrize("on", [on_github, on_gitlab])
def test_a_board_measures_at_locked_clocks_and_is_left_as_it_was(on: Any, text: Any, board: Runner) -> None:
    assert on(text, board) == 0, board.output
    calls = [line for line in board.said if line.startswith("edgecnn ")]
    assert [c.split()[1] for c in calls] == ["run", "gate"]
    assert all(c.endswith("; mode 0, locked") for c in calls)
    assert state(board) == ("2", "free")
    assert "python3 -m venv --system-site-packages .venv" in board.said
    board.log.unlink()
    assert on(text, board) == 0
    assert not any("venv" in line for line in board.said), "the environment of the first run is kept"


@pytest.mark.parametrize("on", [on_github, on_gitlab])
@pytest.mark.parametrize("fails", ["run", "gate", "--until bench"])
def test_a_board_is_left_as_it_was_after_a_failure_too(on: Any, fails: str, text: Any, board: Runner) -> None:
    board.facts = {"FAILS": fails}
    assert on(text, board) == 1
    assert state(board) == ("2", "free")


@pytest.mark.parametrize("on", [on_github, on_gitlab])
def test_clocks_are_restored_where_the_power_mode_cannot_be(on: Any, text: Any, board: Runner) -> None:
    stub = board.bin / "nvpmodel"
    stub.write_text(stub.read_text().replace('else echo "$2"', 'elif [ "$2" = 2 ]; then exit 1; else echo "$2"'))
    if on is on_github:
        assert on(text, board) == 1, "and said"
    else:
        assert board.gitlab(text("gitlab.yml"), "edgecnn-jetson") == (0, 1)
    assert state(board) == ("0", "free")


def test_a_board_whose_mode_is_right_is_not_switched(text: Any, board: Runner) -> None:
    (board.board / "mode").write_text("0\n")
    assert on_github(text, board) == 0
    assert not any("nvpmodel -m" in line for line in board.said)
    assert state(board) == ("0", "free")


def test_a_board_records_when_it_is_asked_to(text: Any, board: Runner) -> None:
    assert on_github(text, board, RECORD) == 0
    assert [line for line in board.said if "--record" in line]
    board.log.unlink()
    assert on_github(text, board, {"name": "push", "record": False}) == 0
    assert not [line for line in board.said if "--record" in line]


def test_one_lane_per_board(text: Any) -> None:
    device = yaml.safe_load(text("github-jetson.yml"))["jobs"]["device"]
    assert device["runs-on"] == ["self-hosted", "linux", "ARM64", "agx-orin"]
    assert device["concurrency"] == {"group": "board-agx-orin", "cancel-in-progress": False}
    job = yaml.safe_load(text("gitlab.yml"))["edgecnn-jetson"]
    assert (job["tags"], job["resource_group"]) == (["jetson", "agx-orin"], "board-agx-orin")


@pytest.mark.parametrize(("name", "job"), [("github-jetson.yml", "graphs"), ("gitlab.yml", "edgecnn-graphs")])
def test_the_host_makes_what_the_board_builds(text: Any, board: Runner, name: str, job: str) -> None:
    done = board.github(text(name), job, PULL_REQUEST) if "github" in name else board.gitlab(text(name), job)
    assert not any(done.values() if isinstance(done, dict) else done), board.output
    call = shlex.split(board.said[-1].split(";")[0])
    assert call[:2] == ["edgecnn", "run"]
    assert call[3:] == ["--target", "agx-orin", "--until", "reference"]


@pytest.mark.parametrize("name", ["github.yml", "github-jetson.yml", "gitlab.yml"])
def test_nothing_that_was_measured_is_cached(name: str, text: Any) -> None:
    cached = re.findall(r"^ +(?:- )?(runs/\S+|\.cache|~/\S+)$", text(name).split("artifacts:")[0], re.M)
    for pattern in (p for p in cached if p.startswith("runs/")):
        made = [p for p in ("int8.onnx", "latency.json", "int8.accuracy.json") if Path(p).match(Path(pattern).name)]
        assert made == [] or pattern.startswith("runs/*/*/"), pattern


def test_a_board_records_what_the_baseline_of_before_would_fail(text: Any, board: Runner) -> None:
    board.facts = {"FAILS": "--github"}
    assert on_github(text, board) == 1
    assert on_github(text, board, RECORD) == 0
    board.log.unlink()
    board.facts = {"EDGECNN_RECORD": "1"}
    assert on_gitlab(text, board) == 0
    assert [line for line in board.said if "--record" in line]
    board.log.unlink()
    board.facts = {}
    assert on_gitlab(text, board) == 0
    assert not [line for line in board.said if "--record" in line]


@pytest.mark.parametrize(("code", "said"), [(3, 0), (1, 1), (2, 1)])
def test_what_is_recorded_need_not_be_settled_and_must_not_fail(code: int, said: int, text: Any, board: Runner) -> None:
    stub = board.bin / "edgecnn"
    stub.write_text(stub.read_text() + f'\ncase "$*" in *--record*) exit {code};; esac\n')
    assert on_github(text, board, RECORD) == said
    board.facts = {"EDGECNN_RECORD": "1"}
    assert on_gitlab(text, board) == said
    assert board.github(text("github.yml"), "record", RECORD)["Record"] == said
    assert board.gitlab(text("gitlab.yml"), "edgecnn-record")[0] == said
