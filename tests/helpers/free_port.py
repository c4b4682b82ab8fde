"""A port at which the processes of a test can connect."""

import itertools
import os
import socket

# Linux uses higher ports for outgoing connections, and each test process has its own range. So no
# other process takes a port between this check and its use.
_FIRST, _LAST = 20_000, 32_000
_PER_PROCESS = 20
_numbers = itertools.count()


def free_port() -> int:
    """Return a port on which nobody listens."""
    ranges = (_LAST - _FIRST) // _PER_PROCESS
    for _ in range(_PER_PROCESS * ranges):
        number, within = divmod(next(_numbers), _PER_PROCESS)
        port = _FIRST + (os.getpid() + number) % ranges * _PER_PROCESS + within
        with socket.socket() as candidate:
            try:
                candidate.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise RuntimeError(f"no port from {_FIRST} to {_LAST} is free")
