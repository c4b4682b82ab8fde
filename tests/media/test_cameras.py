"""Tests of cameras read by PyAV. FFmpeg's own test image replaces a camera."""

import sys
import threading

import pytest

from signvit_jax.inference.frame_sources import open_source
from signvit_jax.media import cameras
from signvit_jax.media.cameras import SourceError, can_read_cameras, open_camera


@pytest.fixture
def red_camera(monkeypatch) -> str:
    """The name of a stand-in camera that gives five red images."""
    monkeypatch.setitem(cameras._FORMATS, sys.platform, "lavfi")
    return "color=c=red:size=64x48:rate=25:duration=0.2"


def test_a_camera_gives_rgb_until_it_ends(red_camera):
    frames = open_camera(red_camera)(threading.Event())
    images = [next(frames) for _ in range(5)]
    assert images[0].shape == (48, 64, 3) and (images[0][0, 0] > 200).tolist() == [
        True,
        False,
        False,
    ]
    with pytest.raises(SourceError, match="gives no more frames"):
        next(frames)


def test_a_camera_is_read_until_it_is_stopped(red_camera):
    stop = threading.Event()
    frames = open_camera(red_camera)(stop)
    next(frames)
    stop.set()
    assert list(frames) == []


def test_a_camera_without_a_frame_yet_is_read_again(red_camera, monkeypatch):
    errors = iter([BlockingIOError(11, "no frame yet"), None])
    open_device = cameras.av.open

    class Device:
        def __init__(self, *arguments, **options):
            self.container = open_device(*arguments, **options)

        def __enter__(self):
            return self

        def __exit__(self, *_):
            self.container.close()

        def decode(self, video):
            if error := next(errors):
                raise error
            return self.container.decode(video=video)

    monkeypatch.setattr(cameras.av, "open", Device)
    assert next(open_camera(red_camera)(threading.Event())).shape == (48, 64, 3)


@pytest.mark.skipif(not can_read_cameras(), reason="no camera devices in this PyAV")
def test_a_missing_camera_is_an_error():
    with pytest.raises(SourceError, match=r"camera 9753 cannot be opened .*numbered from 0"):
        open_camera(9753)
    with pytest.raises(SourceError, match="camera /dev/nothing cannot be opened"):
        open_source("/dev/nothing", None, lambda image: image, 8, 6.0)


def test_opening_a_camera_is_an_error_if_pyav_reads_none(monkeypatch):
    monkeypatch.delitem(cameras._FORMATS, sys.platform)
    assert not can_read_cameras()
    with pytest.raises(SourceError, match="this PyAV reads no cameras on"):
        open_camera(0)
