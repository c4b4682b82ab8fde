"""Encodes clips in parallel processes, in order and with bounded memory."""

import collections
import itertools
import multiprocessing
import os
import signal
import threading
from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor

from tfds_builders.clips import Clip, EncodedClip, Encoding, Problem, encode_clip

CLIPS_IN_FLIGHT = 3  # per worker: encoded clips that wait for an earlier one are held in memory


class ClipEncoder:
    """`workers` processes (0 = one per core; 1 = this process alone), each with a decoding child of its own. A context manager."""

    def __init__(self, encoding: Encoding, workers: int = 0):
        self._encoding = encoding
        self._workers = workers or len(os.sched_getaffinity(0))
        self._pool: ProcessPoolExecutor | None = None

    def __enter__(self) -> "ClipEncoder":
        return self

    def __exit__(self, error_type: type | None, *_) -> None:
        if self._pool is not None:
            if (
                error_type is not None
            ):  # do not wait for clips that nobody wants; `kill_workers` from Python 3.14 on
                for worker in list(self._pool._processes.values()):
                    worker.kill()
            self._pool.shutdown(wait=True, cancel_futures=True)
            self._pool = None

    def encode(self, clips: Iterable[Clip]) -> Iterator[EncodedClip | Problem]:
        """One result a clip, in the order of the clips, whatever the number of workers. Raises BrokenProcessPool if a worker is killed."""
        if self._workers == 1:
            yield from (encode_clip(clip, self._encoding) for clip in clips)
            return
        if self._pool is None:
            # Spawned, not forked: the parent may hold threads (TFDS, a progress bar).
            self._pool = ProcessPoolExecutor(
                self._workers, multiprocessing.get_context("spawn"), initializer=_start_worker
            )
        clips, waiting = iter(clips), collections.deque()
        for clip in itertools.islice(clips, CLIPS_IN_FLIGHT * self._workers):
            waiting.append(self._pool.submit(encode_clip, clip, self._encoding))
        while waiting:
            result = waiting.popleft().result()
            for clip in itertools.islice(clips, 1):
                waiting.append(self._pool.submit(encode_clip, clip, self._encoding))
            yield result


def _start_worker() -> None:
    """Ctrl-C is the parent's to handle, and no worker outlives a parent that was killed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    multiprocessing.parent_process().join()
    os._exit(1)
