"""What a notebook or a server uses: `load_translator(workdir).translate(clip).text`."""

import collections
import dataclasses
import itertools
import os
import threading
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from signvit_jax.inference.clip_arguments import (
    checked_clip,
    checked_pace,
    checked_rate,
    checked_seed,
    checked_source,
    is_frames,
    named_errors,
)
from signvit_jax.inference.joining import join_windows
from signvit_jax.inference.loading import load_model
from signvit_jax.inference.predictor import Hypothesis, Predictor
from signvit_jax.inference.resting import Heard, evidence, is_frozen
from signvit_jax.inference.streaming import (
    LiveCaptions,
    Reading,
    SourceError,
    StreamUpdate,
    open_source,
)
from signvit_jax.inference.subtitles import Alternative, Segment
from signvit_jax.inference.trained_model import TrainedModel
from signvit_jax.inference.windowing import (
    RECORDING,
    Clip,
    ClipError,
    Span,
    VideoInput,
    check_frames,
    longest_window,
    open_video_input,
    sampled,
    segment_of,
    signs_of,
    thinner_than_trained,
)
from signvit_jax.media.frames import fit_frames
from signvit_jax.media.video import VideoDecodeError, VideoLimits
from signvit_jax.text.words import Word, words_text

__all__ = ["Clip", "ClipError", "Translation", "Translator", "load_translator"]

_READERS = 4  # files that are read at a time, while the device computes


@dataclasses.dataclass(frozen=True)
class Translation:
    """`score` is the decoder's own; `confidence`, 0 to 1, is that of docs/confidence.md; `seconds` the video's length.

    A recording (a video longer than a clip may be, `inference.max_clip_seconds`) has its text in several `segments`: `text` and `words` are those of
    all, `score` is the lowest, `confidence` the mean of theirs, and tokens and alternatives are not given.
    """

    text: str
    tokens: tuple[int, ...]
    score: float
    confidence: float
    seconds: float
    decoder: str
    words: tuple[Word, ...] = ()
    alternatives: tuple[Alternative, ...] = ()  # the rest of the n-best list
    segments: tuple[Segment, ...] = ()  # what was signed when; none where nobody signs
    evidence: float | None = (
        None  # of CTC that somebody signs, of a recording the most of its pieces; None where CTC cannot tell
    )
    warnings: tuple[str, ...] = ()  # where the model saw fewer frames a second than in training


def load_translator(
    workdir: str | os.PathLike | Sequence[str | os.PathLike],
    *,
    checkpoint: str = "best",
    backend: str | None = None,
    limits: VideoLimits = RECORDING,
) -> "Translator":
    """The translator that a training run left in `workdir`, or an export; `checkpoint` of a run is "best" or "last". Raises WorkdirError.

    Several workdirs, in a list or as "A,B,C", are an ensemble: their probabilities are averaged at every step. Raises ConfigError where their
    vocabularies, or the clips that they read, differ. `backend` is what encodes clips, "jax" or "onnx" (an ONNX export, in onnxruntime on the
    processor's cores); None: what the folder is for. Raises ExportError for an export that is damaged or that needs a package that is not there.
    `limits` is what one video file may cost; the default suits recordings of hours: lower it where files come from strangers.
    """
    return Translator(load_model(workdir, checkpoint, backend), limits)


