import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from signvit_jax.decoding.autoregressive import DecodingError, Source, best
from signvit_jax.decoding.beam_search import beam_search
from signvit_jax.decoding.greedy import greedy
from tests.helpers.tiny_decoder import (
    BOS,
    EOS,
    IDS,
    CountingDecoder,
    decoder,
    ragged,
    sentence,
    slow_beam,
    slow_log_probs,
)

DIVISORS = {"power": lambda n, p: n**p, "gnmt": lambda n, p: ((5 + n) / 6) ** p}


def every_sentence(source, clip, max_len, divisor):
    """All sentences there are, by score: those that end with EOS and those that the limit cuts off."""
    scored = {}
    vocab = range(1, source.decoder.embedding.shape[0])
    for words in itertools.chain.from_iterable(
        itertools.product(vocab, repeat=n) for n in range(1, max_len)
    ):
        if EOS in words[:-1] or (words[-1] != EOS and len(words) < max_len - 1):
            continue
        prefix, total = [BOS], 0.0
        for word in words:
            total += every_sentence.log_probs(source, clip, tuple(prefix))[word]
            prefix.append(word)
        scored[tuple(prefix)] = total / divisor(len(prefix))
    return sorted(scored.items(), key=lambda one: -one[1])


@pytest.mark.parametrize(
    ("penalty", "formula"),
    [
        (0.0, "power"),
        pytest.param(0.6, "power", marks=pytest.mark.long),
        pytest.param(1.0, "power", marks=pytest.mark.long),
        (1.0, "gnmt"),
    ],
)
def test_a_wide_beam_is_exact_against_exhaustive_search(penalty, formula):
    source = Source(decoder(vocab_size=5, sharpness=4.0), *ragged(2))
    table = {}
    every_sentence.log_probs = lambda source, clip, prefix: table.setdefault(
        (clip, prefix), slow_log_probs([source], clip, list(prefix))
    )
    found = beam_search(
        source, **IDS, beam_size=70, n_best=40, length_penalty=penalty, formula=formula, max_len=4
    )
    for clip in range(2):
        wanted = every_sentence(source, clip, 4, lambda n: DIVISORS[formula](n, penalty))
        assert len(wanted) == 40  # 1 + 3 + 9 that end and 27 that are cut off
        np.testing.assert_allclose(found.scores[clip], [score for _, score in wanted], atol=1e-5)
        assert [tuple(sentence(row)) for row in found.tokens[clip, :10]] == [
            tokens for tokens, _ in wanted[:10]
        ]


@pytest.mark.parametrize(
    ("seed", "beam_size", "penalty", "formula", "guard"),
    [
        pytest.param(6, 1, 1.0, "power", 0, marks=pytest.mark.long),
        (6, 4, 0.7, "power", 0),
        (2, 3, 0.0, "power", 2),
        pytest.param(5, 5, 1.0, "gnmt", 0, marks=pytest.mark.long),
    ],
)
def test_batched_cached_search_agrees_with_one_clip_at_a_time_uncached(
    seed, beam_size, penalty, formula, guard
):
    source = Source(decoder(seed), *ragged(4, seed))
    found = beam_search(
        source,
        **IDS,
        beam_size=beam_size,
        n_best=beam_size,
        length_penalty=penalty,
        formula=formula,
        no_repeat_ngram_size=guard,
    )
    for clip in range(4):
        wanted = slow_beam(
            source, clip, 9, beam_size, lambda n: DIVISORS[formula](n, penalty), guard
        )
        assert [sentence(row) for row in found.tokens[clip]] == [tokens for tokens, _ in wanted]
        np.testing.assert_allclose(found.scores[clip], [score for _, score in wanted], atol=1e-5)
        for row in range(beam_size):
            assert found.lengths[clip, row] == len(wanted[row][0])
            normal = DIVISORS[formula](len(wanted[row][0]), penalty)
            assert math.isclose(
                found.token_log_probs[clip, row].sum() / normal, wanted[row][1], abs_tol=1e-5
            )


def test_settling_early_changes_no_result():
    source = Source(decoder(), *ragged(6))
    whole = beam_search(source, **IDS, beam_size=4, n_best=4)
    early = beam_search(source, **IDS, beam_size=4, n_best=2)
    np.testing.assert_array_equal(early.tokens, whole.tokens[:, :2])
    np.testing.assert_allclose(early.scores, whole.scores[:, :2], atol=1e-6)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10_000), sharpness=st.floats(0.5, 30.0), penalty=st.floats(0.0, 2.0))
