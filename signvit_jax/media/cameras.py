"""Cameras of this machine, read through PyAV, which knows the camera devices of each system.

A camera is a device that the user names, so it is read in this process; only files, which may come
from strangers, are decoded in a child (`media.video`).
"""

import sys
import threading
from collections.abc import Callable, Iterator

import av
import numpy as np
from jaxtyping import UInt8

from signvit_jax.errors.base import SignVitError

Image = UInt8[np.ndarray, "h w 3"]  # RGB

# By `sys.platform`: FFmpeg's name of the devices.
_FORMATS = {"linux": "v4l2", "darwin": "avfoundation"}
_RATE = "30"  # frames per second that are asked for; a camera gives fewer in the dark
_RETRY_SECONDS = 0.01  # macOS answers "no frame yet" in place of waiting for one


class SourceError(SignVitError, ValueError):
    """A camera or stream that cannot be read; the message says what to do."""


def can_read_cameras() -> bool:
    """Return True if this build of PyAV has the devices of this system."""
    try:
        av.ContainerFormat(_FORMATS.get(sys.platform, ""), "r")
    except ValueError:
        return False
    return True


def open_camera(camera: int | str) -> Callable[[threading.Event], Iterator[Image]]:
    """Open a camera; return the function that yields its frames until its event is set.

    `camera` is its number, from 0, or its name: /dev/video0 on Linux, the name of the device on
    macOS. Both this function and the returned one raise SourceError.
    """
    if not can_read_cameras():
        raise SourceError(
            f"camera {camera} cannot be opened: this PyAV reads no cameras on {sys.platform}; "
            "install its wheel with pip install av, or give the file of a video"
        )
    on_linux = sys.platform == "linux"
    file = f"/dev/video{camera}" if on_linux and isinstance(camera, int) else str(camera)
    try:
        device = av.open(file, format=_FORMATS[sys.platform], options={"framerate": _RATE})
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise SourceError(
            f"camera {camera} cannot be opened ({file}: {reason}); is it connected, not in use, "
            "and may this user read it? Cameras are numbered from 0"
        ) from error

    def frames(stop: threading.Event) -> Iterator[Image]:
        with device:
            while not stop.is_set():
                try:
                    for frame in device.decode(video=0):
                        if stop.is_set():
                            return
                        yield frame.to_ndarray(format="rgb24")
                    break
                except BlockingIOError:
                    stop.wait(_RETRY_SECONDS)
                except (OSError, ValueError) as error:
                    raise SourceError(
                        f"camera {camera} cannot be read any more: {error}"
                    ) from error
        if not stop.is_set():
            raise SourceError(f"camera {camera} gives no more frames")

    return frames
