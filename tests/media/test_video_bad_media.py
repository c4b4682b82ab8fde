"""Tests of bad media: they give the documented frames, or the documented error within limits.

A bad file never makes the reader open another file or an address.
"""

import os
import socket
import struct
import time
from pathlib import Path

import av
import numpy as np
import pytest

from signvit_jax.media.video import Sampling, VideoDecodeError, VideoLimits, read_jpegs
from tests.helpers.clip_makers import encode, shade_numbers, shades
from tests.helpers.video_frames import read_video


def noise_images(count: int) -> list[np.ndarray]:
    return list(np.random.default_rng(0).integers(0, 256, (count, 48, 64, 3), np.uint8))


def reason(path: Path | str, **options) -> str:
    """Return the reason of the VideoDecodeError that reading the file raises."""
    with pytest.raises(VideoDecodeError) as caught:
        read_video(path, **options)
    assert caught.value.path == os.fspath(path)
    return caught.value.reason


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"", "the file is empty"),
        (b"\0", "not a video"),
        (b"uid,text\na,hello\n" * 50, "not a video"),
        (b"%PDF-1.7\n", "not a video"),
        (b"\x1a\x45\xdf\xa3" + bytes(100), "cannot be decoded"),
        (b"RIFF\x10\x00\x00\x00AVI LIST", "cannot be decoded"),
        (b"GIF89a", "cannot be decoded"),
        (struct.pack(">I4s", 24, b"ftyp") + b"isom" * 4, "cannot be decoded"),
        (struct.pack(">I4s", 0xFFFFFFFF, b"moov") + bytes(100), ""),
    ],
)
def test_files_that_are_no_video_are_refused_with_the_reason(tmp_path, content, expected):
    path = tmp_path / "a.mp4"
    path.write_bytes(content)
    assert expected in reason(path)


@pytest.mark.parametrize("percent", [1, 10, 50, 90, 99])
@pytest.mark.parametrize(
    "name", ["index_last.mp4", "index_first.mp4", "a.mkv", "a.webm", "a.avi", "a.gif"]
)
def test_a_truncated_file_gives_nearly_all_frames_or_an_error(tmp_path, name, percent):
    codec = {"a.webm": "libvpx-vp9", "a.avi": "mpeg4", "a.gif": "gif"}.get(name, "libx264")
    path = encode(
        tmp_path / name,
        noise_images(20),
        codec=codec,
        pix_fmt="rgb8" if codec == "gif" else "yuv420p",
        container_options={"movflags": "faststart"} if name == "index_first.mp4" else None,
    )
    content = path.read_bytes()
    path.write_bytes(content[: len(content) * percent // 100])
    try:
        frames = read_video(path).frames
    except VideoDecodeError as error:
        assert error.reason
        if name == "index_last.mp4":
            assert "cannot be decoded" in error.reason
    else:
        # A GIF header has no length. Other files may lose two frames and the truncated one.
        assert len(frames) >= (1 if name == "a.gif" else 17)


def test_fewer_frames_than_the_header_says_is_an_error(tmp_path):
    path = encode(
        tmp_path / "a.mp4",
        noise_images(20),
        container_options={"movflags": "faststart"},
        options={"g": "1"},
    )
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    assert reason(path).startswith("truncated or damaged: its frames end at ")


def test_damage_in_the_middle_loses_a_few_frames_or_is_an_error(tmp_path):
    path = encode(tmp_path / "a.mp4", noise_images(40), options={"g": "1"})
    content = bytearray(path.read_bytes())
    middle = len(content) // 2
    content[middle : middle + 300] = bytes(300)
    path.write_bytes(content)
    try:
        assert len(read_video(path).frames) >= 36
    except VideoDecodeError as error:
        assert error.reason


def test_random_bytes_in_a_video_never_crash_the_caller(tmp_path):
    good = encode(
        tmp_path / "good.mp4", noise_images(10), container_options={"movflags": "faststart"}
    ).read_bytes()
    rng = np.random.default_rng(1)
    path = tmp_path / "a.mp4"
    for _ in range(60):
        content = bytearray(good)
        for place in rng.integers(0, len(content), 20):
            content[place] = rng.integers(256)
        path.write_bytes(content)
        try:
            read_video(path, limits=VideoLimits(wall_seconds=200))
        except VideoDecodeError as error:
            assert "wall_seconds" not in error.reason


def test_a_file_with_only_sound_is_no_video(tmp_path):
    with av.open(str(tmp_path / "a.mp4"), "w") as container:
        stream = container.add_stream("aac", rate=16000, layout="mono")
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 16000), np.float32), "fltp", "mono")
        frame.rate = 16000
        for packet in [*stream.encode(frame), *stream.encode()]:
            container.mux(packet)
    assert reason(tmp_path / "a.mp4") == "there is no video stream in it"