def test_the_best_score_is_never_below_greedys(seed, sharpness, penalty):
    source = Source(decoder(seed, sharpness=sharpness), *ragged(4, seed))
    plain = greedy(source, **IDS, length_penalty=penalty)
    assert (
        best(beam_search(source, **IDS, beam_size=2, length_penalty=penalty)).scores
        >= plain.scores - 1e-5
    ).all()


def test_where_pruning_loses_the_greedy_path_it_comes_back():
    """In this search some clip's beam alone would end below greedy: without the greedy path this test would have nothing to hold."""
    lost = []
    for seed in range(12):
        source = Source(decoder(seed, sharpness=6.0), *ragged(4, seed))
        plain, found = (
            greedy(source, **IDS, length_penalty=0.0),
            best(beam_search(source, **IDS, beam_size=2, length_penalty=0.0)),
        )
        for clip in range(4):
            alone = slow_beam(source, clip, 9, 2, lambda n: 1.0, with_greedy=False)[0][1]
            if alone < plain.scores[clip] - 1e-4:
                lost.append((seed, clip))
                np.testing.assert_array_equal(found.tokens[clip], plain.tokens[clip])
                np.testing.assert_allclose(found.scores[clip], plain.scores[clip], atol=1e-5)
        if lost:
            return
    raise AssertionError("no search lost the greedy path")


def test_a_beam_of_one_is_greedy_search():
    source = Source(decoder(), *ragged(6))
    np.testing.assert_array_equal(
        best(beam_search(source, **IDS, beam_size=1)).tokens, greedy(source, **IDS).tokens
    )


def test_neither_padding_nor_batch_order_nor_company_changes_a_clip():
    states, lengths = ragged(6)
    order = np.array([4, 2, 0, 5, 1, 3])
    search = lambda m, n: beam_search(Source(decoder(), m, n), **IDS, beam_size=4, n_best=4)  # noqa: E731
    whole = search(states, lengths)
    noisy = search(jnp.where(jnp.arange(5)[:, None] < lengths[:, None, None], states, 1e3), lengths)
    shuffled = search(states[order], lengths[order])
    same = search(jnp.repeat(states[3:4], 6, 0), jnp.repeat(lengths[3:4], 6))
    np.testing.assert_array_equal(whole.tokens, noisy.tokens)
    np.testing.assert_array_equal(whole.tokens[order], shuffled.tokens)
    np.testing.assert_allclose(whole.scores[order], shuffled.scores, atol=1e-5)
    np.testing.assert_array_equal(whole.tokens[3], same.tokens[0])


def test_a_vocabulary_with_too_few_sentences_fills_up_with_impossible_ones():
    found = beam_search(
        Source(decoder(vocab_size=3), *ragged(2)), **IDS, beam_size=5, n_best=5, max_len=2
    )
    assert np.isfinite(found.scores[:, :2]).all() and (found.scores[:, 2:] == -np.inf).all()
    np.testing.assert_allclose(jnp.exp(found.scores[:, :2] * 2).sum(1) < 1, True)


def test_the_search_stops_when_every_clip_is_settled():
    source = Source(decoder(kind=CountingDecoder), *ragged(6))
    lengths = np.asarray(best(beam_search(source, **IDS, length_penalty=0.0)).lengths)
    short = np.resize(np.flatnonzero(lengths < 4), 6)
    CountingDecoder.steps.clear()
    jax.block_until_ready(
        beam_search(
            Source(source.decoder, source.memory[short], source.memory_lengths[short]),
            **IDS,
            length_penalty=0.0,
        )
    )
    jax.effects_barrier()
    assert 0 < len(CountingDecoder.steps) < 8


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"beam_size": 0}, "beam_size is 0; allowed: a whole number >= 1"),
        ({"n_best": 5}, "n_best is 5; allowed: 1 to 4, the beam_size"),
        ({"length_penalty": -1.0}, "length_penalty is -1.0; allowed: a number >= 0"),
        ({"formula": "google"}, "formula is 'google'; allowed: 'power' or 'gnmt'"),
        ({"max_len": 10}, "max_len is 10; allowed: 2 to 9"),
    ],
)
def test_values_out_of_range_are_refused(options, message):
    with pytest.raises(DecodingError, match=message):
        beam_search(Source(decoder(), *ragged(1)), **IDS, **options)
