"""Runs decoders over a split: every clip once, on all devices, text and confidence out."""

import dataclasses
import functools
import itertools
import math
from collections.abc import Callable, Iterable, Mapping, Sequence

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh
from jaxtyping import PyTree

from signvit_jax.config.schema import InferenceConfig
from signvit_jax.decoding.confidence import Calibration, statistics
from signvit_jax.decoding.decoders import CTC_DECODERS, DECODERS, Decoded, EncodedClips
from signvit_jax.decoding.search_options import SearchOptions
from signvit_jax.inference.resting import Heard
from signvit_jax.models.translator import Encoded, SignTranslator
from signvit_jax.parallel.sharding import to_device
from signvit_jax.text.tokenizer import Tokenizer
from signvit_jax.text.words import Word, word_confidences

Models = SignTranslator | tuple[SignTranslator, ...]
Encode = Callable[[PyTree, jax.Array, jax.Array], tuple[Encoded, ...]]


@dataclasses.dataclass(frozen=True)
class Hypothesis:
    """One clip's text by one decoder; `score` is the decoder's own, `confidence` from 0 to 1.

    With a calibration `confidence` is the probability that the text is right, without one the mean probability of its tokens; so are those of words.

    A text whose confidence is below `inference.min_confidence` is left out: text, tokens and words are empty, score and confidence stay.
    """

    text: str
    tokens: tuple[int, ...]
    score: float
    confidence: float
    words: tuple[Word, ...] = ()
    alternatives: tuple["Hypothesis", ...] = ()  # the rest of the n-best list
    probabilities: tuple[float, ...] = ()  # of the tokens that were said, EOS included
    heard: tuple[Heard, ...] = ()  # of "ctc": its tokens in time, where it reads frames


class Predictor:
    """Compiled decoders: one program a decoder and clip length, shared by all batches of that shape and all predictors of that model.

    `bind` makes the model of its parameters, or a tuple of models, whose probabilities are averaged at every step. `encode` is run in place of their
    encoders: (parameters, video, frame lengths) to one `Encoded` a model. `calibration` makes confidences probabilities of being right; for that the
    CTC head is listened to, whatever the decoders.
    """

    def __init__(
        self,
        bind: Callable[[PyTree], Models],
        tokenizer: Tokenizer,
        ctc_tokenizer: Tokenizer,
        config: InferenceConfig,
        mesh: Mesh,
        decoders: Sequence[str],
        encode: Encode | None = None,
        calibration: Calibration | None = None,
    ):
        self.mesh, self.config = mesh, config
        self.tokenizers = {
            name: ctc_tokenizer if name in CTC_DECODERS else tokenizer for name in decoders
        }
        options = SearchOptions.from_config(
            config, bos_id=tokenizer.bos_id, eos_id=tokenizer.eos_id
        )
        self._encode = encode or _encoder(bind)
        self.scales = {
            name: scales for name in decoders if calibration and (scales := calibration.of(name))
        }
        self.fitted_on = (
            {name: calibration.fitted_on(name) for name in decoders} if calibration else {}
        )
        self._lexicon = calibration.lexicon if calibration else None
        self._ctc_tokenizer = ctc_tokenizer
        needs_ctc = any(scales.needs_ctc for scales in self.scales.values())
        self._decode = {
            name: _program(bind, name, options)
            for name in dict.fromkeys([*decoders, *["ctc"] * needs_ctc])
        }

    def __call__(
        self, params: PyTree, batch: Mapping[str, np.ndarray], seed: int = 0
    ) -> dict[str, list[Hypothesis]]:
        """Decoder name -> one hypothesis a row of the global batch; the clips are encoded once for all decoders.

        What sampling draws for a clip follows from `seed` and its number in `batch["index"]` (without: its place in the batch),
        wherever it is in whatever batch.
        """
        index = batch.get("index", np.arange(len(batch["frame_lengths"]), dtype=np.int32))
        on_device = to_device(
            {"video": batch["video"], "frame_lengths": batch["frame_lengths"], "index": index},
            self.mesh,
        )
        encoded = self._encode(params, on_device["video"], on_device["frame_lengths"])
        decoded = {
            name: program(params, encoded, jax.random.key(seed), on_device["index"])
            for name, program in self._decode.items()
        }
        found = {
            name: _hypotheses(_fetch(one), self.tokenizers.get(name, self._ctc_tokenizer))
            for name, one in decoded.items()
        }
        heard = [said.text for said in found["ctc"]] if "ctc" in found else itertools.repeat(None)
        return {
            name: [self._judged(name, *one) for one in zip(found[name], heard)]
            for name in self.tokenizers
        }

    def _judged(self, decoder: str, said: Hypothesis, heard: str | None) -> Hypothesis:
        """With the confidences of the calibration, if there is one for that decoder, and without the texts that are not sure enough."""
        said = self._calibrated(decoder, said, heard)
        others = tuple(self._calibrated(decoder, other, heard) for other in said.alternatives)
        first, *others = [
            _left_out(one) if one.confidence < self.config.min_confidence else one
            for one in (said, *others)
        ]
        return dataclasses.replace(first, alternatives=tuple(others))

    def _calibrated(self, decoder: str, said: Hypothesis, heard: str | None) -> Hypothesis:
        scales = self.scales.get(decoder)
        if scales is None:
            return said
        of_sentence, of_words = statistics(
            decoder, said.score, said.probabilities, said.words, heard, self._lexicon
        )
        words = said.words
        if scales.word:
            words = tuple(
                word._replace(confidence=scales.word(its)) for word, its in zip(words, of_words)
            )
        return dataclasses.replace(said, confidence=scales.sentence(of_sentence), words=words)

    def predict_split(
        self,
        params: PyTree,
        batches: Iterable[Mapping[str, np.ndarray]],
        should_stop: Callable[[], bool] = lambda: False,
        on_batch: Callable[[int], None] = lambda clips: None,
    ) -> dict[int, dict[str, Hypothesis]]:
        """Position in the split -> decoder -> hypothesis, for the clips of all processes; ends early when `should_stop()`."""
        found: dict[int, dict[str, Hypothesis]] = {}
        for batch in batches:
            if should_stop():
                break
            by_decoder = self(params, batch)
            positions = _fetch(to_device({"index": batch["index"]}, self.mesh))["index"].tolist()
            for row, position in enumerate(positions):
                if position >= 0:
                    found[position] = {
                        name: hypotheses[row] for name, hypotheses in by_decoder.items()
                    }
            on_batch(sum(position >= 0 for position in positions))
        return dict(sorted(found.items()))


