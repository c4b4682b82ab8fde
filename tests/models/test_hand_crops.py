"""Crops of the hands: their pixels, the features of missing parts, and their training."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from signvit_jax.config.errors import ConfigError
from signvit_jax.layers.compute_policy import ComputePolicy
from signvit_jax.models.definition import ModelDefinition
from signvit_jax.models.hand_crops import HandCrops
from signvit_jax.models.zoom import Square, crop, crop_part, whole_image
from signvit_jax.optimization.losses import TermInputs, forward, loss_denominators
from signvit_jax.optimization.train_step import loss_terms
from tests.helpers import tiny_model

WITH_HANDS = {
    "model__encoder__crops": "hands",
    "model__encoder__crop_size": 16,
    "model__encoder__crop_width": 8,
    "model__encoder__crop_share": 0.4,
    "model__encoder__motion": "magnitude",
    "model__encoder__dropout": 0.0,
    "data__image_size": 32,
    "model__encoder__view_size": 16,
}


def hand_crops(**changes):
    config = tiny_model.config(**(WITH_HANDS | changes)).model.encoder
    channels = 3 if config.motion == "none" else 6
    return HandCrops(config, channels, policy=ComputePolicy(), rngs=nnx.Rngs(0))


def test_the_second_hand_is_mirrored():
    hands = hand_crops()
    video = jax.random.normal(jax.random.key(0), (2, 3, 32, 32, 3))
    mask = jnp.ones((2, 3), bool)
    center = jax.random.uniform(jax.random.key(1), (2, 3, 2, 2), minval=0.2, maxval=0.8)
    view = Square(jnp.asarray([[0.5, 0.5], [0.5, 0.5]]), jnp.asarray([0.5, 0.3]))
    crops = hands._inputs(video, view, center, mask)
    swapped = center[:, :, ::-1] * jnp.asarray([1.0, -1.0]) + jnp.asarray([0.0, 1.0])
    mirrored = hands._inputs(video[:, :, :, ::-1], view, swapped, mask)
    np.testing.assert_allclose(crops, mirrored[:, ::-1], atol=2e-5)


def test_a_crop_has_the_pixels_of_the_original_image():
    hands = hand_crops(model__encoder__motion="none")
    video = jax.random.normal(jax.random.key(0), (1, 2, 40, 40, 3))
    # The view is the complete image, so a crop has 0.4 of its side: 16 of 40 pixels.
    center = jnp.asarray([[[14.0, 18.0], [26.0, 22.0]], [[20.0, 12.0], [30.0, 5.0]]])[None] / 40
    crops = hands._inputs(video, whole_image(1), center, jnp.ones((1, 2), bool))
    first, second = crops[0]
    np.testing.assert_allclose(first[0], video[0, 0, 6:22, 10:26], atol=1e-4)
    np.testing.assert_allclose(second[0], video[0, 0, 18:34, 14:30][:, ::-1], atol=1e-4)
    np.testing.assert_allclose(first[1], video[0, 1, 12:28, 4:20], atol=1e-4)
    # Outside the image, the pixels of its edge are repeated.
    with_edge = np.pad(video[0, 1, 22:38, :13], ((0, 0), (3, 0), (0, 0)), mode="edge")
    np.testing.assert_allclose(second[1][:, ::-1], with_edge, atol=1e-4)


@pytest.mark.parametrize("side", [50, 160], ids=["a little smaller", "four times smaller"])
def test_cropping_a_part_equals_cropping_the_complete_image(side):
    rng = np.random.default_rng(0)
    video = jnp.asarray(rng.standard_normal((20, 1, side, side, 3)), jnp.float32)
    center = jnp.asarray(rng.uniform(0.0, 1.0, (20, 2)), jnp.float32)
    square = Square(center, jnp.linspace(0.02, 0.4 / 2, 20))
    found = crop_part(video, square, 16, 0.4)
    np.testing.assert_allclose(found, crop(video, square, 16), atol=2e-4)


def test_pixels_of_a_smaller_view_are_means_of_the_pixels_they_cover():
    ramp = jnp.broadcast_to(jnp.arange(64.0)[:, None, None], (1, 1, 64, 64, 3))
    small = crop(ramp, whole_image(1), 16)
    np.testing.assert_allclose(small[0, 0, 1:-1, 5, 0], np.arange(1, 15) * 4 + 1.5, atol=1e-4)
    noise = jax.random.normal(jax.random.key(0), (1, 1, 64, 64, 3))
    assert np.std(crop(noise, whole_image(1), 16)) < 0.3  # it is 1 for the original pixels


def crop_features(hands, key=None):
    video = jax.random.normal(jax.random.key(0), (8, 3, 32, 32, 3))
    found = hands(video, whole_image(8), jnp.ones((8, 3), bool), key)
    return found.features.reshape(8, 3, hands.parts, -1)


def test_the_features_of_a_missing_part_are_a_learned_vector():
    hands = hand_crops()
    hands.missing[...] = jnp.asarray([[1.0] * 8, [2.0] * 8])
    hands.localizer.presence.bias[...] = jnp.asarray([-100.0, 100.0])
    features = crop_features(hands)
    np.testing.assert_array_equal(features[:, :, 0], [[[1.0] * 8 + [0.0] * 4] * 3] * 8)
    assert np.abs(features[:, :, 1] - 2.0).min() > 0.0
    np.testing.assert_array_equal(features[:, :, 1, -1], 1.0)


def test_training_removes_each_hand_of_some_clips():
    hands = hand_crops(model__encoder__crop_dropout=0.5)
    present = crop_features(hands)[..., -1]
    dropped = crop_features(hands, jax.random.key(3))[..., -1]
    kept = dropped == present
    np.testing.assert_array_equal(kept, np.broadcast_to(kept[:, :1], kept.shape))
    np.testing.assert_array_equal(dropped[~kept], 0.0)
    first, second = kept[:, 0].T
    assert 0 < first.sum() < 8 and 0 < second.sum() < 8 and (first != second).any()


@pytest.mark.long
def test_the_face_is_a_third_part_with_its_own_encoder():
    hands = hand_crops(model__encoder__crops="hands_face")
    features = crop_features(hands)
    assert features.shape == (8, 3, 3, 8 + 4)
    nnx.update(hands.face_encoder, jax.tree.map(jnp.zeros_like, nnx.state(hands.face_encoder)))
    changed = crop_features(hands)
    np.testing.assert_array_equal(changed[:, :, :2], features[:, :, :2])
    assert np.abs(changed[:, :, 2] - features[:, :, 2]).max() > 0.0


@pytest.mark.long
def test_only_the_localization_loss_trains_the_localizer():
    config = tiny_model.config(**WITH_HANDS, model__encoder__zoom="motion")
    definition = ModelDefinition(config, tiny_model.VOCABULARY)
    batch = tiny_model.batch()
    video = np.random.default_rng(0).integers(0, 256, (4, 6, 32, 32, 3), np.uint8)
    batch = batch | {"video": video}
    params = definition.init(0)
    counts = loss_denominators(batch)

    def terms(params):
        model = definition.bind(params)
        inputs = TermInputs(
            model, forward(model, batch, jax.random.key(0)), batch, counts, jnp.asarray(0)
        )
        found = loss_terms(config.training, batch, finds_hands=True)
        return jnp.stack([term(inputs)[0] for term in found])

    gradient_of = jax.jit(lambda params, weights: jax.vjp(terms, params)[1](weights)[0]["encoder"])

    def has_gradient(tree) -> bool:
        return max(np.abs(leaf).max() for leaf in jax.tree.leaves(tree)) > 0.0

    # The terms are those of CTC, of translation and of localization.
    for number, is_localization in ((0, False), (1, False), (2, True)):
        gradients = gradient_of(params, jax.nn.one_hot(number, 3))
        assert has_gradient(gradients["hands"]["localizer"]) == is_localization
        assert has_gradient(gradients["hands"]["encoder"]) != is_localization
        assert has_gradient(gradients["backbone"]) != is_localization


def test_keypoints_of_a_batch_train_the_localizer():
    config = tiny_model.config(**WITH_HANDS | {"model__encoder__crops": "hands_face"})
    definition = ModelDefinition(config, tiny_model.VOCABULARY)
    batch = tiny_model.batch()
    rng = np.random.default_rng(0)
    batch |= {"video": rng.integers(0, 256, (4, 6, 32, 32, 3), np.uint8)}
    points = rng.uniform(0.2, 0.8, (4, 6, 3, 3)).astype(np.float32)
    points[1] = 0.0
    (term,) = loss_terms(config.training, batch, finds_hands=True)[2:]

    def localization(params, batch):
        model, counts = definition.bind(params), loss_denominators(batch)
        outputs = forward(model, batch, jax.random.key(0))
        return term(TermInputs(model, outputs, batch, counts, jnp.asarray(0)))[0]

    params = definition.init(0)
    gradient = jax.jit(jax.grad(localization))(params, batch | {"part_points": points})
    presence = gradient["encoder"]["hands"]["localizer"]["presence"]["bias"]
    assert (np.abs(presence) > 0.0).all()
    gradient = jax.jit(jax.grad(localization))(params, batch)
    assert not gradient["encoder"]["hands"]["localizer"]["presence"]["bias"].any()


@pytest.mark.long
def test_crops_work_with_a_mobilenet():
    options = WITH_HANDS | tiny_model.MOBILENET | {"model__encoder__motion": "none"}
    definition = ModelDefinition(tiny_model.config(**options), tiny_model.VOCABULARY)
    batch = tiny_model.batch()
    batch = batch | {"video": np.repeat(np.repeat(batch["video"], 2, axis=2), 2, axis=3)}
    params = definition.init(0)
    outputs = jax.jit(lambda params: forward(definition.bind(params), batch))(params)
    assert np.isfinite(outputs.logits).all() and outputs.encoded.localization is None


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"view_size": 64}, r"view_size is 64, larger than config.data.image_size = 32"),
        ({"view_size": 20}, r"model.encoder.view_size is 20; allowed: a multiple of"),
        ({"crop_size": 40}, r"crop_size is 40; allowed: a multiple of 16, such as 32"),
        ({"crop_width": 6}, r"crop_width is 6; allowed: a multiple of 4, such as 8"),
    ],
)
def test_sizes_that_do_not_fit_are_refused(changes, message):
    changes = {f"model__encoder__{key}": value for key, value in changes.items()}
    with pytest.raises(ConfigError, match=message):
        tiny_model.config(**(WITH_HANDS | changes))
