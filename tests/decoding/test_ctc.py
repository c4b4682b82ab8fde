"""Greedy CTC, compared with a loop over time, and alignments, compared with all paths."""

import itertools

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from signvit_jax.decoding.ctc import forced_align, greedy_ctc


def token_runs(path, probabilities):
    """Return [(id, start, end, mean probability)] for the tokens of a path."""
    runs = []
    start = 0
    for word, run in itertools.groupby(path):
        end = start + len(list(run))
        if word != 0:
            runs.append((word, start, end, probabilities[start:end, word].mean()))
        start = end
    return runs


def softmax(logits):
    logits = np.asarray(logits, np.float64)
    probabilities = np.exp(logits - logits.max(-1, keepdims=True))
    return probabilities / probabilities.sum(-1, keepdims=True)


def peaked(paths, v, seed=0):
    """Return logits (b, t, v) whose best paths are `paths` (b, t)."""
    rng = np.random.default_rng(seed)
    paths = np.asarray(paths)
    return (rng.standard_normal((*paths.shape, v)) + 6.0 * np.eye(v)[paths]).astype(np.float32)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.lists(st.integers(0, 3), min_size=9, max_size=9), min_size=4, max_size=4),
    st.lists(st.integers(0, 9), min_size=4, max_size=4),
)
def test_greedy_ctc_equals_a_loop_over_time(paths, lengths):
    logits = peaked(paths, 4, seed=sum(lengths))
    found = greedy_ctc(logits, np.array(lengths))
    for i, length in enumerate(lengths):
        probabilities = softmax(logits[i, :length])
        expected = token_runs(logits[i, :length].argmax(-1).tolist(), probabilities)
        score = np.log(probabilities.max(-1)).sum()
        n = len(expected)
        assert found.lengths[i] == n
        fields = (found.ids, found.starts, found.ends)
        rows = list(zip(*(field[i, :n].tolist() for field in fields)))
        assert rows == [token[:3] for token in expected]
        np.testing.assert_allclose(
            found.confidence[i, :n], [token[3] for token in expected], rtol=1e-5
        )
        np.testing.assert_allclose(found.score[i], score, rtol=1e-5, atol=1e-6)
        for field in (*fields, found.confidence):
            assert not field[i, n:].any()


def test_only_a_blank_separates_equal_tokens():
    found = greedy_ctc(peaked([[2, 0, 2, 2, 1]], 3), np.array([5]))
    assert found.ids[0].tolist() == [2, 2, 1, 0, 0]
    assert found.starts[0, :3].tolist() == [0, 2, 4] and found.ends[0, :3].tolist() == [1, 4, 5]


def test_padding_and_batch_order_change_nothing():
    logits = peaked([[1, 1, 0, 2], [3, 0, 3, 3], [0, 0, 0, 0]], 4)
    lengths = np.array([4, 3, 2])
    plain = greedy_ctc(logits, lengths)
    padded = np.pad(logits, ((0, 0), (0, 5), (0, 0)), constant_values=9.0)
    other = greedy_ctc(padded[::-1], lengths[::-1])
    assert plain.lengths.tolist() == other.lengths[::-1].tolist() == [2, 2, 0]
    np.testing.assert_array_equal(plain.score, other.score[::-1])
    for field in ("ids", "starts", "ends", "confidence"):
        np.testing.assert_array_equal(getattr(plain, field), getattr(other, field)[::-1, :4])


def test_bf16_logits_are_scored_in_float32():
    logits = jnp.asarray(peaked([[1, 0, 2]], 4), jnp.bfloat16)
    np.testing.assert_array_equal(
        greedy_ctc(logits, np.array([3])).score,
        greedy_ctc(logits.astype(jnp.float32), np.array([3])).score,
    )


def best_alignment(logits, text):
    """Return [(start, end, mean probability)] on the best path with the text `text`, or None."""
    probabilities = softmax(logits)
    best, found = 0.0, None
    for path in itertools.product(range(logits.shape[1]), repeat=len(logits)):
        runs = token_runs(path, probabilities)
        likelihood = np.prod([probabilities[step, word] for step, word in enumerate(path)])
        if [run[0] for run in runs] == list(text) and likelihood > best:
            best = likelihood
            found = [run[1:] for run in runs]
    return found


@pytest.mark.parametrize("seed", range(3))
def test_the_alignment_is_the_best_of_all_paths(seed):
    # The clips have five and four steps. Some texts need more, so they have no alignment.
    texts = [[], [2], [1, 1], [1, 2, 1], [2, 2, 2], [1, 2, 1, 2, 1]]
    ids = np.array([text + [0] * (5 - len(text)) for text in texts] * 2, np.int32)
    id_lengths = np.array([len(text) for text in texts] * 2)
    logits = np.random.default_rng(seed).normal(size=(len(ids), 5, 3)).astype(np.float32) * 2
    lengths = np.repeat([5, 4], len(texts))
    found = forced_align(logits, lengths, ids, id_lengths)
    for row, text in enumerate(texts * 2):
        expected = best_alignment(logits[row, : lengths[row]], text) or []
        n = len(expected)
        steps = list(zip(found.starts[row, :n].tolist(), found.ends[row, :n].tolist()))
        assert steps == [token[:2] for token in expected]
        np.testing.assert_allclose(
            found.confidence[row, :n], [token[2] for token in expected], rtol=1e-5
        )
        assert not any(np.asarray(field[row, n:]).any() for field in found)


def test_the_alignment_of_the_greedy_text_equals_that_of_greedy_ctc():
    logits = peaked([[1, 1, 0, 2], [3, 0, 3, 3], [0, 0, 0, 0]], 4)
    lengths = np.array([4, 4, 4])
    greedy = greedy_ctc(logits, lengths)
    found = forced_align(logits, lengths, greedy.ids, greedy.lengths)
    for name in ("starts", "ends", "confidence"):
        np.testing.assert_allclose(getattr(found, name), getattr(greedy, name), rtol=1e-6)


def test_ids_equal_those_of_the_reference_system(request):
    path = request.config.rootpath.parent / "shared" / "reference" / "translator_small.npz"
    if not path.is_file():
        pytest.skip("the numbers of the reference system are not in ../shared")
    with np.load(path) as numbers:
        logits, expected = numbers["out/ctc_logits"], numbers["decode/ctc_greedy"]
    found = greedy_ctc(logits, np.full(len(logits), logits.shape[1]))
    np.testing.assert_array_equal(np.asarray(found.ids)[:, : expected.shape[1]], expected)
    assert not found.ids[:, expected.shape[1] :].any()