def _ensemble(models: Models) -> tuple[SignTranslator, ...]:
    return models if isinstance(models, tuple) else (models,)


@functools.lru_cache(maxsize=8)
def _encoder(bind: Callable[[PyTree], Models]) -> Encode:
    return jax.jit(
        lambda params, video, lengths: tuple(
            model.encode(video, lengths) for model in _ensemble(bind(params))
        )
    )


@functools.lru_cache(maxsize=64)
def _program(
    bind: Callable[[PyTree], Models], decoder: str, options: SearchOptions
) -> Callable[..., Decoded]:
    def run(
        params: PyTree, encoded: tuple[Encoded, ...], rng: jax.Array, clips: jax.Array
    ) -> Decoded:
        ensemble = [EncodedClips(*pair) for pair in zip(_ensemble(bind(params)), encoded)]
        return DECODERS[decoder](ensemble, options, rng, clips)

    return jax.jit(run)


def _fetch(arrays: PyTree) -> PyTree:
    """Device arrays as numpy, the rows of other processes included."""
    if jax.process_count() > 1:
        arrays = multihost_utils.process_allgather(arrays, tiled=True)
    return jax.tree.map(np.asarray, arrays)


def _hypotheses(decoded: Decoded, tokenizer: Tokenizer) -> list[Hypothesis]:
    rows = zip(decoded.tokens.tolist(), decoded.scores.tolist(), decoded.token_confidences.tolist())
    found = [_n_best(*row, tokenizer) for row in rows]
    if decoded.starts is None or decoded.ends is None or decoded.peaks is None:
        return found
    fields = (
        decoded.tokens[:, 0],
        decoded.starts,
        decoded.ends,
        decoded.token_confidences[:, 0],
        decoded.peaks,
    )
    heard = [
        tuple(Heard(*place) for token, *place in zip(*row) if token)
        for row in zip(*(field.tolist() for field in fields))
    ]
    return [dataclasses.replace(one, heard=its) for one, its in zip(found, heard)]


def _n_best(
    tokens: list[list[int]],
    scores: list[float],
    confidences: list[list[float]],
    tokenizer: Tokenizer,
) -> Hypothesis:
    found = [_hypothesis(*one, tokenizer) for one in zip(tokens, scores, confidences)]
    # Places that the list could not fill have score -inf.
    return dataclasses.replace(
        found[0], alternatives=tuple(other for other in found[1:] if other.score > -math.inf)
    )


def _hypothesis(
    padded: list[int], score: float, confidences: list[float], tokenizer: Tokenizer
) -> Hypothesis:
    tokens = [token for token in padded if token]
    sure = confidences[: len(tokens)]
    said = tuple(confidence for token, confidence in zip(tokens, sure) if token != tokenizer.bos_id)
    confidence = sum(said) / len(said) if said else 0.0
    words = word_confidences(tokens, sure, tokenizer.decode, tokenizer.pieces)
    return Hypothesis(
        tokenizer.decode(tokens), tuple(tokens), score, confidence, words, probabilities=said
    )


def _left_out(said: Hypothesis) -> Hypothesis:
    return Hypothesis("", (), said.score, said.confidence, heard=said.heard)
