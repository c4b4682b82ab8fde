"""Joint CTC/attention scores, compared with sums over all CTC alignments."""

import itertools

import jax.numpy as jnp
import numpy as np
import pytest

from signvit_jax.decoding.autoregressive import Hypotheses
from signvit_jax.decoding.joint_ctc_attention import rescore
from tests.helpers.tiny_decoder import BOS, EOS, options, sentence


def sum_over_alignments(logits, labels):
    """Return the log of the sum over all paths that collapse to `labels`; -inf if none does."""
    probabilities = np.exp(logits - np.log(np.exp(logits).sum(-1, keepdims=True)))
    total = 0.0
    for path in itertools.product(range(logits.shape[1]), repeat=len(logits)):
        collapsed = [token for token, _ in itertools.groupby(path) if token != 0]
        if collapsed == list(labels):
            total += np.prod([probabilities[step, token] for step, token in enumerate(path)])
    return np.log(total) if total > 0 else -np.inf


def hypotheses(*sentences):
    """Return two clips with the same n-best list and the scores -0.1, -0.2, ..."""
    tokens = np.zeros((2, len(sentences), 6), np.int32)
    for row, words in enumerate(sentences):
        tokens[:, row, : len(words)] = words
    lengths = (tokens != 0).sum(-1)
    ranks = np.arange(1, len(sentences) + 1, dtype=np.float32)
    scores = np.broadcast_to(-0.1 * ranks, lengths.shape)
    log_probs = np.where(tokens > 0, -0.01 * ranks[:, None], 0.0).astype(np.float32)
    return Hypotheses(*(jnp.asarray(x) for x in (tokens, lengths, scores, log_probs)))


@pytest.mark.parametrize("weight", [0.0, 0.3, 1.0])
def test_scores_are_the_weighted_sum_and_sort_the_list(weight):
    sentences = [
        [BOS, 3, 4, EOS],
        [BOS, 4, EOS],
        [BOS, 3, 3, EOS],
        [BOS, EOS],
        [BOS, 4, 3, 4, 3, 4],  # truncated, and too long for the CTC steps
    ]
    before = hypotheses(*sentences)
    logits = np.random.default_rng(0).normal(size=(2, 4, 5)).astype(np.float32) * 2
    steps = [4, 3]
    found = rescore(
        before,
        jnp.asarray(logits),
        jnp.asarray(steps),
        options(ctc_weight=weight, length_penalty=0.5),
    )
    for clip in range(2):
        expected = {}
        for row, words in enumerate(sentences):
            labels = [word for word in words if word not in (BOS, EOS)]
            ctc = sum_over_alignments(logits[clip, : steps[clip]], labels)
            attention = float(before.scores[clip, row])
            joint = -np.inf
            if ctc > -np.inf:
                joint = (1 - weight) * attention + weight * ctc / len(words) ** 0.5
            expected[tuple(words)] = joint
        order = sorted(expected, key=lambda words: -expected[words])
        assert [tuple(sentence(row)) for row in found.tokens[clip]] == order
        np.testing.assert_allclose(
            found.scores[clip], [expected[words] for words in order], atol=1e-5
        )
        np.testing.assert_array_equal(found.lengths[clip], [len(words) for words in order])
        np.testing.assert_allclose(
            found.token_log_probs[clip, :, 0],
            [-0.01 * (1 + sentences.index(list(words))) for words in order],
            atol=1e-6,
        )


def test_a_list_of_sentences_without_alignment_is_unchanged():
    before = hypotheses([BOS, 3, 4, 3, EOS], [BOS, 4, 4, EOS])
    after = rescore(before, jnp.zeros((2, 2, 5)), jnp.array([2, 2]), options(ctc_weight=0.5))
    for old, new in zip(before, after):
        np.testing.assert_array_equal(old, new)


def test_entries_with_score_minus_inf_stay_last():
    before = hypotheses([BOS, 3, EOS], [BOS, EOS], [BOS, 3, EOS])
    before = before._replace(scores=before.scores.at[:, 2].set(-np.inf))
    found = rescore(before, jnp.zeros((2, 4, 5)), jnp.array([4, 4]), options(ctc_weight=0.5))
    assert np.isfinite(found.scores[:, :2]).all() and (found.scores[:, 2] == -np.inf).all()
