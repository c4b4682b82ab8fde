"""Tests of files of phones, recorders and editors: several streams, covers, sizes, no index."""

import struct

import av
import numpy as np
import pytest
from PIL import Image

from signvit_jax.media.image_folder import read_image_folder
from signvit_jax.media.video import Sampling, VideoDecodeError, read_jpegs
from tests.helpers.clip_makers import encode, shade_numbers, shades
from tests.helpers.video_frames import read_video


def reason(path, **arguments) -> str:
    """Return the reason of the VideoDecodeError that reading the file raises."""
    with pytest.raises(VideoDecodeError) as caught:
        read_video(path, **arguments)
    return caught.value.reason


def write_two_streams(path, default: int):
    """Write streams of shades 0 to 4 and 10 to 14; `default`: number of the default stream."""
    with av.open(str(path), "w") as out:
        streams = [out.add_stream("libx264", rate=10) for _ in range(2)]
        for i, stream in enumerate(streams):
            stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
            stream.disposition = (
                av.stream.Disposition.default if i == default else av.stream.Disposition(0)
            )
        for stream, images in zip(streams, (shades(5), shades(15)[10:])):
            for image in images:
                out.mux(stream.encode(av.VideoFrame.from_ndarray(image, "rgb24")))
            out.mux(stream.encode())
    return path


@pytest.mark.parametrize(("default", "first"), [(1, 10), (0, 0)])
@pytest.mark.parametrize("name", ["a.mp4", "a.mkv"])
def test_the_default_of_two_streams_is_read_with_a_note(tmp_path, name, default, first):
    path = write_two_streams(tmp_path / name, default)
    assert shade_numbers(read_video(path).frames) == list(range(first, first + 5))
    assert read_jpegs(path, Sampling()).notes == ("several_streams",)
    assert read_jpegs(encode(tmp_path / "one.mp4", shades(3)), Sampling()).notes == ()


def write_with_cover(path, video: bool):
    """Write sound with a cover image, and then a stream of shades 3 to 7 if `video`."""
    with av.open(str(path), "w") as out:
        cover = out.add_stream("mjpeg", rate=1)
        cover.width, cover.height, cover.pix_fmt = 64, 48, "yuvj420p"
        cover.disposition = av.stream.Disposition.attached_pic
        sound = out.add_stream("aac", rate=16000, layout="mono")
        moving = out.add_stream("libx264", rate=10) if video else None
        if moving is not None:
            moving.width, moving.height, moving.pix_fmt = 64, 48, "yuv420p"
        out.mux(cover.encode(av.VideoFrame.from_ndarray(shades(1)[0], "rgb24")))
        out.mux(cover.encode())
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 16000), np.float32), "fltp", "mono")
        frame.rate = 16000
        out.mux(sound.encode(frame))
        out.mux(sound.encode())
        for image in shades(8)[3:] if video else ():
            out.mux(moving.encode(av.VideoFrame.from_ndarray(image, "rgb24")))
        if video:
            out.mux(moving.encode())
    return path


def test_a_cover_is_no_video(tmp_path):
    assert "only a still image, such as the cover of a sound recording" in reason(
        write_with_cover(tmp_path / "a.mp4", video=False)
    )


def test_a_cover_does_not_hide_a_video(tmp_path):
    path = write_with_cover(tmp_path / "b.mp4", video=True)
    assert shade_numbers(read_video(path).frames) == [3, 4, 5, 6, 7]


def write_two_sizes(path, first: tuple[int, int], second: tuple[int, int]):
    """Write a stream whose size (h, w) changes after two frames; each size has shades 0 and 1."""
    parts = [
        encode(path.with_name(f"{i}.mkv"), shades(2, *size), codec="mjpeg", pix_fmt="yuvj420p")
        for i, size in enumerate((first, second))
    ]
    with av.open(str(parts[0])) as a, av.open(str(parts[1])) as b, av.open(str(path), "w") as out:
        stream = out.add_stream_from_template(a.streams.video[0])
        for i, packet in enumerate(p for source in (a, b) for p in source.demux(video=0) if p.size):
            packet.stream = stream
            packet.pts = i * 100
            packet.dts = i * 100
            out.mux(packet)
    return path


def test_a_frame_of_another_shape_gets_bars(tmp_path):
    path = write_two_sizes(tmp_path / "a.mkv", (48, 64), (64, 48))
    frames = read_video(path).frames
    assert frames.shape == (4, 48, 64, 3)
    portrait = frames[2:]  # shrunk to 48 x 36 (h, w), in the middle
    assert (portrait[:, :, :14] == 0).all() and (portrait[:, :, 50:] == 0).all()
    assert shade_numbers(portrait[:, :, 14:50]) == [0, 1]
    assert read_jpegs(path, Sampling()).notes == ("size_change",)


