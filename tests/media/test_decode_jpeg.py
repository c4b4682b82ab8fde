"""Tests of JPEGs from untrusted clients, decoded in the child process."""

import io

import numpy as np
import pytest
from PIL import Image

from signvit_jax.media.video import VideoDecodeError, VideoLimits, decode_jpeg

LIMITS = VideoLimits(max_bytes=1 << 20, max_pixels=500_000, cpu_seconds=5, wall_seconds=20)


def jpeg(width: int, height: int, image_format: str = "JPEG") -> bytes:
    image = np.zeros((height, width, 3), np.uint8)
    image[:, : width // 2] = (200, 30, 30)
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, image_format, quality=90)
    return buffer.getvalue()


def test_a_jpeg_is_decoded_and_a_large_one_halved():
    frame = decode_jpeg(jpeg(64, 48), 40, LIMITS)
    assert frame.shape == (48, 64, 3) and frame.dtype == np.uint8
    assert np.abs(frame[20, 10].astype(int) - (200, 30, 30)).max() < 12
    halved = decode_jpeg(jpeg(640, 480), 100, LIMITS)
    assert halved.shape == (120, 160, 3)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "not a JPEG"),
        (b"GIF89a not a jpeg", "not a JPEG"),
        (jpeg(8, 8, "PNG"), "not a JPEG"),
        (jpeg(64, 48)[:400], "damaged JPEG"),
        (jpeg(1000, 800), "1000x800 pixels"),
        (jpeg(64, 48) + bytes(1 << 20), "max_bytes"),
    ],
    ids=["empty", "gif", "png", "truncated", "many pixels", "many bytes"],
)
def test_other_files_and_large_jpegs_are_refused_and_the_next_jpeg_is_read(content, reason):
    with pytest.raises(VideoDecodeError, match=reason):
        decode_jpeg(content, 40, LIMITS)
    assert decode_jpeg(jpeg(64, 48), 40, LIMITS).shape == (48, 64, 3)
