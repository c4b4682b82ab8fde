"""Decoding with an ensemble, which averages the probabilities of its models."""

import jax
import numpy as np
import pytest

from signvit_jax.decoding.autoregressive import Source
from signvit_jax.decoding.beam_search import beam_search
from signvit_jax.decoding.greedy import greedy
from signvit_jax.decoding.search_options import DecodingError
from signvit_jax.decoding.token_sampling import sample
from tests.helpers.tiny_decoder import (
    MAX_LEN,
    decoder,
    memory,
    options,
    ragged,
    sentence,
    slow_beam,
    slow_greedy,
    slow_log_probs,
)


def ensemble():
    """Return two models; the second one has a longer memory, with 7 positions instead of 5."""
    return [Source(decoder(6), *ragged(4)), Source(decoder(2), memory(4, seed=1, positions=7))]


@pytest.mark.long
def test_greedy_search_uses_the_mean_of_the_probabilities():
    found = greedy(ensemble(), options())
    for clip in range(4):
        tokens, gains = slow_greedy(ensemble(), clip, MAX_LEN)
        assert sentence(found.tokens[clip]) == tokens
        np.testing.assert_allclose(found.token_log_probs[clip, : len(tokens)], gains, atol=1e-5)


def test_beam_search_uses_the_mean_of_the_probabilities():
    found = beam_search(ensemble(), options(beam_size=3, n_best=3))
    for clip in range(4):
        expected = slow_beam(ensemble(), clip, MAX_LEN, 3, lambda n: n)
        assert [sentence(row) for row in found.tokens[clip]] == [tokens for tokens, _ in expected]
        np.testing.assert_allclose(found.scores[clip], [score for _, score in expected], atol=1e-5)


@pytest.mark.long
def test_sampling_uses_the_mean_of_the_probabilities():
    found = sample(ensemble(), jax.random.key(0), options())
    tokens = sentence(found.tokens[0])
    expected = [slow_log_probs(ensemble(), 0, tokens[:n])[tokens[n]] for n in range(1, len(tokens))]
    np.testing.assert_allclose(found.token_log_probs[0, 1 : len(tokens)], expected, atol=1e-5)


def test_an_ensemble_of_one_model_twice_equals_the_model():
    source = ensemble()[0]
    alone, twice = greedy(source, options()), greedy([source, source], options())
    np.testing.assert_array_equal(alone.tokens, twice.tokens)
    np.testing.assert_allclose(alone.scores, twice.scores, atol=1e-5)


@pytest.mark.parametrize(
    "search",
    [greedy, beam_search, lambda sources, options: sample(sources, jax.random.key(0), options)],
)
def test_models_that_do_not_fit_each_other_are_refused(search):
    source = ensemble()[0]
    with pytest.raises(DecodingError, match=r"vocabularies of \[12, 13\] tokens"):
        search([source, Source(decoder(vocab_size=13), memory(4))], options())
    with pytest.raises(DecodingError, match=r"were given \[4, 3\] clips"):
        search([source, Source(decoder(), memory(3))], options())
    with pytest.raises(DecodingError, match="at least one"):
        search([], options())


def test_the_shortest_decoder_limits_the_ensemble():
    models = [Source(decoder(max_len=9), memory(4)), Source(decoder(max_len=6), memory(4))]
    assert greedy(models, options()).tokens.shape == (4, 6)
