"""TensorBoard events, written record by record in the calling thread.

`tensorboardX.SummaryWriter` hands its records to a thread of its own through a bounded queue. That
thread ends at the first error of the disk, the queue fills, and the next `add_scalar` never returns.
"""

import contextlib
import math
import os
import socket
import struct
import time
from collections.abc import Mapping
from pathlib import Path

from tensorboardX.proto.event_pb2 import Event, SessionLog
from tensorboardX.proto.summary_pb2 import Summary
from tensorboardX.record_writer import masked_crc32c

_VERSION = "brain.Event:2"


class EventsFile:
    """`events.out.tfevents.*` in `folder`, made with the first record. A record is in it whole or not at all."""

    def __init__(self, folder: Path):
        self.purge_step: int | None = (
            None  # TensorBoard forgets what earlier files say of this step and later ones
        )
        self._folder = folder
        self._descriptor: int | None = None
        self._end: int  # of the last whole record

    def write(self, step: int, figures: Mapping[str, float], wall_time: float) -> None:
        """One event with all finite figures; TensorBoard has no place for the others. Raises OSError."""
        values = [
            Summary.Value(tag=name, simple_value=value)
            for name, value in figures.items()
            if math.isfinite(value)
        ]
        if self._descriptor is None:
            self._open()
        self._append(Event(wall_time=wall_time, step=step, summary=Summary(value=values)))

    def close(self) -> None:
        if self._descriptor is not None:
            with contextlib.suppress(OSError):  # NFS may say only now that the disk is full
                os.close(self._descriptor)
        self._descriptor = None

    def _open(self) -> None:
        now = time.time()
        path = self._folder / f"events.out.tfevents.{int(now)}.{socket.gethostname()}.{os.getpid()}"
        self._descriptor, self._end = (
            os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o644),
            0,
        )
        try:
            self._append(Event(wall_time=now, file_version=_VERSION))
            if self.purge_step is not None:
                self._append(
                    Event(
                        wall_time=now,
                        step=self.purge_step,
                        session_log=SessionLog(status=SessionLog.START),
                    )
                )
        except OSError:
            self.close()
            path.unlink()
            raise

    def _append(self, event: Event) -> None:
        """A record: length, its masked CRC-32C, the event, its masked CRC-32C."""
        content = event.SerializeToString()
        length = struct.pack("<Q", len(content))
        record = (
            length
            + struct.pack("<I", masked_crc32c(length))
            + content
            + struct.pack("<I", masked_crc32c(content))
        )
        written = 0
        try:
            while written < len(record):  # where the disk is nearly full the kernel takes a part
                written += os.pwrite(self._descriptor, record[written:], self._end + written)
        except OSError:
            with contextlib.suppress(OSError):
                os.ftruncate(self._descriptor, self._end)
            raise
        self._end += len(record)
