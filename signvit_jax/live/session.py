"""A live session of a camera or file: one thread reads the frames, another yields the text."""

import threading
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from signvit_jax.inference.streaming import LiveSession, StreamUpdate
from signvit_jax.runtime.signals import StopRequest

if TYPE_CHECKING:
    from signvit_jax.media.cameras import Image

_POLL_S = 0.1  # seconds between checks for a signal


def updates_of(
    session: LiveSession,
    open_frames: "Callable[[threading.Event], Iterator[Image]]",
    request: StopRequest,
    should_stop: Callable[[], bool] = lambda: False,
) -> Iterator[StreamUpdate]:
    """Yield the session's updates until the source ends, a stop is requested, or `should_stop()`.

    Unless `should_stop()` returned True, the last update has the rest of the text. After it, raises
    the error that reading the source raised (SourceError, VideoDecodeError), if any.
    """
    stop, done = threading.Event(), threading.Event()
    failure: list[Exception] = []

    def push() -> None:
        try:
            for image in open_frames(stop):
                if not session.push(image):
                    break
        except Exception as error:
            failure.append(error)
        finally:
            session.end()

    def watch() -> None:
        while not done.wait(_POLL_S):
            if request.requested:
                stop.set()
                session.end()  # do not wait for a camera that hangs
                return

    threads = [
        threading.Thread(target=run, name=f"signvit_jax_{run.__name__}", daemon=True)
        for run in (push, watch)
    ]
    for thread in threads:
        thread.start()
    try:
        for update in session.updates(wait=True):
            yield update
            if should_stop():
                return
        if failure:
            raise failure[0]
    finally:
        stop.set()
        done.set()
        session.cancel()
