"""A port for processes of a test to meet at."""

import itertools
import os
import socket

# Below the ports that Linux gives to outgoing connections, and each test process in a part of its own:
# nobody else takes it between this check and its use.
_FIRST, _LAST, _A_PROCESS = 20_000, 32_000, 20
_numbers = itertools.count()


def free_port() -> int:
    """One that nobody listens at."""
    parts = (_LAST - _FIRST) // _A_PROCESS
    for _ in range(_A_PROCESS * parts):
        part, within = divmod(next(_numbers), _A_PROCESS)
        port = _FIRST + (os.getpid() + part) % parts * _A_PROCESS + within
        with socket.socket() as candidate:
            try:
                candidate.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise RuntimeError(f"no port from {_FIRST} to {_LAST} is free")
