"""Tests of decoding and augmentation, compared with Pillow."""

import io

import numpy as np
import pytest
from PIL import Image, ImageEnhance

from signvit_jax.config.schema import AugmentConfig
from signvit_jax.data.augment import (
    NO_AUGMENTATION,
    ClipAugmentation,
    augment_keypoints,
    decode_clip,
    draw_augmentation,
)
from signvit_jax.data.keypoints import KeypointLayout
from signvit_jax.media.frames import FrameDecodeError, fit_frames, jpeg_shape
from tests.helpers.toy_dataset import jpeg

STRONG = AugmentConfig(
    rotate=20,
    translate=0.1,
    scale=0.2,
    brightness=0.3,
    contrast=0.3,
    saturation=0.3,
    hue=0.1,
    mirror=True,
)


def smooth_image(height: int, width: int, seed: int = 0) -> np.ndarray:
    """Return a random image without sharp edges, uint8 (h, w, 3)."""
    coarse = np.random.default_rng(seed).integers(70, 186, (3, 3, 3), dtype=np.uint8)
    return np.asarray(Image.fromarray(coarse).resize((width, height), Image.BICUBIC))


def pillow(data: bytes) -> Image.Image:
    return Image.open(io.BytesIO(data)).convert("RGB")


def difference(a, b) -> float:
    """Return the mean absolute difference of two images, in gray levels."""
    return float(np.abs(np.asarray(a).astype(float) - np.asarray(b).astype(float)).mean())


def test_a_frame_of_the_right_size_is_only_decoded():
    data = jpeg(smooth_image(64, 64))
    (frame,) = decode_clip([data], 64, "squash")
    assert difference(frame, pillow(data)) < 1.5
    assert np.array_equal(frame, decode_clip([data], 64, "pad")[0]) and np.array_equal(
        frame, decode_clip([data], 64, "crop")[0]
    )


def test_a_gray_frame_equals_that_of_pillow():
    """The levels are exact, since a gray image has no chroma to interpolate."""
    gray = jpeg(np.tile(np.arange(64, dtype=np.uint8)[:, None, None] * 2 + 60, (1, 64, 3)))
    frame = decode_clip([gray], 64, "squash")[0].astype(int)
    assert np.abs(frame - np.asarray(pillow(gray))).max() <= 1


@pytest.mark.parametrize("shape", [(96, 96), (120, 64), (64, 121), (33, 47), (150, 300)])
@pytest.mark.parametrize(
    "augmentation", [NO_AUGMENTATION, ClipAugmentation(hue=1e-9)], ids=["scaler", "sampler"]
)
def test_squash_is_a_plain_resize(shape, augmentation):
    data = jpeg(smooth_image(*shape))
    assert (
        difference(
            decode_clip([data], 64, "squash", augmentation)[0],
            pillow(data).resize((64, 64), Image.BILINEAR),
        )
        < 2.5
    )


@pytest.mark.parametrize(
    "augmentation", [NO_AUGMENTATION, ClipAugmentation(hue=1e-9)], ids=["scaler", "sampler"]
)
def test_pad_keeps_the_complete_image_between_black_bars(augmentation):
    data = jpeg(smooth_image(64, 128))
    (frame,) = decode_clip([data], 64, "pad", augmentation)
    assert frame[:15].max() <= 2 and frame[-15:].max() <= 2
    assert (
        difference(frame[17:47], np.asarray(pillow(data).resize((64, 32), Image.BILINEAR))[1:31])
        < 2
    )


@pytest.mark.parametrize(
    "augmentation", [NO_AUGMENTATION, ClipAugmentation(hue=1e-9)], ids=["scaler", "sampler"]
)
def test_crop_keeps_the_middle_of_the_longer_side(augmentation):
    data = jpeg(smooth_image(64, 128))
    (frame,) = decode_clip([data], 64, "crop", augmentation)
    assert difference(frame, pillow(data).crop((32, 0, 96, 64))) < 2


@pytest.mark.parametrize(
    ("augmentation", "matrix"),
    [
        (ClipAugmentation(shift_x=0.125, shift_y=-0.25), lambda c, s: (1, 0, -8, 0, 1, 16)),
        (ClipAugmentation(zoom=2.0), lambda c, s: (0.5, 0, 16, 0, 0.5, 16)),
        (ClipAugmentation(mirror=True), lambda c, s: (-1, 0, 64, 0, 1, 0)),
        (
            ClipAugmentation(angle=0.3),
            lambda c, s: (c, -s, 32 - 32 * c + 32 * s, s, c, 32 - 32 * s - 32 * c),
        ),
    ],
    ids=["translate", "scale", "mirror", "rotate"],
)
def test_geometry_agrees_with_pillow(augmentation, matrix):
    data = jpeg(smooth_image(64, 64))
    expected = pillow(data).transform(
        (64, 64), Image.AFFINE, matrix(np.cos(0.3), np.sin(0.3)), Image.BILINEAR
    )
    (frame,) = decode_clip([data], 64, "squash", augmentation)
    assert difference(frame, expected) < 2.5


