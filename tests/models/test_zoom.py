"""The zoom, which crops clips to their motion, so that position and size do not matter."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from signvit_jax.models.zoom import MIN_REACH, crop, moving_square
from tests.helpers import tiny_model

SIDE, FRAMES = 32, 8
ALL = jnp.ones((1, FRAMES), bool)


def zoom_to_motion(video, mask):
    return crop(video, moving_square(video, mask), video.shape[2])


def circling(y, x, radius, *, background=0.2, noise=0.0):
    """Return a video (1, t, h, w, 3) of a blurred spot that moves on a circle around (y, x)."""
    rows, columns = np.mgrid[:SIDE, :SIDE]
    angle = 2 * np.pi * np.arange(FRAMES)[:, None, None] / FRAMES
    spot_y, spot_x = y + radius * np.sin(angle), x + radius * np.cos(angle)
    squared_distance = (rows + 0.5 - spot_y) ** 2 + (columns + 0.5 - spot_x) ** 2
    spot = np.exp(-squared_distance / (2 * (radius / 3) ** 2))
    video = (background + spot)[None, ..., None].repeat(3, axis=-1)
    noise = noise * np.random.default_rng(0).standard_normal(video.shape)
    return jnp.asarray(video + noise, jnp.float32)


@pytest.mark.parametrize("noise", [0.0, 0.02])
@pytest.mark.parametrize(("y", "x", "radius"), [(16, 16, 6), (12, 20, 4), (22, 10, 5)])
def test_the_square_encloses_what_moves(y, x, radius, noise):
    center, reach = moving_square(circling(y, x, radius, noise=noise), ALL)
    np.testing.assert_allclose(center[0], [y / SIDE, x / SIDE], atol=0.03)
    assert 1.2 * radius / SIDE < reach[0] < 2.4 * radius / SIDE


def test_a_hand_that_is_raised_once_is_in_the_square():
    low = jnp.tile(circling(22, 16, 4), (1, 5, 1, 1, 1))
    raised = circling(6, 16, 4)[:, :1]  # one frame
    video = jnp.concatenate([low, raised], axis=1)
    center, reach = moving_square(video, jnp.ones(video.shape[:2], bool))
    # The standard deviation of the spot is 1.3 pixels.
    assert (center[0, 0] - reach[0]) * SIDE < 6 - 1
    assert (center[0, 0] + reach[0]) * SIDE > 22 + 4 + 1


def test_the_same_motion_looks_alike_elsewhere_and_smaller():
    large, small = circling(16, 16, 6), circling(12, 20, 4)
    before = np.abs(large - small).mean()
    after = np.abs(zoom_to_motion(large, ALL) - zoom_to_motion(small, ALL)).mean()
    assert after < 0.25 * before


def test_pixels_are_interpolated_bilinearly():
    video = circling(10, 18, 4)
    center, reach = (np.asarray(found[0]) for found in moving_square(video, ALL))
    positions = (np.arange(SIDE) + 0.5) / SIDE * 2 - 1
    rows, columns = ((middle + positions * reach) * SIDE - 0.5 for middle in center)
    frame = np.asarray(video)[0, 3, :, :, 1]
    frame = np.stack([np.interp(rows, np.arange(SIDE), column) for column in frame.T], axis=1)
    frame = np.stack([np.interp(columns, np.arange(SIDE), row) for row in frame])
    np.testing.assert_allclose(zoom_to_motion(video, ALL)[0, 3, :, :, 1], frame, atol=1e-5)


@pytest.mark.parametrize(
    "video",
    [jnp.full((1, FRAMES, SIDE, SIDE, 3), 0.3), circling(16, 16, 6)[:, :1]],
    ids=["still", "one frame"],
)
def test_a_clip_that_does_not_move_is_unchanged(video):
    np.testing.assert_allclose(zoom_to_motion(video, ALL[:, : video.shape[1]]), video, atol=1e-5)


def test_a_clip_that_moves_everywhere_is_unchanged():
    video = jax.random.normal(jax.random.key(0), (1, FRAMES, SIDE, SIDE, 3))
    center, reach = moving_square(video, ALL)
    np.testing.assert_allclose(center, 0.5, atol=0.01)
    np.testing.assert_allclose(reach, 0.5, atol=0.01)


def test_the_square_is_in_the_image_and_has_a_minimum_size():
    video = np.zeros((2, 2, SIDE, SIDE, 3), np.float32)
    video[0, 1, 0, 0] = video[1, 1, 16, 31] = 1.0
    center, reach = moving_square(jnp.asarray(video), jnp.ones((2, 2), bool))
    np.testing.assert_allclose(reach, MIN_REACH)
    assert np.all(center >= MIN_REACH - 1e-6)
    assert np.all(center <= 1 - MIN_REACH + 1e-6)


def test_the_square_depends_only_on_the_valid_frames_of_its_clip():
    clip, other = circling(16, 16, 6), circling(8, 24, 3)
    clips = [jnp.concatenate([clip, other], axis=1), jnp.concatenate([other, clip], axis=1)]
    mask = jnp.arange(2 * FRAMES) < FRAMES
    found = zoom_to_motion(jnp.concatenate(clips), jnp.stack([mask, mask]))
    np.testing.assert_allclose(found[0, :FRAMES], zoom_to_motion(clip, ALL)[0], atol=1e-5)
    np.testing.assert_allclose(found[1, :FRAMES], zoom_to_motion(other, ALL)[0], atol=1e-5)


@pytest.mark.parametrize("motion", ["none", "clip_mean"])
def test_a_model_with_zoom_sees_the_cropped_clips(motion):
    plain, zooming = (
        tiny_model.model(
            tiny_model.config(model__encoder__motion=motion, model__encoder__zoom=zoom)
        )
        for zoom in ("none", "motion")
    )
    batch = tiny_model.batch()
    batch["video"][:, :, :4] = batch["video"][:, :, :, 9:] = 128  # a still background
    video, lengths = jnp.asarray(batch["video"]), jnp.asarray(batch["frame_lengths"])
    normalized = plain.encoder.images.normalize(video)
    cropped = zoom_to_motion(normalized, jnp.arange(6) < lengths[:, None])
    assert np.abs(normalized - cropped).max() > 0.1
    frames = jax.jit(lambda model, video: model.encode(video, lengths).frames)
    np.testing.assert_allclose(frames(zooming, video), frames(plain, cropped), atol=1e-4)
