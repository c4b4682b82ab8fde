"""Losses of translation and CTC, and the flat start of CTC."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from signvit_jax.models.definition import ModelDefinition, parameters_of
from signvit_jax.optimization.flat_start import (
    flat_alignment,
    flat_start_weight,
    signing_frames,
    with_flat_start,
)
from signvit_jax.optimization.losses import (
    CTCTerm,
    LossCounts,
    Outputs,
    TermInputs,
    alignment_loss,
    ctc_labels,
    loss_denominators,
    smoothed_cross_entropy,
    translation_loss,
)
from tests.helpers import tiny_model

pytestmark = pytest.mark.xdist_group("losses")  # one process compiles for all of them

TINY = tiny_model.config()
DEFINITION = ModelDefinition(TINY, tiny_model.VOCABULARY)


@pytest.fixture(scope="module")
def params():
    return parameters_of(tiny_model.model(TINY))


@jax.jit
def gradient(params, batch, counts):
    return jax.grad(
        lambda p: translation_loss(DEFINITION.bind(p), batch, counts, TINY.training), has_aux=True
    )(params)


def test_smoothed_cross_entropy_equals_that_of_smoothed_targets():
    logits = jax.random.normal(jax.random.key(0), (2, 3, 11)) * 3
    targets = jax.random.randint(jax.random.key(1), (2, 3), 0, 11)
    smoothed = jax.nn.one_hot(targets, 11) * (1 - 0.05 - 0.05 / 10) + 0.05 / 10
    np.testing.assert_allclose(smoothed.sum(-1), 1, rtol=1e-6)
    expected = -(smoothed * jax.nn.log_softmax(logits)).sum(-1)
    np.testing.assert_allclose(smoothed_cross_entropy(logits, targets, 0.05), expected, rtol=1e-5)
    plain = optax.softmax_cross_entropy_with_integer_labels(logits, targets)
    np.testing.assert_allclose(smoothed_cross_entropy(logits, targets, 0.0), plain, rtol=1e-5)


def test_loss_is_the_weighted_sum_of_token_and_clip_means(params):
    batch = tiny_model.batch()
    model = DEFINITION.bind(params)
    _, logits, ctc_logits = tiny_model.outputs(model, batch)
    per_token, per_clip = [], []
    for row in range(4):
        length = batch["token_lengths"][row]
        for position in range(length - 1):
            per_token.append(
                smoothed_cross_entropy(
                    logits[row : row + 1, position : position + 1],
                    jnp.asarray(batch["tokens"][row, position + 1])[None, None],
                    0.05,
                )[0, 0]
            )
        frames, labels = batch["frame_lengths"][row], batch["tokens"][row, 1 : length - 1]
        nll = optax.ctc_loss(
            ctc_logits[row : row + 1, :frames],
            jnp.zeros((1, frames)),
            labels[None],
            jnp.zeros((1, length - 2)),
        )
        per_clip.append(nll[0] / (length - 2))
    _, parts = gradient(params, batch, loss_denominators(batch))
    ce, ctc = parts.metrics["ce"], parts.metrics["ctc"]
    np.testing.assert_allclose(ce, np.mean(per_token), rtol=1e-5)
    np.testing.assert_allclose(ctc, np.mean(per_clip), rtol=1e-4)
    np.testing.assert_allclose(parts.total, 0.7 * ce + 0.3 * ctc, rtol=1e-6)


def test_microbatches_add_up_to_the_batch(params):
    batch = tiny_model.batch()
    counts = loss_denominators(batch)
    complete = gradient(params, batch, counts)
    halves = [
        gradient(params, dict(batch, weights=np.array(weights, np.float32)), counts)
        for weights in ([1, 1, 0, 0], [0, 0, 1, 1])
    ]
    jax.tree.map(lambda a, b, c: np.testing.assert_allclose(a, b + c, atol=2e-6), complete, *halves)


def test_padding_rows_change_nothing(params):
    batch = tiny_model.batch()
    batch["weights"][2:] = 0
    other = dict(batch, video=batch["video"].copy(), tokens=batch["tokens"].copy())
    other["video"][2:], other["tokens"][2:, 1] = 255, 7
    expected, found = (gradient(params, each, loss_denominators(each)) for each in (batch, other))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=2e-6), expected, found)


def test_an_impossible_alignment_is_counted_and_adds_nothing(params):
    batch = tiny_model.batch()
    batch["frame_lengths"][0] = 1
    batch["tokens"][0], batch["token_lengths"][0] = [1, 5, 6, 2, 0, 0], 4
    first_clip = dict(batch, weights=np.array([1, 0, 0, 0], np.float32))
    gradients, parts = gradient(params, first_clip, LossCounts(jnp.ones(()), jnp.ones(())))
    assert float(parts.metrics["ctc_impossible"]) == 1.0
    assert float(parts.metrics["ctc"]) == 0.0
    assert all(float(jnp.abs(leaf).max()) == 0 for leaf in jax.tree.leaves(gradients["ctc_head"]))
    _, parts = gradient(params, batch, loss_denominators(batch))
    assert float(parts.metrics["ctc_impossible"]) == 1.0


def test_ctc_labels_are_glosses_or_the_text_without_bos_and_eos():
    batch = tiny_model.batch()
    labels, lengths = ctc_labels(batch)
    for row in range(4):
        np.testing.assert_array_equal(
            labels[row, : lengths[row]], batch["tokens"][row, 1 : batch["token_lengths"][row] - 1]
        )
    glosses = dict(
        batch, gloss_tokens=np.full((4, 2), 3, np.int32), gloss_lengths=np.full(4, 2, np.int32)
    )
    np.testing.assert_array_equal(ctc_labels(glosses)[0], glosses["gloss_tokens"])


def test_a_clip_with_text_and_no_gloss_adds_nothing_to_gloss_ctc(params):
    batch = tiny_model.batch()
    glosses = np.where(np.arange(4)[:, None] == 2, 0, [[4, 5]] * 4).astype(np.int32)
    batch |= {"gloss_tokens": glosses, "gloss_lengths": (glosses > 0).sum(1).astype(np.int32)}
    counts = loss_denominators(batch)
    gradients, parts = gradient(params, batch, counts)
    expected_gradients, expected = gradient(
        params, dict(batch, weights=np.array([1, 1, 0, 1], np.float32)), counts
    )
    np.testing.assert_allclose(parts.metrics["ctc"], expected.metrics["ctc"], rtol=1e-5)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, atol=2e-6),
        gradients["ctc_head"],
        expected_gradients["ctc_head"],
    )
    # Nobody signs in a clip without text. There CTC is trained to predict the blank.
    batch["tokens"][2], batch["token_lengths"][2] = [1, 2, 0, 0, 0, 0], 2
    _, parts = gradient(params, batch, counts)
    assert float(parts.metrics["ctc"]) > float(expected.metrics["ctc"])


def test_a_flat_start_spreads_the_labels_evenly_over_valid_steps():
    labels, lengths, steps = jnp.array([[3, 4, 1], [2, 0, 0]]), jnp.array([3, 1]), jnp.array([6, 4])
    everywhere = flat_alignment(steps, labels, lengths, None, 6)
    assert everywhere[0].tolist() == [3, 3, 4, 4, 1, 1]
    assert everywhere[1, :4].tolist() == [2, 2, 2, 2]

    signing = jnp.array([[0, 1, 1, 1, 0, 0], [0, 0, 0, 0, 1, 1]], bool)
    found = flat_alignment(steps, labels, lengths, signing, 6)
    assert found[0].tolist() == [0, 3, 4, 1, 0, 0]
    assert found[1, :4].tolist() == [2, 2, 2, 2]  # all steps, as no valid step has signing


def test_the_loss_of_an_alignment_is_the_mean_over_valid_steps():
    logits = jax.random.normal(jax.random.key(0), (2, 6, 5))
    log_probs = np.asarray(jax.nn.log_softmax(logits))
    targets = jnp.array([[3, 3, 4, 4, 1, 1], [2, 2, 2, 2, 0, 0]])
    expected = [
        -np.mean([log_probs[0, t, label] for t, label in enumerate([3, 3, 4, 4, 1, 1])]),
        -np.mean(log_probs[1, :4, 2]),
    ]
    found = alignment_loss(logits, targets, jnp.array([6, 4]))
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_signing_is_from_the_first_frame_that_moves_to_the_last():
    noise = np.random.default_rng(0).integers(0, 3, (2, 10, 8, 8, 3))
    video = 100 + noise
    # The first clip changes at frames 3, 6 and 7; the second one never does.
    video[0, 3:] += 20
    video[0, 6:] += 30
    video[0, 7:] += 10
    video[:, 9] = 255  # padding
    found = signing_frames(jnp.asarray(video, jnp.uint8), jnp.array([9, 9]))
    assert found[0].tolist() == [False] * 2 + [True] * 6 + [False] * 2


def with_rest(batch: dict, row: int, target: str) -> dict:
    """Return the batch with an empty text for the clip `row`, in which nobody signs."""
    batch = dict(batch, tokens=batch["tokens"].copy(), token_lengths=batch["token_lengths"].copy())
    batch["tokens"][row], batch["token_lengths"][row] = [1, 2, 0, 0, 0, 0], 2
    if target == "gloss":
        lengths = np.where(np.arange(4) == row, 0, 2).astype(np.int32)
        glosses = np.where(lengths[:, None] > 0, 3, np.zeros((4, 2), int)).astype(np.int32)
        batch |= {"gloss_tokens": glosses, "gloss_lengths": lengths}
    return batch


@pytest.mark.parametrize("target", ["text", "gloss"])
def test_the_flat_start_of_a_clip_of_rest_is_all_blank(target):
    logits = jax.random.normal(jax.random.key(0), (4, 6, tiny_model.VOCABULARY))
    labels, lengths = ctc_labels(with_rest(tiny_model.batch(), 1, target))
    steps = jnp.array([6, 4, 5, 6])
    targets = flat_alignment(steps, labels, lengths, None, 6)
    found = alignment_loss(logits, targets, steps)[1]
    np.testing.assert_allclose(
        found, -np.asarray(jax.nn.log_softmax(logits))[1, :4, 0].mean(), rtol=1e-5
    )


@pytest.mark.parametrize("target", ["text", "gloss"])
def test_a_clip_of_rest_weighs_as_much_as_one_label(target):
    """With uniform outputs, the loss of every step is the log of the vocabulary's size."""
    uniform = jnp.zeros((4, 60, tiny_model.VOCABULARY))
    batch = with_rest(tiny_model.batch(), 2, target)
    batch["weights"] = np.array([0, 0, 1, 0], np.float32)
    batch = jax.tree.map(jnp.asarray, batch)
    for steps in (60, 5):
        outputs = Outputs(None, None, uniform, jnp.full(4, steps))
        inputs = TermInputs(None, outputs, batch, loss_denominators(batch))
        _, metrics = CTCTerm(TINY.training)(inputs)
        np.testing.assert_allclose(metrics["ctc"], np.log(tiny_model.VOCABULARY), rtol=1e-5)


