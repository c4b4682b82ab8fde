"""glibc malloc tuning for CPU training."""

import ctypes
import sys

# Parameters of mallopt, from glibc's malloc.h.
_TRIM_THRESHOLD, _TOP_PAD, _MMAP_MAX, _ARENA_MAX = -1, -2, -4, -8
_TOP_PAD_BYTES = 256 << 20
_NEVER = -1


def tune_malloc() -> bool:
    """Let malloc reuse freed memory in the next step; False where the C library is not glibc.

    XLA's CPU backend allocates its temporary arrays again in every step. By default large blocks
    come directly from the kernel and return to it, so the kernel must zero new pages in each step.
    That takes a tenth to a quarter of a small model's step time. One arena serves all threads,
    because the other arenas hold no block above 64 MiB. Call it before JAX starts its threads.
    """
    if not sys.platform.startswith("linux"):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return False
    settings = {
        _ARENA_MAX: 1,
        _MMAP_MAX: 0,
        _TRIM_THRESHOLD: _NEVER,
        _TOP_PAD: _TOP_PAD_BYTES,
    }
    accepted = [mallopt(parameter, value) for parameter, value in settings.items()]
    return all(accepted)
