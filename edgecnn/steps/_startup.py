"""Open an engine, and measure what that costs.

The runtime's library and the CUDA context are there before: what is measured is the engine's own. What the first engine
of a process loads with it (kernels, cuDNN), later ones find.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from pathlib import Path

from edgecnn.backends import backend_for
from edgecnn.recipe.schema import OrtProvider
from edgecnn.results.startup import Startup
from edgecnn.session import Array, Session
from edgecnn.steps._sessions import CHECKPOINT


def open_measured(
    stack: contextlib.ExitStack,
    path: Path,
    opened: Callable[[], Session],
    first: Callable[[Session], Array],
    provider: OrtProvider | None = None,
) -> tuple[Session, Startup]:
    """The session that `opened` gives (a graph's by a `provider`), closed with `stack`, and its `Startup`; `first`
    makes the input of the first query from it."""
    free_before = _free_bytes(path, provider)
    start = time.perf_counter()
    session = stack.enter_context(opened())
    load_s = time.perf_counter() - start
    images = first(session)
    start = time.perf_counter()
    session.run(images)
    first_query_ms = 1000 * (time.perf_counter() - start)
    free_after = _free_bytes(path, provider)
    taken = None if free_before is None or free_after is None else free_before - free_after
    known = taken is not None and taken > 0  # else others gave some back meanwhile
    return session, Startup(load_s, first_query_ms, taken / 1e6 if taken is not None and known else None)


def _free_bytes(path: Path, provider: OrtProvider | None) -> int | None:
    return None if path.suffix == CHECKPOINT else backend_for(path, provider).free_memory_bytes()
