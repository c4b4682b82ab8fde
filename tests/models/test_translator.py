"""The translation model: padding, causality, dropout, positions, and options of its parts."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from signvit_jax.layers.attention import drop_path
from signvit_jax.layers.compute_policy import ComputePolicy
from signvit_jax.layers.positions import sinusoids, sinusoids_2d
from signvit_jax.models.definition import ModelDefinition, parameters_of
from signvit_jax.models.translator import abstract_model, count_parameters
from tests.helpers import tiny_model

ALONG_TIME = {
    "model__encoder__zoom": "motion",
    "model__encoder__motion": "clip_mean",
    "model__temporal__time_positions": "sincos",
    "model__temporal__num_attention_layers": 1,
    "model__decoder__memory": "frames",
}


def assert_close(found, expected, tolerance=2e-5):
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_allclose(a, b, atol=tolerance)


@pytest.mark.parametrize("changes", [{}, ALONG_TIME], ids=["reference", "options along time"])
def test_padding_frames_change_nothing(changes):
    translator = tiny_model.model(tiny_model.config(**changes))
    batch = tiny_model.batch()
    video = np.random.default_rng(9).integers(0, 256, (4, 9, 16, 16, 3), dtype=np.uint8)
    longer = dict(batch, video=video)
    longer["video"][:, :6] = batch["video"]
    for row, length in enumerate(batch["frame_lengths"]):
        longer["video"][row, length:] = 255 - row
    short, long = tiny_model.outputs(translator, batch), tiny_model.outputs(translator, longer)
    assert_close(short[:2], long[:2])
    for row, length in enumerate(batch["frame_lengths"]):
        assert_close([short[2][row, :length]], [long[2][row, :length]])


def test_the_order_of_clips_changes_nothing():
    translator = tiny_model.model(tiny_model.config())
    batch = tiny_model.batch()
    reversed_batch = {name: value[::-1] for name, value in batch.items()}
    assert_close(
        tiny_model.outputs(translator, batch),
        [output[::-1] for output in tiny_model.outputs(translator, reversed_batch)],
    )


def test_later_tokens_do_not_reach_earlier_logits():
    translator = tiny_model.model(tiny_model.config())
    batch = tiny_model.batch()
    changed = dict(batch, tokens=batch["tokens"].copy())
    changed["tokens"][:, 2] = 3
    before, after = (tiny_model.outputs(translator, each)[1] for each in (batch, changed))
    assert_close([before[:, :2]], [after[:, :2]], 1e-6)
    assert np.abs(before[:, 2] - after[:, 2]).max() > 1e-3


def test_the_embedding_of_pad_reaches_only_the_logit_of_pad():
    translator = tiny_model.model(tiny_model.config())
    batch = tiny_model.batch()
    assert (batch["tokens"][:, :-1] == 0).any()
    before = tiny_model.outputs(translator, batch)[1]
    translator.decoder.embedding[...] = translator.decoder.embedding[...].at[0].set(7.0)
    after = tiny_model.outputs(translator, batch)[1]
    np.testing.assert_array_equal(before[..., 1:], after[..., 1:])
    assert np.all(before[..., 0] == 0)
    assert np.all(after[..., 0] != 0)


@pytest.mark.parametrize(
    "changes",
    [{"training__scan_layers": False}, {"training__remat": "full"}, {"training__remat": "dots"}],
    ids=str,
)
def test_scan_and_remat_change_no_value_and_no_gradient(changes):
    batch = tiny_model.batch()
    plain = tiny_model.model(tiny_model.config())
    other = tiny_model.model(tiny_model.config(**changes))
    other = nnx.merge(nnx.graphdef(other), nnx.state(plain))  # with the same parameters
    images = jnp.asarray(batch["video"][0], jnp.float32) / 255

    def loss(model):
        return jnp.sum(model.encoder.backbone(images, rng=jax.random.key(1)).features ** 2)

    expected, found = (jax.jit(jax.value_and_grad(loss))(model) for model in (plain, other))
    assert_close(jax.tree.leaves(expected), jax.tree.leaves(found), 1e-4)


def test_initial_positions_can_be_sines_and_cosines():
    normal, sincos = (
        tiny_model.model(tiny_model.config(model__encoder__position_init=kind))
        for kind in ("normal", "sincos2d")
    )
    shapes = [jax.tree.map(jnp.shape, parameters_of(model)) for model in (normal, sincos)]
    assert shapes[0] == shapes[1]
    table = sincos.encoder.backbone.positions[...][0]
    np.testing.assert_array_equal(table[0], 0)
    for patch, (y, x) in enumerate([(0, 0), (0, 1), (1, 0), (1, 1)], start=1):
        frequencies = 1 / 10_000 ** (np.arange(4) / 4)
        parts = [np.sin(y * frequencies), np.cos(y * frequencies)]
        parts += [np.sin(x * frequencies), np.cos(x * frequencies)]
        np.testing.assert_allclose(table[patch], np.concatenate(parts), atol=1e-6)
    assert float(jnp.std(normal.encoder.backbone.positions[...])) < 0.05
    assert sinusoids_2d(3, 5, 8).shape == (15, 8)


def test_text_and_time_positions_follow_the_formula():
    table = sinusoids(7, 6)
    for position in range(7):
        for pair in range(3):
            angle = position / 10_000 ** (2 * pair / 6)
            expected = [np.sin(angle), np.cos(angle)]
            np.testing.assert_allclose(
                table[position, 2 * pair : 2 * pair + 2], expected, atol=1e-6
            )


@pytest.fixture(scope="module")
def drop_path_outputs():
    """A function key -> outputs of a model with drop path; the key None stands for evaluation."""
    translator = tiny_model.model(tiny_model.config(model__encoder__drop_path=0.2))
    return lambda rng: tiny_model.outputs(translator, tiny_model.batch(), rng)


def test_without_a_key_there_is_no_dropout(drop_path_outputs):
    no_dropout = tiny_model.config(
        model__encoder__dropout=0.0, model__encoder__attention_dropout=0.0
    )
    expected = tiny_model.outputs(tiny_model.model(no_dropout), tiny_model.batch())
    jax.tree.map(np.testing.assert_array_equal, drop_path_outputs(None), expected)


def test_dropout_depends_only_on_the_key(drop_path_outputs):
    without = drop_path_outputs(None)
    first = drop_path_outputs(jax.random.key(1))
    again = drop_path_outputs(jax.random.key(1))
    other = drop_path_outputs(jax.random.key(2))
    jax.tree.map(np.testing.assert_array_equal, first, again)
    assert all(np.abs(a - b).max() > 1e-3 for a, b in zip(first, without))
    assert all(np.abs(a - b).max() > 1e-3 for a, b in zip(first, other))


def let_blocks_add_one(backbone):
    """Set the parameters so that every block adds one to its input and does nothing else."""
    state = jax.tree.map(jnp.zeros_like, nnx.state(backbone.blocks))
    state.feed_forward.contract.bias[...] = jnp.ones_like(state.feed_forward.contract.bias[...])
    nnx.update(backbone.blocks, state)


def test_each_scanned_block_has_its_own_dropout_mask():
    """With equal masks in both blocks, outputs would be 0 or 4 and never 2."""
    tiny = tiny_model.config(model__encoder__vit_num_layers=2, model__encoder__dropout=0.5)
    backbone = tiny_model.model(tiny).encoder.backbone
    let_blocks_add_one(backbone)
    run = jax.jit(lambda rng: backbone.run_blocks(jnp.zeros((1, 50, 16)), rng))
    assert np.unique(np.asarray(run(jax.random.key(0)))).tolist() == [0.0, 2.0, 4.0]


def test_drop_path_drops_branches_of_examples_and_keeps_the_mean():
    run = jax.jit(lambda rng: drop_path(jnp.ones((4000, 3)), 0.25, rng))
    dropped = np.asarray(run(jax.random.key(0)))
    assert np.all(dropped == dropped[:, :1])
    np.testing.assert_allclose(np.unique(dropped), [0, 1 / 0.75], rtol=1e-6)
    assert abs(dropped.mean() - 1) < 0.05


def test_drop_path_rises_from_zero_in_the_first_block():
    """The first block adds 1. The last one adds 0 if it is dropped, else 1 / (1 - 0.5) = 2."""
    tiny = tiny_model.config(model__encoder__drop_path=0.5, model__encoder__dropout=0.0)
    backbone = tiny_model.model(tiny).encoder.backbone
    let_blocks_add_one(backbone)
    run = jax.jit(lambda rng: backbone.run_blocks(jnp.zeros((50, 2, 16)), rng))
    found = np.asarray(run(jax.random.key(0)))
    assert np.all(found == found[:, :1, :1])
    assert np.unique(found).tolist() == [1.0, 3.0]
    np.testing.assert_array_equal(backbone.run_blocks(jnp.zeros((1, 2, 16))), 2.0)


def test_frames_are_normalized_as_the_config_says():
    translator = tiny_model.model(tiny_model.config())
    batch = tiny_model.batch()
    mean, deviation = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
    normalized = ((batch["video"] / 255 - mean) / deviation).astype(np.float32)
    expected = tiny_model.outputs(translator, dict(batch, video=normalized))
    assert_close(tiny_model.outputs(translator, batch), expected)


@pytest.mark.parametrize(
    "option",
    [
        {"model__encoder__stem": "conv"},
        {"model__encoder__frame_pooling": "attention"},
        {"model__encoder__frame_pooling": "concat"},
    ],
    ids=str,
)
def test_every_stem_and_pooling_depends_on_positions_in_the_image(option):
    translator = tiny_model.model(tiny_model.config(**option))
    batch = tiny_model.batch()
    images = jnp.asarray(batch["video"][0], jnp.float32) / 255
    run = jax.jit(lambda model, x: model.encoder.backbone(x).features)
    features, moved = run(translator, images), run(translator, jnp.roll(images, 8, axis=2))
    assert features.shape == (6, 16)
    assert np.abs(features - moved).max() > 1e-4


def test_with_time_positions_pooling_depends_on_the_order_of_frames():
    batch = tiny_model.batch()
    batch["frame_lengths"][:] = 6
    reversed_clip = dict(batch, video=batch["video"][:, ::-1])

    def pooled_in_both_orders(time_positions):
        # With kernels of size 1, the convolutions do not depend on the order of frames.
        tiny = tiny_model.config(
            model__temporal__kernel_size=1, model__temporal__time_positions=time_positions
        )
        translator = tiny_model.model(tiny)
        return [tiny_model.outputs(translator, each)[0] for each in (batch, reversed_clip)]

    forward, backward = pooled_in_both_orders("none")
    assert_close([forward], [backward])
    forward, backward = pooled_in_both_orders("sincos")
    assert np.abs(forward - backward).max() > 1e-3


@pytest.mark.parametrize("motion", ["clip_mean", "difference", "magnitude"])
def test_motion_channels_matter_only_for_moving_clips(motion):
    translator = tiny_model.model(tiny_model.config(model__encoder__motion=motion))
    kernel = translator.encoder.backbone.embed.project.kernel
    assert kernel.shape == (8 * 8 * 6, 16)
    moving = tiny_model.batch()
    still = dict(moving, video=np.repeat(moving["video"][:, :1], 6, axis=1))

    def ctc_logits_of(batch):
        return tiny_model.outputs(translator, batch)[2]

    still_before, moving_before = ctc_logits_of(still), ctc_logits_of(moving)
    # Let the model ignore the motion channels.
    kernel[...] = kernel[...].reshape(8, 8, 6, 16).at[:, :, 3:].set(0).reshape(8 * 8 * 6, 16)
    np.testing.assert_allclose(still_before, ctc_logits_of(still), atol=1e-5)
    assert np.abs(moving_before - ctc_logits_of(moving)).max() > 1e-3


def test_concatenated_patches_differ_where_their_mean_does_not():
    tiny = tiny_model.config(model__encoder__frame_pooling="concat")
    pooling = tiny_model.model(tiny).encoder.backbone.pooling
    tokens = jax.random.normal(jax.random.key(0), (1, 5, 16))
    swapped = tokens[:, jnp.array([0, 2, 1, 3, 4])]
    np.testing.assert_allclose(tokens.mean(1), swapped.mean(1), atol=1e-6)
    assert np.abs(pooling(tokens) - pooling(swapped)).max() > 1e-3


def test_frame_features_and_pool_equal_the_encoder():
    translator = tiny_model.model(tiny_model.config())
    batch = tiny_model.batch()
    video, lengths = jnp.asarray(batch["video"]), jnp.asarray(batch["frame_lengths"])
    rng = jax.random.key(0)

    @jax.jit
    def both(model):
        features = model.encoder.frame_features(video, lengths, rng).features
        encoded = model.encode(video, lengths, rng)
        return model.encoder.pool(features, lengths, rng), (encoded.pooled, encoded.frames)

    found, expected = both(translator)
    assert_close(found, expected, 1e-6)


@pytest.mark.parametrize("memory", ["queries", "frames"])
def test_frame_weights_are_shares_of_the_frames_of_a_clip(memory):
    batch = tiny_model.batch()
    batch["frame_lengths"][:2] = 3, 6
    translator = tiny_model.model(tiny_model.config(model__decoder__memory=memory))

    @jax.jit
    def frame_weights(model, batch):
        encoded = model.encode(batch["video"], batch["frame_lengths"])
        return model.frame_weights(encoded, batch["tokens"])

    shares = np.asarray(frame_weights(translator, jax.tree.map(jnp.asarray, batch)))
    assert shares.shape == (4, 6, 6)
    assert shares.min() >= 0
    np.testing.assert_allclose(shares.sum(-1), 1, rtol=1e-5)
    assert np.all(shares[0, :, 3:] == 0)


def test_ctc_reads_its_source():
    batch = tiny_model.batch()
    for source, steps in (("frames", 6), ("queries", 3)):
        translator = tiny_model.model(tiny_model.config(model__ctc__source=source))
        logits = tiny_model.outputs(translator, batch)[2]
        assert logits.shape == (4, steps, tiny_model.VOCABULARY)


def test_a_gloss_head_has_its_own_vocabulary():
    model = abstract_model(tiny_model.config(model__ctc__target="gloss"), 17, 5)
    assert model.ctc_head.out.kernel.shape == (16, 5)


def test_half_precision_keeps_parameters_and_logits_in_float32():
    translator = tiny_model.model(tiny_model.config(training__use_amp=True))
    dtypes = {leaf.dtype for leaf in jax.tree.leaves(parameters_of(translator))}
    assert dtypes == {jnp.dtype("float32")}
    _, logits, ctc = tiny_model.outputs(translator, tiny_model.batch())
    plain = tiny_model.model(tiny_model.config())
    exact = tiny_model.outputs(
        nnx.merge(nnx.graphdef(plain), nnx.state(translator)), tiny_model.batch()
    )
    assert logits.dtype == ctc.dtype == jnp.float32
    assert_close((logits, ctc), exact[1:], 0.15)


def test_a_given_policy_replaces_that_of_the_config():
    tiny = tiny_model.config(training__use_amp=True, training__scan_layers=False)
    policy = ComputePolicy(remat="full")
    definition = ModelDefinition(tiny, tiny_model.VOCABULARY, policy=policy)
    params = definition.abstract_params()
    assert definition.bind(params).encoder.backbone.policy == policy
    assert params == ModelDefinition(tiny, tiny_model.VOCABULARY).abstract_params()


def test_an_abstract_model_counts_its_parameters():
    tiny = tiny_model.config()
    assert count_parameters(abstract_model(tiny, 17)) == count_parameters(tiny_model.model(tiny))
