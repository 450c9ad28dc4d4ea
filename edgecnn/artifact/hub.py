"""The Hugging Face Hub, or a server that speaks as it does (`HF_ENDPOINT`): a repository's files at one commit."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import re
import sys
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
    wanted = [name for name in WANTED if name in there]
    with hub(address) as api:
        found = [api.hf_hub_download(repository, name, revision=facts.sha, cache_dir=cache) for name in wanted]
    files = dict(zip(wanted, map(Path, found), strict=True))
    if WEIGHTS not in files:
        raise ModelError(
            f"{address}: has no {WEIGHTS}", "weights are read as safetensors alone: name another repository"
        )
    return HubFiles(f"{PREFIX}{repository}@{facts.sha}", str(facts.sha), files)


@contextlib.contextmanager
def hub(address: str) -> Iterator[Any]:
    """huggingface_hub's client; what it raises of the Hub becomes a `ModelError` that begins with `address`. Within
    stand its calls alone, for it raises `ValueError` and `RuntimeError` too."""
    if importlib.util.find_spec("huggingface_hub") is None:
        raise MissingPackageError("huggingface_hub", address, "hub")
    from huggingface_hub import HfApi

    try:
        yield HfApi(endpoint=os.environ.get("HF_ENDPOINT"))
    except _of_the_hub() as exc:
        said = (str(exc).strip().splitlines() or [""])[0][:200]
        hint = "check the name, the network and, for what is not public, HF_TOKEN"
        raise ModelError(f"{address}: the Hub's client says: {type(exc).__name__}: {said}", hint) from exc


def _of_the_hub() -> tuple[type[Exception], ...]:
    """What huggingface_hub 0.30 to 2.4 raises of a name, the network or the server, by its sources.

    Its HTTP library was requests, then httpx, then httpx2: all have `HTTPError` and `InvalidURL`. An answer that is no
    JSON is a `ValueError`, one without what it asks for a `KeyError`, and what fails under an upload or in hf_xet a
    `RuntimeError`.
    """
    from huggingface_hub.errors import HfHubHTTPError

    http_error = HfHubHTTPError.__bases__[0]
    http = sys.modules[http_error.__module__]
    return (http_error, http.InvalidURL, OSError, ValueError, KeyError, RuntimeError)
