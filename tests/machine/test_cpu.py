"""Which cores a process may use: its affinity, and the quota of its control groups, read from made-up files."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgecnn.machine.cpu import available_cores, cpu_quota

AB = "cpu,cpuacct/docker/ab"
V1 = "12:cpuset:/docker/ab\n4:cpu,cpuacct:/docker/ab\n3:cpuacct:/\n0::/\n"


def write(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text + "\n")
    return root


@pytest.mark.parametrize(
    ("groups", "files", "quota"),
    [
        ("0::/", {"cpu.max": "250000 100000"}, 2.5),
        ("0::/", {"cpu.max": "max 100000"}, None),
        ("0::/", {}, None),
        ("0::/a/b", {"a/b/cpu.max": "max 100000", "a/cpu.max": "50000 100000", "cpu.max": "max 100000"}, 0.5),
        ("0::/a/b", {"a/b/cpu.max": "100000 100000", "a/cpu.max": "300000 100000", "c/cpu.max": "1 100000"}, 1.0),
        ("0::/on/the/host", {"cpu.max": "400000 200000"}, 2.0),
        ("0::/../ab", {"cpu.max": "400000 100000"}, 4.0),
        ("0::/", {"cpu.max": "damaged"}, None),
        ("0::/", {"cpu.max": "100000 0"}, None),
        (V1, {f"{AB}/cpu.cfs_quota_us": "150000", f"{AB}/cpu.cfs_period_us": "50000"}, 3.0),
        (V1, {"cpu/cpu.cfs_quota_us": "200000", "cpu/cpu.cfs_period_us": "100000"}, 2.0),
        (V1, {"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}, None),
        (V1, {"cpuset/cpu.cfs_quota_us": "1", "cpuset/cpu.cfs_period_us": "100000"}, None),
        (V1, {"unified/cpu.max": "100000 100000"}, 1.0),
        ("", {"cpu.max": "100000 100000"}, None),
    ],
)  # fmt: skip
def test_the_quota_of_the_control_groups(
    tmp_path: Path, groups: str, files: dict[str, str], quota: float | None
) -> None:
    root = write(tmp_path, {"proc/self/cgroup": groups, **{f"sys/fs/cgroup/{k}": v for k, v in files.items()}})
    assert cpu_quota(root) == quota


@pytest.mark.parametrize(("quota", "cores"), [("max", 8), ("250000", 2), ("50000", 1), ("1600000", 8), ("300000", 3)])
def test_whole_cores_of_the_quota_within_the_affinity(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, quota: str, cores: int
) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda pid: set(range(8)))
    write(tmp_path, {"proc/self/cgroup": "0::/", "sys/fs/cgroup/cpu.max": f"{quota} 100000"})
    assert available_cores(tmp_path) == cores
    assert available_cores(tmp_path / "nothing") == 8
