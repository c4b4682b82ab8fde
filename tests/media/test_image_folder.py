"""Tests of folders of PNG or JPEG images as videos: the right frames, or the documented error."""

import io
import os
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from signvit_jax.media.image_folder import list_images, read_image_folder
from signvit_jax.media.video import JpegVideo, Sampling, VideoDecodeError, VideoLimits
from tests.helpers.clip_makers import shade_numbers, shades


def write_images(root: Path, count: int, name: str = "images{}.png", **options) -> Path:
    root.mkdir(exist_ok=True)
    for number, image in enumerate(shades(count), 1):
        Image.fromarray(image).save(root / name.format(number), **options)
    return root


def decode(video: JpegVideo) -> np.ndarray:
    return np.stack([np.asarray(Image.open(io.BytesIO(jpeg))) for jpeg in video.frames])


def reason(folder: Path, **limits) -> str:
    """Return the message of the VideoDecodeError that reading the folder raises."""
    with pytest.raises(VideoDecodeError) as caught:
        read_image_folder(folder, 25.0, Sampling(), limits=VideoLimits(**limits))
    return str(caught.value)


@pytest.mark.parametrize("name", ["images{}.png", "{}.JPG", "a 1 %d {:03d}é.jpeg"])
def test_images_are_in_numeric_order(tmp_path, name):
    video = read_image_folder(write_images(tmp_path / "a", 12, name), 25.0, Sampling())
    assert shade_numbers(decode(video)) == list(range(12))
    assert (video.fps, video.height, video.width) == (25.0, 48, 64)


@pytest.mark.parametrize(
    ("sampling", "numbers"),
    [
        (Sampling(frame_rate=5.0), [0, 2, 4, 6, 8]),
        (Sampling(frame_rate=20.0, end=0.3), [0, 0, 1, 1, 2, 2]),
        (Sampling(max_frame_rate=25.0, start=0.5), [5, 6, 7, 8, 9]),
        (Sampling(start=0.2, end=0.5), [2, 3, 4]),
        (Sampling(start=0.95), [9]),
    ],
)
def test_frames_are_chosen_by_time(tmp_path, sampling, numbers):
    video = read_image_folder(write_images(tmp_path / "a", 10), 10.0, sampling)
    assert shade_numbers(decode(video)) == numbers


def test_images_are_shrunk_and_get_the_size_of_the_first(tmp_path):
    folder = write_images(tmp_path / "a", 3, "{}.jpg")
    Image.fromarray(shades(1, 96, 128)[0]).save(folder / "2.jpg")
    video = read_image_folder(folder, 25.0, Sampling(short_side=24))
    assert decode(video).shape == (3, 24, 32, 3)


@pytest.mark.parametrize("mode", ["L", "1", "P", "RGBA", "LA", "I;16", "CMYK"])
def test_every_image_mode_becomes_rgb(tmp_path, mode):
    (tmp_path / "a").mkdir()
    if mode == "I;16":
        image = Image.fromarray(np.full((8, 8), 255 << 8, np.uint16))
    else:
        image = Image.new("RGB", (8, 8), "white").convert(mode)
        if mode in ("RGBA", "LA"):
            image.putalpha(0)
    image.save(tmp_path / "a" / ("1.jpg" if mode == "CMYK" else "1.png"))
    assert decode(read_image_folder(tmp_path / "a", 25.0, Sampling())).min() > 250


def write_huge_png(path: Path, side: int) -> None:
    """Write a PNG whose header has side x side pixels and whose image data are empty."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(b""))
        + chunk(b"IEND", b"")
    )


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\0",
        b"no image at all",
        b"#EXTM3U\nfile:///etc/passwd\n",
        b"\x89PNG\r\n\x1a\n",
        b"%!PS-Adobe-3.0 EPSF-3.0\n",
    ],
)
def test_the_error_of_an_undecodable_image_names_it(tmp_path, content):
    folder = write_images(tmp_path / "a", 2)
    (folder / "images2.png").write_bytes(content)
    assert "images2.png: not a complete PNG or JPEG image" in reason(folder)


@pytest.mark.parametrize("percent", [1, 10, 50, 90, 99])
@pytest.mark.parametrize("name", ["{}.png", "{}.jpg"])
def test_a_truncated_image_is_an_error(tmp_path, name, percent):
    folder = tmp_path / "a"
    folder.mkdir()
    path = folder / name.format(1)
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (48, 64, 3), np.uint8)).save(path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size * percent // 100])
    assert "not a complete PNG or JPEG image" in reason(folder)


def test_an_image_of_16384_by_16384_is_refused_by_its_header(tmp_path):
    (tmp_path / "a").mkdir()
    write_huge_png(tmp_path / "a" / "1.png", 16384)
    assert "(max_pixels)" in reason(tmp_path / "a") or "decompression bomb" in reason(
        tmp_path / "a"
    )


def test_links_pipes_and_folders_are_not_read(tmp_path):
    secret = write_images(tmp_path / "secret", 1) / "images1.png"
    for create in (lambda path: path.symlink_to(secret), os.mkfifo, os.mkdir):
        folder = write_images(tmp_path / "a", 1)
        create(folder / "images2.png")
        assert "images2.png" in reason(folder)
        created = folder / "images2.png"
        if created.is_dir() and not created.is_symlink():
            created.rmdir()
        else:
            created.unlink()


def test_each_limit_is_named_in_its_error(tmp_path):
    folder = write_images(tmp_path / "a", 5)
    for name, value in (
        ("max_frames", 4),
        ("max_pixels", 100),
        ("max_bytes", 100),
        ("max_output_bytes", 100),
        ("wall_seconds", 0.0),
    ):
        assert f"({name})" in reason(folder, **{name: value})


def test_empty_and_missing_folders_are_errors(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "notes.txt").write_text("x")
    assert list_images(tmp_path / "a") == []
    assert "no PNG or JPEG in it" in reason(tmp_path / "a")
    assert "No such file" in reason(tmp_path / "none")
    with pytest.raises(VideoDecodeError, match=r"no frame from 9 s on: its images end at 0.08 s"):
        read_image_folder(write_images(tmp_path / "b", 2), 25.0, Sampling(start=9.0))