def test_rotation_is_counter_clockwise_as_in_pillow():
    data = jpeg(smooth_image(64, 64))
    (frame,) = decode_clip([data], 64, "squash", ClipAugmentation(angle=np.pi / 2))
    assert difference(frame, pillow(data).rotate(90)) < 2


def test_color_agrees_with_pillow():
    data = jpeg(smooth_image(64, 64))
    brighter = ImageEnhance.Brightness(pillow(data)).enhance(1.15)
    assert (
        difference(
            decode_clip([data], 64, "squash", ClipAugmentation(brightness=1.15))[0], brighter
        )
        < 2
    )
    paler = ImageEnhance.Color(pillow(data)).enhance(0.4)
    assert (
        difference(decode_clip([data], 64, "squash", ClipAugmentation(saturation=0.4))[0], paler)
        < 2
    )
    contrast = np.clip((np.asarray(pillow(data)).astype(float) - 128) * 0.6 + 128, 0, 255)
    assert (
        difference(decode_clip([data], 64, "squash", ClipAugmentation(contrast=0.6))[0], contrast)
        < 2
    )


def test_hue_turns_colors_and_keeps_the_brightness():
    data = jpeg(smooth_image(64, 64))
    plain, turned, opposite = (
        decode_clip([data], 64, "squash", ClipAugmentation(hue=hue, zoom=1.0000001))[0]
        for hue in (0.0, 1.0, 0.5)
    )
    assert difference(plain, turned) < 0.1
    luma = np.array([0.299, 0.587, 0.114])
    assert difference(plain, opposite) > 10 and difference(plain @ luma, opposite @ luma) < 3


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("fit", ["squash", "pad", "crop"])
def test_frames_of_a_static_clip_stay_equal(seed, fit):
    augmentation = draw_augmentation(STRONG, np.random.default_rng(seed))
    frames = decode_clip([jpeg(smooth_image(80, 90))] * 5, 48, fit, augmentation)
    assert (frames == frames[0]).all()
    assert difference(frames[0], decode_clip([jpeg(smooth_image(80, 90))], 48, fit)[0]) > 3


def test_frames_of_different_sizes_are_each_fitted():
    small, large = jpeg(smooth_image(64, 64)), jpeg(smooth_image(128, 96))
    augmentation = ClipAugmentation(angle=0.1)
    mixed = decode_clip([small, large, small], 48, "squash", augmentation)
    assert np.array_equal(mixed[1], decode_clip([large], 48, "squash", augmentation)[0])
    assert np.array_equal(mixed[0], mixed[2])


@pytest.mark.parametrize("subsampling", [0, 1, 2], ids=["4:4:4", "4:2:2", "4:2:0"])
@pytest.mark.parametrize(
    "augmentation", [NO_AUGMENTATION, ClipAugmentation(hue=1e-9)], ids=["scaler", "sampler"]
)
def test_every_chroma_layout_and_gray_jpegs_decode(subsampling, augmentation):
    data = jpeg(smooth_image(64, 64), subsampling=subsampling)
    assert difference(decode_clip([data], 64, "squash", augmentation)[0], pillow(data)) < 2
    gray = jpeg(smooth_image(64, 64)[..., 0])
    assert difference(decode_clip([gray], 64, "squash", augmentation)[0], pillow(gray)) < 2


@pytest.mark.parametrize("size", [17, 48, 63])
def test_frames_have_the_requested_odd_size(size):
    assert decode_clip(
        [jpeg(smooth_image(50, 51))], size, "squash", ClipAugmentation(angle=0.1)
    ).shape == (1, size, size, 3)


def test_draws_stay_within_the_config():
    draws = [draw_augmentation(STRONG, np.random.default_rng(seed)) for seed in range(300)]
    for name, most in [("angle", np.radians(20)), ("shift_x", 0.1), ("shift_y", 0.1), ("hue", 0.1)]:
        values = np.abs([getattr(draw, name) for draw in draws])
        assert 0.9 * most < values.max() <= most
    for name, most in [("zoom", 0.2), ("brightness", 0.3), ("contrast", 0.3), ("saturation", 0.3)]:
        values = np.abs([getattr(draw, name) - 1 for draw in draws])
        assert 0.9 * most < values.max() <= most
    assert 100 < sum(draw.mirror for draw in draws) < 200


def test_zero_strengths_change_nothing():
    assert draw_augmentation(AugmentConfig(), np.random.default_rng(0)) == NO_AUGMENTATION


def test_nothing_is_mirrored_by_default():
    draws = [
        draw_augmentation(AugmentConfig(rotate=5, hue=0.1), np.random.default_rng(seed))
        for seed in range(100)
    ]
    assert not any(draw.mirror for draw in draws)


