"""TensorBoard event files, written without importing more of TensorBoard than its file format."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from edgecnn.machine.packages import missing_package


class EventFile:
    """Scalars by step, in `folder/events.out.tfevents.*`."""

    def __init__(self, folder: Path) -> None:
        try:
            from tensorboard.summary.writer.event_file_writer import EventFileWriter
        except ModuleNotFoundError as exc:
            raise missing_package("tensorboard", "training", "cpu") from exc
        self._writer: Any = EventFileWriter(str(folder))

    def add(self, scalars: Mapping[str, float | None], step: int) -> None:
        """The values that are not None."""
        from tensorboard.compat.proto.event_pb2 import Event
        from tensorboard.compat.proto.summary_pb2 import Summary

        values = [Summary.Value(tag=tag, simple_value=value) for tag, value in scalars.items() if value is not None]
        self._writer.add_event(Event(wall_time=time.time(), step=step, summary=Summary(value=values)))
        self._writer.flush()

    def close(self) -> None:
        """Flush and close the file."""
        self._writer.close()
