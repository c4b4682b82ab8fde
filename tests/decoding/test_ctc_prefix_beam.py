"""CTC prefix beam search, compared with sums over all alignments and with a textbook search."""

import collections
import itertools
import math

import jax.numpy as jnp
import numpy as np
import pytest

from signvit_jax.decoding.ctc import greedy_ctc
from signvit_jax.decoding.ctc_prefix_beam import ctc_prefix_beam_search


def random_logits(*shape, seed=0, scale=2.0):
    return scale * np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def log_softmax(logits):
    logits = np.asarray(logits, np.float64)
    shifted = logits - logits.max(-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))


def every_text(logits):
    """Return {text: log-probability} of a clip from all v^s paths, in float64."""
    log_probs = log_softmax(logits)
    texts = collections.defaultdict(float)
    for path in itertools.product(range(logits.shape[1]), repeat=logits.shape[0]):
        text = tuple(word for word, _ in itertools.groupby(path) if word != 0)
        texts[text] += math.exp(sum(log_probs[t, word] for t, word in enumerate(path)))
    return {text: math.log(p) if p else -math.inf for text, p in texts.items()}


def textbook_search(logits, beam_size):
    """Return [(text, log-probability)], best first; each step extends all prefixes by all labels.

    A prefix has two log-probabilities: of the paths that end with the blank, and of the others.
    """
    beams = {(): (0.0, -math.inf)}
    for row in log_softmax(logits):
        extended = collections.defaultdict(lambda: (-math.inf, -math.inf))
        for text, (blank, label) in beams.items():
            total = np.logaddexp(blank, label)
            on_blank, on_label = extended[text]
            extended[text] = np.logaddexp(on_blank, total + row[0]), on_label
            if text:
                on_blank, on_label = extended[text]
                extended[text] = on_blank, np.logaddexp(on_label, label + row[text[-1]])
            for word in range(1, len(row)):
                longer = (*text, word)
                before = blank if text and word == text[-1] else total
                on_blank, on_label = extended[longer]
                extended[longer] = on_blank, np.logaddexp(on_label, before + row[word])
        best = sorted(extended.items(), key=lambda item: -np.logaddexp(*item[1]))
        beams = dict(best[:beam_size])
    return [(text, np.logaddexp(*p)) for text, p in beams.items()]


def texts(beams, i):
    """Return [(text, score)] of clip i, without empty slots."""
    rows = zip(beams.ids[i].tolist(), beams.lengths[i].tolist(), beams.score[i].tolist())
    return [(tuple(ids[:length]), score) for ids, length, score in rows if score > -math.inf]


def assert_equal_lists(found, expected):
    """Check that the texts and their order are equal, and scores up to 1e-4."""
    assert [text for text, _ in found] == [text for text, _ in expected]
    np.testing.assert_allclose([p for _, p in found], [p for _, p in expected], atol=1e-4)


@pytest.mark.parametrize("seed", range(3))
def test_a_wide_beam_equals_the_sum_over_all_alignments(seed):
    logits = random_logits(4, 5, 3, seed=seed)
    lengths = [5, 4, 1, 3]
    beams = ctc_prefix_beam_search(logits, np.array(lengths), beam_size=64)
    for i, length in enumerate(lengths):
        expected = sorted(every_text(logits[i, :length]).items(), key=lambda item: -item[1])
        assert_equal_lists(texts(beams, i), expected)


def test_texts_are_exact_where_labels_are_masked_at_some_steps():
    # A text may become impossible and later possible again. For example, if blank and "b" are
    # masked at a step, the prefix "ab" ends there, while "a" continues and may become "ab" later.
    logits = random_logits(200, 5, 3, seed=11)
    masked = np.random.default_rng(11).random(logits.shape) < 0.35
    masked[masked.all(-1), 1] = False
    logits[masked] = -np.inf
    beams = ctc_prefix_beam_search(logits, np.full(200, 5), beam_size=64)
    for i in range(200):
        expected = {text: p for text, p in every_text(logits[i]).items() if p > -math.inf}
        found = texts(beams, i)
        assert len(found) == len(expected) and set(dict(found)) == set(expected)
        np.testing.assert_allclose(
            [p for _, p in found], [expected[text] for text, _ in found], atol=1e-4
        )


