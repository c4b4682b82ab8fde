"""Greedy search, compared with the uncached forward pass."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from signvit_jax.decoding.autoregressive import Source
from signvit_jax.decoding.greedy import greedy
from signvit_jax.decoding.search_options import DecodingError
from tests.helpers.tiny_decoder import (
    BOS,
    EOS,
    MAX_LEN,
    POSITIONS,
    CountingDecoder,
    decoder,
    memory,
    options,
    ragged,
    sentence,
    slow_greedy,
)


@pytest.mark.parametrize(("clips", "with_lengths"), [(1, False), (6, True)])
def test_cached_decoding_equals_the_uncached_forward_pass(clips, with_lengths):
    source = Source(decoder(), *ragged(clips)) if with_lengths else Source(decoder(), memory(clips))
    found = greedy(source, options())
    for clip in range(clips):
        tokens, log_probs = slow_greedy(source, clip, MAX_LEN)
        n = len(tokens)
        assert sentence(found.tokens[clip]) == tokens
        assert found.lengths[clip] == n
        np.testing.assert_allclose(found.token_log_probs[clip, :n], log_probs, atol=1e-5)
        assert (found.token_log_probs[clip, n:] == 0).all()
        np.testing.assert_allclose(found.scores[clip], sum(log_probs) / n, atol=1e-5)


def test_sentences_begin_with_bos_and_end_with_eos_unless_truncated():
    found = greedy(Source(decoder(), *ragged(6)), options())
    lengths, tokens = np.asarray(found.lengths), np.asarray(found.tokens)
    assert len(set(lengths)) > 3
    assert lengths.max() == MAX_LEN
    assert (tokens[:, 0] == BOS).all()
    is_truncated = (tokens == EOS).sum(1) == 0
    np.testing.assert_array_equal(is_truncated, lengths == MAX_LEN)
    last = tokens[np.arange(len(tokens)), lengths - 1]
    assert (last[~is_truncated] == EOS).all()
    assert ((tokens == EOS).sum(1) <= 1).all()


def test_the_content_of_memory_padding_changes_nothing():
    states, lengths = ragged(6)
    overwritten = jnp.where(jnp.arange(POSITIONS)[:, None] < lengths[:, None, None], states, 1e3)
    plain = greedy(Source(decoder(), states, lengths), options())
    changed = greedy(Source(decoder(), overwritten, lengths), options())
    np.testing.assert_array_equal(plain.tokens, changed.tokens)
    np.testing.assert_allclose(plain.token_log_probs, changed.token_log_probs, atol=1e-5)


def test_batch_order_and_other_clips_do_not_change_a_clip():
    states, lengths = ragged(6)
    order = np.array([4, 2, 0, 5, 1, 3])
    found = greedy(Source(decoder(), states, lengths), options())
    shuffled = greedy(Source(decoder(), states[order], lengths[order]), options())
    repeated = greedy(
        Source(decoder(), jnp.repeat(states[3:4], 6, 0), jnp.repeat(lengths[3:4], 6)), options()
    )
    np.testing.assert_array_equal(found.tokens[order], shuffled.tokens)
    np.testing.assert_allclose(found.scores[order], shuffled.scores, atol=1e-5)
    np.testing.assert_array_equal(jnp.repeat(found.tokens[3:4], 6, 0), repeated.tokens)


@pytest.mark.parametrize("size", [1, 3])
def test_no_ngram_occurs_twice(size):
    source = Source(decoder(seed=2), *ragged(6))
    found = greedy(source, options(no_repeat_ngram_size=size))
    for clip in range(6):
        tokens = sentence(found.tokens[clip])
        ngrams = [tuple(tokens[i : i + size]) for i in range(len(tokens) - size + 1)]
        assert len(ngrams) == len(set(ngrams))
        assert tokens == slow_greedy(source, clip, MAX_LEN, no_repeat=size)[0]


def test_without_the_option_the_same_model_repeats_itself():
    tokens = greedy(Source(decoder(seed=2), *ragged(6)), options()).tokens
    assert any(len(set(sentence(row))) < len(sentence(row)) for row in tokens)


def test_a_smaller_max_len_truncates_the_same_sentence():
    source = Source(decoder(), *ragged(6))
    complete, truncated = greedy(source, options()), greedy(source, options(max_len=4))
    np.testing.assert_array_equal(truncated.tokens, complete.tokens[:, :4])
    assert (truncated.lengths == jnp.minimum(complete.lengths, 4)).all()


def test_decoding_stops_when_every_clip_has_finished():
    source = Source(decoder(kind=CountingDecoder), *ragged(6))
    lengths = np.asarray(greedy(source, options()).lengths)
    (short,) = np.nonzero(lengths < MAX_LEN - 1)
    assert short.size
    short = np.resize(short, 6)  # repeats the short clips, so that the batch size stays 6
    jax.effects_barrier()  # waits until all steps of the first search are recorded
    CountingDecoder.steps.clear()
    short_clips = Source(source.decoder, source.memory[short], source.memory_lengths[short])
    found = greedy(short_clips, options())
    jax.block_until_ready(found)
    jax.effects_barrier()
    longest = int(found.lengths.max())
    assert longest < MAX_LEN - 1
    assert len(CountingDecoder.steps) == longest - 1  # BOS is given, without a step


@pytest.mark.parametrize("max_len", [0, 1, MAX_LEN + 1])
def test_a_max_len_that_the_decoder_cannot_hold_is_refused(max_len):
    with pytest.raises(DecodingError, match=rf"max_len is {max_len}; allowed: 2 to {MAX_LEN}"):
        greedy(Source(decoder(), memory(1)), options(max_len=max_len))