def test_the_loss_given_glosses_is_that_of_clips_with_a_gloss():
    config = tiny_model.config(**tiny_model.READS_GLOSSES, training__gloss_ce_weight=0.25)
    model = tiny_model.model(config)
    batch = tiny_model.with_glosses(tiny_model.batch())
    batch["gloss_tokens"][1], batch["gloss_lengths"][1] = 0, 0
    batch["weights"][2] = 0.0
    counts = loss_denominators(batch)
    total, parts = translation_loss(model, batch, counts, config.training)
    terms = {"ce": 0.7, "ctc": 0.3, "gloss_ce": 0.25}
    wanted = sum(share * float(parts.metrics[name]) for name, share in terms.items())
    assert float(total) == pytest.approx(wanted, rel=1e-5)
    per_token = []
    for row in (0, 3):  # each clip by itself, without padding
        glosses = batch["gloss_tokens"][row : row + 1, : batch["gloss_lengths"][row]]
        tokens = batch["tokens"][row : row + 1, : batch["token_lengths"][row]]
        lengths = jnp.asarray([glosses.shape[1]])
        logits = model.gloss_logits(jnp.asarray(glosses), lengths, jnp.asarray(tokens[:, :-1]))
        per_token += smoothed_cross_entropy(logits, jnp.asarray(tokens[:, 1:]), 0.05)[0].tolist()
    assert float(parts.metrics["gloss_ce"]) == pytest.approx(
        sum(per_token) / float(counts.tokens), rel=1e-4
    )
    # The same clips as sentences of the first clip of the batch, whose own mean they have.
    rows = np.array([[0, 3]])
    sentences = {
        "sentence_tokens": batch["tokens"][rows],
        "sentence_glosses": batch["gloss_tokens"][rows],
        "sentence_gloss_lengths": batch["gloss_lengths"][rows],
    }
    batch |= sentences
    _, parts = translation_loss(model, batch, loss_denominators(batch), config.training)
    assert float(parts.metrics["gloss_ce"]) == pytest.approx(np.mean(per_token), rel=1e-4)


