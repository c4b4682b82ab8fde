"""Encoding of clips in parallel processes, in order and with bounded memory."""

import collections
import itertools
import multiprocessing
import os
import signal
import threading
from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor

from tfds_builders.clips import Clip, EncodedClip, Encoding, Problem, encode_clip

# Per worker. Encoded clips that wait for an earlier one stay in memory.
CLIPS_IN_FLIGHT = 3


class ClipEncoder:
    """Encoding of clips in worker processes, each with its own decoding child. A context manager.

    `workers`: number of processes, 0 = one per core, 1 = only the calling process.
    """

    def __init__(self, encoding: Encoding, workers: int = 0):
        self._encoding = encoding
        self._workers = workers or len(os.sched_getaffinity(0))
        self._pool: ProcessPoolExecutor | None = None

    def __enter__(self) -> "ClipEncoder":
        return self

    def __exit__(self, error_type: type | None, *_: object) -> None:
        if self._pool is None:
            return
        if error_type is not None:
            # Do not wait for clips that nobody needs any more; `kill_workers` from Python 3.14 on.
            for worker in list(self._pool._processes.values()):
                worker.kill()
        self._pool.shutdown(wait=True, cancel_futures=True)
        self._pool = None

    def encode(self, clips: Iterable[Clip]) -> Iterator[EncodedClip | Problem]:
        """Yield one result per clip, in the order of the clips.

        Raises BrokenProcessPool if a worker is killed.
        """
        if self._workers == 1:
            yield from (encode_clip(clip, self._encoding) for clip in clips)
            return
        if self._pool is None:
            # Spawned, not forked: the parent may have threads (TFDS, a progress bar).
            self._pool = ProcessPoolExecutor(
                self._workers, multiprocessing.get_context("spawn"), initializer=_start_worker
            )
        remaining = iter(clips)
        waiting = collections.deque()
        for clip in itertools.islice(remaining, CLIPS_IN_FLIGHT * self._workers):
            waiting.append(self._pool.submit(encode_clip, clip, self._encoding))
        while waiting:
            result = waiting.popleft().result()
            for clip in itertools.islice(remaining, 1):
                waiting.append(self._pool.submit(encode_clip, clip, self._encoding))
            yield result


def _start_worker() -> None:
    """Initialize a worker: it ignores Ctrl-C and ends when the parent ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None  # a worker has one
    parent.join()
    os._exit(1)
