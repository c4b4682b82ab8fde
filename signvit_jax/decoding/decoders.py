"""The ways from an encoded clip to text, by name, with one signature: what `eval`, `translate` and training's samples choose from.

Every decoder takes one model or an ensemble, whose probabilities are averaged at every step, and gives an n-best list: of `inference.n_best` from
`beam` and `ctc_beam`, of one from the others.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key

from signvit_jax.config.schema import InferenceConfig
from signvit_jax.decoding.autoregressive import DecodingError, Hypotheses, Source
from signvit_jax.decoding.beam_search import beam_search
from signvit_jax.decoding.ctc import align, greedy_ctc
from signvit_jax.decoding.ctc_prefix_beam import ctc_prefix_beam_search
from signvit_jax.decoding.greedy import greedy
from signvit_jax.decoding.joint import rescore
from signvit_jax.decoding.sampling import sample
from signvit_jax.models.translator import Encoded, SignTranslator


class Decoded(NamedTuple):
    """n hypotheses a clip, best first: ids padded with 0, the decoder's own score (-inf where a list has fewer), and each token's probability."""

    tokens: Int[Array, "b n l"]
    scores: Float[Array, "b n"]
    token_confidences: Float[Array, "b n l"]  # 0 to 1; 0 at BOS and padding
    starts: Int[Array, "b l"] | None = (
        None  # of "ctc": the first step of each token, and one past its last
    )
    ends: Int[Array, "b l"] | None = None
    peaks: Float[Array, "b l"] | None = None  # and its largest log-odds


class SpecialIds(NamedTuple):
    bos: int
    eos: int


class Seen(NamedTuple):
    """A clip batch as one model sees it."""

    model: SignTranslator
    encoded: Encoded


# Called with the ensemble, the config, the special ids, a key, and the clips' numbers (see `sample`; None: their places).
Decoder = Callable[..., Decoded]
_Rows = Int[Array, "b"] | None


def _greedy(
    ensemble: Sequence[Seen],
    config: InferenceConfig,
    ids: SpecialIds,
    key: Key[Array, ""],
    rows: _Rows = None,
) -> Decoded:
    return _from_hypotheses(_one_best(greedy(_sources(ensemble), **_shared_options(config, ids))))


def _sample(
    ensemble: Sequence[Seen],
    config: InferenceConfig,
    ids: SpecialIds,
    key: Key[Array, ""],
    rows: _Rows = None,
) -> Decoded:
    cuts = {"temperature": config.temperature, "top_k": config.top_k, "top_p": config.top_p}
    return _from_hypotheses(
        _one_best(
            sample(_sources(ensemble), key, rows=rows, **cuts, **_shared_options(config, ids))
        )
    )


def _beam(
    ensemble: Sequence[Seen],
    config: InferenceConfig,
    ids: SpecialIds,
    key: Key[Array, ""],
    rows: _Rows = None,
) -> Decoded:
    options = _shared_options(config, ids)
    # The whole beam is rescored: what CTC likes best may not be among the attention's first.
    n_best = config.beam_size if config.ctc_weight else config.n_best
    found = beam_search(_sources(ensemble), beam_size=config.beam_size, n_best=n_best, **options)
    if config.ctc_weight:
        lengths = {"length_penalty": config.length_penalty, "formula": config.length_formula}
        found = rescore(
            found, *_ctc_logits(ensemble), eos_id=ids.eos, weight=config.ctc_weight, **lengths
        )
        found = Hypotheses(*(field[:, : config.n_best] for field in found))
    return _from_hypotheses(found)


def _ctc(
    ensemble: Sequence[Seen],
    config: InferenceConfig,
    ids: SpecialIds,
    key: Key[Array, ""],
    rows: _Rows = None,
) -> Decoded:
    found = greedy_ctc(*_ctc_logits(ensemble))
    return Decoded(
        found.ids[:, None],
        found.score[:, None],
        found.confidence[:, None],
        found.starts,
        found.ends,
        found.peak,
    )


def _ctc_beam(
    ensemble: Sequence[Seen],
    config: InferenceConfig,
    ids: SpecialIds,
    key: Key[Array, ""],
    rows: _Rows = None,
) -> Decoded:
    logits, steps = _ctc_logits(ensemble)
    found = ctc_prefix_beam_search(logits, steps, beam_size=config.beam_size)
    n = config.n_best
    aligned = jax.vmap(align, in_axes=(None, None, 1, 1), out_axes=1)(
        logits, steps, found.ids[:, :n], found.lengths[:, :n]
    )
    return Decoded(found.ids[:, :n], found.score[:, :n], aligned.confidence)


def _sources(ensemble: Sequence[Seen]) -> tuple[Source, ...]:
    return tuple(Source(model.decoder, *model.memory(encoded)) for model, encoded in ensemble)


def _shared_options(config: InferenceConfig, ids: SpecialIds) -> dict[str, object]:
    return {
        "bos_id": ids.bos,
        "eos_id": ids.eos,
        "no_repeat_ngram_size": config.no_repeat_ngram_size,
        "length_penalty": config.length_penalty,
        "formula": config.length_formula,
    }


def _ctc_logits(ensemble: Sequence[Seen]) -> tuple[Float[Array, "b s v"], Int[Array, "b"]]:
    """What CTC says, averaged over the ensemble as probabilities. Raises DecodingError where the models read different steps."""
    heard = [model.ctc_logits(encoded) for model, encoded in ensemble]
    shapes = [logits.shape[1:] for logits, _ in heard]
    if len(set(shapes)) > 1 or len({model.ctc_source for model, _ in ensemble}) > 1:
        sources = [(model.ctc_source, *shape) for (model, _), shape in zip(ensemble, shapes)]
        raise DecodingError(
            f"the CTC heads of the ensemble differ in what they read (model.ctc.source, steps, labels): {sources}; "
            "use greedy or beam search with inference.ctc_weight 0, or models with the same CTC head"
        )
    if len(heard) == 1:
        return heard[0]
    voices = jnp.stack([jax.nn.log_softmax(logits.astype(jnp.float32)) for logits, _ in heard])
    return jax.nn.logsumexp(voices, axis=0) - jnp.log(len(heard)), heard[0][1]


def _one_best(found: Hypotheses) -> Hypotheses:
    return Hypotheses(*(field[:, None] for field in found))


def _from_hypotheses(found: Hypotheses) -> Decoded:
    positions = jnp.arange(found.tokens.shape[-1])
    said = (positions > 0) & (positions < found.lengths[..., None])  # BOS is given, not said
    return Decoded(found.tokens, found.scores, jnp.where(said, jnp.exp(found.token_log_probs), 0.0))


DECODERS: dict[str, Decoder] = {
    "greedy": _greedy,
    "beam": _beam,
    "ctc": _ctc,
    "ctc_beam": _ctc_beam,
    "sample": _sample,
}
CTC_DECODERS = (
    "ctc",
    "ctc_beam",
)  # these spell what the CTC head is trained on, which may be glosses
