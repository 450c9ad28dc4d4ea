"""Files of class names as people have them: read as meant, or refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from edgecnn.data.label_file import read_labels
from edgecnn.errors import DataError
from edgecnn.zoo import imagenet_classes

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
        b"2=cedar\n0=ash\n1=birch\n",
        b"0 = ash\n1 = birch\n2 = cedar\n",
        b"(0) ash\n(1) birch\n(2) cedar\n",
        b"0) ash\n1) birch\n2) cedar\n",
        b"0. ash\n1. birch\n2. cedar\n",
        b"0.ash\n1.birch\n2.cedar\n",
        b"0 - ash\n1 - birch\n2 - cedar\n",
        b"0 -> ash\n1 -> birch\n2 -> cedar\n",
        b"0|ash\n1|birch\n2|cedar\n",
        b"00 ash\n01 birch\n02 cedar\n",
        b"cedar,2\nash,0\nbirch,1\n",
        b"cedar\t2\nash\t0\nbirch\t1\n",
        b"cedar: 2\nash: 0\nbirch: 1\n",
        b"cedar=2\nash=0\nbirch=1\n",
        json.dumps(NAMES).encode(),
        json.dumps(NAMES, indent=1).encode("utf-8-sig"),
        json.dumps({"0": "ash", "1": "birch", "2": "cedar"}, indent=1).encode(),
        json.dumps({"2": "cedar", "0": "ash", "1": "birch"}).encode(),
        json.dumps({"cedar": 2, "ash": 0, "birch": 1}).encode(),
        json.dumps({"model_type": "resnet", "id2label": {"0": "ash", "1": "birch", "2": "cedar"}}).encode(),
        b"{0: 'ash',\n 1: 'birch',\n 2: 'cedar'}\n",
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
        ("0,5 mm", "1,5 mm"),
        ("0.5 mm", "1.5 mm"),
        ("0:30", "1:30"),
        ("ratio 4:3", "ratio 16:9"),
        ("room 0", "room 1"),
        ("5 rupees", "coin", "note"),
        ("4 doors", "4 wheels"),
        ("ash, white (50%)", 'o\'birch & "co"', "-cedar"),
        ("ash",),
    ],
)
def test_names_stay_as_they_are(names: tuple[str, ...], tmp_path: Path) -> None:
    given = tuple(name.strip() for name in names)
    assert read_labels(written(tmp_path / "l.txt", "\n".join(names).encode())) == (given, None)
    assert read_labels(written(tmp_path / "l.json", json.dumps(names).encode())) == (given, None)


@pytest.mark.parametrize(
    "content",
    [
        b"n01440764 tench, Tinca tinca\nn01443537 goldfish\n",
        b"1,n01443537,goldfish\n0,n01440764,tench, Tinca tinca\n",
        b'{"1": ["n01443537", "goldfish"], "0": ["n01440764", "tench, Tinca tinca"]}',
        b'[["n01440764", "tench, Tinca tinca"], ["n01443537", "goldfish"]]',
    ],
)
def test_wnids_are_kept_apart(content: bytes, tmp_path: Path) -> None:
    path = written(tmp_path / "l.txt", content)
    assert read_labels(path) == (("tench, Tinca tinca", "goldfish"), ("n01440764", "n01443537"))


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "no labels"),
        (b"\n \n", "no labels"),
        (b"\nash\nbirch", "l.txt:1: an empty line is no class"),
        (b"ash\n\nbirch", "l.txt:2: an empty line is no class"),
        (b"# trees\nash", "may be a comment or a class"),
        (b"sort,tree\n0,ash\n1,birch", "'sort,tree' may be a heading or a class"),
        (b"1 ash\n2 birch\n3 cedar", "numbered from 1"),
        (b"0 ash\nbirch\n2 cedar", "l.txt:2: 'birch': lines carry numbers, but not 0, 1, ... 2, each once"),
        (b"ash\nbirch\n0 cedar", "lines carry numbers"),
        (b"ash\n1 birch\n2 cedar", "may be a heading|lines carry numbers"),
        (b"ash\nbirch\n3: cedar\ndate=4", "lines carry numbers"),
        (b"0 ash\n2 birch\n3 cedar", "l.txt:2: '2 birch': lines carry numbers"),
        (b"0 ash\n1 birch\n1 cedar", "lines carry numbers"),
        (b"5 ash\n6 birch\n7 cedar", "lines carry numbers"),
        (b"3=ash\n5=birch\n9=cedar", "lines carry numbers"),
        (b"0 ash\n1 birch\n" + b"9" * 5000 + b" cedar", "lines carry numbers"),
        (b"ash,0\nbirch,2\ncedar,3", "lines carry numbers"),
        (b"ash\t7\nbirch\t8\ncedar\t3", "lines carry numbers"),
        (b"ash,1\nbirch,2\ncedar,3", "numbered from 1"),
        (b"tree,sort\nash,0\nbirch,1", "'tree,sort' may be a heading or a class"),
        (b'"0","ash"\n"1","birch"', "quotation"),
        (b'0,"ash"\n1,"birch"', "quotation"),
        (b'"ash",0\n"birch",1', "quotation"),
        (b"'ash'\n'birch'", "quotation"),
        (b'{"id": 0, "name": "ash"}\n{"id": 1, "name": "birch"}', "not valid JSON"),
        (b"- ash\n- birch", "l.txt:1: '- ash' may be an item of YAML or a class"),
        (b"names:\n  - ash\n  - birch", "l.txt:2: '- ash' may be an item of YAML or a class"),
        (b"n01440764 tench\ngoldfish", "is a wnid or a quotation"),
        ("\ufeffash\nbirch".encode("utf-8-sig"), "l.txt:1: a byte-order mark"),
        ("ash\n\ufeffbirch".encode(), "l.txt:2: a byte-order mark"),
        ("ash\nbirch".encode("utf-16-le"), "l.txt:1: .* a NUL"),
        (b"[" * 100_000, "not valid JSON .nested too deep"),
        (b'{"ash": 0, "birch": ' + b"1" * 5000 + b"}", "not valid JSON|neither a JSON list"),
        (LINES.encode("utf-16"), "cannot be read"),
        ("orme à".encode("latin-1"), "cannot be read"),
        (b'["ash", ', "not valid JSON"),
        (b'["ash", ""]', "neither a JSON list"),
        (b'["ash", 1]', "neither a JSON list"),
        (b"[]", "neither a JSON list"),
        (b'{"0": "ash", "2": "birch"}', "neither a JSON list"),
        (b'{"0": ["ash", "tree"]}', "neither a JSON list"),
        (b'{"0": ["n01440764", "tench"], "1": "goldfish"}', "neither a JSON list"),
        (b"{0: 'ash', 0: 'birch'}", "not valid JSON"),
        (b"0: ash,\n1: birch,\n2: cedar", "ends in a comma"),
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


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("ash\nbirch\nash\n", "'ash' is the name of the classes 0 and 2"),
        ('["ash", "birch", "birch "]', "'birch' is the name of the classes 1 and 2"),
        ("0: ash\n1: ash\n", "'ash' is the name of the classes 0 and 1"),
        ("n00000001 ash\nn00000002 birch\nn00000001 elm\n", "'n00000001' is the name of the classes 0 and 2"),
    ],
)
def test_two_classes_of_one_name_are_refused(tmp_path: Path, content: str, words: str) -> None:
    path = tmp_path / "labels.txt"
    path.write_text(content)
    with pytest.raises(DataError, match=words):
        read_labels(path)


def test_the_two_cranes_of_imagenet_are_read(tmp_path: Path) -> None:
    names = tuple(name.replace("crane bird", "crane") for name in imagenet_classes()[0])
    assert names.count("crane") == 2
    (tmp_path / "labels.txt").write_text("\n".join(names))
    assert read_labels(tmp_path / "labels.txt") == (names, None)
    (tmp_path / "alike.txt").write_text("n00000001 crane\nn00000002 crane\n")
    assert read_labels(tmp_path / "alike.txt")[0] == ("crane", "crane")
