"""The child process that runs `video_worker.py`, and the pipes to it."""

import json
import os
import select
import signal
import struct
import subprocess
import sys
import time
import weakref
from pathlib import Path

import numpy as np
from jaxtyping import UInt8

_REPLY = struct.Struct("<cdQ")  # kind, seconds, payload length; see video_worker.py
_PIPE_BYTES = 1 << 20
_WORKER = Path(__file__).with_name("video_worker.py")


class WorkerEnded(Exception):
    """The worker died with `returncode`, or did not answer in time (None)."""

    def __init__(self, returncode: int | None):
        self.returncode = returncode

    def reason(self, cpu_seconds: float, wall_seconds: float) -> str:
        """The reason for the user, with the limits that were set."""
        if self.returncode is None:
            return f"decoding took longer than {wall_seconds:g} s (wall_seconds)"
        if self.returncode == -signal.SIGXCPU:
            return f"decoding took more than {cpu_seconds:g} s of processor time (cpu_seconds)"
        if self.returncode < 0:
            return f"the decoder crashed ({signal.Signals(-self.returncode).name})"
        return (
            f"the decoder ended with exit code {self.returncode}; "
            f"`python {_WORKER} < /dev/null` shows why"
        )


class WorkerProcess:
    """The running worker and its two pipes. One request at a time; `end()` kills it."""

    def __init__(self):
        # -P keeps the folder of the script off sys.path. In a session of its own, the child gets no
        # Ctrl-C from the terminal; the parent ends it.
        self.process = subprocess.Popen(
            [sys.executable, "-P", os.fspath(_WORKER)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            bufsize=0,
            start_new_session=True,
        )
        self._owner = os.getpid()
        self._seconds_left = 0.0  # to wait for replies to the present request
        stdin, stdout = self.process.stdin, self.process.stdout
        assert stdin is not None and stdout is not None  # opened as PIPE
        self._requests = stdin
        self._replies = stdout.fileno()
        os.set_blocking(self._replies, False)
        self.end = weakref.finalize(self, _end, self.process, self._owner)
        try:
            import fcntl

            fcntl.fcntl(self._replies, fcntl.F_SETPIPE_SZ, _PIPE_BYTES)
        except (ImportError, AttributeError, OSError):
            pass  # a smaller pipe is only slower

    def usable(self) -> bool:
        """False after a fork (two processes cannot share one pipe), or if the child has died."""
        return self._owner == os.getpid() and self.process.poll() is None

    def ask(self, request: dict[str, object], wall_seconds: float) -> None:
        """Send a request; `reply` then waits for its replies for `wall_seconds` in all.

        Raises WorkerEnded.
        """
        self._seconds_left = wall_seconds
        try:
            rest = memoryview(json.dumps(request).encode() + b"\n")
            while rest:  # a signal may interrupt the writing of a long request
                rest = rest[self._requests.write(rest) or 0 :]
        except BrokenPipeError:
            raise WorkerEnded(self.process.wait()) from None

    def allow(self, seconds: float) -> None:
        """Extend the time that `reply` waits."""
        self._seconds_left += seconds

    def reply(self) -> tuple[bytes, float, UInt8[np.ndarray, " n"]]:
        """Return the next reply: kind, seconds and payload. Raises WorkerEnded."""
        kind, seconds, length = _REPLY.unpack(self._read(_REPLY.size))
        return kind, seconds, self._read(length)

    def _read(self, length: int) -> UInt8[np.ndarray, " n"]:
        buffer = np.empty(length, np.uint8)  # a bytearray would be filled with zeros first
        rest = memoryview(buffer)
        while rest:
            try:
                count = os.readv(self._replies, [rest])
            except BlockingIOError:
                self._wait()
                continue
            if count == 0:
                raise WorkerEnded(self.process.wait())
            rest = rest[count:]
        return buffer

    def _wait(self) -> None:
        """Wait until something can be read.

        Only this time counts as wall time: a caller may take any time between frames.
        """
        start = time.monotonic()
        ready = select.select([self._replies], [], [], max(0.0, self._seconds_left))[0]
        self._seconds_left -= time.monotonic() - start
        if not ready:
            raise WorkerEnded(None)


def _end(process: subprocess.Popen, owner: int) -> None:
    if os.getpid() == owner:
        process.kill()
        process.wait()
    for pipe in (process.stdin, process.stdout):
        if pipe is not None:
            pipe.close()
