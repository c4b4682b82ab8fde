import jax
import jax.numpy as jnp
import numpy as np
import pytest

from signvit_jax.models.images import ImageFormat, image_format, motion_channels
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


def test_floats_are_normalized_already():
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
