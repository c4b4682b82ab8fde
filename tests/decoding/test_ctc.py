"""Greedy CTC against a plain loop over time, and the reference system's ids."""

import itertools

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from signvit_jax.decoding.ctc import align, greedy_ctc


def plain_loop(logits):
    """[(id, start, end, mean probability)] of one clip, and the path's log-probability, in float64."""
    logits = np.asarray(logits, np.float64)
    probs = np.exp(logits - logits.max(-1, keepdims=True))
    probs /= probs.sum(-1, keepdims=True)
    tokens, time = [], 0
    for word, run in itertools.groupby(logits.argmax(-1).tolist()):
        length = len(list(run))
        if word != 0:
            tokens.append((word, time, time + length, probs[time : time + length, word].mean()))
        time += length
    return tokens, np.log(probs.max(-1)).sum()


def peaked(paths, v, seed=0):
    """Logits whose best path is the given one."""
    rng = np.random.default_rng(seed)
    paths = np.asarray(paths)
    return (rng.standard_normal((*paths.shape, v)) + 6.0 * np.eye(v)[paths]).astype(np.float32)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.lists(st.integers(0, 3), min_size=9, max_size=9), min_size=4, max_size=4),
    st.lists(st.integers(0, 9), min_size=4, max_size=4),
)
def test_equals_a_plain_loop_over_time(paths, lengths):
    logits = peaked(paths, 4, seed=sum(lengths))
    out = greedy_ctc(logits, np.array(lengths))
    for i, length in enumerate(lengths):
        tokens, score = plain_loop(logits[i, :length])
        n = len(tokens)
        assert out.lengths[i] == n
        rows = list(
            zip(out.ids[i, :n].tolist(), out.starts[i, :n].tolist(), out.ends[i, :n].tolist())
        )
        assert rows == [token[:3] for token in tokens]
        np.testing.assert_allclose(out.confidence[i, :n], [token[3] for token in tokens], rtol=1e-5)
        np.testing.assert_allclose(out.score[i], score, rtol=1e-5, atol=1e-6)
        for field in (out.ids, out.starts, out.ends, out.confidence):
            assert not field[i, n:].any()


def test_a_blank_between_equal_tokens_keeps_both_and_none_merges_them():
    out = greedy_ctc(peaked([[2, 0, 2, 2, 1]], 3), np.array([5]))
    assert out.ids[0].tolist() == [2, 2, 1, 0, 0]
    assert out.starts[0, :3].tolist() == [0, 2, 4] and out.ends[0, :3].tolist() == [1, 4, 5]


def test_padding_and_batch_order_change_nothing():
    logits = peaked([[1, 1, 0, 2], [3, 0, 3, 3], [0, 0, 0, 0]], 4)
    lengths = np.array([4, 3, 2])
    narrow = greedy_ctc(logits, lengths)
    wide = greedy_ctc(
        np.pad(logits, ((0, 0), (0, 5), (0, 0)), constant_values=9.0)[::-1], lengths[::-1]
    )
    assert narrow.lengths.tolist() == wide.lengths[::-1].tolist() == [2, 2, 0]
    np.testing.assert_array_equal(narrow.score, wide.score[::-1])
    for field in ("ids", "starts", "ends", "confidence"):
        np.testing.assert_array_equal(getattr(narrow, field), getattr(wide, field)[::-1, :4])


def test_bf16_logits_are_scored_in_float32():
    logits = jnp.asarray(peaked([[1, 0, 2]], 4), jnp.bfloat16)
    np.testing.assert_array_equal(
        greedy_ctc(logits, np.array([3])).score,
        greedy_ctc(logits.astype(jnp.float32), np.array([3])).score,
    )


def likeliest_alignment(logits, text):
    """Of all paths that collapse to `text`, the likeliest's (start, end, mean probability) of every token; None where there is no path."""
    probs = np.exp(np.asarray(logits, np.float64))
    probs /= probs.sum(-1, keepdims=True)
    best, found = 0.0, None
    for path in itertools.product(range(logits.shape[1]), repeat=len(logits)):
        runs, time = [], 0
        for word, run in itertools.groupby(path):
            length = len(list(run))
            if word != 0:
                runs.append((word, time, time + length, probs[time : time + length, word].mean()))
            time += length
        likelihood = np.prod([probs[step, word] for step, word in enumerate(path)])
        if [run[0] for run in runs] == list(text) and likelihood > best:
            best, found = likelihood, [run[1:] for run in runs]
    return found


@pytest.mark.parametrize("seed", range(3))
def test_the_alignment_is_the_likeliest_of_all_paths(seed):
    texts = [
        [],
        [2],
        [1, 1],
        [1, 2, 1],
        [2, 2, 2],
        [1, 2, 1, 2, 1],
    ]  # of five steps, then of four: some cannot be spelt
    ids = np.array([text + [0] * (5 - len(text)) for text in texts] * 2, np.int32)
    id_lengths = np.array([len(text) for text in texts] * 2)
    logits = np.random.default_rng(seed).normal(size=(len(ids), 5, 3)).astype(np.float32) * 2
    lengths = np.repeat([5, 4], len(texts))
    found = align(logits, lengths, ids, id_lengths)
    for row, text in enumerate(texts * 2):
        wanted = likeliest_alignment(logits[row, : lengths[row]], text) or []
        n = len(wanted)
        assert list(zip(found.starts[row, :n].tolist(), found.ends[row, :n].tolist())) == [
            token[:2] for token in wanted
        ]
        np.testing.assert_allclose(
            found.confidence[row, :n], [token[2] for token in wanted], rtol=1e-5
        )
        assert not any(np.asarray(field[row, n:]).any() for field in found)


def test_the_alignment_of_the_greedy_text_is_greedys_own():
    logits, lengths = peaked([[1, 1, 0, 2], [3, 0, 3, 3], [0, 0, 0, 0]], 4), np.array([4, 4, 4])
    heard = greedy_ctc(logits, lengths)
    found = align(logits, lengths, heard.ids, heard.lengths)
    for name in ("starts", "ends", "confidence"):
        np.testing.assert_allclose(getattr(found, name), getattr(heard, name), rtol=1e-6)


def test_ids_of_the_reference_system(request):
    path = request.config.rootpath.parent / "shared" / "reference" / "translator_small.npz"
    if not path.is_file():
        pytest.skip("the reference numbers are not beside this checkout")
    with np.load(path) as numbers:
        logits, expected = numbers["out/ctc_logits"], numbers["decode/ctc_greedy"]
    out = greedy_ctc(logits, np.full(len(logits), logits.shape[1]))
    np.testing.assert_array_equal(np.asarray(out.ids)[:, : expected.shape[1]], expected)
    assert not out.ids[:, expected.shape[1] :].any()
