"""Tests of the video reader on valid files: frames, times, sizes, colors, orientation."""

import io
import itertools
import os
import pickle
import signal
import struct
import threading
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from signvit_jax.media import video, worker_process
from signvit_jax.media.video import (
    Sampling,
    VideoDecodeError,
    VideoLimits,
    VideoReader,
    read_jpegs,
)
from tests.helpers.clip_makers import encode, shade_numbers, shades
from tests.helpers.video_frames import iterate_frames, read_video


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("a.mp4", {}),
        ("a.mov", {}),
        ("a.mkv", {}),
        ("a.webm", {"codec": "libvpx-vp9"}),
        ("a.avi", {"codec": "mpeg4", "options": {"qscale": "2"}}),
        ("ten_bit.mkv", {"codec": "ffv1", "pix_fmt": "yuv420p10le"}),
        ("gray.mkv", {"codec": "ffv1", "pix_fmt": "gray"}),
        ("opaque.mkv", {"codec": "ffv1", "pix_fmt": "bgra"}),
        ("called_mp4_but_is_mkv.mp4", {"file_format": "matroska"}),
    ],
)
def test_every_format_gives_every_frame_in_order(tmp_path, name, options):
    clip = read_video(encode(tmp_path / name, shades(12), **options))
    assert clip.frames.shape == (12, 48, 64, 3)
    assert clip.frames.dtype == np.uint8
    assert clip.fps == pytest.approx(10, abs=1e-3)
    assert shade_numbers(clip.frames) == list(range(12))


