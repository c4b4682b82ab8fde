"""Options that make the ViT cheaper. An option that is off changes nothing."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from signvit_jax.backbones.vit import DenseViT, FramePooling, drop_patches
from signvit_jax.config.errors import ConfigError
from signvit_jax.layers.compute_policy import compute_policy
from tests.helpers import tiny_model

pytestmark = pytest.mark.xdist_group("vit_options")  # one process compiles for all of them

NO_DROPOUT = {"dropout": 0.0, "attention_dropout": 0.0}


def abstract_vit(half=False, **options):
    """Return a ViT with shapes in place of arrays."""
    tiny = tiny_model.config(
        training__use_amp=half,
        **{f"model__encoder__{name}": value for name, value in options.items()},
    )

    def make():
        rngs = nnx.Rngs(params=jax.random.key(0))
        return DenseViT(tiny.model.encoder, 16, policy=compute_policy(tiny), rngs=rngs)

    return nnx.eval_shape(make)


@pytest.fixture(scope="module")
def weights():
    shapes = nnx.state(abstract_vit())
    rng = np.random.default_rng(0)
    return jax.tree.map(
        lambda leaf: jnp.asarray(0.3 * rng.standard_normal(leaf.shape), jnp.float32), shapes
    )


def make_vit(weights, **options):
    return nnx.merge(nnx.graphdef(abstract_vit(**options)), weights)


def images(count=5, seed=0):
    return jnp.asarray(np.random.default_rng(seed).standard_normal((count, 16, 16, 3)), jnp.float32)


@jax.jit
def features(vit, images, rng=None):
    return vit(images, rng=rng).features


def test_chunks_change_no_value_and_no_gradient(weights):
    """There are five frames in chunks of two, so that the last chunk is padded."""

    def loss(vit):
        return jnp.sum(vit(images(), rng=jax.random.key(1)).features ** 2)

    at_once, in_chunks = (
        jax.jit(jax.value_and_grad(loss))(make_vit(weights, **NO_DROPOUT, frames_per_chunk=size))
        for size in (0, 2)
    )
    for a, b in zip(jax.tree.leaves(at_once), jax.tree.leaves(in_chunks), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("options", [{}, {"patch_drop": 0.3}], ids=["all", "patches_dropped"])
def test_padding_all_layers_once_changes_no_gradient(weights, monkeypatch, options):
    """Fused attention on a GPU needs an even number of tokens, so an odd number is padded."""

    def value_and_gradients(pads):
        monkeypatch.setattr(DenseViT, "_needs_even_length", lambda self: pads)

        def loss(weights):
            vit = make_vit(weights, half=True, **NO_DROPOUT, **options)
            features = vit(images(), rng=jax.random.key(1)).features
            return jnp.sum(features.astype(jnp.float32) ** 2)

        return jax.jit(jax.value_and_grad(loss))(weights)

    padded, plain = value_and_gradients(True), value_and_gradients(False)
    for ours, expected in zip(jax.tree.leaves(padded), jax.tree.leaves(plain), strict=True):
        np.testing.assert_allclose(ours, expected, atol=0.02 * float(jnp.abs(expected).max()))


@pytest.mark.long
def test_memory_with_chunks_does_not_grow_with_the_frames():
    """Only the frames of one chunk are floats; all frames are kept as bytes and as features."""

    def temporary_bytes(frames, size):
        vit = abstract_vit(patch_size=2, frames_per_chunk=size)

        def loss(vit, images):
            output = vit(images, preprocess=lambda x: x.astype(jnp.float32))
            return jnp.sum(output.features**2)

        shape = jax.ShapeDtypeStruct((frames, 16, 16, 3), jnp.uint8)
        compiled = jax.jit(jax.grad(loss)).lower(vit, shape).compile()
        return compiled.memory_analysis().temp_size_in_bytes

    many, few, at_once = temporary_bytes(96, 4), temporary_bytes(32, 4), temporary_bytes(96, 0)
    assert many < 1.3 * few
    assert many < 0.2 * at_once


def test_every_chunk_draws_its_own_dropout(weights):
    same = jnp.repeat(images(1), 4, axis=0)
    vit = make_vit(weights, dropout=0.5, frames_per_chunk=1)
    found = np.asarray(features(vit, same, jax.random.key(0)))
    assert len(np.unique(found[:, 0])) == 4


def test_patches_are_dropped_at_random_but_not_the_class_token():
    x = jnp.tile(jnp.arange(21.0)[None, :, None], (50, 1, 2))
    kept = np.asarray(drop_patches(x, 0.75, jax.random.key(0)))[..., 0]
    assert kept.shape == (50, 1 + 5)
    assert np.all(kept[:, 0] == 0)
    assert all(len(set(row)) == 6 and set(row[1:]) <= set(range(1, 21)) for row in kept.tolist())
    assert set(kept[:, 1:].ravel().tolist()) == set(range(1, 21))
    assert len({tuple(row) for row in kept.tolist()}) > 40


def test_at_least_one_patch_is_kept():
    assert drop_patches(jnp.zeros((50, 21, 2)), 0.99, jax.random.key(0)).shape == (50, 2, 2)


def test_patches_are_dropped_in_training_only(weights):
    plain, dropping = (
        make_vit(weights, **NO_DROPOUT),
        make_vit(weights, **NO_DROPOUT, patch_drop=0.5),
    )
    rng = jax.random.key(0)
    expected = features(plain, images())
    np.testing.assert_array_equal(features(dropping, images()), expected)
    tokens = jax.eval_shape(dropping.embed_images, images(), rng)
    assert tokens.shape == (5, 3, 16)
    assert np.abs(features(dropping, images(), rng) - expected).max() > 1e-3


def test_tokens_are_merged_in_evaluation_only(weights):
    plain, merging = make_vit(weights, **NO_DROPOUT), make_vit(weights, **NO_DROPOUT, token_merge=1)
    rng = jax.random.key(0)
    np.testing.assert_array_equal(features(plain, images(), rng), features(merging, images(), rng))
    tokens, sizes = jax.jit(lambda vit: vit.merged_tokens(images()))(merging)
    assert tokens.shape == (5, 3, 16)
    assert np.all(sizes.sum(1) == 5)
    assert np.abs(features(plain, images()) - features(merging, images())).max() > 1e-4


def test_attention_pooling_weights_merged_tokens_by_their_sizes():
    pooling = FramePooling(8, 2, dtype=jnp.float32, rngs=nnx.Rngs(0))
    tokens = jax.random.normal(jax.random.key(1), (2, 5, 8))
    original = jnp.repeat(tokens, jnp.array([1, 1, 4, 1, 2]), axis=1, total_repeat_length=9)
    sizes = jnp.broadcast_to(jnp.array([1.0, 1.0, 4.0, 1.0, 2.0]), (2, 5))
    np.testing.assert_allclose(pooling(tokens, sizes), pooling(original), atol=1e-6)
    assert np.abs(pooling(tokens) - pooling(original)).max() > 1e-3


def test_merging_equal_tokens_changes_nothing(weights):
    """In images whose halves are equal, with equal positions, tokens of both halves are equal.

    The model has only one block.
    """
    left = images()[:, :, :8]
    symmetric = jnp.concatenate([left, left], axis=2)
    plain, merging = (
        nnx.merge(
            nnx.graphdef(abstract_vit(vit_num_layers=1, token_merge=count)), first_block(weights)
        )
        for count in (0, 2)
    )
    for vit in (plain, merging):
        positions = vit.positions[...]
        vit.positions[...] = positions.at[0, 2].set(positions[0, 1]).at[0, 4].set(positions[0, 3])
    assert np.abs(features(merging, images()) - features(plain, images())).max() > 1e-4
    np.testing.assert_allclose(features(merging, symmetric), features(plain, symmetric), atol=1e-5)


def first_block(weights):
    return jax.tree_util.tree_map_with_path(
        lambda path, leaf: leaf[:1] if "blocks" in jax.tree_util.keystr(path) else leaf, weights
    )


@pytest.fixture
def rbg_vit(weights):
    return make_vit(weights, dropout=0.5, attention_dropout=0.0, dropout_rng_impl="rbg")


def test_the_rbg_generator_changes_nothing_in_evaluation(weights, rbg_vit):
    expected = features(make_vit(weights, **NO_DROPOUT), images())
    np.testing.assert_array_equal(features(rbg_vit, images()), expected)


def test_rbg_dropout_has_its_rate_and_differs_by_layer(rbg_vit):
    """The two blocks add one, with dropout. With equal masks, outputs would be only 0 and 4."""
    state = jax.tree.map(jnp.zeros_like, nnx.state(rbg_vit.blocks))
    state.feed_forward.contract.bias[...] = jnp.ones_like(state.feed_forward.contract.bias[...])
    nnx.update(rbg_vit.blocks, state)
    run = jax.jit(lambda vit, rng: vit.run_blocks(jnp.zeros((40, 5, 16)), rng))
    rng = jax.random.wrap_key_data(jnp.arange(4, dtype=jnp.uint32), impl="rbg")
    values, counts = np.unique(np.asarray(run(rbg_vit, rng)), return_counts=True)
    assert values.tolist() == [0.0, 2.0, 4.0]  # kept in no layer, in one layer, in both
    np.testing.assert_allclose(counts / counts.sum(), [0.25, 0.5, 0.25], atol=0.05)


def test_rbg_dropout_depends_only_on_the_key(rbg_vit):
    once, again, other = (
        np.asarray(features(rbg_vit, images(), jax.random.key(seed))) for seed in (1, 1, 2)
    )
    assert np.array_equal(once, again)
    assert not np.array_equal(once, other)


def test_intermediates_lead_to_the_features(weights):
    vit = make_vit(weights)
    found = jax.jit(DenseViT.intermediates)(vit, images())
    assert found.keys() == {"embedding", "blocks", "tokens"}
    assert {value.shape for value in found.values()} == {(5, 5, 16)}
    np.testing.assert_allclose(
        found["tokens"].mean(axis=1), features(vit, images()), rtol=1e-5, atol=1e-6
    )


@pytest.mark.parametrize("options", [{"patch_drop": 0.5}, {"token_merge": 1}], ids=str)
def test_concat_pooling_refuses_options_that_remove_tokens(options):
    with pytest.raises(ConfigError, match="frame_pooling is 'concat'"):
        tiny_model.config(
            model__encoder__frame_pooling="concat",
            **{f"model__encoder__{name}": value for name, value in options.items()},
        )


def test_cudnn_with_attention_dropout_is_refused_by_the_config():
    with pytest.raises(ConfigError, match="attention_dropout is"):
        tiny_model.config(model__encoder__attention="cudnn", training__use_amp=True)
