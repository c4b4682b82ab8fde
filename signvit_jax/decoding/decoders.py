"""The decoders of `eval`, `translate` and validation, by name and with one signature.

Every decoder takes one model or an ensemble, whose probabilities are averaged at every step, and
returns n-best lists: of `n_best` entries from "beam" and "ctc_beam", of one from the others.
"""

import dataclasses
from collections.abc import Sequence
from typing import NamedTuple, Protocol

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key

from signvit_jax.decoding.autoregressive import Hypotheses, Source
from signvit_jax.decoding.beam_search import beam_search
from signvit_jax.decoding.ctc import forced_align, greedy_ctc
from signvit_jax.decoding.ctc_prefix_beam import ctc_prefix_beam_search
from signvit_jax.decoding.greedy import greedy
from signvit_jax.decoding.joint_ctc_attention import rescore
from signvit_jax.decoding.search_options import DecodingError, SearchOptions
from signvit_jax.decoding.token_sampling import sample
from signvit_jax.models.translator import Encoded, SignTranslator


class Decoded(NamedTuple):
    """n hypotheses per clip, best first.

    scores: the decoder's own; -inf where a list has fewer entries.
    token_confidences: probability of each token, 0 to 1; 0 at BOS and padding.
    starts, ends, peaks: of "ctc" only, see `CTCHypotheses`.
    """

    tokens: Int[Array, "b n l"]  # padded with 0
    scores: Float[Array, "b n"]
    token_confidences: Float[Array, "b n l"]
    starts: Int[Array, "b l"] | None = None
    ends: Int[Array, "b l"] | None = None
    peaks: Float[Array, "b l"] | None = None


class EncodedClips(NamedTuple):
    """A batch of clips, encoded by one model of the ensemble."""

    model: SignTranslator
    encoded: Encoded


Ensemble = Sequence[EncodedClips]
Rows = Int[Array, "b"] | None


class Decoder(Protocol):
    """A function that decodes a batch. `rng` and `rows` are used by sampling only, see `sample`."""

    def __call__(
        self, ensemble: Ensemble, options: SearchOptions, rng: Key[Array, ""], rows: Rows = None
    ) -> Decoded: ...


def _greedy(
    ensemble: Ensemble, options: SearchOptions, rng: Key[Array, ""], rows: Rows = None
) -> Decoded:
    return _decoded(_as_list(greedy(_sources(ensemble), options)))


def _sample(
    ensemble: Ensemble, options: SearchOptions, rng: Key[Array, ""], rows: Rows = None
) -> Decoded:
    return _decoded(_as_list(sample(_sources(ensemble), rng, options, rows)))


def _beam(
    ensemble: Ensemble, options: SearchOptions, rng: Key[Array, ""], rows: Rows = None
) -> Decoded:
    if not options.ctc_weight:
        return _decoded(beam_search(_sources(ensemble), options))
    # Rescore the complete beam: the hypothesis that CTC prefers may have a low rank in it.
    all_slots = dataclasses.replace(options, n_best=options.beam_size)
    hypotheses = beam_search(_sources(ensemble), all_slots)
    hypotheses = rescore(hypotheses, *_ctc_outputs(ensemble), options)
    return _decoded(Hypotheses(*(field[:, : options.n_best] for field in hypotheses)))


def _ctc(
    ensemble: Ensemble, options: SearchOptions, rng: Key[Array, ""], rows: Rows = None
) -> Decoded:
    hypotheses = greedy_ctc(*_ctc_outputs(ensemble))
    return Decoded(
        hypotheses.ids[:, None],
        hypotheses.score[:, None],
        hypotheses.confidence[:, None],
        hypotheses.starts,
        hypotheses.ends,
        hypotheses.peak,
    )


def _ctc_beam(
    ensemble: Ensemble, options: SearchOptions, rng: Key[Array, ""], rows: Rows = None
) -> Decoded:
    logits, steps = _ctc_outputs(ensemble)
    beams = ctc_prefix_beam_search(logits, steps, beam_size=options.beam_size)
    ids, lengths, scores = (field[:, : options.n_best] for field in beams)
    # vmap over n: the hypotheses of a clip share its logits.
    alignment = jax.vmap(forced_align, in_axes=(None, None, 1, 1), out_axes=1)(
        logits, steps, ids, lengths
    )
    return Decoded(ids, scores, alignment.confidence)


def _sources(ensemble: Ensemble) -> tuple[Source, ...]:
    return tuple(
        Source(clips.model.decoder, *clips.model.memory(clips.encoded), *_gloss_memory(clips))
        for clips in ensemble
    )


def _gloss_memory(
    clips: EncodedClips,
) -> tuple[Float[Array, "b g d"], Int[Array, "b"]] | tuple[None, None]:
    """Return the memory of the glosses that the model's own CTC head spells, and its lengths."""
    encoder = clips.model.gloss_encoder
    if encoder is None:
        return None, None
    spelled = greedy_ctc(*clips.model.ctc_logits(clips.encoded))
    return encoder(spelled.ids, spelled.lengths)


def _ctc_outputs(ensemble: Ensemble) -> tuple[Float[Array, "b s v"], Int[Array, "b"]]:
    """Return CTC logits, averaged over the ensemble as probabilities, and the number of steps.

    Raises DecodingError if the CTC heads differ in their input, steps or labels.
    """
    outputs = [model.ctc_logits(encoded) for model, encoded in ensemble]
    shapes = [logits.shape[1:] for logits, _ in outputs]
    if len(set(shapes)) > 1 or len({model.ctc_source for model, _ in ensemble}) > 1:
        sources = [(model.ctc_source, *shape) for (model, _), shape in zip(ensemble, shapes)]
        raise DecodingError(
            "the CTC heads of the ensemble differ in what they read "
            f"(model.ctc.source, steps, labels): {sources}; use greedy or beam search with "
            "inference.ctc_weight 0, or models with the same CTC head"
        )
    if len(outputs) == 1:
        return outputs[0]
    member_log_probs = jnp.stack(
        [jax.nn.log_softmax(logits.astype(jnp.float32)) for logits, _ in outputs]
    )
    log_probs = jax.nn.logsumexp(member_log_probs, axis=0) - jnp.log(len(outputs))
    return log_probs, outputs[0][1]


def _as_list(hypotheses: Hypotheses) -> Hypotheses:
    """Add the axis of an n-best list: (b, ...) -> (b, 1, ...)."""
    return Hypotheses(*(field[:, None] for field in hypotheses))


def _decoded(hypotheses: Hypotheses) -> Decoded:
    positions = jnp.arange(hypotheses.tokens.shape[-1])
    is_output = (positions > 0) & (positions < hypotheses.lengths[..., None])  # not BOS, not PAD
    confidences = jnp.where(is_output, jnp.exp(hypotheses.token_log_probs), 0.0)
    return Decoded(hypotheses.tokens, hypotheses.scores, confidences)


DECODERS: dict[str, Decoder] = {
    "greedy": _greedy,
    "beam": _beam,
    "ctc": _ctc,
    "ctc_beam": _ctc_beam,
    "sample": _sample,
}
# These spell the training targets of the CTC head, which may be glosses.
CTC_DECODERS = ("ctc", "ctc_beam")
