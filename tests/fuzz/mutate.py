"""Damaged copies of good files: bytes for what comes from strangers, values for our own JSON and TOML."""

from __future__ import annotations

import copy
import io
import json
import random
import zipfile
from typing import Any

NUMBERS = (0, 1, 7, 0x7F, 0x80, 0xFF)
WORDS = (
    b"\x00" * 4,
    b"\xff" * 4,
    b"\x7f\xff\xff\xff",
    b"\x00\x00\x01\x00",
    b"\xff" * 8,
    b"-1",
    b"nan",
    b"[" * 300,
    b'"',
    b"../",
)
VALUES: tuple[Any, ...] = (
    None, True, -1, 0, 2**31, 2**63, 10**400, 1e308, float("inf"), float("nan"), "", "a", "../x", "\x1b[31m", "\n",
    "#1", "=1",
    "\ud800", [], [[]], {}, {"a": 1}, [1, "a"], "9" * 400,
)  # fmt: skip


def damaged_bytes(rng: random.Random, seed: bytes) -> bytes:
    """Some bytes changed, cut, doubled, moved or put in."""
    made = bytearray(seed)
    for _ in range(rng.choice((1, 1, 1, 2, 4, 16))):
        at = rng.randrange(len(made) + 1)
        kind = rng.randrange(7)
        if kind == 0 and made:
            made[at % len(made)] ^= 1 << rng.randrange(8)
        elif kind == 1 and made:
            made[at % len(made)] = rng.choice(NUMBERS)
        elif kind == 2:
            made[at : at + rng.choice((1, 2, 4, 8, 64))] = b""
        elif kind == 3:
            made[at:at] = rng.choice(WORDS)
        elif kind == 4:
            word = rng.choice(WORDS)
            made[at : at + len(word)] = word
        elif kind == 5:
            made = made[:at]
        else:
            start = rng.randrange(len(made) + 1)
            made[at:at] = made[start : start + rng.choice((1, 4, 32))]
    return bytes(made)


def damaged_value(rng: random.Random, seed: Any) -> Any:
    """One to three places of a tree replaced, removed, renamed or doubled."""
    made = copy.deepcopy(seed)
    for _ in range(rng.choice((1, 1, 2, 3))):
        holder, key = _place(rng, made)
        if holder is None:
            return rng.choice(VALUES)
        kind = rng.randrange(4)
        if kind == 0:
            del holder[key]
        elif kind == 1 and isinstance(holder, dict):
            holder[f"{key}{rng.choice(('', '_', 'x', chr(0x1B)))}"] = holder.pop(key)
        elif kind == 2 and isinstance(holder, list):
            holder.append(copy.deepcopy(holder[key]))
        else:
            holder[key] = copy.deepcopy(rng.choice(VALUES))
    return made


def _place(rng: random.Random, tree: Any) -> tuple[Any, Any]:
    """A container and a key in it, at any depth."""
    holder, key = None, None
    while isinstance(tree, (dict, list)) and tree:
        holder, key = tree, rng.choice([*tree] if isinstance(tree, dict) else range(len(tree)))
        tree = tree[key]
        if rng.random() < 0.3:
            break
    return holder, key


def damaged_json(rng: random.Random, seed: bytes) -> bytes:
    """Of three, two are still JSON."""
    if rng.randrange(3) == 0:
        return damaged_bytes(rng, seed)
    return json.dumps(damaged_value(rng, json.loads(seed))).encode()


def damaged_zip(rng: random.Random, seed: bytes) -> bytes:
    """Half of them damaged as bytes; of the others a member or two before they were packed, so that no checksum is
    wrong."""
    if rng.randrange(2) == 0 or not zipfile.is_zipfile(io.BytesIO(seed)):
        return damaged_bytes(rng, seed)
    with zipfile.ZipFile(io.BytesIO(seed)) as archive:
        members = [(info, archive.read(info)) for info in archive.infolist()]
    made = io.BytesIO()
    chosen = {rng.randrange(len(members)) for _ in range(rng.choice((1, 1, 2)))}
    with zipfile.ZipFile(made, "w") as archive:
        for number, (info, content) in enumerate(members):
            archive.writestr(info, damaged_bytes(rng, content) if number in chosen else content)
    return made.getvalue()