def test_a_gif_keeps_its_delays_and_becomes_opaque_on_white(tmp_path):
    # Transparent images with a red bar, which moves by its width of 10 pixels.
    images = [Image.new("RGBA", (40, 30), (0, 0, 0, 0)) for _ in range(3)]
    for i, image in enumerate(images):
        image.paste((250, 0, 0, 255), (10 * i, 0, 10 * i + 10, 30))
    images[0].save(
        tmp_path / "a.gif",
        save_all=True,
        append_images=images[1:],
        duration=[100, 300, 100],  # milliseconds
        disposal=2,  # clear each image before the next one
    )
    times, frames = zip(*iterate_frames(tmp_path / "a.gif"))
    assert times == pytest.approx([0.0, 0.1, 0.4])
    # In row 15, green is lowest in the red bar.
    assert [int(np.argmin(frame[15, :, 1])) // 10 for frame in frames] == [0, 1, 2]
    assert (frames[0][15, 35] == 255).all()
    assert len(read_video(tmp_path / "a.gif", frame_rate=10).frames) == 5  # of 0.5 s


def brute_force_resample(
    times: list[float], last: float, rate: float, start: float, end: float
) -> list[int]:
    """Return the number of the input frame that each output frame shows, by a slow loop.

    Output frame k shows the newest input frame at start + (k + 1/4) / rate seconds. `last`: the
    time of the last input frame.
    """
    chosen = []
    for k in itertools.count():
        seconds = start + (k + 0.25) / rate
        if seconds >= min(last, end):
            return chosen
        earlier_frames = [number for number, time in enumerate(times) if time <= seconds]
        chosen.append(max(earlier_frames, default=0))


@pytest.mark.parametrize("rate", [5, 10, 12.5, 25, 3])
@pytest.mark.parametrize(
    ("start", "end"), [(None, None), (0.25, None), (0.0, 1.05), (0.71, 1.3), (1.13, 1.2)]
)
def test_a_variable_frame_rate_is_resampled_by_time_stamps(tmp_path, rate, start, end):
    # Milliseconds. No sampling time is equal to one of these times.
    times = [0, 33, 67, 400, 721, 762, 1101, 1137, 1502]
    path = encode(tmp_path / "a.mkv", shades(9), fps=10, pts=times, options={"g": "3"})
    found = read_video(path, frame_rate=rate, start=start, end=end)
    seconds = [t / 1000 for t in times]
    expected = brute_force_resample(seconds, 1.502, rate, start or 0.0, end or np.inf)
    assert found.fps == rate
    numbers = shade_numbers(found.frames)
    if not expected:  # from 1.13 to 1.2 s: too short for a sampling time, but one frame is there
        assert len(numbers) == 1 and numbers[0] in (6, 7)
        return
    assert numbers[: len(expected)] == expected
    # Matroska does not store how long the last frame, number 8, is shown; the muxer decides it.
    repeats_of_last = numbers[len(expected) :]
    assert set(repeats_of_last) <= {8}
    if end is not None:
        assert not repeats_of_last


@pytest.mark.parametrize("fps", [10, 24, 25])
@pytest.mark.parametrize("name", ["a.mp4", "a.mkv"])
def test_capping_the_rate_leaves_a_slower_video_unchanged(tmp_path, name, fps):
    clip = read_video(encode(tmp_path / name, shades(20), fps=fps), max_frame_rate=25)
    assert clip.fps == pytest.approx(fps, rel=1e-3)
    assert shade_numbers(clip.frames) == list(range(20))


def test_capping_the_rate_halves_a_fast_video(tmp_path):
    clip = read_video(encode(tmp_path / "a.mkv", shades(20), fps=50), max_frame_rate=25)
    assert clip.fps == 25
    assert shade_numbers(clip.frames) == list(range(0, 20, 2))


@pytest.mark.parametrize("key_frame_interval", ["1", "4", "100"])
def test_start_and_end_do_not_depend_on_key_frames(tmp_path, key_frame_interval):
    path = encode(tmp_path / "a.mp4", shades(20), fps=10, options={"g": key_frame_interval})
    assert shade_numbers(read_video(path, start=0.7, end=1.2).frames) == [7, 8, 9, 10, 11]
    # The first frame is the one that is shown at `start`.
    assert [round(t, 3) for t, _ in iterate_frames(path, start=1.75)] == [1.7, 1.8, 1.9]
    with pytest.raises(VideoDecodeError, match=r"frames end at 2\.00 s"):
        read_video(path, start=5.0)


def test_short_side_shrinks_and_never_enlarges(tmp_path):
    path = encode(tmp_path / "a.mp4", shades(2, height=90, width=160))
    assert read_video(path, short_side=45).frames.shape[1:3] == (45, 80)
    assert read_video(path, short_side=400).frames.shape[1:3] == (90, 160)


def test_odd_sizes_are_kept(tmp_path):
    path = encode(
        tmp_path / "a.mkv", shades(3, height=33, width=51), codec="ffv1", pix_fmt="yuv420p"
    )
    assert read_video(path).frames.shape == (3, 33, 51, 3)


# The coefficients (Kr, Kb) of each conversion matrix. In the limited range, Y is from 16 to 235, Cb
# and Cr from 16 to 240; in the full range all are from 0 to 255.
COEFFICIENTS = {"bt601": (0.299, 0.114), "bt709": (0.2126, 0.0722)}


def rgb_of(y: int, cb: int, cr: int, matrix: str, full_range: bool) -> np.ndarray:
    """Return the color (R, G, B) from 0 to 255 by the formula of ITU-R BT.601 and BT.709."""
    kr, kb = COEFFICIENTS[matrix]
    luma = y / 255 if full_range else (y - 16) / 219
    chroma_range = 255 if full_range else 224
    r = luma + 2 * (1 - kr) * (cr - 128) / chroma_range
    b = luma + 2 * (1 - kb) * (cb - 128) / chroma_range
    g = (luma - kr * r - kb * b) / (1 - kr - kb)
    return np.clip(np.array([r, g, b]) * 255, 0, 255)


@pytest.mark.parametrize(
    ("matrix", "tag", "size"),
    # FFmpeg's AVCOL_SPC: 5 is BT.601, 1 is BT.709. 2 is unknown: then the size decides.
    [
        ("bt601", 5, (48, 64)),
        ("bt709", 1, (48, 64)),
        ("bt601", 2, (48, 64)),
        ("bt709", 2, (720, 1280)),
    ],
)
@pytest.mark.parametrize("full_range", [False, True])
def test_colors_follow_matrix_and_range_of_the_file(tmp_path, matrix, tag, size, full_range):
    y, cb, cr = 120, 90, 170
    image = np.stack([np.full(size, value, np.uint8) for value in (y, cb, cr)])
    path = encode(
        tmp_path / "a.mkv",
        [image],
        codec="ffv1",
        pix_fmt="yuv444p",
        source_format="yuv444p",
        colorspace=tag,
        color_range=2 if full_range else 1,  # FFmpeg's AVCOL_RANGE
    )
    frame = read_video(path).frames[0]
    assert np.abs(frame[5, 5] - rgb_of(y, cb, cr, matrix, full_range)).max() <= 2


# Name -> the display matrix (a, b, c, d) of a file, and the same operation on an image in NumPy.
MATRICES = {
    "unchanged": ((1, 0, 0, 1), lambda image: image),
    "clockwise": ((0, 1, -1, 0), lambda image: np.rot90(image, -1)),
    "upside down": ((-1, 0, 0, -1), lambda image: np.rot90(image, 2)),
    "counter-clockwise": ((0, -1, 1, 0), lambda image: np.rot90(image, 1)),
    "mirrored": ((-1, 0, 0, 1), lambda image: image[:, ::-1]),
}


@pytest.mark.parametrize("name", MATRICES)
def test_rotation_and_mirroring_tags_are_applied(tmp_path, name):
    image = np.zeros((48, 64, 3), np.uint8)
    image[:24, :32] = 250  # top left
    image[24:, :32] = 120  # bottom left
    path = encode(tmp_path / "a.mp4", [image] * 3)
    plain = read_video(path).frames[0]
    (a, b, c, d), expected = MATRICES[name]
    data = bytearray(path.read_bytes())
    # In version 0 of the track header, the matrix begins 40 bytes after the name "tkhd" (4 bytes).
    # Its nine numbers are 16.16 fixed point; those of the last column are 2.30.
    offset = data.index(b"tkhd") + 4 + 40
    matrix = struct.pack(">9i", a << 16, b << 16, 0, c << 16, d << 16, 0, 0, 0, 1 << 30)
    data[offset : offset + 36] = matrix
    path.write_bytes(data)
    assert np.array_equal(read_video(path).frames[0], expected(plain))


def test_jpegs_from_the_child_process_show_the_decoded_frames(tmp_path):
    path = encode(tmp_path / "a.mp4", shades(5))
    jpegs = read_jpegs(path, Sampling(short_side=24), quality=95)
    assert (len(jpegs.frames), jpegs.height, jpegs.width, jpegs.fps) == (5, 24, 32, 10)
    images = np.stack([np.asarray(Image.open(io.BytesIO(data))) for data in jpegs.frames])
    assert np.abs(images.astype(int) - read_video(path, short_side=24).frames).max() <= 3


def test_after_an_unfinished_file_the_next_one_is_read(tmp_path):
    first = encode(tmp_path / "a.mp4", shades(20))
    second = encode(tmp_path / "b.mp4", shades(3, height=32, width=32))
    with VideoReader() as reader:
        for _ in reader.iterate(first, Sampling(), VideoLimits()):
            break
        frames = [frame for _, frame in reader.iterate(second, Sampling(), VideoLimits())]
    assert [frame.shape for frame in frames] == [(32, 32, 3)] * 3


def test_two_files_can_be_read_at_the_same_time(tmp_path):
    path = encode(tmp_path / "a.mp4", shades(8))
    pairs = list(zip(iterate_frames(path), iterate_frames(path)))
    assert len(pairs) == 8
    assert all(np.array_equal(a[1], b[1]) for a, b in pairs)


def test_jpegs_can_be_read_while_frames_are_iterated(tmp_path):
    path = encode(tmp_path / "a.mp4", shades(8))
    counts = [len(read_jpegs(path, Sampling()).frames) for _ in iterate_frames(path)]
    assert counts == [8] * 8


def test_each_thread_has_one_child_process_for_all_its_files(tmp_path):
    path = encode(tmp_path / "a.mp4", shades(3))
    pids = []

    def read() -> None:
        read_jpegs(path, Sampling())
        pids.append(video._readers.reader.pid)

    read()
    read()
    thread = threading.Thread(target=read)
    thread.start()
    thread.join()
    first, second, other = pids
    assert first == second and other not in (None, first)


def test_after_a_crash_of_the_child_the_next_file_is_read(tmp_path):
    path = encode(tmp_path / "a.mp4", shades(200))
    with VideoReader() as reader:
        with pytest.raises(VideoDecodeError, match=r"a\.mp4: the decoder crashed \(SIGSEGV\)"):
            for _ in reader.iterate(path, Sampling(), VideoLimits()):
                os.kill(reader.pid, signal.SIGSEGV)
        assert len(list(reader.iterate(path, Sampling(), VideoLimits()))) == 200
        os.kill(reader.pid, signal.SIGKILL)  # the child is idle between two files
        os.waitid(os.P_PID, reader.pid, os.WEXITED | os.WNOWAIT)  # it has ended
        assert len(list(reader.iterate(path, Sampling(), VideoLimits()))) == 200


def test_a_child_that_does_not_answer_is_killed(tmp_path):
    path = encode(tmp_path / "a.mp4", shades(3))
    with VideoReader() as reader:
        list(reader.iterate(path, Sampling(), VideoLimits()))
        pid = reader.pid
        os.kill(pid, signal.SIGSTOP)
        with pytest.raises(VideoDecodeError, match=r"longer than 0\.3 s \(wall_seconds\)"):
            list(reader.iterate(path, Sampling(), VideoLimits(wall_seconds=0.3)))
        assert not Path(f"/proc/{pid}").exists()
        assert len(list(reader.iterate(path, Sampling(), VideoLimits()))) == 3


def test_if_the_decoder_cannot_start_the_error_has_a_command_that_shows_why(tmp_path, monkeypatch):
    broken = tmp_path / "worker.py"
    broken.write_text("import no_such_module\n")
    monkeypatch.setattr(worker_process, "_WORKER", broken)
    with (
        pytest.raises(
            VideoDecodeError, match=r"exit code 1; `python .*worker\.py < /dev/null` shows why"
        ),
        VideoReader() as reader,
    ):
        list(reader.iterate(tmp_path / "a.mp4", Sampling(), VideoLimits()))


def test_a_pickled_error_keeps_path_and_reason():
    error = pickle.loads(pickle.dumps(VideoDecodeError("a b.mp4", "cut")))
    assert (error.path, error.reason, str(error)) == ("a b.mp4", "cut", "a b.mp4: cut")


@pytest.mark.parametrize(
    "options",
    [
        {"start": -1.0},
        {"start": 2.0, "end": 1.0},
        {"frame_rate": 0.0},
        {"short_side": 0},
        {"max_frame_rate": float("nan")},
    ],
)
def test_impossible_sampling_is_refused(options):
    with pytest.raises(ValueError, match="allowed"):
        Sampling(**options)
