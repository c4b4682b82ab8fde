"""The decoders by name on the whole (tiny) model: n-best lists, ensembles, the joint score, and what must change nothing."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from hypothesis import given, settings
from hypothesis import strategies as st

from signvit_jax.config.schema import InferenceConfig
from signvit_jax.decoding.autoregressive import DecodingError
from signvit_jax.decoding.decoders import DECODERS, Seen, SpecialIds
from signvit_jax.models.ctc_loss import ctc_loss
from tests.helpers import tiny_model

IDS = SpecialIds(1, 2)
CONFIG = tiny_model.config()
CLIPS, FRAMES = 4, 6
BEAM = InferenceConfig(beam_size=3, n_best=3)


@functools.cache
def models():
    """Two models whose distributions are peaked, so that results are not ties."""
    made = []
    for seed in (0, 1):
        model = tiny_model.model(CONFIG, seed)
        model.decoder.embedding[...] = model.decoder.embedding[...] * 8.0
        model.ctc_head.out.kernel[...] = model.ctc_head.out.kernel[...] * 30.0
        made.append(model)
    return made


@functools.cache
def encoder():
    return jax.jit(lambda model, video, lengths: model.encode(video, lengths))


@functools.cache
def program(decoder: str, config: InferenceConfig = BEAM):
    return jax.jit(lambda ensemble: DECODERS[decoder](ensemble, config, IDS, jax.random.key(0)))


def decode(decoder: str, video, lengths, config: InferenceConfig = BEAM, ensemble=(0,)):
    seen = [
        Seen(
            models()[number], encoder()(models()[number], jnp.asarray(video), jnp.asarray(lengths))
        )
        for number in ensemble
    ]
    return jax.device_get(program(decoder, config)(seen))


def clips(seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    batch = tiny_model.batch(CLIPS, FRAMES, seed)
    return batch["video"], batch["frame_lengths"]


@pytest.mark.parametrize("decoder", ["beam", "ctc_beam"])
def test_an_n_best_list_is_sorted_and_holds_no_text_twice(decoder):
    found = decode(decoder, *clips())
    assert found.tokens.shape[:2] == (CLIPS, 3)
    assert (np.diff(found.scores, axis=1) <= 0).all()
    assert all(len({tuple(row) for row in clip}) == 3 for clip in found.tokens.tolist())


@pytest.mark.parametrize("decoder", list(DECODERS))
def test_confidences_are_probabilities_of_tokens(decoder):
    found = decode(decoder, *clips())
    assert ((found.token_confidences >= 0) & (found.token_confidences <= 1)).all()
    assert not found.token_confidences[found.tokens == 0].any()
    said = (found.tokens != 0) & (found.tokens != IDS.bos)
    assert (found.token_confidences[said] > 0).all()


@pytest.mark.parametrize("decoder", ["greedy", "ctc"])
def test_an_ensemble_of_one_model_twice_says_what_the_model_says(decoder):
    alone, twice = (decode(decoder, *clips(), ensemble=ensemble) for ensemble in [(0,), (0, 0)])
    np.testing.assert_array_equal(alone.tokens, twice.tokens)
    np.testing.assert_allclose(alone.scores, twice.scores, atol=1e-4)


def test_ctc_of_an_ensemble_follows_the_mean_of_the_probabilities():
    video, lengths = clips()
    encoded = [encoder()(model, jnp.asarray(video), jnp.asarray(lengths)) for model in models()]
    probabilities = [
        np.asarray(jax.nn.softmax(model.ctc_logits(clip)[0]))
        for model, clip in zip(models(), encoded)
    ]
    path = np.mean(probabilities, axis=0).argmax(-1)
    found = decode("ctc", video, lengths, ensemble=(0, 1))
    for row, length in enumerate(lengths):
        spoken = path[row, :length]
        wanted = [word for word, before in zip(spoken, [0, *spoken]) if word not in (0, before)]
        assert [token for token in found.tokens[row, 0] if token] == wanted


def test_ctc_heads_that_read_different_steps_are_no_ensemble():
    other = nnx.clone(models()[1])
    other.ctc_source = "queries"
    encoded = encoder()(models()[0], *map(jnp.asarray, clips()))
    ensemble = [Seen(model, encoded) for model in (models()[0], other)]
    with pytest.raises(DecodingError, match=r"'frames', 6, 17\), \('queries', 3, 17"):
        DECODERS["ctc"](ensemble, InferenceConfig(), IDS, jax.random.key(0))


def test_the_joint_score_is_the_weighted_sum_of_both_heads():
    video, lengths = clips()
    plain = decode("beam", video, lengths)
    joint = decode("beam", video, lengths, dataclasses.replace(BEAM, n_best=2, ctc_weight=0.4))
    model = models()[0]
    logits, steps = model.ctc_logits(encoder()(model, jnp.asarray(video), jnp.asarray(lengths)))
    for row in range(CLIPS):
        wanted = []
        for tokens, score in zip(plain.tokens[row], plain.scores[row]):
            said = [token for token in tokens.tolist() if token]
            labels = [token for token in said[1:] if token != IDS.eos]
            padded = jnp.asarray([labels + [0] * (12 - len(labels))])
            nll, feasible = ctc_loss(
                logits[row : row + 1], steps[row : row + 1], padded, jnp.asarray([len(labels)])
            )
            wanted.append(0.6 * score - 0.4 * float(nll[0]) / len(said) if feasible[0] else -np.inf)
        if max(wanted) > -np.inf:
            np.testing.assert_allclose(
                joint.scores[row], sorted(wanted, reverse=True)[:2], atol=1e-4
            )


def test_the_length_formula_is_passed_on():
    power, gnmt = (
        decode("greedy", *clips(), dataclasses.replace(BEAM, length_formula=name))
        for name in ("power", "gnmt")
    )
    n = (power.tokens[:, 0] != 0).sum(-1)
    np.testing.assert_allclose(power.scores[:, 0] * n, gnmt.scores[:, 0] * (5 + n) / 6, rtol=1e-5)


seeds, orders = st.integers(0, 10_000), st.permutations(range(CLIPS))


@pytest.mark.parametrize("decoder", ["greedy", "beam", "ctc", "ctc_beam"])
@settings(max_examples=10, deadline=None)
@given(seed=seeds, order=orders, filling=st.integers(0, 255))
def test_neither_batch_order_nor_what_fills_the_padding_changes_a_clip(
    decoder, seed, order, filling
):
    video, lengths = clips(seed)
    padded = np.where(
        (np.arange(FRAMES) < lengths[:, None])[..., None, None, None], video, np.uint8(filling)
    )
    whole, other = decode(decoder, video, lengths), decode(decoder, padded[order], lengths[order])
    np.testing.assert_allclose(whole.scores[order], other.scores, atol=1e-4)
    for row, place in enumerate(order):
        # Texts whose scores are nearer than rounding may change places.
        gaps = np.abs(np.diff(whole.scores[place]))
        if not (gaps < 1e-3).any():
            np.testing.assert_array_equal(whole.tokens[place], other.tokens[row])


@settings(max_examples=20, deadline=None)
@given(seed=seeds)
def test_the_beams_best_score_is_never_below_greedys(seed):
    beam, greedy = (decode(name, *clips(seed)) for name in ("beam", "greedy"))
    assert (beam.scores[:, 0] >= greedy.scores[:, 0] - 1e-5).all()
