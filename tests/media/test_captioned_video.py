"""Tests of videos with captions: frames, text track, and which videos are refused."""

import errno
from fractions import Fraction

import av
import numpy as np
import pytest

from signvit_jax.captions.drawing import draw_caption, font_for
from signvit_jax.captions.segments import Cue, SubtitleError
from signvit_jax.media import captioned_video
from signvit_jax.media.captioned_video import DrawnCaption, TimedText, write_captioned
from signvit_jax.media.video import VideoDecodeError, VideoLimits
from tests.helpers.clip_makers import encode, shades

CAPTIONS = [TimedText(500, 1000, "good\nday"), TimedText(1500, 3000, "שלום & <b>")]


def write_with_sound(path, seconds=3):
    """Write a gray video of 10 frames per second, with a tone in AAC."""
    with av.open(str(path), "w") as container:
        video = container.add_stream("libx264", rate=10)
        video.width, video.height, video.pix_fmt = 64, 48, "yuv420p"
        sound = container.add_stream("aac", rate=16000, layout="mono")
        for image in [np.full((48, 64, 3), 100, np.uint8)] * 10 * seconds:
            container.mux(video.encode(av.VideoFrame.from_ndarray(image, "rgb24")))
        container.mux(video.encode())
        tone = np.sin(np.arange(16000 * seconds) / 10).astype(np.float32)[None]
        frame = av.AudioFrame.from_ndarray(tone, "fltp", "mono")
        frame.sample_rate, frame.time_base = 16000, Fraction(1, 16000)
        container.mux(sound.encode(frame))
        container.mux(sound.encode())
    return path


def packets(path, kind):
    """Return (seconds, bytes) of each packet of the only stream of this kind."""
    with av.open(str(path)) as container:
        (stream,) = (s for s in container.streams if s.type == kind)
        return [
            (round(float(p.pts * p.time_base), 3), bytes(p))
            for p in container.demux(stream)
            if p.pts is not None and p.size
        ]


def test_a_text_track_has_the_captions_and_the_video_is_copied(tmp_path):
    video = write_with_sound(tmp_path / "in.mp4")
    output = tmp_path / "out.mp4"
    assert write_captioned(video, output, CAPTIONS, language="heb") == []
    for kind in ("video", "audio"):
        assert packets(output, kind) == packets(video, kind)
    texts = [(seconds, raw[2:].decode()) for seconds, raw in packets(output, "subtitle")]
    assert [(seconds, text) for seconds, text in texts if text] == [
        (0.5, "good\nday"),
        (1.5, "שלום & <b>"),
    ]
    assert [seconds for seconds, text in texts if not text] == [0.0, 1.0]  # times without a caption
    with av.open(str(output)) as container:
        assert container.streams.subtitles[0].metadata["language"] == "heb"
        with av.open(str(video)) as before:
            assert container.duration == before.duration


def test_burnt_captions_are_in_the_frames_of_their_time(tmp_path):
    video = write_with_sound(tmp_path / "in.mp4")
    output = tmp_path / "out.mp4"
    draw_calls = []

    def draw(number, size):
        draw_calls.append((number, size))
        image = np.zeros((10, 20, 4), np.uint8)
        image[..., :] = (255, 255, 255, 255)
        image[:, :10, 3] = 0
        return DrawnCaption(20, 30, image)

    assert write_captioned(video, output, CAPTIONS, draw=draw) == []
    assert draw_calls == [(0, (64, 48)), (1, (64, 48))]  # each caption is drawn once
    assert packets(output, "audio") == packets(video, "audio")
    with av.open(str(output)) as container:
        frames = [(f.time, f.to_ndarray(format="rgb24")) for f in container.decode(video=0)]
    assert len(frames) == 30
    captioned = {round(seconds, 1) for seconds, frame in frames if frame[31:39, 31:39].mean() > 200}
    assert captioned == {n / 10 for n in (*range(5, 10), *range(15, 30))}
    assert all(abs(frame[31:39, 21:29].mean() - 100) < 6 for _, frame in frames)  # transparent


def test_odd_sizes_and_other_containers_are_burnt_in(tmp_path):
    video = encode(
        tmp_path / "in.webm", shades(5, 33, 47), codec="libvpx-vp9", options={"cpu-used": "8"}
    )
    output = tmp_path / "out.mp4"
    image = np.full((2, 2, 4), 255, np.uint8)
    write_captioned(video, output, CAPTIONS, draw=lambda *_: DrawnCaption(0, 0, image))
    with av.open(str(output)) as container:
        assert (container.streams.video[0].width, container.streams.video[0].height) == (46, 32)


