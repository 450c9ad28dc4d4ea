"""Keep that an engine took its process down: a result like any other, which the gate judges."""

from __future__ import annotations

import contextlib
from pathlib import Path

from edgecnn.artifact.run_folder import CRASH
from edgecnn.artifact.sidecar import Sidecar, parents_of, read_sidecar
from edgecnn.artifact.write import write_json_artifact
from edgecnn.errors import ArtifactError, CrashError
from edgecnn.records import mapping_from_json, record_from_mapping, to_plain
from edgecnn.results.crash import Crash, CrashFile


def crash_path(folder: Path, name: str) -> Path:
    """Where the crash of the engine `name` stands, of a target's folder."""
    return folder / CRASH.replace("*", name)


def keep_crash(folder: Path, name: str, engine: Path, step: str, crash: CrashError) -> None:
    """Write the crash of `engine` in `step`."""
    sidecar, output = read_sidecar(engine), crash_path(folder, name)
    found = CrashFile(name=name, crash=Crash(step, crash.ended), engine=sidecar.engine)
    made = Sidecar(
        kind="crash",
        made_by=f"edgecnn {step}",
        recipe=sidecar.recipe,
        parents=parents_of(output, engine),
        fields=sidecar.fields,
        tools=sidecar.tools,
        device=sidecar.device,
    )
    write_json_artifact(output, to_plain(found), made)


def crashed_in(folder: Path, name: str) -> str:
    """The step in which an engine took its process down; "" where it did not."""
    path = crash_path(folder, name)
    with contextlib.suppress(FileNotFoundError, ArtifactError):
        content = mapping_from_json(path.read_bytes(), str(path), "")
        return record_from_mapping(CrashFile, content, str(path), "").crash.crash_step
    return ""
