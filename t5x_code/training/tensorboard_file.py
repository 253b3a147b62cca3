"""A run's curves as TensorBoard reads them: one file of events per start.

tensorboardX's own writer has a thread and a queue: on a full disk the thread dies with a traceback, and whoever fills
the queue afterwards waits for good. This one writes at once, and the write that fails raises.
"""

import contextlib
import errno
import os
import socket
import struct
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any


@contextlib.contextmanager
def _without_torch() -> Iterator[None]:
    """Hides PyTorch from imports: tensorboardX would import it wherever it is installed, which takes seconds before the
    first step, and uses it for graphs alone."""
    if "torch" in sys.modules:
        yield
        return
    sys.modules["torch"] = None  # what Python takes for not installed
    try:
        yield
    finally:
        del sys.modules["torch"]


class TensorBoardFile:
    """Appends the scalars of one step at a time."""

    def __init__(self, folder: Path, first_step: int):
        """Opens a new file; TensorBoard hides what older ones hold after `first_step`.

        Raises:
            OSError: the folder cannot be written.
        """
        with _without_torch():
            from tensorboardX.proto.event_pb2 import Event, SessionLog
            from tensorboardX.proto.summary_pb2 import Summary
            from tensorboardX.record_writer import masked_crc32c

        self._event, self._summary, self._checksum = Event, Summary, masked_crc32c
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"events.out.tfevents.{time.time():.0f}.{socket.gethostname()}.{os.getpid()}"
        self._file = path.open("ab", buffering=0)
        start = SessionLog(status=SessionLog.START)
        self._append(Event(wall_time=time.time(), file_version="brain.Event:2"))
        self._append(Event(wall_time=time.time(), step=first_step + 1, session_log=start))

    def write(self, step: int, metrics: dict[str, float]) -> None:
        """Adds one step's numbers.

        Raises:
            OSError: the disk takes no more.
        """
        values = [self._summary.Value(tag=name, simple_value=value) for name, value in metrics.items()]
        self._append(self._event(wall_time=time.time(), step=step, summary=self._summary(value=values)))

    def close(self) -> None:
        """Nothing is left to be written."""
        self._file.close()

    def _append(self, event: Any) -> None:
        """One record: its length and its bytes, each with a checksum."""
        data = event.SerializeToString()
        length = struct.pack("<Q", len(data))
        checksums = (struct.pack("<I", self._checksum(part)) for part in (length, data))
        record = length + next(checksums) + data + next(checksums)
        if self._file.write(record) != len(record):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