def test_a_codec_that_mp4_cannot_hold_is_named(tmp_path):
    video = encode(tmp_path / "in.avi", shades(5), codec="ffv1")
    with pytest.raises(VideoDecodeError, match=r"codec ffv1 cannot be in mp4.*--burn_in"):
        write_captioned(video, tmp_path / "out.mp4", CAPTIONS)
    assert [path.name for path in tmp_path.iterdir()] == ["in.avi"]


@pytest.mark.parametrize("draw", [None, lambda *_: DrawnCaption(0, 0, np.zeros((1, 1, 4), "u1"))])
def test_an_invalid_video_is_refused_and_the_old_file_stays(tmp_path, draw):
    (tmp_path / "bad.mp4").write_bytes(b"no video" * 100)
    output = tmp_path / "out.mp4"
    output.write_text("before")
    with pytest.raises(VideoDecodeError, match=r"bad.mp4: not a video"):
        write_captioned(tmp_path / "bad.mp4", output, CAPTIONS, draw=draw)
    video = encode(tmp_path / "in.mp4", shades(25))
    with pytest.raises(VideoDecodeError, match="longer than 1 s"):
        write_captioned(video, output, CAPTIONS, draw=draw, limits=VideoLimits(max_seconds=1))
    assert output.read_text() == "before" and len(list(tmp_path.iterdir())) == 3


def test_a_crash_of_the_child_is_a_decode_error(tmp_path, monkeypatch):
    worker = tmp_path / "worker.py"
    worker.write_text("import os; os.abort()")
    monkeypatch.setattr(captioned_video, "_WORKER", worker)
    with pytest.raises(VideoDecodeError, match="the decoder crashed"):
        write_captioned("in.mp4", tmp_path / "out.mp4", CAPTIONS)


def test_a_full_disk_is_an_os_error(tmp_path, monkeypatch):
    worker = tmp_path / "worker.py"
    worker.write_text(f"input(); print('{{\"errno\": {errno.ENOSPC}}}')")
    monkeypatch.setattr(captioned_video, "_WORKER", worker)
    with pytest.raises(OSError, match="No space left"):
        write_captioned("in.mp4", tmp_path / "out.mp4", CAPTIONS)


def cue(text, lines=()):
    return Cue(0, 1000, text, None, None, (), (), lines)


def test_captions_are_drawn_at_the_bottom_within_the_frame():
    font = font_for(["Good day"])
    small = draw_caption(cue("Good day"), (640, 360), font)
    height, width = small.image.shape[:2]
    assert small.y + height <= 360 and small.y > 270
    assert abs(small.x + width / 2 - 320) <= 1
    assert (small.image[..., 3] == 255).any() and (small.image[0, :, 3] == 0).any()
    long = draw_caption(cue("a lot of words " * 12), (320, 240), font)
    assert long.image.shape[1] <= 320 and long.image.shape[0] > 2 * height
    narrow = draw_caption(cue("x" * 60, ("x" * 60,)), (320, 240), font)  # one line, smaller letters
    assert narrow.image.shape[1] <= 320 and narrow.image.shape[0] < height


def test_right_to_left_lines_are_drawn_from_the_right():
    font = font_for(["שלום"])
    caption = draw_caption(cue("של", ("שלום .",)), (640, 360), font)
    # The text ends with a full stop, so the left end of the line has few pixels.
    ink = (caption.image[..., 3] > 0).sum(0)
    assert ink[: len(ink) // 6].sum() < ink[-len(ink) // 6 :].sum()


def test_letters_that_no_font_has_are_named(tmp_path):
    with pytest.raises(SubtitleError, match=r"U\+10FFFD.*--font=FILE"):
        font_for(["a\U0010fffd"])
    dejavu = font_for(["a"])
    with pytest.raises(SubtitleError, match=r"has no '明' \(U\+660E\)"):
        font_for(["明"], dejavu)
    (tmp_path / "no.ttf").write_text("no font")
    with pytest.raises(SubtitleError, match="cannot be read as a font"):
        font_for([], tmp_path / "no.ttf")
