import jax
import jax.numpy as jnp
import numpy as np
import pytest

from signvit_jax.decoding.autoregressive import DecodingError, Source
from signvit_jax.decoding.greedy import greedy
from tests.helpers.tiny_decoder import (
    BOS,
    EOS,
    IDS,
    CountingDecoder,
    decoder,
    memory,
    ragged,
    sentence,
    slow_greedy,
)


@pytest.mark.parametrize(("clips", "with_lengths"), [(1, False), (6, True)])
def test_cached_decoding_agrees_with_the_uncached_forward_pass(clips, with_lengths):
    source = Source(decoder(), *ragged(clips)) if with_lengths else Source(decoder(), memory(clips))
    found = greedy(source, **IDS)
    for clip in range(clips):
        tokens, gains = slow_greedy(source, clip, 9)
        assert sentence(found.tokens[clip]) == tokens
        assert found.lengths[clip] == len(tokens)
        np.testing.assert_allclose(found.token_log_probs[clip, : len(tokens)], gains, atol=1e-5)
        assert (found.token_log_probs[clip, len(tokens) :] == 0).all()
        np.testing.assert_allclose(found.scores[clip], sum(gains) / len(tokens), atol=1e-5)


def test_sentences_end_at_different_lengths_and_hold_one_bos_and_one_eos():
    found = greedy(Source(decoder(), *ragged(6)), **IDS)
    lengths, tokens = np.asarray(found.lengths), np.asarray(found.tokens)
    assert len(set(lengths)) > 3 and lengths.max() == 9
    assert (tokens[:, 0] == BOS).all() and ((tokens == EOS).sum(1) == (lengths < 9)).all()


def test_what_lies_beyond_the_memorys_lengths_changes_nothing():
    states, lengths = ragged(6)
    noise = jnp.where(jnp.arange(5)[:, None] < lengths[:, None, None], states, 1e3)
    plain, padded = (greedy(Source(decoder(), m, lengths), **IDS) for m in (states, noise))
    np.testing.assert_array_equal(plain.tokens, padded.tokens)
    np.testing.assert_allclose(plain.token_log_probs, padded.token_log_probs, atol=1e-5)


def test_neither_batch_order_nor_company_changes_a_clip():
    states, lengths = ragged(6)
    order = np.array([4, 2, 0, 5, 1, 3])
    whole = greedy(Source(decoder(), states, lengths), **IDS)
    shuffled = greedy(Source(decoder(), states[order], lengths[order]), **IDS)
    same = greedy(
        Source(decoder(), jnp.repeat(states[3:4], 6, 0), jnp.repeat(lengths[3:4], 6)), **IDS
    )
    np.testing.assert_array_equal(whole.tokens[order], shuffled.tokens)
    np.testing.assert_allclose(whole.scores[order], shuffled.scores, atol=1e-5)
    np.testing.assert_array_equal(jnp.repeat(whole.tokens[3:4], 6, 0), same.tokens)


@pytest.mark.parametrize("size", [1, 3])
def test_the_guard_lets_no_run_of_tokens_come_twice(size):
    source = Source(decoder(seed=2), *ragged(6))
    found = greedy(source, **IDS, no_repeat_ngram_size=size)
    for clip in range(6):
        tokens = sentence(found.tokens[clip])
        runs = [tuple(tokens[i : i + size]) for i in range(len(tokens) - size + 1)]
        assert len(runs) == len(set(runs))
        assert tokens == slow_greedy(source, clip, 9, no_repeat=size)[0]


def test_without_the_guard_the_same_model_repeats_itself():
    tokens = greedy(Source(decoder(seed=2), *ragged(6)), **IDS).tokens
    assert any(len(set(sentence(row))) < len(sentence(row)) for row in tokens)


def test_a_shorter_limit_cuts_the_same_sentence_off():
    source = Source(decoder(), *ragged(6))
    whole, cut = greedy(source, **IDS), greedy(source, **IDS, max_len=4)
    np.testing.assert_array_equal(cut.tokens, whole.tokens[:, :4])
    assert (cut.lengths == jnp.minimum(whole.lengths, 4)).all()


def test_decoding_stops_when_every_clip_has_ended():
    source = Source(decoder(kind=CountingDecoder), *ragged(6))
    lengths = np.asarray(greedy(source, **IDS).lengths)
    short = np.resize(np.flatnonzero(lengths < 8), 6)
    CountingDecoder.steps.clear()
    found = greedy(
        Source(source.decoder, source.memory[short], source.memory_lengths[short]), **IDS
    )
    jax.block_until_ready(found)
    jax.effects_barrier()
    assert len(CountingDecoder.steps) == found.lengths.max() - 1 < 7


@pytest.mark.parametrize("max_len", [0, 1, 10])
def test_a_length_limit_that_the_decoder_cannot_hold_is_refused(max_len):
    with pytest.raises(DecodingError, match=rf"max_len is {max_len}; allowed: 2 to 9"):
        greedy(Source(decoder(), memory(1)), **IDS, max_len=max_len)
