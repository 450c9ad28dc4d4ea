"""What each golden file should hold: one function for each, which the tests and `rewrite` share."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.pinned.command_line import commands
from tests.pinned.flow import Flow
from tests.pinned.graphs import pinned_graphs, same_norms
from tests.pinned.old_files import old_files
from tests.pinned.schema import agreed

Content = dict[str, Any]


def contents(work: Path) -> dict[str, Callable[[Content], Content]]:
    """name of a golden file -> what it should hold, given what it holds; equal where nothing changed that matters."""
    flow = Flow(work / "flow")
    flow.work.mkdir(parents=True)
    return {
        "commands": lambda old: commands(),
        "outputs": lambda old: _agreed(old, flow.outputs()),
        "artifacts": lambda old: {
            "files": flow.files(),
            "schemas": _agreed(old.get("schemas", {}), flow.artifacts()),
        },
        "exit_codes": lambda old: flow.exit_codes(),
        "graphs": lambda old: same_norms(old, pinned_graphs(work / "graphs")),
        "old_files": lambda old: old_files(work / "old"),
    }


def _agreed(old: Content, new: Content) -> Content:
    return {name: agreed(old.get(name, {}), schema) for name, schema in new.items()}
