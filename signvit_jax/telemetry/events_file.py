"""TensorBoard events, written record by record in the calling thread.

`tensorboardX.SummaryWriter` passes its records to a separate thread through a bounded queue. That
thread ends at the first disk error, the queue fills, and the next `add_scalar` never returns.
"""

import contextlib
import io
import math
import os
import socket
import struct
import time
from collections.abc import Mapping
from pathlib import Path

from PIL import Image

# protobuf makes its classes at import, so pyright finds none.
from tensorboardX.proto.event_pb2 import Event, SessionLog  # pyright: ignore[reportAttributeAccessIssue]
from tensorboardX.proto.summary_pb2 import (
    Summary,  # pyright: ignore[reportAttributeAccessIssue]
    SummaryMetadata,  # pyright: ignore[reportAttributeAccessIssue]
)
from tensorboardX.proto.tensor_pb2 import TensorProto  # pyright: ignore[reportAttributeAccessIssue]
from tensorboardX.proto.types_pb2 import DT_STRING  # pyright: ignore[reportAttributeAccessIssue]
from tensorboardX.record_writer import masked_crc32c

_VERSION = "brain.Event:2"

EventValue = float | str | Image.Image  # a number, a text in Markdown, or an image


class EventsFile:
    """`events.out.tfevents.*` in `folder`, created by the first record.

    A record is in it completely or not at all.
    """

    def __init__(self, folder: Path):
        # TensorBoard drops what earlier files recorded of this step and of later ones.
        self.purge_step: int | None = None
        self._folder = folder
        self._descriptor: int | None = None
        self._end: int  # of the last complete record

    def write(self, step: int, values: Mapping[str, EventValue], wall_time: float) -> None:
        """Write one event with the values: numbers, Markdown texts and images.

        TensorBoard shows finite numbers only, so others are left out. Raises OSError.
        """
        tagged = [
            _summary(name, value)
            for name, value in values.items()
            if not isinstance(value, float) or math.isfinite(value)
        ]
        descriptor = self._open() if self._descriptor is None else self._descriptor
        event = Event(wall_time=wall_time, step=step, summary=Summary(value=tagged))
        self._append(event, descriptor)

    def close(self) -> None:
        if self._descriptor is not None:
            with contextlib.suppress(OSError):  # NFS may report a full disk only now
                os.close(self._descriptor)
        self._descriptor = None

    def _open(self) -> int:
        now = time.time()
        path = self._folder / f"events.out.tfevents.{int(now)}.{socket.gethostname()}.{os.getpid()}"
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC
        self._descriptor = descriptor = os.open(path, flags, 0o644)
        self._end = 0
        try:
            self._append(Event(wall_time=now, file_version=_VERSION), descriptor)
            if self.purge_step is not None:
                start = SessionLog(status=SessionLog.START)
                event = Event(wall_time=now, step=self.purge_step, session_log=start)
                self._append(event, descriptor)
        except OSError:
            self.close()
            path.unlink()
            raise
        return descriptor

    def _append(self, event: Event, descriptor: int) -> None:
        """Write a record: length, its masked CRC-32C, the event, its masked CRC-32C."""
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
            while written < len(record):  # a nearly full disk takes only a part
                written += os.pwrite(descriptor, record[written:], self._end + written)
        except OSError:
            with contextlib.suppress(OSError):
                os.ftruncate(descriptor, self._end)
            raise
        self._end += len(record)


def _summary(tag: str, value: EventValue) -> Summary.Value:
    """The value as TensorBoard's plugins of scalars, texts and images read it."""
    if isinstance(value, str):
        plugin = SummaryMetadata.PluginData(plugin_name="text")
        content = TensorProto(dtype=DT_STRING, string_val=[value.encode("utf-8", "replace")])
        return Summary.Value(tag=tag, metadata=SummaryMetadata(plugin_data=plugin), tensor=content)
    if isinstance(value, Image.Image):
        png = io.BytesIO()
        value.convert("RGB").save(png, "PNG")
        content = Summary.Image(
            width=value.width,
            height=value.height,
            colorspace=3,  # RGB
            encoded_image_string=png.getvalue(),
        )
        return Summary.Value(tag=tag, image=content)
    return Summary.Value(tag=tag, simple_value=value)
