"""All decoders on a tiny model: n-best lists, ensembles, the joint score, invariances."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from hypothesis import given, settings
from hypothesis import strategies as st

from signvit_jax.decoding.decoders import DECODERS, EncodedClips
from signvit_jax.decoding.search_options import DecodingError, SearchOptions
from signvit_jax.models.ctc_loss import ctc_loss
from tests.helpers import tiny_model

BOS, EOS = 1, 2
CONFIG = tiny_model.config()
CLIPS, FRAMES = 4, 6
BEAM = SearchOptions(bos_id=BOS, eos_id=EOS, beam_size=3, n_best=3)


@functools.cache
def models():
    """Return two models with peaked distributions, so that different texts have unequal scores."""
    created = []
    for seed in (0, 1):
        model = tiny_model.model(CONFIG, seed)
        model.decoder.embedding[...] = model.decoder.embedding[...] * 8.0
        model.ctc_head.out.kernel[...] = model.ctc_head.out.kernel[...] * 30.0
        created.append(model)
    return created


@functools.cache
def encoder():
    return jax.jit(lambda model, video, lengths: model.encode(video, lengths))


def encode(model, video, lengths):
    return encoder()(model, jnp.asarray(video), jnp.asarray(lengths))


@functools.cache
def program(decoder: str, options: SearchOptions = BEAM):
    return jax.jit(lambda ensemble: DECODERS[decoder](ensemble, options, jax.random.key(0)))


def decode(decoder: str, video, lengths, options: SearchOptions = BEAM, ensemble=(0,)):
    members = [models()[number] for number in ensemble]
    encoded = [EncodedClips(model, encode(model, video, lengths)) for model in members]
    return jax.device_get(program(decoder, options)(encoded))


def clips(seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    batch = tiny_model.batch(CLIPS, FRAMES, seed)
    return batch["video"], batch["frame_lengths"]


@pytest.mark.parametrize("decoder", ["beam", "ctc_beam"])
def test_an_n_best_list_is_sorted_and_has_no_text_twice(decoder):
    found = decode(decoder, *clips())
    assert found.tokens.shape[:2] == (CLIPS, 3)
    assert (np.diff(found.scores, axis=1) <= 0).all()
    assert all(len({tuple(row) for row in clip}) == 3 for clip in found.tokens.tolist())


@pytest.mark.parametrize("decoder", list(DECODERS))
def test_confidences_are_probabilities_of_tokens(decoder):
    found = decode(decoder, *clips())
    assert ((found.token_confidences >= 0) & (found.token_confidences <= 1)).all()
    assert not found.token_confidences[found.tokens == 0].any()
    is_output = (found.tokens != 0) & (found.tokens != BOS)
    assert (found.token_confidences[is_output] > 0).all()


@pytest.mark.parametrize("decoder", ["greedy", "ctc"])
def test_an_ensemble_of_one_model_twice_equals_the_model(decoder):
    alone, twice = (decode(decoder, *clips(), ensemble=ensemble) for ensemble in [(0,), (0, 0)])
    np.testing.assert_array_equal(alone.tokens, twice.tokens)
    np.testing.assert_allclose(alone.scores, twice.scores, atol=1e-4)


def test_ctc_of_an_ensemble_averages_probabilities():
    video, lengths = clips()
    probabilities = [
        np.asarray(jax.nn.softmax(model.ctc_logits(encode(model, video, lengths))[0]))
        for model in models()
    ]
    paths = np.mean(probabilities, axis=0).argmax(-1)
    found = decode("ctc", video, lengths, ensemble=(0, 1))
    for row, length in enumerate(lengths):
        path = paths[row, :length]
        expected = [word for word, before in zip(path, [0, *path]) if word not in (0, before)]
        assert [token for token in found.tokens[row, 0] if token] == expected


def test_ctc_heads_that_read_different_steps_are_refused():
    other = nnx.clone(models()[1])
    other.ctc_source = "queries"
    encoded = encode(models()[0], *clips())
    ensemble = [EncodedClips(model, encoded) for model in (models()[0], other)]
    with pytest.raises(DecodingError, match=r"'frames', 6, 17\), \('queries', 3, 17"):
        DECODERS["ctc"](ensemble, BEAM, jax.random.key(0))


def test_the_joint_score_is_the_weighted_sum_of_both_heads():
    video, lengths = clips()
    plain = decode("beam", video, lengths)
    joint = decode("beam", video, lengths, dataclasses.replace(BEAM, n_best=2, ctc_weight=0.4))
    model = models()[0]
    logits, steps = model.ctc_logits(encode(model, video, lengths))
    for row in range(CLIPS):
        expected = []
        for padded, score in zip(plain.tokens[row], plain.scores[row]):
            tokens = [token for token in padded.tolist() if token]
            labels = [token for token in tokens[1:] if token != EOS]
            nll, feasible = ctc_loss(
                logits[row : row + 1],
                steps[row : row + 1],
                jnp.asarray([labels + [0] * (12 - len(labels))]),
                jnp.asarray([len(labels)]),
            )
            joint_score = 0.6 * score - 0.4 * float(nll[0]) / len(tokens)
            expected.append(joint_score if feasible[0] else -np.inf)
        if max(expected) > -np.inf:
            np.testing.assert_allclose(
                joint.scores[row], sorted(expected, reverse=True)[:2], atol=1e-4
            )


def test_the_length_formula_changes_the_scores():
    power, gnmt = (
        decode("greedy", *clips(), dataclasses.replace(BEAM, length_formula=name))
        for name in ("power", "gnmt")
    )
    n = (power.tokens[:, 0] != 0).sum(-1)
    np.testing.assert_allclose(power.scores[:, 0] * n, gnmt.scores[:, 0] * (5 + n) / 6, rtol=1e-5)


seeds = st.integers(0, 10_000)
orders = st.permutations(range(CLIPS))


@pytest.mark.parametrize("decoder", ["greedy", "beam", "ctc", "ctc_beam"])
@settings(max_examples=10, deadline=None)
@given(seed=seeds, order=orders, padding=st.integers(0, 255))
def test_batch_order_and_padding_values_change_nothing(decoder, seed, order, padding):
    video, lengths = clips(seed)
    is_frame = (np.arange(FRAMES) < lengths[:, None])[..., None, None, None]
    padded = np.where(is_frame, video, np.uint8(padding))
    found, other = decode(decoder, video, lengths), decode(decoder, padded[order], lengths[order])
    np.testing.assert_allclose(found.scores[order], other.scores, atol=1e-4)
    for row, original_row in enumerate(order):
        # Rounding may swap texts whose scores are nearly equal.
        gaps = np.abs(np.diff(found.scores[original_row]))
        if not (gaps < 1e-3).any():
            np.testing.assert_array_equal(found.tokens[original_row], other.tokens[row])


@settings(max_examples=20, deadline=None)
@given(seed=seeds)
def test_the_best_score_of_a_beam_is_never_below_that_of_greedy(seed):
    beam, greedy = (decode(name, *clips(seed)) for name in ("beam", "greedy"))
    assert (beam.scores[:, 0] >= greedy.scores[:, 0] - 1e-5).all()