def test_a_frame_of_another_size_but_the_same_shape_gets_no_bars(tmp_path):
    frames = read_video(write_two_sizes(tmp_path / "a.mkv", (48, 64), (96, 128))).frames
    assert shade_numbers(frames) == [0, 1, 0, 1]
    assert frames.min() > 10


def test_an_image_of_another_shape_gets_bars(tmp_path):
    for i, size in enumerate([(64, 48), (48, 64), (128, 96)]):
        Image.new("RGB", size, (200, 200, 200)).save(tmp_path / f"{i}.png")
    clip = read_image_folder(tmp_path, 10.0, Sampling(), quality=95)
    (tmp_path / "out").mkdir()
    for i, jpeg in enumerate(clip.frames):
        (tmp_path / "out" / f"{i}.jpg").write_bytes(jpeg)
    first, portrait, large = (
        np.asarray(Image.open(tmp_path / "out" / f"{i}.jpg")).astype(int) for i in range(3)
    )
    assert portrait.shape == (48, 64, 3)
    assert portrait[:, :10].max() < 20 and portrait[:, -10:].max() < 20
    assert portrait[:, 20:44].min() > 180
    assert abs(first - 200).max() <= 2 and abs(large - 200).max() <= 2
    assert clip.notes == ("size_change",)


@pytest.mark.parametrize("keep", [0.3, 0.9, 0.99])
def test_an_mp4_without_index_is_reported_as_interrupted(tmp_path, keep):
    path = encode(
        tmp_path / "a.mp4",
        [
            np.random.default_rng(i).integers(0, 255, (48, 64, 3)).astype(np.uint8)
            for i in range(20)
        ],
    )
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * keep)])
    assert reason(path).startswith("cannot be decoded: its index (the moov atom) is missing")


def test_attribute_files_of_macos_are_recognized(tmp_path):
    (tmp_path / "._a.mp4").write_bytes(
        struct.pack(">II", 0x00051607, 0x00020000) + b"Mac OS X        " + bytes(200)
    )
    assert "the video has the name without '._'" in reason(tmp_path / "._a.mp4")


@pytest.mark.parametrize("name", ["a.m4v", "a.3gp", "a.qt"])
def test_other_extensions_of_the_same_containers_are_videos(tmp_path, name):
    from signvit_jax.cli.media_files import media_files
    from tfds_builders.media import MediaFolder

    formats = {"a.m4v": "mp4", "a.3gp": "3gp", "a.qt": "mov"}
    path = encode(tmp_path / name, shades(4, height=144, width=176), file_format=formats[name])
    assert len(read_video(path).frames) == 4
    assert media_files([str(tmp_path)]) == [path]
    assert MediaFolder(tmp_path).find("a") == str(path)


@pytest.mark.parametrize(("start", "end"), [(None, 2.5), (1.25, 99.0), (1.5, 2.3), (1.9, 2.25)])
def test_an_end_after_the_video_is_an_error_with_both_times(tmp_path, start, end):
    path = encode(tmp_path / "a.mp4", shades(20))  # two seconds
    message = reason(path, start=start, end=end)
    assert f"should end at {end:.2f} s, but the video ends at 2.00 s" in message


@pytest.mark.parametrize(
    ("start", "end", "count", "notes"),
    [(None, 2.2, 20, ("end_cut",)), (1.0, 2.19, 10, ("end_cut",)), (1.0, 2.0, 10, ())],
)
def test_an_end_up_to_two_frames_later_is_only_noted(tmp_path, start, end, count, notes):
    clip = read_jpegs(encode(tmp_path / "a.mp4", shades(20)), Sampling(start=start, end=end))
    assert (len(clip.frames), clip.notes) == (count, notes)


@pytest.mark.parametrize(
    ("end", "error"), [(2.9, "but its images end at 2.00 s"), (2.2, None), (2.0, None)]
)
def test_an_end_after_the_last_image_is_handled_as_in_videos(tmp_path, end, error):
    for i in range(20):
        Image.new("RGB", (32, 24)).save(tmp_path / f"{i}.png")
    if error is None:
        assert read_image_folder(tmp_path, 10.0, Sampling(end=end)).notes == (
            ("end_cut",) if end > 2.0 else ()
        )
    else:
        with pytest.raises(VideoDecodeError, match=error):
            read_image_folder(tmp_path, 10.0, Sampling(end=end))
