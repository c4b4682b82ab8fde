import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from signvit_jax.layers.attention import attend, attention_weights, drop_path
from signvit_jax.layers.positions import sinusoids, sinusoids_2d
from signvit_jax.models.definition import parameters_of
from signvit_jax.models.translator import (
    SignTranslator,
    abstract_model,
    count_parameters,
    motion_channels,
)
from tests.helpers import tiny_model

RICH = {
    "model__encoder__zoom": "motion",
    "model__encoder__motion": "clip_mean",
    "model__temporal__time_positions": "sincos",
    "model__temporal__num_attention_layers": 1,
    "model__decoder__memory": "frames",
}


def close(ours, theirs, tolerance=2e-5):
    for a, b in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(a, b, atol=tolerance)


@pytest.mark.parametrize(
    "changes", [{}, RICH], ids=["reference", "every option that looks along time"]
)
def test_padding_frames_change_nothing_whatever_they_hold(changes):
    translator = tiny_model.model(tiny_model.config(**changes))
    batch = tiny_model.batch()
    longer = dict(
        batch, video=np.random.default_rng(9).integers(0, 256, (4, 9, 16, 16, 3), dtype=np.uint8)
    )
    longer["video"][:, :6] = batch["video"]
    for row, length in enumerate(batch["frame_lengths"]):
        longer["video"][row, length:] = 255 - row
    short, long = tiny_model.outputs(translator, batch), tiny_model.outputs(translator, longer)
    close(short[:2], long[:2])
    for row, length in enumerate(batch["frame_lengths"]):
        close([short[2][row, :length]], [long[2][row, :length]])


def test_order_of_the_batch_changes_nothing():
    translator = tiny_model.model(tiny_model.config())
    batch = tiny_model.batch()
    turned = {name: value[::-1] for name, value in batch.items()}
    close(
        tiny_model.outputs(translator, batch),
        [output[::-1] for output in tiny_model.outputs(translator, turned)],
    )


def test_later_tokens_do_not_reach_earlier_logits():
    translator = tiny_model.model(tiny_model.config())
    batch = tiny_model.batch()
    changed = dict(batch, tokens=batch["tokens"].copy())
    changed["tokens"][:, 2] = 3
    before, after = (tiny_model.outputs(translator, given)[1] for given in (batch, changed))
    close([before[:, :2]], [after[:, :2]], 1e-6)
    assert np.abs(before[:, 2] - after[:, 2]).max() > 1e-3


def test_the_embedding_of_padding_reaches_nothing_but_the_logit_of_padding():
    translator, batch = tiny_model.model(tiny_model.config()), tiny_model.batch()
    assert (batch["tokens"][:, :-1] == 0).any()
    before = tiny_model.outputs(translator, batch)[1]
    translator.decoder.embedding[...] = translator.decoder.embedding[...].at[0].set(7.0)
    after = tiny_model.outputs(translator, batch)[1]
    np.testing.assert_array_equal(before[..., 1:], after[..., 1:])
    assert np.all(before[..., 0] == 0) and np.all(after[..., 0] != 0)


@pytest.mark.parametrize(
    "changes",
    [{"training__scan_layers": False}, {"training__remat": "full"}, {"training__remat": "dots"}],
    ids=str,
)
def test_how_the_blocks_are_run_changes_no_value_and_no_gradient(changes):
    batch = tiny_model.batch()
    plain, other = (tiny_model.model(tiny_model.config(**given)) for given in ({}, changes))
    other = nnx.merge(nnx.graphdef(other), nnx.state(plain))

    def loss(images):
        return lambda model: jnp.sum(model.encoder.backbone(images, jax.random.key(1)) ** 2)

    images = jnp.asarray(batch["video"][0], jnp.float32) / 255
    expected, found = (jax.jit(jax.value_and_grad(loss(images)))(model) for model in (plain, other))
    close(jax.tree.leaves(expected), jax.tree.leaves(found), 1e-4)


