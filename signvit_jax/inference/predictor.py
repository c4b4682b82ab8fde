"""Compiled decoders over batches of clips: text and confidence of each clip, on all devices."""

import collections
import dataclasses
import enum
import functools
import itertools
import math
import threading
import zlib
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple, TypedDict

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh
from jaxtyping import Int32, PyTree, UInt8

from signvit_jax.config.schema import InferenceConfig
from signvit_jax.decoding.autoregressive import length_normalizer
from signvit_jax.decoding.confidence import Calibration, Statistics, statistics, word_keys
from signvit_jax.decoding.decoders import CTC_DECODERS, DECODERS, Decoded, EncodedClips
from signvit_jax.decoding.lexicon import Lexicon
from signvit_jax.decoding.search_options import SearchOptions
from signvit_jax.inference.resting import CtcSign
from signvit_jax.models.translator import Encoded, SignTranslator
from signvit_jax.parallel.sharding import to_device
from signvit_jax.text.tokenizer import Tokenizer
from signvit_jax.text.words import Word, word_confidences, word_tokens

Models = SignTranslator | tuple[SignTranslator, ...]
Encode = Callable[[PyTree, jax.Array, jax.Array], tuple[Encoded, ...]]
Frames = UInt8[np.ndarray, "t h w 3"]  # of one clip
# What all clips of one batch share: decoders, options, seed, frames of the bucket.
_BatchKey = tuple[tuple[str, ...], InferenceConfig, int, int]


class Clips(TypedDict):
    """The keys of a batch that decoding reads; a batch for training has more, which it ignores."""

    video: UInt8[np.ndarray, "b t h w 3"]
    frame_lengths: Int32[np.ndarray, " b"]


class NumberedClips(Clips):
    """Clips with a number for each, which sampling depends on.

    Of a split: the position of the clip in it, -1 for a padding row. Elsewhere any number.
    """

    index: Int32[np.ndarray, " b"]


class CtcWord(NamedTuple):
    """A word or gloss of CTC's text: the sampled frames from `start` to before `end`."""

    text: str
    start: int
    end: int


@dataclasses.dataclass(frozen=True)
class Hypothesis:
    """The text of one clip by one decoder.

    `confidence` is from 0 to 1: with a calibration the probability that the text is right, without
    one the mean probability of its tokens; likewise for words. A text whose confidence is below
    `inference.min_confidence` is left out: only score, confidence and what CTC saw stay.
    """

    text: str
    tokens: tuple[int, ...]
    score: float  # as the decoder defines it
    confidence: float
    words: tuple[Word, ...] = ()
    alternatives: tuple["Hypothesis", ...] = ()  # the rest of the n-best list
    probabilities: tuple[float, ...] = ()  # of the tokens without BOS, EOS included
    # Of decoder "ctc", if CTC reads frames: the times of its tokens, and those of its words.
    ctc_signs: tuple[CtcSign, ...] = ()
    ctc_words: tuple[CtcWord, ...] = ()

    def statistics(
        self, decoder: str, ctc_text: str | None, lexicon: Lexicon | None
    ) -> tuple[Statistics, list[Statistics]]:
        """Return the statistics behind the confidences: of the text, and of each of its words."""
        return statistics(decoder, self.score, self.probabilities, self.words, ctc_text, lexicon)


