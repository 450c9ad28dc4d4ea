"""Files of class names as people have them: read as meant, or refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from edgecnn.dataset import read_labels
from edgecnn.errors import DataError

NAMES = ("ash", "birch", "cedar")
LINES = "\n".join(NAMES)


@pytest.mark.parametrize(
    "content",
    [
        LINES.encode(),
        (LINES + "\n\n \n").encode(),
        LINES.replace("\n", "\r\n").encode(),
        LINES.replace("\n", "\r").encode(),
        LINES.encode("utf-8-sig"),
        b"0 ash\n1 birch\n2 cedar\n",
        b"0: ash\n1: birch\n2: cedar",
        b"0,ash\n1,birch\n2,cedar",
        b"0\tash\n1\tbirch\n2\tcedar",
        b"2 cedar\n0 ash\n1 birch\n",
        json.dumps(NAMES).encode(),
        json.dumps(NAMES, indent=1).encode("utf-8-sig"),
        json.dumps({"0": "ash", "1": "birch", "2": "cedar"}, indent=1).encode(),
        json.dumps({"2": "cedar", "0": "ash", "1": "birch"}).encode(),
        json.dumps({"cedar": 2, "ash": 0, "birch": 1}).encode(),
    ],
)
@pytest.mark.parametrize("name", ["labels.txt", "labels.json"])
def test_every_way_of_writing_the_same_names(content: bytes, name: str, tmp_path: Path) -> None:
    if name.endswith(".json") and content.lstrip(b"\xef\xbb\xbf")[:1] not in b"[{":
        with pytest.raises(DataError, match="not valid JSON"):
            read_labels(written(tmp_path / name, content))
    else:
        assert read_labels(written(tmp_path / name, content)) == (NAMES, None)


@pytest.mark.parametrize(
    "names",
    [
        ("ash\u2028white", "birch\x0cblack", "c\x85"),
        ("0", "1", "2"),
        ("digit 0", "digit 1"),
        ("2 rupees", "5 rupees", "10 rupees"),
        ("crane", "birch", "crane"),
        ("0,5 mm", "1,5 mm"),
        ("0.5 mm", "1.5 mm"),
        ("0:30", "1:30"),
        ("ash, white (50%)", 'o\'birch & "co"', "-cedar"),
        ("ash",),
    ],
)
def test_names_stay_as_they_are(names: tuple[str, ...], tmp_path: Path) -> None:
    given = tuple(name.strip() for name in names)
    assert read_labels(written(tmp_path / "l.txt", "\n".join(names).encode())) == (given, None)
    assert read_labels(written(tmp_path / "l.json", json.dumps(names).encode())) == (given, None)


def test_wnids_are_kept_apart(tmp_path: Path) -> None:
    path = written(tmp_path / "l.txt", b"n01440764 tench, Tinca tinca\nn01443537 goldfish\n")
    assert read_labels(path) == (("tench, Tinca tinca", "goldfish"), ("n01440764", "n01443537"))


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "no labels"),
        (b"\n \n", "no labels"),
        (b"\nash\nbirch", "l.txt:1: an empty line is no class"),
        (b"ash\n\nbirch", "l.txt:2: an empty line is no class"),
        (b"# trees\nash", "may be a comment or a class"),
        (b"index,name\n0,ash\n1,birch", "'index,name' may be a heading or a class"),
        (b"1 ash\n2 birch\n3 cedar", "numbered from 1"),
        (LINES.encode("utf-16"), "cannot be read"),
        ("orme à".encode("latin-1"), "cannot be read"),
        (b'["ash", ', "not valid JSON"),
        (b'["ash", ""]', "neither a JSON list"),
        (b'["ash", 1]', "neither a JSON list"),
        (b"[]", "neither a JSON list"),
        (b'{"0": "ash", "2": "birch"}', "neither a JSON list"),
        (b'{"0": ["n01440764", "tench"]}', "neither a JSON list"),
        (b'{"0": "ash", "0": "birch"}', "the key '0' stands twice"),
        (b'{"ash": 0, "birch": 0}', "neither a JSON list"),
    ],
)
def test_what_could_be_read_in_two_ways_is_refused(content: bytes, words: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=words) as caught:
        read_labels(written(tmp_path / "l.txt", content))
    assert caught.value.hint


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="cannot be read"):
        read_labels(tmp_path / "l.txt")


def written(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path