def test_position_initialization_changes_numbers_and_not_shapes():
    normal, sincos = (
        tiny_model.model(tiny_model.config(model__encoder__position_init=kind))
        for kind in ("normal", "sincos2d")
    )
    assert jax.tree.map(jnp.shape, parameters_of(normal)) == jax.tree.map(
        jnp.shape, parameters_of(sincos)
    )
    table = sincos.encoder.backbone.positions[...][0]
    np.testing.assert_array_equal(table[0], 0)
    for patch, (y, x) in enumerate([(0, 0), (0, 1), (1, 0), (1, 1)], start=1):
        slow = [
            f(place / 10_000 ** (i / 4))
            for place, f in ((y, np.sin), (y, np.cos), (x, np.sin), (x, np.cos))
            for i in range(4)
        ]
        np.testing.assert_allclose(table[patch], slow, atol=1e-6)
    assert float(jnp.std(normal.encoder.backbone.positions[...])) < 0.05
    assert sinusoids_2d(3, 5, 8).shape == (15, 8)


def test_text_and_time_positions_are_the_sines_and_cosines_of_the_formula():
    table = sinusoids(7, 6)
    for place in range(7):
        for pair in range(3):
            angle = place / 10_000 ** (2 * pair / 6)
            np.testing.assert_allclose(
                table[place, 2 * pair : 2 * pair + 2], [np.sin(angle), np.cos(angle)], atol=1e-6
            )


def test_dropout_acts_only_with_a_key_and_differs_by_key_and_layer():
    tiny = tiny_model.config(model__encoder__drop_path=0.2)
    translator, batch = tiny_model.model(tiny), tiny_model.batch()
    without = tiny_model.outputs(
        tiny_model.model(
            tiny_model.config(model__encoder__dropout=0.0, model__encoder__attention_dropout=0.0)
        ),
        batch,
    )
    off, one, again, other = (
        tiny_model.outputs(translator, batch, key)
        for key in (None, *map(jax.random.key, (1, 1, 2)))
    )
    jax.tree.map(np.testing.assert_array_equal, off, without)
    jax.tree.map(np.testing.assert_array_equal, one, again)
    assert all(np.abs(a - b).max() > 1e-3 for a, b in zip(one, off))
    assert all(np.abs(a - b).max() > 1e-3 for a, b in zip(one, other))


def test_each_scanned_block_draws_a_dropout_mask_of_its_own():
    """With blocks that only add dropout of a constant, equal masks would give multiples of the number of layers and nothing between."""
    backbone = tiny_model.model(
        tiny_model.config(model__encoder__vit_num_layers=2, model__encoder__dropout=0.5)
    ).encoder.backbone
    state = jax.tree.map(jnp.zeros_like, nnx.state(backbone.blocks))
    state.feed_forward.contract.bias[...] = jnp.ones_like(state.feed_forward.contract.bias[...])
    nnx.update(backbone.blocks, state)
    gained = jax.jit(lambda key: backbone._run_blocks(jnp.zeros((1, 50, 16)), key))(
        jax.random.key(0)
    )
    assert sorted(np.unique(np.asarray(gained)).tolist()) == [0.0, 2.0, 4.0]


def test_drop_path_drops_whole_branches_of_an_example_and_keeps_the_mean():
    dropped = np.asarray(
        jax.jit(lambda key: drop_path(jnp.ones((4000, 3)), 0.25, key))(jax.random.key(0))
    )
    assert np.all(dropped == dropped[:, :1])
    np.testing.assert_allclose(np.unique(dropped), [0, 1 / 0.75], rtol=1e-6)
    assert abs(dropped.mean() - 1) < 0.05


