"""Sampling, compared with frequencies, and top-k and top-p, compared with sorting."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from signvit_jax.decoding.autoregressive import Source
from signvit_jax.decoding.greedy import greedy
from signvit_jax.decoding.token_sampling import restrict, sample
from tests.helpers.tiny_decoder import (
    BOS,
    decoder,
    memory,
    options,
    ragged,
    sentence,
    slow_log_probs,
)

RNG = jax.random.key(7)
jitted_restrict = jax.jit(restrict)


def allowed_by_sorting(logits, top_k, top_p):
    """Return the ids of the tokens that may be drawn, from sorted logits (v,)."""
    order = np.argsort(-logits, kind="stable")
    kept = order[:top_k] if top_k else order
    if top_p >= 1.0:  # the cumulative sum may round to 1 before the last token
        return set(kept.tolist())
    probabilities = np.exp(logits[kept].astype(np.float64) - logits.max())
    probabilities /= probabilities.sum()
    return set(kept[: np.searchsorted(np.cumsum(probabilities), top_p) + 1].tolist())


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    spread=st.floats(0.1, 8.0),
    top_k=st.integers(1, 40),
    top_p=st.floats(0.05, 0.99),
)
def test_restrictions_keep_the_same_tokens_as_sorting(seed, spread, top_k, top_p):
    logits = np.random.default_rng(seed).normal(size=(3, 30)).astype(np.float32) * spread
    for k, p in ((top_k, None), (None, top_p), (top_k, top_p)):
        kept = np.isfinite(jitted_restrict(logits, k, p))
        for row in range(3):
            expected = allowed_by_sorting(logits[row], k, p or 1.0)
            # Rounding may include or exclude a token at the exact threshold of top-p.
            differing = expected ^ set(np.flatnonzero(kept[row]).tolist())
            assert len(differing) <= (1 if p else 0)


def test_restrictions_count_exactly_and_keep_ties():
    logits = jnp.log(jnp.array([[0.4, 0.3, 0.15, 0.1, 0.05], [0.2, 0.2, 0.2, 0.2, 0.2]]))

    def kept(top_k, top_p):
        return np.isfinite(restrict(logits, top_k, top_p)).sum(1).tolist()

    assert kept(2, None) == [2, 5]
    assert kept(None, 0.6) == [2, 5]
    # Top-k keeps 0.4 + 0.3 + 0.15 = 0.85; of these, two tokens have 0.7 / 0.85, more than 0.8.
    assert kept(3, 0.8) == [2, 5]
    assert kept(99, 1.0) == [5, 5]


@pytest.mark.parametrize(("temperature", "top_k", "top_p"), [(1.0, 0, 1.0), (2.0, 5, 0.9)])
def test_first_tokens_have_the_frequencies_of_the_model(temperature, top_k, top_p):
    draws = 4000
    source = Source(decoder(sharpness=3.0), jnp.repeat(memory(1), draws, axis=0))
    found = sample(
        source, RNG, options(temperature=temperature, top_k=top_k, top_p=top_p, max_len=2)
    )
    log_probs = slow_log_probs([source], 0, [BOS])
    logits = log_probs / temperature
    allowed = sorted(allowed_by_sorting(logits, top_k, top_p) - {0})
    expected = np.zeros(12)
    expected[allowed] = np.exp(logits[allowed]) / np.exp(logits[allowed]).sum()
    frequencies = np.bincount(found.tokens[:, 1], minlength=12) / draws
    assert (frequencies[expected == 0] == 0).all()
    tolerance = 4.5 * np.sqrt(expected * (1 - expected) / draws) + 1e-9
    assert (np.abs(frequencies - expected) < tolerance).all()
    np.testing.assert_allclose(
        found.token_log_probs[:, 1], log_probs[found.tokens[:, 1]], atol=1e-5
    )


def test_later_log_probs_equal_those_of_the_uncached_model():
    source = Source(decoder(sharpness=3.0), *ragged(6))
    found = sample(source, RNG, options())
    for clip in range(6):
        tokens = sentence(found.tokens[clip])
        n = len(tokens)
        expected = [slow_log_probs([source], clip, tokens[:i])[tokens[i]] for i in range(1, n)]
        np.testing.assert_allclose(found.token_log_probs[clip, 1:n], expected, atol=1e-5)
        np.testing.assert_allclose(found.scores[clip], sum(expected) / n, atol=1e-5)


def test_a_temperature_near_zero_is_greedy_search():
    source = Source(decoder(), *ragged(6))
    found = sample(source, RNG, options(temperature=1e-4))
    np.testing.assert_array_equal(found.tokens, greedy(source, options()).tokens)


def test_draws_depend_only_on_the_number_and_memory_of_a_clip():
    states, lengths = ragged(6)
    order = np.array([4, 2, 0, 5, 1, 3])

    def draw(states, lengths, rows):
        source = Source(decoder(sharpness=3.0), states, lengths)
        return sample(source, RNG, options(), rows=jnp.asarray(rows)).tokens

    found = draw(states, lengths, np.arange(6) + 10)
    shuffled = draw(states[order], lengths[order], order + 10)
    np.testing.assert_array_equal(found[order], shuffled)
    same_number = draw(states.at[1:].set(0.5), lengths, [10, 3, 3, 3, 3, 3])
    np.testing.assert_array_equal(found[0], same_number[0])
    assert (same_number[1:] == same_number[1]).all()  # they have the number 3 and equal memories


def test_another_rng_draws_another_sentence():
    source = Source(decoder(sharpness=3.0), *ragged(6))
    first, again, other = (
        sample(source, rng, options()).tokens for rng in (RNG, RNG, jax.random.key(8))
    )
    assert (first == again).all() and not (first == other).all()


def test_no_ngram_is_drawn_twice():
    source = Source(decoder(sharpness=3.0), *ragged(6))
    tokens = sample(source, RNG, options(no_repeat_ngram_size=1)).tokens
    assert all(len(set(sentence(row))) == len(sentence(row)) for row in tokens)