def test_video_frames_are_fitted_like_stored_frames():
    images = np.stack([smooth_image(90, 120, seed) for seed in range(3)])
    for fit in ("squash", "pad", "crop"):
        stored = decode_clip([jpeg(image, quality=100, subsampling=0) for image in images], 48, fit)
        assert difference(fit_frames(images, 48, fit), stored) < 1.5


@pytest.mark.parametrize(
    "damage",
    [b"", b"x", b"not an image at all", jpeg(smooth_image(64, 64))[:300], b"\xff\xd8\xff\xd9"],
)
def test_the_error_of_an_undecodable_frame_has_its_number(damage):
    good = jpeg(smooth_image(64, 64))
    with pytest.raises(FrameDecodeError, match="frame 1 of 3"):
        decode_clip([good, damage, good], 48, "squash")
    # The decoder still works.
    assert difference(decode_clip([good], 64, "squash")[0], pillow(good)) < 1.5


@pytest.mark.parametrize(
    "augmentation", [NO_AUGMENTATION, ClipAugmentation(angle=0.1)], ids=["plain", "augmented"]
)
def test_a_truncated_jpeg_is_refused(augmentation):
    good = jpeg(np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8))
    with pytest.raises(FrameDecodeError, match="frame 6 of 8"):
        decode_clip([good] * 6 + [good[: len(good) // 2], good], 48, "squash", augmentation)


def test_a_header_of_a_huge_image_is_refused():
    data = bytearray(jpeg(smooth_image(64, 64)))
    start = data.index(b"\xff\xc0")
    data[start + 5 : start + 9] = b"\xff\xff\xff\xff"
    with pytest.raises(FrameDecodeError):
        decode_clip([bytes(data)], 48, "squash")


SIDES = KeypointLayout("sides", ("left_hand", "right_hand"))
GEOMETRY = {
    "none": NO_AUGMENTATION,
    "translate": ClipAugmentation(shift_x=0.1, shift_y=-0.08),
    "scale": ClipAugmentation(zoom=1.3),
    "rotate": ClipAugmentation(angle=0.4),
    "mirror": ClipAugmentation(mirror=True),
    "all": ClipAugmentation(angle=-0.3, shift_x=-0.05, shift_y=0.1, zoom=0.85, mirror=True),
}


def frame_with_dots(width: int, height: int, dots: np.ndarray) -> bytes:
    """Return a JPEG of a dark frame with a red dot at dots[0] and a green one at dots[1]."""
    y, x = np.mgrid[:height, :width] + 0.5
    image = np.zeros((height, width, 3), np.uint8)
    for channel, (column, row) in enumerate(dots):
        distance = (x - column * width) ** 2 + (y - row * height) ** 2
        image[..., channel] = 255 * np.exp(-distance / (2 * (0.03 * width) ** 2))
    return jpeg(image, subsampling=0)


def dot_centers(frame: np.ndarray) -> np.ndarray:
    """Return the center of each dot as (x, y), both as fractions of the sides."""
    y, x = (np.mgrid[: len(frame), : len(frame)] + 0.5) / len(frame)
    lit = np.maximum(frame.astype(float) - frame.max(axis=-1, keepdims=True) / 2 - 25, 0)
    return np.array(
        [
            [(x * dot).sum() / dot.sum(), (y * dot).sum() / dot.sum()]
            for dot in (lit[..., 0], lit[..., 1])
        ]
    )


@pytest.mark.parametrize("augmentation", GEOMETRY.values(), ids=GEOMETRY)
@pytest.mark.parametrize("fit", ["squash", "pad", "crop"])
@pytest.mark.parametrize(("shape", "size"), [((120, 90), 64), ((90, 120), 63), ((64, 64), 33)])
def test_keypoints_move_like_the_pixels(shape, size, fit, augmentation):
    dots = np.array([[0.4, 0.55], [0.62, 0.4]])
    data = frame_with_dots(*shape, dots)
    assert jpeg_shape(data) == shape
    (frame,) = decode_clip([data], size, fit, augmentation)
    stored = np.concatenate([dots, np.ones((2, 1))], axis=1)[None].astype(np.float16)
    (moved,) = augment_keypoints(stored, shape, size, fit, augmentation, SIDES.mirrored)
    if augmentation.mirror:  # the red dot was the left hand and is now the right one
        moved = moved[::-1]
    assert moved[:, 2].tolist() == [1.0, 1.0]
    assert np.abs(moved[:, :2] - dot_centers(frame)).max() * size < 0.6


def test_unknown_keypoints_stay_zeros():
    stored = np.zeros((2, 2, 3), np.float16)
    stored[1, 0] = 0.5, 0.5, 0.25
    moved = augment_keypoints(stored, (90, 60), 64, "pad", GEOMETRY["all"], SIDES.mirrored)
    assert not moved[0].any() and not moved[1, 0].any()  # mirroring swaps the hands
    assert moved[1, 1, 2] == 0.25 and moved[1, 1, :2].all()
