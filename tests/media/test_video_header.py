"""Tests that the header of a file predicts what reading it finds, as far as a header can."""

import pytest

from signvit_jax.media.video import (
    Sampling,
    VideoDecodeError,
    VideoLimits,
    open_video,
    read_header,
    read_jpegs,
)
from tests.helpers.clip_makers import encode, shades


@pytest.mark.parametrize("name", ["a.mp4", "a.mov", "a.mkv", "a.webm", "a.avi"])
def test_duration_and_rate_are_those_of_the_frames(tmp_path, name):
    codec = {"a.webm": "libvpx"}.get(name, "libx264")
    path = encode(tmp_path / name, shades(15), fps=10, codec=codec)
    header = read_header(path, [(None, None)])
    assert header.seconds == pytest.approx(1.5, abs=0.01) and header.fps == pytest.approx(10, 0.01)
    assert header.faults == (None,)


@pytest.mark.parametrize("part", [(0.5, 3.0), (1.5, None), (7.0, 9.0), (1.4, 1.9)])
def test_a_part_that_cannot_be_read_has_the_reason_of_the_reader(tmp_path, part):
    path = encode(tmp_path / "a.mp4", shades(15), fps=10)
    start, end = part
    with pytest.raises(VideoDecodeError) as caught:
        read_jpegs(path, Sampling(start=start, end=end))
    assert read_header(path, [(0.0, 1.5), part]).faults == (None, caught.value.reason)


@pytest.mark.parametrize("part", [(0.0, 1.6), (1.4, None), (0.3, 1.65), (1.45, 1.5)])
def test_a_part_that_can_be_read_has_no_fault(tmp_path, part):
    path = encode(tmp_path / "a.mp4", shades(15), fps=10)
    start, end = part
    assert read_jpegs(path, Sampling(start=start, end=end)).frames
    assert read_header(path, [part]).faults == (None,)


def test_a_short_part_of_a_file_above_the_time_limit_is_read(tmp_path):
    path = encode(tmp_path / "a.mp4", shades(15), fps=10)
    limits = VideoLimits(max_seconds=1.0)
    with pytest.raises(VideoDecodeError) as caught:
        read_jpegs(path, Sampling(), limits=limits)
    header = read_header(path, [(None, None), (0.2, 1.1)], limits)
    assert header.faults == (caught.value.reason, None)


@pytest.mark.parametrize("content", [b"", b"not a video at all"])
def test_a_file_that_is_no_video_is_an_error(tmp_path, content):
    path = tmp_path / "a.mp4"
    path.write_bytes(content)
    with pytest.raises(VideoDecodeError) as decoded:
        read_jpegs(path, Sampling())
    with pytest.raises(VideoDecodeError) as caught:
        read_header(path, [])
    assert caught.value.reason == decoded.value.reason


def test_a_header_can_be_read_while_another_file_is_open(tmp_path):
    path = encode(tmp_path / "a.mp4", shades(15), fps=10)
    with open_video(path, Sampling()) as video:
        assert read_header(path, [(0.0, 9.0)]).faults[0]
        assert len(list(video.frames)) == 15