class Predictor:
    """Compiled decoders of one model, or of an ensemble.

    One program is compiled per decoder and shape of a batch. Programs are shared by all predictors
    of a model.

    Args:
        bind: Takes parameters; returns the model with them, or a tuple of models, whose token
            probabilities are averaged at every step.
        encode: Runs in place of the models' encoders; returns one `Encoded` per model.
        calibration: Makes confidences probabilities of being right. CTC is then decoded too,
            whatever the decoders, if the calibration compares texts with it.
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
        self.mesh = mesh
        self.config = config
        self.tokenizers = {
            name: ctc_tokenizer if name in CTC_DECODERS else tokenizer for name in decoders
        }
        self.scales = {}
        self.fitted_on = {}
        self.lexicon = None
        if calibration:
            by_name = {name: calibration.of(name) for name in decoders}
            self.scales = {name: scales for name, scales in by_name.items() if scales}
            self.fitted_on = {name: calibration.fitted_on(name) for name in decoders}
            self.lexicon = calibration.lexicon
        self._ctc_tokenizer = ctc_tokenizer
        self._encode = encode or _encoder(bind)
        options = SearchOptions.from_config(
            config, bos_id=tokenizer.bos_id, eos_id=tokenizer.eos_id
        )
        # The lexicon reranks the complete beam, because the text with a word for every sign may
        # have a low rank in it.
        full_beam = dataclasses.replace(options, n_best=options.beam_size)
        self._options = options
        self._reranks = bool(self.lexicon and config.lexicon_weight and "beam" in decoders)
        needs_ctc = self._reranks or any(scales.needs_ctc for scales in self.scales.values())
        names = dict.fromkeys([*decoders, "ctc"] if needs_ctc else decoders)
        self._programs = {
            name: _program(bind, name, full_beam if self._reranks and name == "beam" else options)
            for name in names
        }

    def __call__(self, params: PyTree, batch: Clips, seed: int = 0) -> dict[str, list[Hypothesis]]:
        """Return, by decoder, one hypothesis per row of the global batch.

        Clips are encoded once for all decoders. The sampled text of a clip depends on `seed` and on
        the clip's number in `batch["index"]` (default: its row), and not on the rest of the batch.
        """
        index = batch.get("index", np.arange(len(batch["frame_lengths"]), dtype=np.int32))
        on_device = to_device(
            {"video": batch["video"], "frame_lengths": batch["frame_lengths"], "index": index},
            self.mesh,
        )
        encoded = self._encode(params, on_device["video"], on_device["frame_lengths"])
        decoded = {
            name: program(params, encoded, jax.random.key(seed), on_device["index"])
            for name, program in self._programs.items()
        }
        hypotheses = {
            name: _hypotheses(_gather(outputs), self.tokenizers.get(name, self._ctc_tokenizer))
            for name, outputs in decoded.items()
        }
        ctc_texts = itertools.repeat(None)
        if "ctc" in hypotheses:
            ctc_texts = [hypothesis.text for hypothesis in hypotheses["ctc"]]
        if self._reranks:
            rows = zip(hypotheses["beam"], hypotheses["ctc"])
            hypotheses["beam"] = [self._reranked(beam, ctc) for beam, ctc in rows]
        return {
            name: [
                self._with_confidence(name, hypothesis, ctc_text)
                for hypothesis, ctc_text in zip(hypotheses[name], ctc_texts)
            ]
            for name in self.tokenizers
        }

    def _reranked(self, hypothesis: Hypothesis, ctc: Hypothesis) -> Hypothesis:
        """Rank the n-best list of a clip by the decoder and the lexicon together.

        The lexicon's shortfall, in nats, is subtracted from the log-probability of a text: it is
        large for a text without the words of a sign that CTC detects, or with words that it does
        not detect.
        """
        assert self.lexicon is not None
        glosses = word_keys(ctc.text.split())
        ranked = []
        for one in (hypothesis, *hypothesis.alternatives):
            words = word_keys([word.text for word in one.words])
            shortfall = self.config.lexicon_weight * self.lexicon.shortfall(glosses, words)
            length = jnp.asarray(1 + len(one.probabilities))  # with BOS
            score = one.score - shortfall / float(length_normalizer(length, self._options))
            ranked.append(dataclasses.replace(one, score=score, alternatives=()))
        ranked.sort(key=lambda one: -one.score)
        first, *others = ranked[: self.config.n_best]
        return dataclasses.replace(first, alternatives=tuple(others))

    def _with_confidence(
        self, decoder: str, hypothesis: Hypothesis, ctc_text: str | None
    ) -> Hypothesis:
        """Apply the decoder's calibration, if any, and leave out texts below `min_confidence`."""
        first, *others = [
            self._calibrated(decoder, one, ctc_text)
            for one in (hypothesis, *hypothesis.alternatives)
        ]
        first, *others = [
            _without_text(one) if one.confidence < self.config.min_confidence else one
            for one in (first, *others)
        ]
        return dataclasses.replace(first, alternatives=tuple(others))

    def _calibrated(self, decoder: str, hypothesis: Hypothesis, ctc_text: str | None) -> Hypothesis:
        scales = self.scales.get(decoder)
        if scales is None:
            return hypothesis
        of_sentence, of_words = hypothesis.statistics(decoder, ctc_text, self.lexicon)
        words = hypothesis.words
        if scales.word:
            words = tuple(
                word._replace(confidence=scales.word(found)) for word, found in zip(words, of_words)
            )
        return dataclasses.replace(hypothesis, confidence=scales.sentence(of_sentence), words=words)

    def predict_split(
        self,
        params: PyTree,
        batches: Iterable[NumberedClips],
        should_stop: Callable[[], bool] = lambda: False,
        on_batch: Callable[[int], None] = lambda clips: None,
    ) -> dict[int, dict[str, Hypothesis]]:
        """Decode the clips of all processes.

        Returns position in the split -> decoder -> hypothesis. Ends early when `should_stop()`.
        `on_batch` is given the number of clips of each batch.
        """
        found: dict[int, dict[str, Hypothesis]] = {}
        for batch in batches:
            if should_stop():
                break
            by_decoder = self(params, batch)
            positions = _gather(to_device({"index": batch["index"]}, self.mesh))["index"].tolist()
            for row, position in enumerate(positions):
                if position >= 0:
                    found[position] = {
                        name: hypotheses[row] for name, hypotheses in by_decoder.items()
                    }
            on_batch(sum(position >= 0 for position in positions))
        return dict(sorted(found.items()))


