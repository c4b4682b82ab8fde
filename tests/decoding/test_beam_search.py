"""Beam search, compared with exhaustive search, a slow search of one clip, and greedy search."""

import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from signvit_jax.decoding.autoregressive import Source, best
from signvit_jax.decoding.beam_search import beam_search
from signvit_jax.decoding.greedy import greedy
from signvit_jax.decoding.search_options import DecodingError
from tests.helpers.tiny_decoder import (
    BOS,
    EOS,
    MAX_LEN,
    POSITIONS,
    CountingDecoder,
    decoder,
    options,
    ragged,
    sentence,
    slow_beam,
    slow_log_probs,
)

NORMALIZERS = {"power": lambda n, p: n**p, "gnmt": lambda n, p: ((5 + n) / 6) ** p}


def every_sentence(log_probs, vocab_size, max_len, normalizer):
    """Return (tokens, score) of all sentences, best first.

    A sentence ends with EOS, or is truncated at `max_len`. `log_probs(prefix)` returns those of the
    next token.
    """
    scored = {}
    for num_words in range(1, max_len):
        for words in itertools.product(range(1, vocab_size), repeat=num_words):
            is_truncated = words[-1] != EOS
            if EOS in words[:-1] or (is_truncated and num_words < max_len - 1):
                continue
            prefix = [BOS]
            total = 0.0
            for word in words:
                total += log_probs(tuple(prefix))[word]
                prefix.append(word)
            scored[tuple(prefix)] = total / normalizer(len(prefix))
    return sorted(scored.items(), key=lambda item: -item[1])


@pytest.mark.parametrize(
    ("penalty", "formula"),
    [
        (0.0, "power"),
        pytest.param(0.6, "power", marks=pytest.mark.long),
        pytest.param(1.0, "power", marks=pytest.mark.long),
        (1.0, "gnmt"),
    ],
)
def test_a_wide_beam_equals_exhaustive_search(penalty, formula):
    source = Source(decoder(vocab_size=5, sharpness=4.0), *ragged(2))
    found = beam_search(
        source,
        options(beam_size=70, n_best=40, length_penalty=penalty, length_formula=formula, max_len=4),
    )
    cache = {}

    def log_probs(clip, prefix):
        if (clip, prefix) not in cache:
            cache[clip, prefix] = slow_log_probs([source], clip, list(prefix))
        return cache[clip, prefix]

    for clip in range(2):
        expected = every_sentence(
            lambda prefix, clip=clip: log_probs(clip, prefix),
            5,
            4,
            lambda n: NORMALIZERS[formula](n, penalty),
        )
        assert len(expected) == 40  # 1 + 3 + 9 end with EOS, and 27 are truncated
        np.testing.assert_allclose(found.scores[clip], [score for _, score in expected], atol=1e-5)
        assert [tuple(sentence(row)) for row in found.tokens[clip, :10]] == [
            tokens for tokens, _ in expected[:10]
        ]


@pytest.mark.parametrize(
    ("seed", "beam_size", "penalty", "formula", "ngram_size"),
    [
        pytest.param(6, 1, 1.0, "power", 0, marks=pytest.mark.long),
        (6, 4, 0.7, "power", 0),
        (2, 3, 0.0, "power", 2),
        pytest.param(5, 5, 1.0, "gnmt", 0, marks=pytest.mark.long),
    ],
)
def test_batched_cached_search_equals_slow_search_of_one_clip(
    seed, beam_size, penalty, formula, ngram_size
):
    source = Source(decoder(seed), *ragged(4, seed))
    found = beam_search(
        source,
        options(
            beam_size=beam_size,
            n_best=beam_size,
            length_penalty=penalty,
            length_formula=formula,
            no_repeat_ngram_size=ngram_size,
        ),
    )
    for clip in range(4):
        expected = slow_beam(
            source, clip, MAX_LEN, beam_size, lambda n: NORMALIZERS[formula](n, penalty), ngram_size
        )
        assert [sentence(row) for row in found.tokens[clip]] == [tokens for tokens, _ in expected]
        np.testing.assert_allclose(found.scores[clip], [score for _, score in expected], atol=1e-5)
        for row, (tokens, score) in enumerate(expected):
            assert found.lengths[clip, row] == len(tokens)
            total = found.token_log_probs[clip, row].sum()
            normalizer = NORMALIZERS[formula](len(tokens), penalty)
            assert math.isclose(total / normalizer, score, abs_tol=1e-5)


def test_early_convergence_changes_no_result():
    source = Source(decoder(), *ragged(6))
    complete = beam_search(source, options(beam_size=4, n_best=4))
    early = beam_search(source, options(beam_size=4, n_best=2))
    np.testing.assert_array_equal(early.tokens, complete.tokens[:, :2])
    np.testing.assert_allclose(early.scores, complete.scores[:, :2], atol=1e-6)


