"""The Python API of a trained model: `load_translator(workdir).translate(clip).text`."""

import collections
import dataclasses
import itertools
import logging
import math
import os
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Unpack, cast, overload

import numpy as np

from signvit_jax.captions.segments import Alternative, Segment
from signvit_jax.config.errors import ConfigError
from signvit_jax.config.schema import InferenceConfig
from signvit_jax.decoding.sign_times import with_times
from signvit_jax.inference.clip_arguments import (
    AnyClip,
    check_pace,
    checked_clip,
    checked_rate,
    checked_seed,
    checked_source,
    is_one_clip,
)
from signvit_jax.inference.frame_sources import PushedFrames, SourceError, open_source
from signvit_jax.inference.joining import Joiner
from signvit_jax.inference.loading import load_model
from signvit_jax.inference.options import InferenceOptions
from signvit_jax.inference.predictor import BatchDecoder, Hypothesis, Predictor, Priority
from signvit_jax.inference.resting import CtcSign, evidence, is_frozen
from signvit_jax.inference.streaming import LiveCaptions, LiveSession, Reading, StreamUpdate
from signvit_jax.inference.trained_model import TrainedModel
from signvit_jax.inference.windowing import (
    MOST_CTC_WINDOWS,
    RECORDING,
    Clip,
    ClipError,
    VideoInput,
    VideoWindow,
    check_frames,
    frame_rate_warning,
    longest_window,
    sample_window,
    timed_units,
    to_segment,
    to_video_time,
)
from signvit_jax.media.frames import fit_frames
from signvit_jax.media.video import VideoDecodeError, VideoLimits
from signvit_jax.runtime.compilation_cache import use_compilation_cache
from signvit_jax.text.words import Word, words_text

__all__ = [
    "Clip",
    "ClipError",
    "InferenceOptions",
    "Translation",
    "Translator",
    "load_translator",
]

log = logging.getLogger(__name__)

_READERS = 4  # files that are read at the same time, while the device computes
# Windows of live frames that may wait to be read; older frames are then dropped.
_WINDOWS_LATE = 2.0
# Most windows that are decoded together if the caller waits for segments.
_WINDOWS_UNTIL_PROGRESS = 4

OnSegment = Callable[[Segment], object]
OnProgress = Callable[[float], object]


@dataclasses.dataclass(frozen=True)
class Translation:
    """The text of one video.

    A recording (a video longer than `inference.max_clip_seconds`) has several `segments`. Its
    `text` and `words` are those of all of them, `score` is the lowest, `confidence` the mean, and
    `tokens` and `alternatives` are empty.
    """

    text: str
    tokens: tuple[int, ...]
    score: float  # as the decoder defines it
    confidence: float  # 0 to 1, see docs/confidence.md
    seconds: float  # length of the video
    decoder: str
    words: tuple[Word, ...] = ()
    alternatives: tuple[Alternative, ...] = ()  # the rest of the n-best list
    segments: tuple[Segment, ...] = ()  # the texts with their times; none where nobody signs
    # CTC's evidence that somebody signs (inference.resting), of a recording the largest of its
    # windows; None if the CTC head cannot tell.
    evidence: float | None = None
    warnings: tuple[str, ...] = ()  # where the model saw fewer frames per second than in training


def load_translator(
    workdir: str | os.PathLike | Sequence[str | os.PathLike],
    *,
    checkpoint: str = "best",
    backend: str | None = None,
    limits: VideoLimits = RECORDING,
) -> "Translator":
    """Load the translator of a training run's workdir, or of an export.

    Args:
        workdir: A folder, or the address of an export on a model hub: hf://organization/name, with
            an optional @revision (docs/sharing.md). Several workdirs, in a list or as "A,B,C", are
            an ensemble, whose probabilities are averaged at every step.
        checkpoint: "best" or "last", of a run.
        backend: Encodes clips: "jax", "onnx" (an ONNX export, in onnxruntime on the CPU), or None
            for the one that the folder is made for.
        limits: Limits of one video file. The default allows recordings of hours; lower it for files
            from strangers.

    Compiled programs are stored for the next process in the same cache as the commands use, unless
    `jax.config` or the environment sets another cache (docs/scale.md).

    Raises WorkdirError for a folder that is neither a workdir nor an export, ConfigError for models
    that differ in vocabulary or in how they read clips, ExportError for an export that is damaged
    or that needs a missing package, and HubError for an address that has none.
    """
    use_compilation_cache()
    return Translator(load_model(workdir, checkpoint, backend), limits)