def _members(models: Models) -> tuple[SignTranslator, ...]:
    return models if isinstance(models, tuple) else (models,)


@functools.lru_cache(maxsize=8)
def _encoder(bind: Callable[[PyTree], Models]) -> Encode:
    return jax.jit(
        lambda params, video, lengths: tuple(
            model.encode(video, lengths) for model in _members(bind(params))
        )
    )


@functools.lru_cache(maxsize=64)
def _program(
    bind: Callable[[PyTree], Models], decoder: str, options: SearchOptions
) -> Callable[..., Decoded]:
    def run(
        params: PyTree, encoded: tuple[Encoded, ...], rng: jax.Array, clips: jax.Array
    ) -> Decoded:
        ensemble = [EncodedClips(*pair) for pair in zip(_members(bind(params)), encoded)]
        return DECODERS[decoder](ensemble, options, rng, clips)

    return jax.jit(run)


def _gather(arrays: PyTree) -> PyTree:
    """Return device arrays as NumPy's, gathered from all processes."""
    if jax.process_count() > 1:
        arrays = multihost_utils.process_allgather(arrays, tiled=True)
    return jax.tree.map(np.asarray, arrays)


def _hypotheses(decoded: Decoded, tokenizer: Tokenizer) -> list[Hypothesis]:
    """Return one hypothesis per clip, with CTC's signs and words if `decoded` has their times."""
    rows = zip(decoded.tokens.tolist(), decoded.scores.tolist(), decoded.token_confidences.tolist())
    hypotheses = [_n_best(*row, tokenizer) for row in rows]
    if decoded.starts is None or decoded.ends is None or decoded.peaks is None:
        return hypotheses
    fields = (  # the tokens, then the fields of CtcSign in their order
        decoded.tokens[:, 0],
        decoded.starts,
        decoded.ends,
        decoded.token_confidences[:, 0],
        decoded.peaks,
    )
    timed = []
    for row, hypothesis in enumerate(hypotheses):
        of_clip = zip(*(field[row].tolist() for field in fields))
        signs = tuple(CtcSign(*values) for token, *values in of_clip if token)
        words = _ctc_words(hypothesis.tokens, signs, tokenizer)
        timed.append(dataclasses.replace(hypothesis, ctc_signs=signs, ctc_words=words))
    return timed


def _ctc_words(
    tokens: Sequence[int], signs: Sequence[CtcSign], tokenizer: Tokenizer
) -> tuple[CtcWord, ...]:
    """The words that CTC's tokens spell, each from its first token to its last."""
    words, members = word_tokens(tokens, tokenizer.decode, tokenizer.pieces)
    return tuple(
        CtcWord(word.strip(), signs[tokens_of_word[0]].start, signs[tokens_of_word[-1]].end)
        for word, tokens_of_word in zip(words, members)
        if tokens_of_word
    )


def _n_best(
    tokens: list[list[int]],
    scores: list[float],
    confidences: list[list[float]],
    tokenizer: Tokenizer,
) -> Hypothesis:
    first, *others = [_hypothesis(*one, tokenizer) for one in zip(tokens, scores, confidences)]
    # Entries of the list that the search could not fill have score -inf.
    alternatives = tuple(other for other in others if other.score > -math.inf)
    return dataclasses.replace(first, alternatives=alternatives)


