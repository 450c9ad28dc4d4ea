"""Trials in lines: what a kill leaves is gone on from, and nothing half-written counts."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgecnn.artifact.trial_log import TrialLog
from edgecnn.errors import MeasurementError


def test_wherever_a_kill_cuts_it_whole_lines_are_there_again(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    lines = [{"a": k, "name": "é\x1b"} for k in range(3)]
    with TrialLog(path, "key") as log:
        assert list(log) == []
        for line in lines:
            log.append(line)
    whole = path.read_bytes()
    ends = [k + 1 for k, byte in enumerate(whole) if byte == ord("\n")]
    for cut in range(len(whole) + 1):
        path.write_bytes(whole[:cut])
        with TrialLog(path, "key") as log:
            found = list(log)
            assert found == lines[: max(sum(end <= cut for end in ends) - 1, 0)]
            for line in lines[len(found) :]:
                log.append(line)
        assert path.read_bytes() == whole


def test_a_log_of_another_key_begins_anew_and_one_without_trials_does_not_stay(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    with TrialLog(path, "one") as log:
        log.append({"a": 1})
    with TrialLog(path, "two") as log:
        assert list(log) == []
    assert not path.exists()
    path.write_text('{"key": "one"}\n[1]\n{"a": 2}\n')
    with TrialLog(path, "one") as log:
        assert list(log) == []


def test_one_process_at_a_time(tmp_path: Path) -> None:
    with TrialLog(tmp_path / "x", "one"), pytest.raises(MeasurementError, match="another process"):
        TrialLog(tmp_path / "x", "one")
