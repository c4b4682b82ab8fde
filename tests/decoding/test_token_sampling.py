import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from signvit_jax.decoding.autoregressive import DecodingError, Source
from signvit_jax.decoding.greedy import greedy
from signvit_jax.decoding.sampling import restricted, sample
from tests.helpers.tiny_decoder import BOS, IDS, decoder, memory, ragged, sentence, slow_log_probs

KEY = jax.random.key(7)
jitted = jax.jit(restricted)


def allowed_by_sorting(logits, top_k, top_p):
    """The tokens that may be drawn, one row at a time by sorting."""
    order = np.argsort(-logits, kind="stable")
    kept = order[:top_k] if top_k else order
    if top_p >= 1.0:  # the sum of all may round to 1 before the last
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
def test_the_cuts_keep_what_sorting_keeps(seed, spread, top_k, top_p):
    logits = np.random.default_rng(seed).normal(size=(3, 30)).astype(np.float32) * spread
    for k, p in ((top_k, None), (None, top_p), (top_k, top_p)):
        kept = np.isfinite(jitted(logits, k, p))
        for row in range(3):
            wanted = allowed_by_sorting(logits[row], k, p or 1.0)
            # A token on the very edge of the share may fall either way by rounding.
            assert len(wanted ^ set(np.flatnonzero(kept[row]).tolist())) <= (1 if p else 0)


def test_the_cuts_count_exactly_and_keep_ties():
    logits = jnp.log(jnp.array([[0.4, 0.3, 0.15, 0.1, 0.05], [0.2, 0.2, 0.2, 0.2, 0.2]]))
    assert np.isfinite(restricted(logits, 2, None)).sum(1).tolist() == [2, 5]
    assert np.isfinite(restricted(logits, None, 0.6)).sum(1).tolist() == [2, 5]
    assert np.isfinite(restricted(logits, 3, 0.8)).sum(1).tolist() == [
        2,
        5,
    ]  # 0.7 of 0.85 is enough
    assert np.isfinite(restricted(logits, 99, 1.0)).all()


@pytest.mark.parametrize(("temperature", "top_k", "top_p"), [(1.0, 0, 1.0), (2.0, 5, 0.9)])
def test_first_tokens_are_drawn_as_often_as_the_model_says(temperature, top_k, top_p):
    draws = 4000
    source = Source(decoder(sharpness=3.0), jnp.repeat(memory(1), draws, axis=0))
    found = sample(source, KEY, **IDS, temperature=temperature, top_k=top_k, top_p=top_p, max_len=2)
    model = slow_log_probs([source], 0, [BOS])
    logits = model / temperature
    allowed = sorted(allowed_by_sorting(logits, top_k, top_p) - {0})
    wanted = np.zeros(12)
    wanted[allowed] = np.exp(logits[allowed]) / np.exp(logits[allowed]).sum()
    seen = np.bincount(found.tokens[:, 1], minlength=12) / draws
    assert (seen[wanted == 0] == 0).all()
    assert (np.abs(seen - wanted) < 4.5 * np.sqrt(wanted * (1 - wanted) / draws) + 1e-9).all()
    np.testing.assert_allclose(found.token_log_probs[:, 1], model[found.tokens[:, 1]], atol=1e-5)


def test_later_tokens_and_their_log_probabilities_are_the_uncached_models():
    source = Source(decoder(sharpness=3.0), *ragged(6))
    found = sample(source, KEY, **IDS)
    for clip in range(6):
        tokens = sentence(found.tokens[clip])
        wanted = [
            slow_log_probs([source], clip, tokens[:n])[tokens[n]] for n in range(1, len(tokens))
        ]
        np.testing.assert_allclose(found.token_log_probs[clip, 1 : len(tokens)], wanted, atol=1e-5)
        np.testing.assert_allclose(found.scores[clip], sum(wanted) / len(tokens), atol=1e-5)


def test_a_temperature_near_zero_is_greedy_search():
    source = Source(decoder(), *ragged(6))
    np.testing.assert_array_equal(
        sample(source, KEY, **IDS, temperature=1e-4).tokens, greedy(source, **IDS).tokens
    )


def test_a_clips_draws_follow_its_number_and_neither_its_place_nor_its_company():
    states, lengths = ragged(6)
    order = np.array([4, 2, 0, 5, 1, 3])
    whole = sample(
        Source(decoder(sharpness=3.0), states, lengths), KEY, **IDS, rows=jnp.arange(6) + 10
    )
    shuffled = sample(
        Source(decoder(sharpness=3.0), states[order], lengths[order]),
        KEY,
        **IDS,
        rows=jnp.asarray(order) + 10,
    )
    others = sample(
        Source(decoder(sharpness=3.0), states.at[1:].set(0.5), lengths),
        KEY,
        **IDS,
        rows=jnp.array([10, 3, 3, 3, 3, 3]),
    )
    np.testing.assert_array_equal(whole.tokens[order], shuffled.tokens)
    np.testing.assert_array_equal(whole.tokens[0], others.tokens[0])
    assert (
        others.tokens[1:] == others.tokens[1]
    ).all()  # one number, and memories that say the same


def test_another_key_draws_another_sentence():
    source = Source(decoder(sharpness=3.0), *ragged(6))
    first, again, other = (
        sample(source, key, **IDS).tokens for key in (KEY, KEY, jax.random.key(8))
    )
    assert (first == again).all() and not (first == other).all()


def test_the_guard_holds_for_draws_too():
    tokens = sample(
        Source(decoder(sharpness=3.0), *ragged(6)), KEY, **IDS, no_repeat_ngram_size=1
    ).tokens
    assert all(len(set(sentence(row))) == len(sentence(row)) for row in tokens)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"temperature": 0.0}, "temperature is 0.0; allowed: a number > 0"),
        ({"top_k": -1}, "top_k is -1; allowed: a whole number >= 0"),
        ({"top_p": 1.5}, "top_p is 1.5; allowed: a number > 0 and <= 1"),
    ],
)
def test_values_out_of_range_are_refused(options, message):
    with pytest.raises(DecodingError, match=message):
        sample(Source(decoder(), *ragged(1)), KEY, **IDS, **options)