def _hypothesis(
    padded: list[int], score: float, confidences: list[float], tokenizer: Tokenizer
) -> Hypothesis:
    tokens = [token for token in padded if token]
    confidences = confidences[: len(tokens)]
    probabilities = tuple(
        probability for token, probability in zip(tokens, confidences) if token != tokenizer.bos_id
    )
    return Hypothesis(
        text=tokenizer.decode(tokens),
        tokens=tuple(tokens),
        score=score,
        confidence=sum(probabilities) / len(probabilities) if probabilities else 0.0,
        words=word_confidences(tokens, confidences, tokenizer.decode, tokenizer.pieces),
        probabilities=probabilities,
    )


def _without_text(hypothesis: Hypothesis) -> Hypothesis:
    return Hypothesis(
        "",
        (),
        hypothesis.score,
        hypothesis.confidence,
        ctc_signs=hypothesis.ctc_signs,
        ctc_words=hypothesis.ctc_words,
    )


class Priority(enum.IntEnum):
    """What a clip is read for, which decides who is next when several threads wait."""

    FILE = 0  # a video file, which may wait
    HYPOTHESIS = 1  # a live text that may still change
    FINAL = 2  # a live text that becomes final


# How many batches in a row live clips of a priority may take while files wait.
_BATCHES_IN_A_ROW = {Priority.HYPOTHESIS: 1, Priority.FINAL: 3}


class _WaitingClip:
    """A clip that waits for the device, and later its result: `hypotheses` or `error`."""

    def __init__(self, frames: Frames, key: _BatchKey, predictor: Predictor, priority: Priority):
        self.frames = frames
        self.key = key
        self.predictor = predictor
        self.priority = priority
        self.hypotheses: dict[str, Hypothesis] = {}
        self.error: Exception | None = None
        self.is_done = False