@dataclasses.dataclass(frozen=True)
class _Decoding:
    """How the windows of one call are decoded. `predictor` runs the decoder and usually CTC too."""

    decoder: str
    seed: int
    predictor: Predictor
    on_segment: OnSegment | None = None
    on_progress: OnProgress | None = None


class Translator:
    """A trained model, or an ensemble, that translates clips, recordings and live video.

    Safe to call from several threads: they read in parallel and take turns on the device.
    """

    def __init__(self, model: TrainedModel, limits: VideoLimits = RECORDING):
        self.model = model
        self.limits = limits
        self._readers = ThreadPoolExecutor(_READERS, "signvit_jax_reader")
        self._batches = BatchDecoder(
            model.weights, model.config.frame_buckets, num_devices=model.mesh.size
        )

    @overload
    def translate(
        self,
        clip: AnyClip,
        *,
        decode: str = ...,
        fps: float | None = ...,
        seed: int = ...,
        on_segment: OnSegment | None = ...,
        on_progress: OnProgress | None = ...,
        **inference: Unpack[InferenceOptions],
    ) -> Translation: ...

    @overload
    def translate(
        self,
        clip: Sequence[AnyClip],
        *,
        decode: str = ...,
        fps: float | None = ...,
        seed: int = ...,
        **inference: Unpack[InferenceOptions],
    ) -> list[Translation]: ...

    def translate(
        self,
        clip: AnyClip | Sequence[AnyClip],
        *,
        decode: str = "greedy",
        fps: float | None = None,
        seed: int = 0,
        on_segment: OnSegment | None = None,
        on_progress: OnProgress | None = None,
        **inference: Unpack[InferenceOptions],
    ) -> Translation | list[Translation]:
        """Translate one clip to a `Translation`, or a list of clips to a list.

        A recording, that is a video longer than `max_clip_seconds` (0: than the clips that the
        model was trained on), is split where nobody signs and read piece by piece, in memory that
        does not grow with its length.

        Args:
            clip: The path of a video; the bytes of a video file, or a file opened with "rb"; or
                uint8 RGB frames, an array (t, h, w, 3) or a list of arrays (h, w, 3).
            decode: "greedy", "beam", "ctc", "ctc_beam" or "sample".
            fps: Frames per second of a clip of frames (default: the frame rate of training).
            seed: Of "sample": the text depends on it and on the clip's frames, not on other clips.
            on_segment: Called in this thread with each segment of one clip, in order, as soon as
                its text is final. What it raises ends the translation.
            on_progress: Called likewise with the seconds of the video up to which texts are known.
            **inference: Values that replace those of `config.inference`, such as `beam_size=8`.

        Raises VideoDecodeError for a file that cannot be read, ClipError for a clip of another
        kind, and ConfigError for a decoder, seed or inference value that is not allowed.
        """
        is_list = isinstance(clip, list | tuple) and not is_one_clip(clip)
        clips = cast(Sequence[AnyClip], clip) if is_list else [cast(AnyClip, clip)]
        if is_list and (on_segment or on_progress):
            raise ConfigError(
                f"on_segment and on_progress are for one clip, and there is a list of {len(clips)}"
                "; translate them one by one"
            )
        predictor = self._predictor(decode, **inference)
        decoding = _Decoding(decode, checked_seed(seed), predictor, on_segment, on_progress)
        translations = []
        for translation in self._translations(clips, checked_rate(fps), decoding):
            if isinstance(translation, VideoDecodeError):
                raise translation
            translations.append(translation)
        return translations if is_list else translations[0]

    def translate_each(
        self,
        clips: Iterable[AnyClip],
        *,
        decode: str = "greedy",
        fps: float | None = None,
        seed: int = 0,
        **inference: Unpack[InferenceOptions],
    ) -> Iterator[Translation | VideoDecodeError]:
        """Translate clips one after the other, in order.

        A file that cannot be read yields its error in place of a translation. Clips are decoded in
        batches of `inference.batch_size` while the next ones are read; recordings are read one at a
        time. Arguments are checked at once.
        """
        predictor = self._predictor(decode, **inference)
        decoding = _Decoding(decode, checked_seed(seed), predictor)
        return self._translations(clips, checked_rate(fps), decoding)

    def _translations(
        self, clips: Iterable[AnyClip], fps: float | None, decoding: _Decoding
    ) -> Iterator[Translation | VideoDecodeError]:
        detect_signs = self._detect_signs(decoding.predictor)

        def read(clip: AnyClip) -> VideoInput | VideoDecodeError:
            config = decoding.predictor.config
            video = VideoInput(
                checked_clip(clip), fps, self.model.config.data, config, self.limits, detect_signs
            )
            try:
                return video.peek()
            except VideoDecodeError as error:
                return error

        groups = itertools.batched(clips, decoding.predictor.config.batch_size)
        reading: collections.deque[list[Future[VideoInput | VideoDecodeError]]]
        reading = collections.deque()

        def start_reading(count: int) -> None:
            for group in itertools.islice(groups, count):
                reading.append([self._readers.submit(read, clip) for clip in group])

        start_reading(2)  # later groups are read while the first one is decoded
        while reading:
            group = [video.result() for video in reading.popleft()]
            start_reading(1)
            yield from self._translate_group(group, decoding)

    def stream(
        self,
        frames: Iterable[np.ndarray] | int | str | os.PathLike,
        *,
        decode: str = "greedy",
        fps: float | None = None,
        every: float = 0.5,
        votes: int = 3,
        **inference: Unpack[InferenceOptions],
    ) -> Iterator[StreamUpdate]:
        """Caption live video; yield an update every `every` seconds.

        An update has CTC's partial text, the decoder's text in most of the last `votes` hypotheses,
        and the segments that became final.

        `frames` is a camera's number or device (/dev/video0), a video file, which is played at its
        own rate, or an iterable of uint8 RGB frames (h, w, 3). Without `fps` the frames of an
        iterable are live, and their times are those of their arrival. With `fps` they are a
        recording of that rate, and every frame is read. If reading falls behind, there are fewer
        updates; live frames are dropped only if it is two windows late. Raises ConfigError and
        SourceError at once, VideoDecodeError and ClipError between updates.
        """
        source_frames, fps = checked_source(frames), checked_rate(fps, SourceError)
        captions, max_seconds = self._live_captions(decode, every, votes, **inference)
        short_side = 2 * self.model.config.data.image_size
        waiting = _WINDOWS_LATE * max_seconds
        source = open_source(source_frames, fps, self._fit, short_side, waiting)
        return captions.follow(source)

    def live(
        self,
        *,
        decode: str = "greedy",
        every: float = 0.5,
        votes: int = 3,
        **inference: Unpack[InferenceOptions],
    ) -> LiveSession:
        """Begin a session of live captions, to which frames are pushed; arguments as in `stream`.

        docs/decoding.md has an example. Raises ConfigError.
        """
        captions, max_seconds = self._live_captions(decode, every, votes, **inference)
        return LiveSession(captions, PushedFrames(self._fit, _WINDOWS_LATE * max_seconds))

    def share_batches(self, most: int) -> None:
        """Let calls of several threads share batches of up to `most` clips while they wait.

        `warm_up(clips=most)` compiles the sizes of these batches. With 1, calls share no batch.
        """
        self._batches.most_shared = most

    def warm_up(
        self,
        decode: str = "greedy",
        *,
        clips: int = 1,
        recordings: bool = False,
        live: bool = False,
        **inference: Unpack[InferenceOptions],
    ) -> float:
        """Compile the programs that `translate` (with `live`: `stream`) runs with these arguments.

        There is one program for each length of a clip and each size of a batch. Those in the
        compilation cache are loaded. Returns the seconds that this took, and logs them.

        Args:
            decode: As in `translate`, like `inference`.
            clips: Most clips in one call of `translate`: with 1 only batches of one clip are
                compiled, with more those of `inference.batch_size` at most.
            recordings: Whether videos may be longer than a clip. A recording's windows come in
                batches of every size up to `inference.batch_size`, and CTC splits it.
            live: Compile for `stream` in place of `translate`: one window at a time, and CTC.

        Raises ConfigError for arguments that are not allowed.
        """
        if isinstance(clips, bool) or not isinstance(clips, int) or clips < 1:
            raise ConfigError(f"clips is {clips!r}; allowed: an integer >= 1")
        if live and (clips > 1 or recordings):
            raise ConfigError(
                "live is True, and a stream reads one window at a time; "
                "allowed with it: clips=1 and recordings=False"
            )
        predictor = (
            self._live_predictor(decode, **inference)
            if live
            else self._predictor(decode, **inference)
        )
        begin = time.perf_counter()
        image_size = self.model.config.data.image_size
        sizes = self._batches.warm_up(predictor, clips, image_size)
        if recordings:
            sizes |= self._batches.warm_up(predictor, predictor.config.batch_size, image_size)
            if self.model.ctc_gives_times:
                self._batches.warm_up(self._detector(predictor), MOST_CTC_WINDOWS, image_size)
        seconds = time.perf_counter() - begin
        log.info(
            "%s: clips of %s frames in batches of %s are compiled, %.1f s",
            decode,
            ", ".join(map(str, self.model.config.frame_buckets)),
            ", ".join(map(str, sorted(sizes))),
            seconds,
        )
        return seconds

    def _fit(self, frame: np.ndarray) -> np.ndarray:
        """Bring a frame to the model's size. Raises ClipError."""
        check_frames(np.asarray(frame)[None])
        data = self.model.config.data
        return fit_frames([frame], data.image_size, data.resize_mode)[0]

    def _live_captions(
        self, decode: str, every: float, votes: int, **inference: Unpack[InferenceOptions]
    ) -> tuple[LiveCaptions, float]:
        """Return captions, and the seconds of the longest window. Raises ConfigError."""
        check_pace(every, votes)
        predictor = self._live_predictor(decode, **inference)
        config, data = predictor.config, self.model.config.data
        decoding = _Decoding(decode, 0, predictor)

        def read(held: Sequence[np.ndarray], rate: float) -> Reading:
            window = sample_window(held, rate, data)
            (by_decoder,) = self._decode([window], decoding, priority=Priority.HYPOTHESIS)
            ctc = by_decoder["ctc"]
            signs = None
            if self.model.ctc_gives_times:
                signs = tuple(to_video_time(window, ctc.ctc_signs))
            return Reading(self._unless_rest(window, by_decoder, decoding), ctc.text, signs)

        def read_final(held: Sequence[np.ndarray], rate: float) -> Hypothesis:
            window = sample_window(held, rate, data)
            (by_decoder,) = self._decode([window], decoding, priority=Priority.FINAL)
            return self._timed(window, by_decoder, decoding)

        max_seconds = longest_window(data, config)
        captions = LiveCaptions(
            read,
            max_seconds,
            config.window_overlap,
            every,
            votes,
            config.rest_seconds,
            read_final=read_final,
            by_motion=self._rests_by_motion(config),
        )
        return captions, max_seconds

    def _translate_group(
        self,
        group: Sequence[VideoInput | VideoDecodeError],
        decoding: _Decoding,
    ) -> Iterator[Translation | VideoDecodeError]:
        """Decode the clips together, and each recording by itself in batches of its windows."""
        clips = [video for video in group if isinstance(video, VideoInput) and video.is_clip]
        windows = [next(video.windows) for video in clips]
        decoded = iter(zip(windows, self._decode(windows, decoding)))
        for video in group:
            if isinstance(video, VideoDecodeError):
                yield video
            elif video.is_clip:
                window, by_decoder = next(decoded)
                yield self._translation_of_clip(window, by_decoder, video, decoding)
            else:
                try:
                    yield self._translate_recording(video, decoding)
                except VideoDecodeError as error:
                    yield error

    def _translation_of_clip(
        self,
        window: VideoWindow,
        by_decoder: dict[str, Hypothesis],
        video: VideoInput,
        decoding: _Decoding,
    ) -> Translation:
        hypothesis = self._timed(window, by_decoder, decoding)
        segment = to_segment(window, hypothesis)
        _report([segment] if hypothesis.text else [], video.seconds, decoding)
        warning = frame_rate_warning(window, video.fps, self.model.config.data)
        return Translation(
            text=hypothesis.text,
            tokens=hypothesis.tokens,
            score=hypothesis.score,
            confidence=hypothesis.confidence,
            seconds=video.seconds,
            decoder=decoding.decoder,
            words=hypothesis.words,
            alternatives=segment.alternatives,
            segments=(segment,) if hypothesis.text else (),
            evidence=evidence(by_decoder["ctc"].ctc_signs) if self.model.has_trained_ctc else None,
            warnings=(warning,) if warning else (),
        )

    def _translate_recording(self, video: VideoInput, decoding: _Decoding) -> Translation:
        data, config = self.model.config.data, decoding.predictor.config
        joiner = Joiner(2 * longest_window(data, config))
        segments: list[Segment] = []
        warning: str | None = None  # the first one
        max_evidence = 0.0
        has_listener = decoding.on_segment or decoding.on_progress
        windows_at_once = config.batch_size
        if has_listener:
            windows_at_once = min(windows_at_once, _WINDOWS_UNTIL_PROGRESS)
        for windows in itertools.batched(video.windows, windows_at_once):
            joined: list[Segment] = []
            for window, by_decoder in zip(windows, self._decode(windows, decoding)):
                hypothesis = self._timed(window, by_decoder, decoding)
                joined += joiner.add(to_segment(window, hypothesis))
                if self.model.has_trained_ctc:
                    max_evidence = max(max_evidence, evidence(by_decoder["ctc"].ctc_signs))
                warning = warning or frame_rate_warning(window, video.fps, data)
            segments += joined
            _report(joined, windows[-1].end, decoding)
        joined = joiner.finish()
        segments += joined
        _report(joined, video.seconds, decoding)
        words = tuple(word for segment in segments for word in segment.words)
        scores = [one.score for one in segments if one.score is not None]
        confidences = [one.confidence for one in segments if one.confidence is not None]
        return Translation(
            text=words_text(words),
            tokens=(),
            score=min(scores, default=0.0),
            confidence=sum(confidences) / max(len(confidences), 1),
            seconds=video.seconds,
            decoder=decoding.decoder,
            words=words,
            segments=tuple(segments),
            evidence=max_evidence if self.model.has_trained_ctc else None,
            warnings=(warning,) if warning else (),
        )

    def _predictor(self, decode: str, **inference: Unpack[InferenceOptions]) -> Predictor:
        """The decoder and, if the CTC head can tell whether somebody signs, CTC."""
        decoders = [decode, "ctc"] if self.model.has_trained_ctc else [decode]
        return self.model.predictor(list(dict.fromkeys(decoders)), **inference)

    def _live_predictor(self, decode: str, **inference: Unpack[InferenceOptions]) -> Predictor:
        """The decoder, and CTC for partial texts."""
        return self.model.predictor(list(dict.fromkeys([decode, "ctc"])), **inference)

    def _rests_by_motion(self, config: InferenceConfig) -> bool:
        """Return True if live text becomes final where nothing moves."""
        if config.rest_detection == "motion":
            return True
        return self.model.config.model.ctc.source == "frames" and not self.model.ctc_gives_times

    def _detect_signs(
        self, predictor: Predictor
    ) -> Callable[[Sequence[VideoWindow]], list[Sequence[CtcSign]]] | None:
        """Return a function from windows to CTC's signs; None where motion shows the rests."""
        if not self.model.ctc_gives_times or predictor.config.rest_detection == "motion":
            return None
        decoding = _Decoding("ctc", 0, self._detector(predictor))

        def detect(windows: Sequence[VideoWindow]) -> list[Sequence[CtcSign]]:
            decoded = self._decode(windows, decoding)
            return [by_decoder["ctc"].ctc_signs for by_decoder in decoded]

        return detect

    def _detector(self, predictor: Predictor) -> Predictor:
        """CTC alone, which finds the rests of a recording."""
        return self.model.predictor(["ctc"], **dataclasses.asdict(predictor.config))

    def _timed(
        self, window: VideoWindow, by_decoder: dict[str, Hypothesis], decoding: _Decoding
    ) -> Hypothesis:
        """`_unless_rest`, whose words have the times of their signs where CTC gives them."""
        hypothesis = self._unless_rest(window, by_decoder, decoding)
        if not hypothesis.words or not self.model.ctc_gives_times:
            return hypothesis
        units = timed_units(window, by_decoder["ctc"].ctc_words)
        words = with_times(hypothesis.words, units, decoding.predictor.lexicon)
        return dataclasses.replace(hypothesis, words=words)

    def _unless_rest(
        self, window: VideoWindow, by_decoder: dict[str, Hypothesis], decoding: _Decoding
    ) -> Hypothesis:
        """The decoder's hypothesis, without text where nobody signs.

        Nobody signs where CTC's evidence is low, or where nothing moves at all.
        """
        hypothesis, config = by_decoder[decoding.decoder], decoding.predictor.config
        if not hypothesis.text or not config.rest_evidence:
            return hypothesis
        least = self._least_evidence(config)
        is_rest = self.model.has_trained_ctc and evidence(by_decoder["ctc"].ctc_signs) < least
        if not is_rest and not is_frozen(window.frames):
            return hypothesis
        return dataclasses.replace(hypothesis, text="", tokens=(), words=(), alternatives=())

    def _least_evidence(self, config: InferenceConfig) -> float:
        """Return the evidence below which nobody signs.

        Models differ in how much evidence signing gives. So the threshold is at most what
        validation has measured in signed clips. If nothing was measured, the default of
        `rest_evidence` does not apply, and no clip has too little evidence.
        """
        measured = self.model.min_evidence
        if math.isinf(measured) and config.rest_evidence == InferenceConfig.rest_evidence:
            return 0.0
        return min(config.rest_evidence, measured)

    def _decode(
        self,
        windows: Sequence[VideoWindow],
        decoding: _Decoding,
        *,
        priority: Priority = Priority.FILE,
    ) -> list[dict[str, Hypothesis]]:
        """Decode windows; return decoder -> hypothesis for each of them."""
        frames = [window.frames for window in windows]
        return self._batches.decode(frames, decoding.seed, decoding.predictor, priority=priority)


def _report(segments: Sequence[Segment], seconds: float, decoding: _Decoding) -> None:
    """Call `on_segment` with each new final segment, and `on_progress` with the seconds."""
    if decoding.on_segment is not None:
        for segment in segments:
            decoding.on_segment(segment)
    if decoding.on_progress is not None:
        decoding.on_progress(seconds)