class Translator:
    """Translates clips, recordings and live video. Safe to call from several threads: they read side by side and take turns on the device."""

    def __init__(self, model: TrainedModel, limits: VideoLimits = RECORDING):
        self.model, self.limits = model, limits
        self._readers = ThreadPoolExecutor(_READERS, "signvit_jax_reader")
        self._device = (
            threading.Lock()
        )  # nothing is compiled twice, and one batch is in memory at a time

    def translate(
        self,
        clip: Clip | Sequence[Clip],
        *,
        decode: str = "greedy",
        fps: float | None = None,
        seed: int = 0,
        **inference: object,
    ) -> Translation | list[Translation]:
        """One `Translation`, or a list of them for a list of clips.

        A clip is the path of a video, the bytes of a video file (or a file opened with "rb"), or uint8 RGB frames, an array
        (t, h, w, 3) or a list of arrays (h, w, 3), the last with `fps` frames a second (default: the rate that the model was
        trained at). `decode` is "greedy", "beam", "ctc", "ctc_beam" or "sample" (drawn: the text follows from `seed` and the
        clip's frames, at any place of a list); keyword arguments such as `beam_size=8` replace values of the config's
        `inference` group. A recording, a video longer than `max_clip_seconds` (0: than the clips that the model was trained
        to see), is cut where nobody signs and read piece by piece, in memory that does not grow with its length. Raises
        VideoDecodeError for a file that cannot be read, ClipError for what is no clip and ConfigError for a decoder, a seed
        or an inference value that is not allowed.
        """
        is_list = isinstance(clip, list | tuple) and not is_frames(clip)
        found = []
        for one in self.translate_each(
            clip if is_list else [clip], decode=decode, fps=fps, seed=seed, **inference
        ):
            if isinstance(one, VideoDecodeError):
                raise one
            found.append(one)
        return found if is_list else found[0]

    def translate_each(
        self,
        clips: Iterable[Clip],
        *,
        decode: str = "greedy",
        fps: float | None = None,
        seed: int = 0,
        **inference: object,
    ) -> Iterator[Translation | VideoDecodeError]:
        """As `translate`, one after the other and in order; a file that cannot be read gives its error in place of a translation.

        `inference.batch_size` clips are decoded together, and the next ones are read meanwhile;
        recordings are read one at a time. Arguments are checked at once.
        """
        predictor = self._predictor(decode, **inference)
        return self._translations(clips, decode, checked_rate(fps), checked_seed(seed), predictor)

    def _translations(
        self, clips: Iterable[Clip], decode: str, fps: float | None, seed: int, predictor: Predictor
    ) -> Iterator[Translation | VideoDecodeError]:
        def read(clip: Clip) -> VideoInput | VideoDecodeError:
            given = checked_clip(clip)
            try:
                footage = open_video_input(
                    given,
                    fps,
                    self.model.config.data,
                    predictor.config,
                    self.limits,
                    self._hear(predictor),
                )
                if isinstance(given, bytes):  # read by way of a temporary file
                    name, opened = f"a video of {len(given):,} bytes", footage.open
                    footage.open = lambda only_a_clip: named_errors(opened(only_a_clip), name)
                return footage.begin()
            except VideoDecodeError as error:
                return error

        groups = itertools.batched(clips, predictor.config.batch_size)
        reading = collections.deque(
            [self._readers.submit(read, clip) for clip in group]
            for group in itertools.islice(groups, 2)
        )
        while reading:
            group = [clip.result() for clip in reading.popleft()]
            reading += [
                [self._readers.submit(read, clip) for clip in ahead]
                for ahead in itertools.islice(groups, 1)
            ]
            yield from self._translate_group(group, decode, seed, predictor)

    def stream(
        self,
        frames: Iterable[np.ndarray] | int | str | os.PathLike,
        *,
        decode: str = "greedy",
        fps: float | None = None,
        every: float = 0.5,
        votes: int = 3,
        **inference: object,
    ) -> Iterator[StreamUpdate]:
        """Captions video as it comes: an update every `every` seconds, with partial text from CTC and settled text from the decoder.

        `frames` is a camera's index (needs the extra `camera`), a video file, played at its own rate, or an iterable of uint8 RGB frames (h, w, 3).
        The frames of an iterable are live, timed by the clock as they arrive; with `fps` they are a recording at that rate, of which every frame is
        waited for. Live frames are dropped rather than that the delay grows; no more are held than a window and a rest have. The text of an
        update is what most of the last `votes` hypotheses say. Raises ConfigError and SourceError at once, VideoDecodeError and ClipError between
        updates.
        """
        frames, fps = checked_source(frames), checked_rate(fps, SourceError)
        checked_pace(every, votes)
        predictor = self.model.predictor(list(dict.fromkeys([decode, "ctc"])), **inference)
        config, data = predictor.config, self.model.config.data

        def fit(frame: np.ndarray) -> np.ndarray:
            check_frames(np.asarray(frame)[None])
            return fit_frames([frame], data.image_size, data.resize_mode)[0]

        def read(held: Sequence[np.ndarray], rate: float) -> Reading:
            span = sampled(held, rate, data)
            said = self._run([span], predictor)
            heard = said["ctc"][0]
            signs = tuple(signs_of(span, heard.heard)) if self.model.ctc_tells_times else None
            return Reading(
                self._unless_rest(
                    span, {name: one[0] for name, one in said.items()}, decode, predictor
                ),
                heard.text,
                signs,
            )

        window = longest_window(data, config)
        source = open_source(frames, fps, fit, 2 * data.image_size, window)
        return LiveCaptions(
            read, window, config.window_overlap, every, votes, config.rest_seconds
        ).follow(source)

    def warm_up(self, decode: str = "greedy", **inference: object) -> None:
        """Compiles all that `translate` will run with these arguments: every clip length, alone and in batches of every size."""
        config, predictor = self.model.config, self._predictor(decode, **inference)
        size, most = config.data.image_size, predictor.config.batch_size
        for bucket in config.frame_buckets:
            blank = Span(np.zeros((bucket, size, size, 3), np.uint8), 0.0, 0.0)
            for count in {_part(count, most) for count in range(1, most + 1)}:
                self._run([blank] * count, predictor)

    def _translate_group(
        self,
        group: Sequence[VideoInput | VideoDecodeError],
        decode: str,
        seed: int,
        predictor: Predictor,
    ) -> Iterator[Translation | VideoDecodeError]:
        """Clips are decoded together; recordings each by itself, in batches of windows."""
        clips = [
            footage for footage in group if isinstance(footage, VideoInput) and footage.is_clip
        ]
        spans = [next(footage.spans) for footage in clips]
        said = iter(zip(spans, self._decode(spans, seed, predictor)))
        for footage in group:
            if isinstance(footage, VideoDecodeError):
                yield footage
            elif footage.is_clip:
                span, found = next(said)
                yield self._translation_of_clip(span, found, footage, decode, predictor)
            else:
                try:
                    yield self._translate_recording(footage, decode, seed, predictor)
                except VideoDecodeError as error:
                    yield error

    def _translation_of_clip(
        self,
        span: Span,
        found: dict[str, Hypothesis],
        footage: VideoInput,
        decode: str,
        predictor: Predictor,
    ) -> Translation:
        said = self._unless_rest(span, found, decode, predictor)
        segment = segment_of(span, said)
        warning = thinner_than_trained(span, footage.fps, self.model.config.data)
        return Translation(
            text=said.text,
            tokens=said.tokens,
            score=said.score,
            confidence=said.confidence,
            seconds=footage.seconds,
            decoder=decode,
            words=said.words,
            alternatives=segment.alternatives,
            segments=(segment,) if said.text else (),
            evidence=evidence(found["ctc"].heard) if self.model.ctc_hears else None,
            warnings=(warning,) if warning else (),
        )

    def _translate_recording(
        self, footage: VideoInput, decode: str, seed: int, predictor: Predictor
    ) -> Translation:
        pieces: list[Segment] = []
        warnings: list[str] = []
        surest = 0.0
        for spans in itertools.batched(footage.spans, predictor.config.batch_size):
            for span, found in zip(spans, self._decode(spans, seed, predictor)):
                pieces.append(segment_of(span, self._unless_rest(span, found, decode, predictor)))
                surest = max(surest, evidence(found["ctc"].heard) if self.model.ctc_hears else 0.0)
                if not warnings and (
                    warning := thinner_than_trained(span, footage.fps, self.model.config.data)
                ):
                    warnings.append(warning)  # the first speaks for all
        segments = tuple(
            join_windows(
                pieces, longest=2 * longest_window(self.model.config.data, predictor.config)
            )
        )
        words = tuple(word for segment in segments for word in segment.words)
        return Translation(
            text=words_text(words),
            tokens=(),
            score=min((segment.score for segment in segments), default=0.0),
            confidence=sum(segment.confidence for segment in segments) / max(len(segments), 1),
            seconds=footage.seconds,
            decoder=decode,
            words=words,
            segments=segments,
            evidence=surest if self.model.ctc_hears else None,
            warnings=tuple(warnings),
        )

    def _predictor(self, decode: str, **inference: object) -> Predictor:
        """With CTC beside the decoder that is asked for, where it can tell whether somebody signs."""
        return self.model.predictor(
            list(dict.fromkeys([decode, "ctc"])) if self.model.ctc_hears else [decode], **inference
        )

    def _hear(
        self, predictor: Predictor
    ) -> Callable[[Sequence[Span]], list[Sequence[Heard]]] | None:
        """What CTC hears in spans; None where it does not tell when."""
        if not self.model.ctc_tells_times:
            return None
        listener = self.model.predictor(["ctc"], **dataclasses.asdict(predictor.config))
        return lambda spans: [found["ctc"].heard for found in self._decode(spans, 0, listener)]

    def _unless_rest(
        self, span: Span, found: dict[str, Hypothesis], decode: str, predictor: Predictor
    ) -> Hypothesis:
        """What the decoder says, without its text where CTC hears hardly anything or nothing moves at all: nobody signs."""
        said, least = found[decode], min(predictor.config.rest_evidence, self.model.least_evidence)
        unheard = self.model.ctc_hears and evidence(found["ctc"].heard) < least
        if (
            not said.text
            or not predictor.config.rest_evidence
            or not (unheard or is_frozen(span.frames))
        ):
            return said
        return dataclasses.replace(said, text="", tokens=(), words=(), alternatives=())

    def _decode(
        self, spans: Sequence[Span], seed: int, predictor: Predictor
    ) -> list[dict[str, Hypothesis]]:
        """What each decoder says of each span. Spans of one bucket are run together, in
        few sizes of batch, none of which is filled up with blank rows.
        """
        buckets = self.model.config.frame_buckets
        by_bucket: dict[int, list[int]] = collections.defaultdict(list)
        for place, span in enumerate(spans):
            by_bucket[next(bucket for bucket in buckets if len(span.frames) <= bucket)].append(
                place
            )
        found: dict[int, dict[str, Hypothesis]] = {}
        for places in by_bucket.values():
            while places:
                size = _part(len(places), predictor.config.batch_size)
                part, places = places[:size], places[size:]
                said = self._run([spans[place] for place in part], predictor, seed)
                found |= {
                    place: {name: hypotheses[row] for name, hypotheses in said.items()}
                    for row, place in enumerate(part)
                }
        return [found[place] for place in range(len(spans))]

    def _run(
        self, spans: Sequence[Span], predictor: Predictor, seed: int = 0
    ) -> dict[str, list[Hypothesis]]:
        """One batch of spans of one bucket; rows are added until the devices can share them."""
        devices = self.model.mesh.size
        rows = -(-len(spans) // devices) * devices
        longest = max(len(span.frames) for span in spans)
        bucket = next(bucket for bucket in self.model.config.frame_buckets if longest <= bucket)
        video = np.zeros((rows, bucket, *spans[0].frames.shape[1:]), np.uint8)
        lengths, numbers = np.ones((rows,), np.int32), np.zeros((rows,), np.int32)
        for row, span in enumerate(spans):
            video[row, : len(span.frames)], lengths[row] = span.frames, len(span.frames)
            if "sample" in predictor.tokenizers:
                # Draws belong to the frames: they are the same at any place of a list and in a list of any length.
                numbers[row] = np.uint32(zlib.crc32(np.ascontiguousarray(span.frames))).astype(
                    np.int32
                )
        with self._device:
            found = predictor(
                self.model.weights,
                {"video": video, "frame_lengths": lengths, "index": numbers},
                seed,
            )
        return {name: hypotheses[: len(spans)] for name, hypotheses in found.items()}


def _part(count: int, most: int) -> int:
    """How many of `count` spans are run next: `most`, or else the largest power of two. So few shapes are compiled, and no row is blank."""
    return most if count >= most else 1 << (count.bit_length() - 1)
