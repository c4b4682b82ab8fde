"""What makes the ViT cheaper: frames in chunks, fewer patches in training, merged tokens in evaluation, cheap dropout. Off, each changes nothing."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from signvit_jax.backbones.vit import DenseViT, drop_patches
from signvit_jax.config.errors import ConfigError
from tests.helpers import tiny_model

pytestmark = pytest.mark.xdist_group("vit_options")  # one process compiles for all of them

NO_DROPOUT = {"dropout": 0.0, "attention_dropout": 0.0}


def blank_vit(**options):
    """The ViT alone, shapes in place of numbers."""
    tiny = tiny_model.config(
        **{f"model__encoder__{name}": value for name, value in options.items()}
    )
    return nnx.eval_shape(
        lambda: DenseViT(
            tiny.model.encoder, 16, dtype=jnp.float32, rngs=nnx.Rngs(params=jax.random.key(0))
        )
    )


@pytest.fixture(scope="module")
def weights():
    shapes = nnx.state(blank_vit())
    rng = np.random.default_rng(0)
    return jax.tree.map(
        lambda leaf: jnp.asarray(0.3 * rng.standard_normal(leaf.shape), jnp.float32), shapes
    )


def backbone(weights, **options):
    return nnx.merge(nnx.graphdef(blank_vit(**options)), weights)


def pictures(count=5, seed=0):
    return jnp.asarray(np.random.default_rng(seed).standard_normal((count, 16, 16, 3)), jnp.float32)


@jax.jit
def features(vit, images, key=None):
    return vit(images, key)


def test_frames_in_chunks_give_the_values_and_gradients_of_all_at_once(weights):
    """Five frames in chunks of two: the last chunk is filled up."""

    def loss(vit):
        return jnp.sum(vit(pictures(), jax.random.key(1)) ** 2)

    whole, chunked = (
        jax.jit(jax.value_and_grad(loss))(backbone(weights, **NO_DROPOUT, frames_per_chunk=size))
        for size in (0, 2)
    )
    for a, b in zip(jax.tree.leaves(whole), jax.tree.leaves(chunked), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4)


@pytest.mark.long
def test_with_chunks_memory_does_not_grow_with_the_number_of_frames():
    """Bytes in, floats only chunk by chunk; what remains of 96 frames beside the bytes is a feature each."""

    def temporaries(frames, size):
        vit = blank_vit(patch_size=2, frames_per_chunk=size)
        step = jax.jit(
            jax.grad(
                lambda vit, images: jnp.sum(vit(images, None, lambda x: x.astype(jnp.float32)) ** 2)
            )
        )
        images = jax.ShapeDtypeStruct((frames, 16, 16, 3), jnp.uint8)
        return step.lower(vit, images).compile().memory_analysis().temp_size_in_bytes

    many, few, whole = temporaries(96, 4), temporaries(32, 4), temporaries(96, 0)
    assert many < 1.3 * few and many < 0.2 * whole


def test_chunks_draw_dropout_of_their_own(weights):
    same = jnp.repeat(pictures(1), 4, axis=0)
    found = np.asarray(
        features(backbone(weights, dropout=0.5, frames_per_chunk=1), same, jax.random.key(0))
    )
    assert len(np.unique(found[:, 0])) == 4


def test_dropped_patches_are_others_in_every_picture_and_the_class_token_stays():
    x = jnp.tile(jnp.arange(21.0)[None, :, None], (50, 1, 2))
    kept = np.asarray(drop_patches(x, 0.75, jax.random.key(0)))[..., 0]
    assert kept.shape == (50, 1 + 5)
    assert np.all(kept[:, 0] == 0)
    assert all(len(set(row)) == 6 and set(row[1:]) <= set(range(1, 21)) for row in kept.tolist())
    assert (
        set(kept[:, 1:].ravel().tolist()) == set(range(1, 21))
        and len({tuple(row) for row in kept.tolist()}) > 40
    )
    assert drop_patches(x, 0.99, jax.random.key(0)).shape == (50, 2, 2)


def test_patches_are_dropped_in_training_alone(weights):
    plain, dropping = (
        backbone(weights, **NO_DROPOUT),
        backbone(weights, **NO_DROPOUT, patch_drop=0.5),
    )
    np.testing.assert_array_equal(features(plain, pictures()), features(dropping, pictures()))
    assert jax.eval_shape(dropping.tokens, pictures(), jax.random.key(0)).shape == (5, 3, 16)
    assert (
        np.abs(
            features(plain, pictures()) - features(dropping, pictures(), jax.random.key(0))
        ).max()
        > 1e-3
    )


def test_tokens_are_merged_in_evaluation_alone(weights):
    plain, merging = backbone(weights, **NO_DROPOUT), backbone(weights, **NO_DROPOUT, token_merge=1)
    key = jax.random.key(0)
    np.testing.assert_array_equal(
        features(plain, pictures(), key), features(merging, pictures(), key)
    )
    tokens, sizes = jax.jit(lambda vit: vit._merged_tokens(pictures()))(merging)
    assert tokens.shape == (5, 3, 16) and np.all(sizes.sum(1) == 5)
    assert np.abs(features(plain, pictures()) - features(merging, pictures())).max() > 1e-4


def test_merging_tokens_that_are_alike_changes_nothing(weights):
    """One block; the right half of a picture shows what the left does, at the same positions: merged, two patches give what they gave apart."""
    half = pictures()[:, :, :8]
    images = jnp.concatenate([half, half], axis=2)
    plain, merging = (
        nnx.merge(
            nnx.graphdef(blank_vit(vit_num_layers=1, token_merge=count)), first_block(weights)
        )
        for count in (0, 2)
    )
    for vit in (plain, merging):
        positions = vit.positions[...]
        vit.positions[...] = positions.at[0, 2].set(positions[0, 1]).at[0, 4].set(positions[0, 3])
    assert np.abs(features(merging, pictures()) - features(plain, pictures())).max() > 1e-4
    np.testing.assert_allclose(features(merging, images), features(plain, images), atol=1e-5)


def first_block(weights):
    return jax.tree_util.tree_map_with_path(
        lambda path, leaf: leaf[:1] if "blocks" in jax.tree_util.keystr(path) else leaf, weights
    )


def test_the_devices_own_generator_drops_as_many_and_others_in_each_layer(weights):
    vit = backbone(weights, dropout=0.5, attention_dropout=0.0, dropout_rng_impl="rbg")
    np.testing.assert_array_equal(
        features(vit, pictures()), features(backbone(weights, **NO_DROPOUT), pictures())
    )
    state = jax.tree.map(jnp.zeros_like, nnx.state(vit.blocks))
    state.feed_forward.contract.bias[...] = jnp.ones_like(state.feed_forward.contract.bias[...])
    nnx.update(vit.blocks, state)
    tokens = jax.jit(lambda vit, key: vit._run_blocks(jnp.zeros((40, 5, 16)), key))
    key = jax.random.wrap_key_data(jnp.arange(4, dtype=jnp.uint32), impl="rbg")
    values, counts = np.unique(np.asarray(tokens(vit, key)), return_counts=True)
    assert values.tolist() == [0.0, 2.0, 4.0]  # neither, one, or both of the two layers
    np.testing.assert_allclose(counts / counts.sum(), [0.25, 0.5, 0.25], atol=0.05)
    once, again, other = (
        np.asarray(features(vit, pictures(), jax.random.key(seed))) for seed in (1, 1, 2)
    )
    assert np.array_equal(once, again) and not np.array_equal(once, other)


@pytest.mark.parametrize("options", [{"patch_drop": 0.5}, {"token_merge": 1}], ids=str)
def test_pooling_that_needs_every_token_is_not_given_fewer(options):
    with pytest.raises(ConfigError, match="frame_pooling is 'concat'"):
        tiny_model.config(
            model__encoder__frame_pooling="concat",
            **{f"model__encoder__{name}": value for name, value in options.items()},
        )


def test_a_fused_kernel_that_would_be_refused_in_the_first_step_is_refused_with_the_config():
    with pytest.raises(ConfigError, match="attention_dropout is"):
        tiny_model.config(model__encoder__attention="cudnn", training__use_amp=True)
