"""The ways from an encoded clip to text, by name, with one signature: what `eval`, `translate` and training's samples choose from."""

from collections.abc import Callable
from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key

from signvit_jax.config import InferenceConfig
from signvit_jax.decoding.autoregressive import Hypotheses, Source, best
from signvit_jax.decoding.beam_search import beam_search
from signvit_jax.decoding.ctc import greedy_ctc
from signvit_jax.decoding.greedy import greedy
from signvit_jax.decoding.sampling import sample
from signvit_jax.models.translator import Encoded, SignTranslator


class Decoded(NamedTuple):
    """One hypothesis a clip: ids padded with 0, the decoder's own score, and the mean probability of its tokens (0 for an empty text)."""

    tokens: Int[Array, "b l"]
    scores: Float[Array, "b"]
    confidences: Float[Array, "b"]


class SpecialIds(NamedTuple):
    bos: int
    eos: int


Decoder = Callable[[SignTranslator, Encoded, InferenceConfig, SpecialIds, Key[Array, ""]], Decoded]


def _greedy(model: SignTranslator, encoded: Encoded, config: InferenceConfig, ids: SpecialIds, key: Key[Array, ""]) -> Decoded:
    return _from_hypotheses(
        greedy(
            Source(model.decoder, *model.memory(encoded)),
            bos_id=ids.bos,
            eos_id=ids.eos,
            no_repeat_ngram_size=config.no_repeat_ngram_size,
            length_penalty=config.length_penalty,
        )
    )


def _sample(model: SignTranslator, encoded: Encoded, config: InferenceConfig, ids: SpecialIds, key: Key[Array, ""]) -> Decoded:
    return _from_hypotheses(
        sample(
            Source(model.decoder, *model.memory(encoded)),
            key,
            temperature=config.temperature,
            top_k=config.top_k,
            top_p=config.top_p,
            bos_id=ids.bos,
            eos_id=ids.eos,
            no_repeat_ngram_size=config.no_repeat_ngram_size,
            length_penalty=config.length_penalty,
        )
    )


def _beam(model: SignTranslator, encoded: Encoded, config: InferenceConfig, ids: SpecialIds, key: Key[Array, ""]) -> Decoded:
    return _from_hypotheses(
        best(
            beam_search(
                Source(model.decoder, *model.memory(encoded)),
                bos_id=ids.bos,
                eos_id=ids.eos,
                beam_size=config.beam_size,
                length_penalty=config.length_penalty,
                no_repeat_ngram_size=config.no_repeat_ngram_size,
            )
        )
    )


def _ctc(model: SignTranslator, encoded: Encoded, config: InferenceConfig, ids: SpecialIds, key: Key[Array, ""]) -> Decoded:
    found = greedy_ctc(*model.ctc_logits(encoded))
    return Decoded(found.ids, found.score, found.confidence.sum(1) / jnp.maximum(found.lengths, 1))


def _from_hypotheses(found: Hypotheses) -> Decoded:
    said = jnp.arange(found.tokens.shape[1]) < found.lengths[:, None]
    said = said & (jnp.arange(found.tokens.shape[1]) > 0)  # BOS is given, not said
    probability = jnp.where(said, jnp.exp(found.token_log_probs), 0.0)
    return Decoded(found.tokens, found.scores, probability.sum(1) / jnp.maximum(said.sum(1), 1))


DECODERS: dict[str, Decoder] = {"greedy": _greedy, "beam": _beam, "ctc": _ctc, "sample": _sample}
