"""Images as the model reads them: normalization and motion channels."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from signvit_jax.models.definition import ModelDefinition
from signvit_jax.models.images import (
    MOTION_FLOOR,
    ImageFormat,
    image_format,
    motion_channels,
    with_motion,
)
from tests.helpers import tiny_model

MASK = jnp.array([[True, True, False, False], [True] * 4])


@pytest.fixture
def video():
    return jax.random.normal(jax.random.key(0), (2, 4, 3, 3, 3))


def test_bytes_are_normalized_with_mean_and_deviation():
    images = np.random.default_rng(0).integers(0, 256, (2, 4, 4, 3), dtype=np.uint8)
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    found = ImageFormat(4, mean, std).normalize(jnp.asarray(images))
    np.testing.assert_allclose(found, (images / 255 - np.array(mean)) / np.array(std), atol=1e-5)


def test_float_images_are_not_normalized_again():
    images = jnp.ones((2, 4, 4, 3))
    assert image_format(tiny_model.config().data).normalize(images) is images


def test_motion_is_the_frame_minus_the_mean_of_its_clip(video):
    motion = motion_channels(video, MASK, "clip_mean")
    np.testing.assert_allclose(motion[0, 1], video[0, 1] - video[0, :2].mean(0), atol=1e-6)
    np.testing.assert_allclose(motion[1], video[1] - video[1].mean(0), atol=1e-6)


def test_motion_is_the_frame_minus_the_one_before(video):
    motion = motion_channels(video, MASK, "difference")
    np.testing.assert_array_equal(motion[:, 0], 0)
    np.testing.assert_allclose(motion[:, 1:], np.diff(video, axis=1), atol=1e-6)


def test_motion_comes_after_the_colors_or_alone(video):
    motion = motion_channels(video, MASK, "difference")
    both = with_motion(video, MASK, "difference", colors=True)
    np.testing.assert_array_equal(both, np.concatenate([video, motion], axis=-1))
    alone = with_motion(video, MASK, "difference", colors=False)
    np.testing.assert_array_equal(alone, motion)


@pytest.mark.parametrize("colors", [True, False])
def test_a_model_without_colors_ignores_the_background(colors):
    definition = ModelDefinition(
        tiny_model.config(model__encoder__motion="magnitude", model__encoder__colors=colors),
        tiny_model.VOCABULARY,
    )
    params = definition.init(0)
    moving = jax.random.normal(jax.random.key(1), (1, 4, 16, 16, 3))
    background = jax.random.normal(jax.random.key(2), (1, 1, 16, 16, 3))

    @jax.jit
    def features(video):
        return definition.bind(params).encoder.frame_features(video, jnp.array([4])).features

    same = np.allclose(features(moving), features(moving + background), atol=1e-4)
    assert same == (not colors)


def test_magnitudes_of_motion_are_shares_of_the_clips_motion(video):
    found = motion_channels(video, MASK, "magnitude")
    clip = np.asarray(video[0, :2])  # without the two padding frames
    moved = clip - clip.mean(0)
    scale = np.sqrt((moved**2).mean() + MOTION_FLOOR**2)
    step = np.abs(clip[1] - clip[0]).mean(-1) / scale
    np.testing.assert_allclose(found[0, :2, ..., 0], np.abs(moved).mean(-1) / scale, atol=1e-5)
    np.testing.assert_allclose(found[0, :2, ..., 1], [np.zeros((3, 3)), step], atol=1e-5)
    np.testing.assert_allclose(found[0, :2, ..., 2], [step, np.zeros((3, 3))], atol=1e-5)


def test_magnitudes_ignore_background_brightness_and_contrast(video):
    found = motion_channels(video, MASK, "magnitude")
    inverted = motion_channels(1.0 - 20 * video, MASK, "magnitude")
    strong = motion_channels(20 * video, MASK, "magnitude")
    np.testing.assert_allclose(inverted, strong, atol=1e-4)
    np.testing.assert_allclose(found, strong, rtol=0.02, atol=1e-3)  # MOTION_FLOOR has an effect


def test_noise_of_a_still_clip_is_not_amplified(video):
    noise = motion_channels(0.01 * video, MASK, "magnitude")
    assert np.abs(noise).max() < 0.4


def test_magnitudes_of_a_clip_without_motion_are_zero():
    still = jnp.ones((1, 3, 2, 2, 3))
    mask = jnp.ones((1, 3), bool)
    np.testing.assert_array_equal(motion_channels(still, mask, "magnitude"), 0)
    gradient = jax.grad(lambda video: motion_channels(video, mask, "magnitude").sum())(still)
    assert np.isfinite(gradient).all()