@pytest.mark.parametrize("kind", ["hls", "concat", "ffconcat", "sdp", "http"])
def test_playlists_open_no_other_file_and_no_address(tmp_path, kind):
    secret = encode(tmp_path / "secret.mp4", shades(3))
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(0.0)
        address = f"http://127.0.0.1:{server.getsockname()[1]}/a.ts"
        content = {
            "hls": f"#EXTM3U\n#EXT-X-TARGETDURATION:5\n#EXTINF:5,\nfile://{secret}\n#EXT-X-ENDLIST\n",
            "concat": f"ffconcat version 1.0\nfile '{secret}'\n",
            "ffconcat": f"file '{secret}'\n",
            "sdp": "v=0\nc=IN IP4 127.0.0.1\nm=video 5000 RTP/AVP 96\n",
            "http": f"#EXTM3U\n#EXT-X-TARGETDURATION:5\n#EXTINF:5,\n{address}\n#EXT-X-ENDLIST\n",
        }[kind]
        path = tmp_path / "a.mp4"
        path.write_text(content)
        assert reason(path).startswith("not a video")
        with pytest.raises(BlockingIOError):
            server.accept()


@pytest.mark.parametrize(
    "name", ["http://127.0.0.1:1/a.mp4", "concat:a.mp4|b.mp4", "pipe:0", "no such.mp4", "a\0b.mp4"]
)
def test_an_address_is_only_a_file_name(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    assert reason(name) in ("there is no such file", "a file name cannot contain a NUL character")


@pytest.mark.parametrize(
    "name",
    [
        "with space.mp4",
        "-i.mp4",
        "%d.mp4",
        "image%03d.mp4",
        "हिन्दी.mp4",
        "e\u0301.mp4",
        "a:b.mp4",
        'quo"te\n.mp4',
        os.fsdecode(b"\xff\xfe.mp4"),
    ],
)
def test_odd_file_names_are_read(tmp_path, monkeypatch, name):
    os.rename(encode(tmp_path / "plain.mp4", shades(3)), tmp_path / name)
    monkeypatch.chdir(tmp_path)
    assert shade_numbers(read_video(name).frames) == [0, 1, 2]


def test_folders_and_pipes_are_refused_at_once(tmp_path):
    began = time.monotonic()
    os.mkfifo(tmp_path / "pipe.mp4")
    assert reason(tmp_path / "pipe.mp4") == "not a regular file"
    assert "irectory" in reason(tmp_path) or "regular" in reason(tmp_path)
    assert time.monotonic() - began < 100  # opening a pipe would wait forever


def write_huge_gif(path: Path, side: int) -> Path:
    """Write a small GIF whose header has side x side pixels."""
    path.write_bytes(
        b"GIF89a"
        + struct.pack("<HHBBB", side, side, 0x80, 0, 0)
        + bytes(6)
        + b","
        + struct.pack("<HHHHB", 0, 0, side, side, 0)
        + b"\x02\x02\x44\x01\x00;"
    )
    return path


def test_a_frame_of_16384_by_16384_is_refused_by_its_header(tmp_path):
    assert "max_pixels" in reason(write_huge_gif(tmp_path / "a.gif", 16384))


def test_needing_too_much_memory_is_an_error_not_a_crash(tmp_path):
    path = write_huge_gif(tmp_path / "a.gif", 12000)
    found = reason(path, limits=VideoLimits(max_pixels=1 << 30, max_memory=600 << 20))
    assert "memory" in found or "crashed" in found
    assert shade_numbers(read_video(encode(tmp_path / "b.mp4", shades(2))).frames) == [0, 1]


@pytest.mark.parametrize(
    ("limits", "expected"),
    [
        (VideoLimits(max_frames=5), "more than 5 frames (max_frames)"),
        (VideoLimits(max_seconds=1.0), "2.0 s long; allowed: at most 1 s (max_seconds)"),
        (VideoLimits(max_bytes=100), "(max_bytes)"),
        (VideoLimits(max_pixels=1000), "64x48 pixels; allowed: at most 1000 in all (max_pixels)"),
    ],
)
def test_each_limit_is_named_in_its_error(tmp_path, limits, expected):
    assert expected in reason(encode(tmp_path / "a.mp4", shades(20)), limits=limits)


def test_the_size_of_all_jpegs_is_limited(tmp_path):
    path = encode(tmp_path / "a.mp4", shades(20))
    size = sum(map(len, read_jpegs(path, Sampling()).frames))
    with pytest.raises(VideoDecodeError, match=rf"more than {size - 1} bytes \(max_output_bytes\)"):
        read_jpegs(path, Sampling(), limits=VideoLimits(max_output_bytes=size - 1))
    assert len(read_jpegs(path, Sampling(), limits=VideoLimits(max_output_bytes=size)).frames) == 20


def test_processor_time_is_limited(tmp_path):
    path = encode(
        tmp_path / "a.mp4", shades(23, height=720, width=1280), options={"preset": "ultrafast"}
    )
    # Thousands of large JPEGs take far more than a second.
    with pytest.raises(VideoDecodeError, match="cpu_seconds"):
        read_jpegs(path, Sampling(frame_rate=999), limits=VideoLimits(cpu_seconds=0.0))
    assert len(read_video(path).frames) == 23


def test_a_gap_of_weeks_between_two_frames_is_refused(tmp_path):
    path = encode(tmp_path / "a.mkv", shades(3), pts=[0, 100, 2_000_000_000])
    assert "max_seconds" in reason(path, frame_rate=25)


@pytest.mark.parametrize("delay", [0, 1, 65535])
def test_implausible_frame_rates_become_plausible(tmp_path, delay):
    path = encode(tmp_path / "a.gif", shades(4), codec="gif", pix_fmt="rgb8")
    content = bytearray(path.read_bytes())
    block = content.find(b"\x21\xf9\x04")
    while block >= 0:  # bytes 4 and 5 of each graphic control block: the delay in 1/100 s
        content[block + 4 : block + 6] = struct.pack("<H", delay)
        block = content.find(b"\x21\xf9\x04", block + 1)
    path.write_bytes(content)
    clip = read_video(path)
    assert len(clip.frames) == 4
    assert 1e-4 < clip.fps <= 1000


def test_missing_time_stamps_follow_from_the_rate(tmp_path):
    path = encode(tmp_path / "a.avi", shades(10), codec="mjpeg", pix_fmt="yuvj420p")
    clip = read_video(path, frame_rate=20)
    assert shade_numbers(clip.frames) == [i // 2 for i in range(20)]


def test_a_change_of_resolution_keeps_the_first_size(tmp_path):
    small, large = (
        encode(
            tmp_path / f"{side}.mkv",
            shades(4, height=side, width=side),
            codec="mjpeg",
            pix_fmt="yuvj420p",
        )
        for side in (32, 64)
    )
    path = tmp_path / "both.mkv"
    with (
        av.open(str(small)) as first,
        av.open(str(large)) as second,
        av.open(str(path), "w") as out,
    ):
        stream = out.add_stream_from_template(first.streams.video[0])
        for i, packet in enumerate(
            p for source in (first, second) for p in source.demux(video=0) if p.size
        ):
            packet.stream = stream
            packet.pts = i * 100
            packet.dts = i * 100
            out.mux(packet)
    frames = read_video(path).frames
    assert frames.shape == (8, 32, 32, 3)
    assert shade_numbers(frames) == [0, 1, 2, 3] * 2