@pytest.mark.parametrize("beam_size", [1, 2, 3, 8])
def test_the_search_equals_the_textbook_search_at_any_beam_size(beam_size):
    # With few labels and many steps, labels repeat, prefixes merge, and dropped prefixes return.
    # The default number of candidates, twice the beam size, must lose no text.
    logits = random_logits(8, 24, 9, seed=beam_size, scale=1.0)
    lengths = np.array([24, 24, 24, 20, 11, 2, 1, 0])
    beams = ctc_prefix_beam_search(logits, lengths, beam_size=beam_size)
    for i, length in enumerate(lengths):
        assert_equal_lists(texts(beams, i), textbook_search(logits[i, :length], beam_size))


def test_beams_are_distinct_sorted_and_padded_with_zeros():
    logits = random_logits(3, 12, 5, seed=7, scale=0.5)
    beams = ctc_prefix_beam_search(logits, np.array([12, 6, 1]), beam_size=16)
    for i in range(3):
        found = texts(beams, i)
        assert len({text for text, _ in found}) == len(found)
        assert (np.diff([p for _, p in found]) <= 0).all()
    beyond = np.arange(12) >= np.asarray(beams.lengths)[..., None]
    assert not np.asarray(beams.ids)[beyond].any()


def test_unused_slots_are_empty_with_score_minus_inf():
    # One step with five labels has five texts: the empty one and four others.
    beams = ctc_prefix_beam_search(random_logits(1, 12, 5), np.array([1]), beam_size=16)
    assert len(texts(beams, 0)) == 5
    assert (beams.score[0, 5:] == -np.inf).all() and not beams.lengths[0, 5:].any()


def test_alignments_are_summed_where_greedy_ctc_takes_one_path():
    # Blank is the best label at each step, but "1" is the best text: 1 - 0.6^2 = 0.64.
    logits = np.log(np.array([[[0.6, 0.4], [0.6, 0.4]]], np.float32))
    assert greedy_ctc(logits, np.array([2])).lengths[0] == 0
    beams = ctc_prefix_beam_search(logits, np.array([2]), beam_size=4)
    assert texts(beams, 0)[0][0] == (1,)
    np.testing.assert_allclose(np.exp(beams.score[0, :2]), [0.64, 0.36], rtol=1e-5)


def test_fewer_candidates_give_fewer_texts_and_no_others():
    logits = random_logits(2, 10, 40, seed=8)
    lengths = np.array([10, 7])
    narrow = ctc_prefix_beam_search(logits, lengths, beam_size=4, candidates=1)
    best_labels = logits[..., 1:].argmax(-1) + 1
    for i, length in enumerate(lengths):
        for text, _ in texts(narrow, i):
            steps = iter(best_labels[i, :length].tolist())
            assert all(word in steps for word in text)  # the text is a subsequence of the labels


def test_padding_and_batch_order_change_nothing():
    logits = random_logits(3, 9, 6, seed=9)
    lengths = np.array([9, 5, 3])
    plain = ctc_prefix_beam_search(logits, lengths, beam_size=4)
    padded = np.pad(logits, ((0, 0), (0, 4), (0, 0)), constant_values=20.0)
    other = ctc_prefix_beam_search(padded[::-1], lengths[::-1], beam_size=4)
    np.testing.assert_array_equal(plain.ids, other.ids[::-1, :, :9])
    np.testing.assert_array_equal(plain.lengths, other.lengths[::-1])
    np.testing.assert_allclose(plain.score, other.score[::-1], rtol=1e-6)


def masked_logits():
    logits = random_logits(1, 8, 6, seed=10)
    logits[..., 2] = -np.inf
    return logits


def test_masked_labels_never_appear():
    beams = ctc_prefix_beam_search(masked_logits(), np.array([8]), beam_size=8)
    assert not (beams.ids == 2).any() and np.isfinite(beams.score[0]).all()


def test_bf16_logits_are_summed_in_float32():
    half = jnp.asarray(masked_logits(), jnp.bfloat16)
    from_half, from_full = (
        ctc_prefix_beam_search(x, np.array([8]), beam_size=8)
        for x in (half, half.astype(jnp.float32))
    )
    np.testing.assert_array_equal(from_half.score, from_full.score)


def test_sizes_below_one_are_refused():
    with pytest.raises(ValueError, match="beam_size is 0"):
        ctc_prefix_beam_search(random_logits(1, 2, 3), np.array([2]), beam_size=0)
