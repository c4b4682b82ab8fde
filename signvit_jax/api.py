"""What a notebook or a server uses: `load_translator(workdir).translate(clip).text`."""

import collections
import dataclasses
import itertools
import os
import threading
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from signvit_jax.captioning import RECORDING, Clip, ClipError, Footage, Span, check_frames, open_footage, sampled, segment_of
from signvit_jax.data.frames import fit_frames
from signvit_jax.data.video import VideoDecodeError, VideoLimits
from signvit_jax.decoding.subtitles import Alternative, Segment
from signvit_jax.decoding.windows import join_windows
from signvit_jax.decoding.words import Word
from signvit_jax.evaluation.evaluator import Hypothesis, Predictor
from signvit_jax.exporting.loading import load_model
from signvit_jax.streaming import LiveCaptions, StreamUpdate, open_source
from signvit_jax.training.trained_model import TrainedModel

__all__ = ["Clip", "ClipError", "Translation", "Translator", "load_translator"]

_READERS = 4  # files that are read at a time, while the device computes


@dataclasses.dataclass(frozen=True)
class Translation:
    """`score` is the decoder's own; `confidence`, 0 to 1, is that of docs/confidence.md; `seconds` the video's length.

    A video longer than `inference.max_clip_seconds` has its text in several `segments`: `text` and `words` are those of all, `score` is the lowest,
    `confidence` the mean of theirs, and tokens and alternatives are not given.
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


def load_translator(
    workdir: str | os.PathLike | Sequence[str | os.PathLike], *, checkpoint: str = "best", backend: str | None = None, limits: VideoLimits = RECORDING
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
        self._device = threading.Lock()  # nothing is compiled twice, and one batch is in memory at a time

    def translate(
        self, clip: Clip | Sequence[Clip], *, decode: str = "greedy", fps: float | None = None, seed: int = 0, **inference: object
    ) -> Translation | list[Translation]:
        """One `Translation`, or a list of them for a list of clips.

        A clip is the path of a video, the bytes of a video file, or uint8 RGB frames (t, h, w, 3), the last with `fps` frames a second (default: the
        rate that the model was trained at). `decode` is "greedy", "beam", "ctc", "ctc_beam" or "sample" (drawn with `seed`); keyword arguments such
        as `beam_size=8` replace values of the config's `inference` group. A video longer than `max_clip_seconds` is read in overlapping windows, in
        memory that does not grow with its length. Raises VideoDecodeError for a file that cannot be read, ClipError for frames of another shape and
        ConfigError for a decoder or an inference value that is not allowed.
        """
        is_list = isinstance(clip, list | tuple)
        found = []
        for one in self.translate_each(clip if is_list else [clip], decode=decode, fps=fps, seed=seed, **inference):
            if isinstance(one, VideoDecodeError):
                raise one
            found.append(one)
        return found if is_list else found[0]

    def translate_each(
        self, clips: Iterable[Clip], *, decode: str = "greedy", fps: float | None = None, seed: int = 0, **inference: object
    ) -> Iterator[Translation | VideoDecodeError]:
        """As `translate`, one after the other and in order; a file that cannot be read gives its error in place of a translation.

        `inference.batch_size` clips are decoded together, and the next ones are read meanwhile.
        """
        predictor = self.model.predictor([decode], **inference)

        def read(clip: Clip) -> Footage | VideoDecodeError:
            try:
                return open_footage(clip, fps, self.model.config.data, predictor.config, self.limits).begin()
            except VideoDecodeError as error:
                return error

        groups = itertools.batched(clips, predictor.config.batch_size)
        reading = collections.deque([self._readers.submit(read, clip) for clip in group] for group in itertools.islice(groups, 2))
        while reading:
            group = [clip.result() for clip in reading.popleft()]
            reading += [[self._readers.submit(read, clip) for clip in ahead] for ahead in itertools.islice(groups, 1)]
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
        waited for. Live frames are dropped rather than that the delay grows; no more are held than `inference.window_seconds` have. The text of an
        update is what most of the last `votes` hypotheses say. Raises ConfigError and SourceError at once, VideoDecodeError and ClipError between
        updates.
        """
        predictor = self.model.predictor(list(dict.fromkeys([decode, "ctc"])), **inference)
        data = self.model.config.data

        def fit(frame: np.ndarray) -> np.ndarray:
            check_frames(np.asarray(frame)[None])
            return fit_frames([frame], data.image_size, data.fit)[0]

        def read(held: Sequence[np.ndarray], rate: float) -> tuple[Hypothesis, str]:
            said = self._run([Span(sampled(held, rate, data), 0.0, len(held) / rate)], predictor)
            return said[decode][0], said["ctc"][0].text

        config = predictor.config
        source = open_source(frames, fps, fit, 2 * data.image_size, config.window_seconds)
        return LiveCaptions(read, config.window_seconds, config.window_overlap, every, votes).follow(source)

    def warm_up(self, decode: str = "greedy", **inference: object) -> None:
        """Compiles all that `translate` will run with these arguments: every clip length, alone and in batches of every size."""
        config, predictor = self.model.config, self.model.predictor([decode], **inference)
        size, most = config.data.image_size, predictor.config.batch_size
        for bucket in config.frame_buckets:
            blank = Span(np.zeros((bucket, size, size, 3), np.uint8), 0.0, 0.0)
            for count in {_part(count, most) for count in range(1, most + 1)}:
                self._run([blank] * count, predictor)

    def _translate_group(
        self, group: Sequence[Footage | VideoDecodeError], decode: str, seed: int, predictor: Predictor
    ) -> Iterator[Translation | VideoDecodeError]:
        """Clips are decoded together; recordings each by itself, in batches of windows."""
        clips = [footage for footage in group if isinstance(footage, Footage) and footage.is_clip]
        spans = [next(footage.spans) for footage in clips]
        said = iter(zip(spans, self._decode(spans, decode, seed, predictor)))
        for footage in group:
            if isinstance(footage, VideoDecodeError):
                yield footage
            elif footage.is_clip:
                yield _translation_of_clip(*next(said), footage.seconds, decode)
            else:
                try:
                    yield self._translate_recording(footage, decode, seed, predictor)
                except VideoDecodeError as error:
                    yield error

    def _translate_recording(self, footage: Footage, decode: str, seed: int, predictor: Predictor) -> Translation:
        windows: list[Segment] = []
        for spans in itertools.batched(footage.spans, predictor.config.batch_size):
            windows += map(segment_of, spans, self._decode(spans, decode, seed, predictor))
        segments = tuple(join_windows(windows, longest=2 * predictor.config.window_seconds))
        return Translation(
            text=" ".join(segment.text for segment in segments),
            tokens=(),
            score=min((segment.score for segment in segments), default=0.0),
            confidence=sum(segment.confidence for segment in segments) / max(len(segments), 1),
            seconds=footage.seconds,
            decoder=decode,
            words=tuple(word for segment in segments for word in segment.words),
            segments=segments,
        )

    def _decode(self, spans: Sequence[Span], decode: str, seed: int, predictor: Predictor) -> list[Hypothesis]:
        """What is said of each span. Spans of one bucket are run together, in few sizes of batch, none of which is filled up with blank rows."""
        buckets = self.model.config.frame_buckets
        by_bucket: dict[int, list[int]] = collections.defaultdict(list)
        for place, span in enumerate(spans):
            by_bucket[next(bucket for bucket in buckets if len(span.frames) <= bucket)].append(place)
        found: dict[int, Hypothesis] = {}
        for places in by_bucket.values():
            while places:
                size = _part(len(places), predictor.config.batch_size)
                part, places = places[:size], places[size:]
                found |= zip(part, self._run([spans[place] for place in part], predictor, seed)[decode])
        return [found[place] for place in range(len(spans))]

    def _run(self, spans: Sequence[Span], predictor: Predictor, seed: int = 0) -> dict[str, list[Hypothesis]]:
        """One batch of spans of one bucket; rows are added until the devices can share them."""
        devices = self.model.mesh.size
        rows = -(-len(spans) // devices) * devices
        longest = max(len(span.frames) for span in spans)
        bucket = next(bucket for bucket in self.model.config.frame_buckets if longest <= bucket)
        video = np.zeros((rows, bucket, *spans[0].frames.shape[1:]), np.uint8)
        lengths = np.ones((rows,), np.int32)
        for row, span in enumerate(spans):
            video[row, : len(span.frames)], lengths[row] = span.frames, len(span.frames)
        with self._device:
            found = predictor(self.model.weights, {"video": video, "frame_lengths": lengths}, seed)
        return {name: hypotheses[: len(spans)] for name, hypotheses in found.items()}


def _translation_of_clip(span: Span, said: Hypothesis, seconds: float, decode: str) -> Translation:
    segment = segment_of(span, said)
    return Translation(
        text=said.text,
        tokens=said.tokens,
        score=said.score,
        confidence=said.confidence,
        seconds=seconds,
        decoder=decode,
        words=said.words,
        alternatives=segment.alternatives,
        segments=(segment,) if said.text else (),
    )


def _part(count: int, most: int) -> int:
    """How many of `count` spans are run next: `most`, or else the largest power of two. So few shapes are compiled, and no row is blank."""
    return most if count >= most else 1 << (count.bit_length() - 1)
