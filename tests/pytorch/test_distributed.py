"""Training under torchrun: two gloo processes on this machine."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from edgecnn.artifact.sidecar import read_sidecar, verified_sidecar
from edgecnn.errors import TrainingError
from edgecnn.steps import _shared

if TYPE_CHECKING:  # imported before the first test of this file
    import torch

    from edgecnn.pytorch.checkpoint import STATE_NAME, read_weights
    from edgecnn.pytorch.training.process_group import join_process_group

pytestmark = pytest.mark.torch

RECIPE = """
[model]
name = "lenet5"
[data]
source = "digits"
[train]
epochs = 2
batch = 50
learning_rate = 0.05
[train.augment]
rotation_deg = 10
shift = 0.05
elastic_px = 0.5
"""

# Records every running mean of rank 0.
CURVE = """
import json, sys
from pathlib import Path
from edgecnn.pytorch.training import epoch as trainer
from edgecnn.pytorch.training.loop import train
from edgecnn.pytorch.training.progress import Silent
from edgecnn.recipe.load import load_recipe

trainer.REPORT_S, trainer.REPORTS = -1.0, 10**6

class Curve(Silent):
    losses = []
    def step(self, step):
        self.losses.append(step.loss)

result = train(load_recipe("./r.toml"), Path(sys.argv[1]), threads=1, progress=Curve())
if result.checkpoint.exists() and __import__("os").environ.get("RANK", "0") == "0":
    Path(sys.argv[1], "curve.json").write_text(json.dumps(Curve.losses))