class BatchDecoder:
    """Decoding of any number of clips in batches of few shapes: few programs are compiled.

    Safe to call from several threads: nothing is compiled twice, and one batch at a time is on the
    device. Clips of several threads can share a batch: `most_shared`.

    Args:
        weights: Parameters of the model, as `Predictor` takes them.
        frame_buckets: Increasing lengths in frames; a clip is padded to the next one.
        num_devices: Padding rows make the rows of a batch a multiple of it.
    """

    def __init__(self, weights: PyTree, frame_buckets: Sequence[int], *, num_devices: int):
        self._weights = weights
        self._frame_buckets = frame_buckets
        self._num_devices = num_devices
        self._device_lock = threading.Lock()
        # Largest batch that clips of several threads may share while they wait for the device; 1:
        # threads share no batch. Shared batches have other sizes than the calls alone would give.
        self.most_shared = 1
        self._waiting: list[_WaitingClip] = []
        self._waiting_lock = threading.Lock()
        self._in_a_row = 0  # batches since the last one that was for a file

    def decode(
        self,
        clips: Sequence[Frames],
        seed: int,
        predictor: Predictor,
        *,
        priority: Priority = Priority.FILE,
    ) -> list[dict[str, Hypothesis]]:
        """Decode clips of any lengths; return decoder -> hypothesis for each of them.

        Clips of one bucket are decoded together, in batches of `next_batch_size`. Where clips of
        several threads share batches, live texts that become final come first, and every other
        batch is for live hypotheses, if any wait. The rest of a batch is filled with clips that
        run the same program as its first one, whatever their priority.
        """
        if self.most_shared > 1:
            return self._decode_shared(clips, seed, predictor, priority)
        by_bucket: dict[int, list[int]] = collections.defaultdict(list)
        for position, frames in enumerate(clips):
            by_bucket[self._bucket(len(frames))].append(position)
        found: dict[int, dict[str, Hypothesis]] = {}
        for positions in by_bucket.values():
            while positions:
                size = next_batch_size(len(positions), predictor.config.batch_size)
                batch, positions = positions[:size], positions[size:]
                with self._device_lock:
                    decoded = self._decode_batch([clips[i] for i in batch], seed, predictor)
                for row, position in enumerate(batch):
                    found[position] = {name: rows[row] for name, rows in decoded.items()}
        return [found[position] for position in range(len(clips))]

    def _decode_shared(
        self, clips: Sequence[Frames], seed: int, predictor: Predictor, priority: Priority
    ) -> list[dict[str, Hypothesis]]:
        """Decode clips together with those of other threads that wait for the same programs.

        The thread that has the device decodes the next waiting clip, with others like it, until its
        own clips are done. So no thread waits for a batch to fill.
        """
        key = (tuple(predictor.tokenizers), predictor.config, seed)
        own = [
            _WaitingClip(frames, (*key, self._bucket(len(frames))), predictor, priority)
            for frames in clips
        ]
        with self._waiting_lock:
            self._waiting += own
        try:
            for clip in own:
                while not clip.is_done:
                    with self._device_lock:
                        if not clip.is_done:
                            self._decode_waiting()
        finally:
            with self._waiting_lock:
                self._waiting = [clip for clip in self._waiting if clip not in own]
        for clip in own:
            if clip.error is not None:
                raise clip.error
        return [clip.hypotheses for clip in own]

    def _decode_waiting(self) -> None:
        """Decode the clip whose turn it is, and others of its kind."""
        with self._waiting_lock:
            first = self._next_waiting()
            self._in_a_row = 0 if first.priority is Priority.FILE else self._in_a_row + 1
            alike = [clip for clip in self._waiting if clip.key == first.key and clip is not first]
            alike.sort(key=lambda clip: -clip.priority)  # equal ones stay in the order of waiting
            max_size = min(self.most_shared, first.predictor.config.batch_size)
            size = next_batch_size(1 + len(alike), max_size)
            batch = [first, *alike[: size - 1]]
            self._waiting = [clip for clip in self._waiting if clip not in batch]
        try:
            decoded = self._decode_batch(
                [clip.frames for clip in batch], first.key[2], first.predictor
            )
            for row, clip in enumerate(batch):
                clip.hypotheses = {name: rows[row] for name, rows in decoded.items()}
        except Exception as error:
            for clip in batch:
                clip.error = error
        finally:
            for clip in batch:
                clip.is_done = True

    def _next_waiting(self) -> _WaitingClip:
        """The most urgent clip, the longest waiting of equal ones, or a file whose turn it is."""
        first = max(self._waiting, key=lambda clip: clip.priority)  # the first of equal ones
        file = next((clip for clip in self._waiting if clip.priority is Priority.FILE), first)
        return file if self._in_a_row >= _BATCHES_IN_A_ROW.get(first.priority, 0) else first

    def warm_up(self, predictor: Predictor, num_clips: int, image_size: int) -> set[int]:
        """Decode blank clips of every bucket, in the batch sizes that 1 to `num_clips` clips need.

        Returns the sizes of these batches.
        """
        max_size = predictor.config.batch_size
        counts = range(1, min(num_clips, max_size) + 1)
        sizes = {next_batch_size(count, max_size) for count in counts}
        for bucket in self._frame_buckets:
            blank = np.zeros((bucket, image_size, image_size, 3), np.uint8)
            for size in sizes:
                with self._device_lock:
                    self._decode_batch([blank] * size, 0, predictor)
        return sizes

    def _decode_batch(
        self, clips: Sequence[Frames], seed: int, predictor: Predictor
    ) -> dict[str, list[Hypothesis]]:
        """Decode one batch of clips of one bucket; the caller has the device."""
        rows = math.ceil(len(clips) / self._num_devices) * self._num_devices
        bucket = self._bucket(max(map(len, clips)))
        video = np.zeros((rows, bucket, *clips[0].shape[1:]), np.uint8)
        lengths = np.ones((rows,), np.int32)
        numbers = np.zeros((rows,), np.int32)
        for row, frames in enumerate(clips):
            video[row, : len(frames)] = frames
            lengths[row] = len(frames)
            if "sample" in predictor.tokenizers:
                # Random draws depend on the frames, and so not on the clip's place in a list.
                checksum = zlib.crc32(np.ascontiguousarray(frames))
                numbers[row] = np.uint32(checksum).astype(np.int32)
        batch = NumberedClips(video=video, frame_lengths=lengths, index=numbers)
        found = predictor(self._weights, batch, seed)
        return {name: hypotheses[: len(clips)] for name, hypotheses in found.items()}

    def _bucket(self, num_frames: int) -> int:
        """The length that a clip of this many frames is padded to."""
        return next(bucket for bucket in self._frame_buckets if num_frames <= bucket)


def next_batch_size(count: int, max_size: int) -> int:
    """Size of the next batch when `count` clips are left: `max_size`, or a power of two.

    It is the largest power of two up to `count`. So few shapes are compiled, and on one device no
    batch has padding rows.
    """
    return max_size if count >= max_size else 1 << (count.bit_length() - 1)