def test_stochastic_depth_rises_from_none_in_the_first_block_to_its_rate_in_the_last():
    """Blocks that only add one: 3 comes from the first block and a kept last one, 1 from a dropped last one."""
    backbone = tiny_model.model(
        tiny_model.config(model__encoder__drop_path=0.5, model__encoder__dropout=0.0)
    ).encoder.backbone
    state = jax.tree.map(jnp.zeros_like, nnx.state(backbone.blocks))
    state.feed_forward.contract.bias[...] = jnp.ones_like(state.feed_forward.contract.bias[...])
    nnx.update(backbone.blocks, state)
    run = jax.jit(lambda key: backbone._run_blocks(jnp.zeros((50, 2, 16)), key))
    gained = np.asarray(run(jax.random.key(0)))
    assert np.all(gained == gained[:, :1, :1])
    assert np.unique(gained).tolist() == [1.0, 3.0]
    np.testing.assert_array_equal(backbone._run_blocks(jnp.zeros((1, 2, 16)), None), 2.0)


def test_frames_are_normalized_with_the_configs_mean_and_deviation():
    translator, batch = tiny_model.model(tiny_model.config()), tiny_model.batch()
    mean, deviation = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
    by_hand = dict(batch, video=((batch["video"] / 255 - mean) / deviation).astype(np.float32))
    close(tiny_model.outputs(translator, batch), tiny_model.outputs(translator, by_hand))


@pytest.mark.parametrize(
    "option",
    [
        {"model__encoder__stem": "conv"},
        {"model__encoder__frame_pooling": "attention"},
        {"model__encoder__frame_pooling": "concat"},
    ],
    ids=str,
)
def test_other_stem_and_pooling_keep_the_shapes_and_see_where_things_are(option):
    translator, batch = tiny_model.model(tiny_model.config(**option)), tiny_model.batch()
    images = jnp.asarray(batch["video"][0], jnp.float32) / 255
    features = jax.jit(lambda model, x: model.encoder.backbone(x))(translator, images)
    moved = jax.jit(lambda model, x: model.encoder.backbone(x))(
        translator, jnp.roll(images, 8, axis=2)
    )
    assert features.shape == (6, 16)
    assert np.abs(features - moved).max() > 1e-4


def test_time_positions_let_the_pooling_tell_the_order_of_frames():
    batch = tiny_model.batch()
    batch["frame_lengths"][:] = 6
    reversed_clip = dict(batch, video=batch["video"][:, ::-1])
    # Kernel 1: the convolutions cannot tell order either.
    without, with_positions = (
        tiny_model.model(
            tiny_model.config(model__temporal__kernel_size=1, model__temporal__time_positions=kind)
        )
        for kind in ("none", "sincos")
    )
    close(tiny_model.outputs(without, batch)[:1], tiny_model.outputs(without, reversed_clip)[:1])
    assert (
        np.abs(
            tiny_model.outputs(with_positions, batch)[0]
            - tiny_model.outputs(with_positions, reversed_clip)[0]
        ).max()
        > 1e-3
    )


def test_motion_is_the_frame_less_its_clips_mean_or_the_frame_before():
    video = jax.random.normal(jax.random.key(0), (2, 4, 3, 3, 3))
    mask = jnp.array([[True, True, False, False], [True] * 4])
    moved = motion_channels(video, mask, "clip_mean")
    np.testing.assert_allclose(moved[0, 1], video[0, 1] - video[0, :2].mean(0), atol=1e-6)
    np.testing.assert_allclose(moved[1], video[1] - video[1].mean(0), atol=1e-6)
    step = motion_channels(video, mask, "difference")
    np.testing.assert_array_equal(step[:, 0], 0)
    np.testing.assert_allclose(step[:, 1:], np.diff(video, axis=1), atol=1e-6)


@pytest.mark.parametrize("motion", ["clip_mean", "difference"])
def test_a_model_that_sees_motion_takes_the_wall_for_less(motion):
    """Frames of one clip that are all the same have no motion: only the first three channels see them."""
    translator = tiny_model.model(tiny_model.config(model__encoder__motion=motion))
    assert translator.encoder.backbone.embed.project.kernel.shape == (8 * 8 * 6, 16)
    still = dict(tiny_model.batch(), video=np.repeat(tiny_model.batch()["video"][:, :1], 6, axis=1))
    moving = tiny_model.batch()
    kernel = translator.encoder.backbone.embed.project.kernel
    seen = [tiny_model.outputs(translator, given)[2] for given in (still, moving)]
    kernel[...] = kernel[...].reshape(8, 8, 6, 16).at[:, :, 3:].set(0).reshape(8 * 8 * 6, 16)
    blind = [tiny_model.outputs(translator, given)[2] for given in (still, moving)]
    np.testing.assert_allclose(seen[0], blind[0], atol=1e-5)
    assert np.abs(seen[1] - blind[1]).max() > 1e-3