def test_the_flat_start_lasts_a_share_of_the_run_or_a_minimum():
    def steps(**changes):
        config = tiny_model.config(
            **{f"training__ctc_flat_start_{name}": value for name, value in changes.items()}
        ).training
        return [with_flat_start(config, total).ctc_flat_start_steps for total in (100, 10_000)]

    assert steps(steps=300) == [300, 300]
    assert steps(steps=300, ratio=0.2) == [300, 2000]
    assert steps(steps=0, ratio=0.2) == [0, 0]


def test_a_flat_start_fades_out_and_changes_no_bit_if_off(params):
    batch = jax.tree.map(jnp.asarray, tiny_model.batch())
    counts = loss_denominators(batch)

    def loss_by_step(flat_steps):
        training = tiny_model.config(training__ctc_flat_start_steps=flat_steps).training
        compute = jax.jit(
            lambda step: translation_loss(
                DEFINITION.bind(params), batch, counts, training, step=step
            )
        )

        def loss(step):
            total, parts = compute(step)
            return float(total), float(parts.metrics["ctc"])

        return loss

    without, with_flat_start = loss_by_step(0), loss_by_step(10)
    off, ctc = without(None)
    start, half, end, later = (with_flat_start(jnp.asarray(step))[0] for step in (0, 5, 10, 999))
    assert off == without(jnp.asarray(0))[0] == end == later
    assert half == pytest.approx((start + end) / 2, rel=1e-5) and start != end
    assert with_flat_start(jnp.asarray(0))[1] == ctc  # the metric has no flat start


def test_the_flat_start_fades_for_clips_that_ctc_can_spell():
    per_label = jnp.array([jnp.inf, 2.7, 1.5, 1.0, 0.5, 0.0])
    np.testing.assert_allclose(
        flat_start_weight(per_label, jnp.asarray(0), 10), [1.0, 1.0, 1.0, 0.5, 0.0, 0.0]
    )
    np.testing.assert_allclose(
        flat_start_weight(per_label, jnp.asarray(5), 10), [0.5, 0.5, 0.5, 0.25, 0.0, 0.0]
    )

    def sum_of_weights(per_label):
        return flat_start_weight(per_label, jnp.asarray(5), 10).sum()

    assert not jax.grad(sum_of_weights)(per_label).any()


def test_the_loss_of_a_clip_of_rest_alone_is_finite(params):
    batch = dict(tiny_model.batch(), weights=np.array([1, 0, 0, 0], np.float32))
    batch["tokens"][0], batch["token_lengths"][0] = [1, 2, 0, 0, 0, 0], 2
    _, parts = gradient(params, batch, loss_denominators(batch))
    assert np.isfinite(float(parts.total))