# Both searches are compiled for each penalty, so there are only three penalties.
@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    sharpness=st.floats(0.5, 30.0),
    penalty=st.sampled_from((0.0, 0.6, 2.0)),
)
def test_the_best_score_is_never_below_that_of_greedy(seed, sharpness, penalty):
    source = Source(decoder(seed, sharpness=sharpness), *ragged(4, seed))
    plain = greedy(source, options(length_penalty=penalty))
    found = best(beam_search(source, options(beam_size=2, length_penalty=penalty)))
    assert (found.scores >= plain.scores - 1e-5).all()


def test_a_pruned_greedy_path_is_restored():
    """Search for clips whose greedy path is pruned; fail if there is none, as nothing is tested."""
    restored = 0
    for seed in range(12):
        source = Source(decoder(seed, sharpness=6.0), *ragged(4, seed))
        plain = greedy(source, options(length_penalty=0.0))
        found = best(beam_search(source, options(beam_size=2, length_penalty=0.0)))
        for clip in range(4):
            beam_alone = slow_beam(source, clip, MAX_LEN, 2, lambda n: 1.0, with_greedy=False)[0][1]
            if beam_alone < plain.scores[clip] - 1e-4:
                restored += 1
                np.testing.assert_array_equal(found.tokens[clip], plain.tokens[clip])
                np.testing.assert_allclose(found.scores[clip], plain.scores[clip], atol=1e-5)
        if restored:
            return
    raise AssertionError("no search lost the greedy path")


def test_a_beam_of_one_is_greedy_search():
    source = Source(decoder(), *ragged(6))
    found = best(beam_search(source, options(beam_size=1)))
    np.testing.assert_array_equal(found.tokens, greedy(source, options()).tokens)


def search(states, lengths):
    return beam_search(Source(decoder(), states, lengths), options(beam_size=4, n_best=4))


def test_the_content_of_memory_padding_changes_nothing():
    states, lengths = ragged(6)
    overwritten = jnp.where(jnp.arange(POSITIONS)[:, None] < lengths[:, None, None], states, 1e3)
    plain, changed = search(states, lengths), search(overwritten, lengths)
    np.testing.assert_array_equal(plain.tokens, changed.tokens)


def test_batch_order_and_other_clips_do_not_change_a_clip():
    states, lengths = ragged(6)
    order = np.array([4, 2, 0, 5, 1, 3])
    found = search(states, lengths)
    shuffled = search(states[order], lengths[order])
    repeated = search(jnp.repeat(states[3:4], 6, 0), jnp.repeat(lengths[3:4], 6))
    np.testing.assert_array_equal(found.tokens[order], shuffled.tokens)
    np.testing.assert_allclose(found.scores[order], shuffled.scores, atol=1e-5)
    np.testing.assert_array_equal(found.tokens[3], repeated.tokens[0])


def test_missing_sentences_of_a_tiny_vocabulary_score_minus_inf():
    source = Source(decoder(vocab_size=3), *ragged(2))
    found = beam_search(source, options(beam_size=5, n_best=5, max_len=2))
    assert np.isfinite(found.scores[:, :2]).all() and (found.scores[:, 2:] == -np.inf).all()
    assert (jnp.exp(found.scores[:, :2] * 2).sum(1) < 1).all()


def test_the_search_stops_when_every_clip_has_converged():
    source = Source(decoder(kind=CountingDecoder), *ragged(6))
    no_penalty = options(length_penalty=0.0)
    lengths = np.asarray(best(beam_search(source, no_penalty)).lengths)
    (short,) = np.nonzero(lengths < 4)
    assert short.size
    short = np.resize(short, 6)  # repeats the short clips, so that the batch size stays 6
    jax.effects_barrier()  # waits until all steps of the first search are recorded
    CountingDecoder.steps.clear()
    short_clips = Source(source.decoder, source.memory[short], source.memory_lengths[short])
    jax.block_until_ready(beam_search(short_clips, no_penalty))
    jax.effects_barrier()
    assert 0 < len(CountingDecoder.steps) < MAX_LEN - 1


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"n_best": 5}, "n_best is 5; allowed: 1 to 4, the beam_size"),
        ({"max_len": MAX_LEN + 1}, f"max_len is {MAX_LEN + 1}; allowed: 2 to {MAX_LEN}"),
    ],
)
def test_options_that_do_not_fit_together_are_refused(values, message):
    with pytest.raises(DecodingError, match=message):
        beam_search(Source(decoder(), *ragged(1)), options(**values))