def test_concatenated_patches_tell_apart_what_their_mean_cannot():
    """The same tokens in other places: their mean stays, side by side they differ."""
    pooling = tiny_model.model(
        tiny_model.config(model__encoder__frame_pooling="concat")
    ).encoder.backbone.pooling
    tokens = jax.random.normal(jax.random.key(0), (1, 5, 16))
    swapped = tokens[:, jnp.array([0, 2, 1, 3, 4])]
    np.testing.assert_allclose(tokens.mean(1), swapped.mean(1), atol=1e-6)
    assert np.abs(pooling(tokens) - pooling(swapped)).max() > 1e-3


@pytest.mark.parametrize("memory", ["queries", "frames"])
def test_where_the_decoder_looks_are_shares_of_the_clips_own_frames(memory):
    batch = tiny_model.batch()
    batch["frame_lengths"][:2] = 3, 6
    translator = tiny_model.model(tiny_model.config(model__decoder__memory=memory))
    look = jax.jit(
        lambda model, given: model.frame_weights(
            model.encode(given["video"], given["frame_lengths"]), given["tokens"]
        )
    )
    shares = np.asarray(look(translator, jax.tree.map(jnp.asarray, batch)))
    assert shares.shape == (4, 6, 6) and shares.min() >= 0
    np.testing.assert_allclose(shares.sum(-1), 1, rtol=1e-5)
    assert np.all(shares[0, :, 3:] == 0)


def test_attention_is_its_weights_times_the_values():
    query, key, value = (jax.random.normal(jax.random.key(i), (2, 5, 3, 4)) for i in range(3))
    mask = jnp.tril(jnp.ones((1, 5, 5), bool))
    by_hand = jnp.einsum("bnls,bsnk->blnk", attention_weights(query, key, mask), value).reshape(
        2, 5, 12
    )
    np.testing.assert_allclose(attend(query, key, value, mask), by_hand, atol=1e-5)


def test_ctc_reads_what_its_source_says():
    batch = tiny_model.batch()
    for source, steps in (("frames", 6), ("queries", 3)):
        translator = tiny_model.model(tiny_model.config(model__ctc__source=source))
        assert tiny_model.outputs(translator, batch)[2].shape == (4, steps, tiny_model.VOCABULARY)


def test_gloss_head_has_a_vocabulary_of_its_own():
    tiny = tiny_model.config(model__ctc__target="gloss")
    assert SignTranslator(
        tiny, 17, 5, rngs=nnx.Rngs(params=jax.random.key(0))
    ).ctc_head.out.kernel.shape == (16, 5)


def test_half_precision_keeps_parameters_and_logits_in_float32():
    tiny = tiny_model.config(training__use_amp=True)
    translator = tiny_model.model(tiny)
    assert {leaf.dtype for leaf in jax.tree.leaves(parameters_of(translator))} == {
        jnp.dtype("float32")
    }
    _, logits, ctc = tiny_model.outputs(translator, tiny_model.batch())
    exact = tiny_model.outputs(
        nnx.merge(nnx.graphdef(tiny_model.model(tiny_model.config())), nnx.state(translator)),
        tiny_model.batch(),
    )
    assert logits.dtype == ctc.dtype == jnp.float32
    close((logits, ctc), exact[1:], 0.15)


def test_abstract_model_counts_what_a_real_one_has():
    tiny = tiny_model.config()
    assert count_parameters(abstract_model(tiny, 17)) == count_parameters(tiny_model.model(tiny))
