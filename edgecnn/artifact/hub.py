"""The Hugging Face Hub, or a server that speaks as it does (`HF_ENDPOINT`): a repository's files at one commit."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgecnn.errors import MissingPackageError, ModelError

PREFIX = "hf://"
REPOSITORY = r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*"
WEIGHTS, CONFIG = "model.safetensors", "config.json"
WANTED = (WEIGHTS, f"{WEIGHTS}.json", CONFIG)


@dataclass(frozen=True)
class HubFiles:
    """What of a network lies in a repository, at `commit`, by its name there; `address` names both."""

    address: str
    commit: str
    files: dict[str, Path]


def fetch_network(address: str, cache: Path) -> HubFiles:
    """Download the weights and the description of the network at `hf://OWNER/REPO` or `hf://OWNER/REPO@REVISION` into
    `cache`, all of one commit; raises `ModelError` for another address, and where something is not to be had."""
    parts = re.fullmatch(rf"{PREFIX}({REPOSITORY})(?:@([\w./-]+))?", address)
    if parts is None:
        raise ModelError(
            f"{address}: no repository of the Hub", f"write {PREFIX}OWNER/REPO, or {PREFIX}OWNER/REPO@REVISION"
        )
    repository, revision = parts.groups()
    with hub(address) as api:
        facts = api.model_info(repository, revision=revision)
        there = {file.rfilename for file in facts.siblings or ()}
        files = {
            name: Path(api.hf_hub_download(repository, name, revision=facts.sha, cache_dir=cache))
            for name in WANTED
            if name in there
        }
    if WEIGHTS not in files:
        raise ModelError(
            f"{address}: has no {WEIGHTS}", "weights are read as safetensors alone: name another repository"
        )
    return HubFiles(f"{PREFIX}{repository}@{facts.sha}", str(facts.sha), files)


@contextlib.contextmanager
def hub(address: str) -> Iterator[Any]:
    """huggingface_hub's client; what it raises becomes a `ModelError` that begins with `address`."""
    if importlib.util.find_spec("huggingface_hub") is None:
        raise MissingPackageError("huggingface_hub", address, "hub")
    from huggingface_hub import HfApi

    try:
        yield HfApi(endpoint=os.environ.get("HF_ENDPOINT"))
    except Exception as exc:  # of the client, and of the HTTP library under it
        said = (str(exc).strip().splitlines() or [type(exc).__name__])[0][:200]
        hint = "check the name, the network and, for what is not public, HF_TOKEN"
        raise ModelError(f"{address}: the Hub's client says: {said}", hint) from exc
