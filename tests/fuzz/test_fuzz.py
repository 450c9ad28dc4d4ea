"""A few damaged files for each reader, the same in each run; `make fuzz` has the rest."""

from __future__ import annotations

import contextlib
import io
import random
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from edgecnn.errors import EdgecnnError
from tests.fuzz import targets
from tests.fuzz.campaign import Total, content_of, run
from tests.fuzz.mutate import damaged_bytes, damaged_json, damaged_zip

GROUPS = {"strangers": 250, "strangers_of_torch": 80, "slow_strangers": 40, "ours": 100}

pytestmark = pytest.mark.onnx


@pytest.mark.cpu_s(10)
@pytest.mark.torch
@pytest.mark.parametrize("group", GROUPS)
def test_damaged_files_are_refused_or_read(group: str, tmp_path: Path) -> None:
    found: Mapping[str, targets.Target] = getattr(targets, group)(tmp_path)
    for name, target in found.items():
        folder = tmp_path / name.replace(" ", "-")
        folder.mkdir()
        for seed in target.seeds:
            (folder / target.name).write_bytes(seed)
            target.read(folder / target.name)  # a good file is read: there is something to damage
        total = run(name, target, Total(), GROUPS[group], lambda: False, folder)
        assert not total.faults, "\n".join(total.faults)
        assert total.refused, name


def test_a_campaign_finds_what_is_raised_besides_and_says_how_to_make_it_again(tmp_path: Path) -> None:
    def fragile(path: Path) -> object:
        if path.read_bytes()[:1] != b"g":
            raise IndexError("of the reader")
        raise EdgecnnError("as it should be", "")

    target = targets.Target("x", (b"good",), fragile)
    total = run("fragile", target, Total(), 1000, lambda: False, tmp_path)
    assert 0 < total.executions < 1000, "it ends after some faults"
    assert len(total.faults) == 5
    number = int(total.faults[0].split()[1].rstrip(":"))
    assert content_of("fragile", target, number)[:1] != b"g"
    assert "IndexError: of the reader" in total.faults[0]


@pytest.mark.parametrize("mutate", [damaged_bytes, damaged_json])
def test_mutations_differ_and_are_the_same_again(mutate: Callable[[random.Random, bytes], bytes]) -> None:
    seed = b'{"a": [1, 2, {"b": "c"}], "d": 1.5}'
    made = [mutate(random.Random(k), seed) for k in range(200)]
    assert made == [mutate(random.Random(k), seed) for k in range(200)]
    assert len(set(made)) > 100


def test_a_damaged_member_has_its_right_checksum() -> None:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        archive.writestr("a", b"content " * 9)
    read = set[bytes]()
    for k in range(100):
        with contextlib.suppress(Exception):
            read.add(zipfile.ZipFile(io.BytesIO(damaged_zip(random.Random(k), out.getvalue()))).read("a"))
    assert len(read) > 30