"""


def torchrun(folder: Path, *command: str, processes: int = 2) -> list[str]:
    return [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}", *command]


def run(command: list[str], folder: Path, root: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, "PYTHONPATH": str(root), "OMP_NUM_THREADS": "1", **environment}
    return subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, timeout=600, check=False)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "r.toml").write_text(RECIPE)
    (tmp_path / "curve.py").write_text(CURVE)
    return tmp_path


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_two_processes_give_the_loss_curve_of_one(folder: Path, root: Path) -> None:
    one = run([sys.executable, "curve.py", "one"], folder, root)
    two = run(torchrun(folder, "curve.py", "two"), folder, root)
    assert one.returncode == two.returncode == 0, one.stderr + two.stderr
    curves = [json.loads((folder / name / "curve.json").read_text()) for name in ("one", "two")]
    assert len(curves[0]) == 2 * (1131 // 50)
    assert curves[1] == pytest.approx(curves[0], abs=1e-4)
    first, second = (read_weights(folder / name / "model.safetensors") for name in ("one", "two"))
    for name, tensor in first.items():
        torch.testing.assert_close(second[name], tensor, atol=1e-4, rtol=0)
    facts = [read_sidecar(folder / name / "model.safetensors").facts for name in ("one", "two")]
    assert facts[0]["n"] == facts[1]["n"] == 540
    assert facts[0]["top1_pct"] == facts[1]["top1_pct"]


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_only_rank_0_prints_and_a_run_resumes_with_another_number_of_processes(folder: Path, root: Path) -> None:
    arguments = ["-m", "edgecnn", "train", "./r.toml", "--out", "out", "--json"]
    ended = run(torchrun(folder, *arguments, processes=3), folder, root)  # 50 is not divisible by 3
    assert ended.returncode == 0, ended.stderr
    assert json.loads(ended.stdout)["epochs"] == 2
    assert len(re.findall(r"^epoch 2/2:", ended.stderr, re.M)) == 1
    (folder / "r.toml").write_text(RECIPE.replace("epochs = 2", 'epochs = 4\nlr_schedule = "constant"'))
    refused = run(torchrun(folder, *arguments, "--resume"), folder, root)
    assert refused.returncode != 0
    assert refused.stderr.count("train.epochs was 2, now 4") >= 1
    (folder / "r.toml").write_text(RECIPE)
    again = run(torchrun(folder, *arguments, "--resume"), folder, root)
    assert again.returncode == 0, again.stderr
    assert "resuming with 2 processes, not 3" in again.stderr


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_a_killed_worker_ends_the_job_and_leaves_the_checkpoint_whole(folder: Path, root: Path) -> None:
    (folder / "r.toml").write_text(RECIPE.replace("epochs = 2", "epochs = 10000"))
    env = {**os.environ, "PYTHONPATH": str(root), "OMP_NUM_THREADS": "1"}
    command = torchrun(folder, "-m", "edgecnn", "train", "./r.toml", "--out", "out")
    job = subprocess.Popen(command, cwd=folder, env=env, stderr=subprocess.PIPE, text=True)
    try:
        deadline = time.monotonic() + 120
        while not (folder / "out" / STATE_NAME).exists():
            assert time.monotonic() < deadline, "no epoch was completed"
            assert job.poll() is None
            time.sleep(0.2)
        workers = [int(p) for p in Path(f"/proc/{job.pid}/task/{job.pid}/children").read_text().split()]
        assert len(workers) == 2
        os.kill(workers[1], signal.SIGKILL)
        killed = time.monotonic()
        assert job.wait(60) != 0
        assert time.monotonic() - killed < 30
    finally:
        job.kill()
        job.communicate()
    verified_sidecar(folder / "out/last.safetensors")
    torch.load(folder / "out" / STATE_NAME, weights_only=True)
    assert run(
        torchrun(folder, "-m", "edgecnn", "train", "./r.toml", "--out", "out", "--resume", "--set", "train.seed=1"),
        folder, root,
    ).returncode != 0  # fmt: skip


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_ranks_that_differ_each_say_so(folder: Path, root: Path) -> None:
    (folder / "differ.py").write_text(
        "import os, sys\n"
        "from edgecnn.cli import main\n"
        "extra = sys.argv[1:] if os.environ['RANK'] == '1' else []\n"
        "sys.exit(main(['train', './r.toml', '--out', 'out', *extra]))\n"
    )
    for extra, said in [
        (["--set", "train.seed=5"], "the recipe differs between ranks: train.seed is 5 on rank 1, 0 on rank 0"),
        (["--data", "nowhere"], "no data set 'nowhere'"),
        (["--data", "cifar10:nowhere"], "rank 1 could not open the data"),
    ]:
        ended = run(torchrun(folder, "differ.py", *extra), folder, root)
        assert ended.returncode != 0
        assert said in ended.stderr, ended.stderr
        assert ended.stderr.count("hint: ") >= 2, ended.stderr  # both ranks
        assert "in train" not in ended.stderr  # no traceback of ours


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize(
    "environment",
    [{"WORLD_SIZE": "2"}, {"WORLD_SIZE": "two", "RANK": "0"}, {"WORLD_SIZE": "2", "RANK": "2"}, {"WORLD_SIZE": "0"}],
)
def test_an_environment_that_names_no_process_of_a_job_is_an_error(
    environment: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"):
        monkeypatch.delenv(name, raising=False)
    assert _shared.rank_and_size() == (0, 1)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    for ask in (
        _shared.rank_and_size,
        lambda: join_process_group(lambda local: torch.device("cpu")).__enter__(),
    ):
        with pytest.raises(TrainingError, match=f"WORLD_SIZE is '{environment['WORLD_SIZE']}'"):
            ask()


@pytest.mark.cpu_s(20)
def test_more_processes_than_a_batch_has_images(folder: Path, root: Path) -> None:
    command = torchrun(folder, "-m", "edgecnn", "train", "./r.toml", "--out", "out", "--set", "train.batch=1")
    ended = run(command, folder, root)
    assert ended.returncode != 0
    assert "2 processes cannot share batches of 1 images" in ended.stderr


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_a_port_in_use_is_named(folder: Path, root: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        place = {"RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
        ended = run([sys.executable, "-m", "edgecnn", "train", "./r.toml", "--out", "out"], folder, root, **place)
    assert ended.returncode == 2, ended.stderr
    assert f"cannot join the job at 127.0.0.1:{port}" in ended.stderr
    assert "--master-port" in ended.stderr


def test_running_out_of_memory_is_an_error_with_a_hint(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from edgecnn.errors import TrainingError
    from edgecnn.pytorch.training import epoch as trainer
    from edgecnn.pytorch.training.loop import train
    from edgecnn.recipe.load import load_recipe

    def fail(*_: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")

    monkeypatch.setattr(trainer.Trainer, "_step", fail)
    with pytest.raises(TrainingError, match=r"out of memory \(cpu\)") as caught:
        train(load_recipe(str(folder / "r.toml")), folder / "out")
    assert "train.batch (now 50)" in caught.value.hint


def test_a_batch_too_small_for_bn_is_an_error_with_a_hint(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from edgecnn.pytorch.training import epoch as trainer
    from edgecnn.pytorch.training.loop import train
    from edgecnn.recipe.load import load_recipe

    norm = torch.nn.BatchNorm2d(3)
    monkeypatch.setattr(trainer.Trainer, "_step", lambda *_: norm(torch.zeros(1, 3, 1, 1)))
    with pytest.raises(TrainingError, match="one value per channel to normalize, in a batch of 50") as caught:
        train(load_recipe(str(folder / "r.toml")), folder / "out")
    assert "raise train.batch" in caught.value.hint
