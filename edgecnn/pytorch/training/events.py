"""TensorBoard event files, written without importing more of TensorBoard than its file format."""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from edgecnn.artifact.temporary import disk_errors
from edgecnn.machine.packages import missing_package


class EventFile:
    """Scalars by step, in `folder/events.out.tfevents.*`; raises `WriteError` where they cannot be written."""

    def __init__(self, folder: Path) -> None:
        try:
            from tensorboard.compat.proto.event_pb2 import Event
            from tensorboard.summary.writer.record_writer import RecordWriter
        except ModuleNotFoundError as exc:
            raise missing_package("tensorboard", "training", "cpu") from exc
        self._path = folder / f"events.out.tfevents.{time.time_ns() // 1000:016d}.{platform.node()}.{os.getpid()}"
        self._writer: Any = RecordWriter
        with disk_errors(self._path):
            folder.mkdir(parents=True, exist_ok=True)
        self._write(Event(wall_time=time.time(), file_version="brain.Event:2"))

    def add(self, scalars: Mapping[str, float | None], step: int) -> None:
        """The values that are not None."""
        from tensorboard.compat.proto.event_pb2 import Event
        from tensorboard.compat.proto.summary_pb2 import Summary

        values = [Summary.Value(tag=tag, simple_value=value) for tag, value in scalars.items() if value is not None]
        self._write(Event(wall_time=time.time(), step=step, summary=Summary(value=values)))

    def _write(self, event: Any) -> None:
        with disk_errors(self._path), self._path.open("ab") as file:
            self._writer(file).write(event.SerializeToString())
