"""From a video of any length to what a model reads, one span for a clip and several for a recording; and from its text to segments.

A recording is cut where nobody signs (`decoding.rest`), so that a span is a sentence as training showed them; only signing without a rest that lasts
longer than a clip may is read in overlapping windows (`decoding.windows` joins them).
"""

import collections
import dataclasses
import itertools
import os
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import UInt8

from signvit_jax.config.schema import DataConfig, InferenceConfig
from signvit_jax.data.sampling import sample_frames
from signvit_jax.data.schema import STORED_FRAME_RATE
from signvit_jax.errors.base import SignVitError
from signvit_jax.inference.predictor import Hypothesis
from signvit_jax.inference.resting import Cutter, Heard, Sign, blocks, is_other_shot, motion, moving
from signvit_jax.inference.subtitles import Alternative, Segment
from signvit_jax.media.frames import fit_frames
from signvit_jax.media.video import Sampling, VideoLimits, VideoStream, open_video

Clip = str | os.PathLike | bytes | np.ndarray

SENTENCE = 6.0  # seconds: what a clip may last where nothing tells what training showed
_HEARD_TOGETHER = 4  # windows that are heard in one batch
RECORDING = VideoLimits(
    max_seconds=6 * 3600.0, max_frames=600_000, cpu_seconds=7200.0, wall_seconds=7200.0
)  # what one file may cost


class ClipError(SignVitError, ValueError):
    """Frames that are not a clip; the message gives shape and dtype, and what is allowed."""

    exit_code = 2


class Span(NamedTuple):
    """A piece of video as the model reads it."""

    frames: UInt8[np.ndarray, "t s s 3"]  # sampled, in the model's size
    start: float  # seconds in the video
    end: float
    times: tuple[float, ...] = ()  # of the frames, seconds in the video


Hear = Callable[[Sequence[Span]], Sequence[Sequence[Heard]]]  # what CTC hears in each of some spans


@dataclasses.dataclass
class VideoInput:
    """One video on its way through: its spans in order of time, and how many seconds of it have been read."""

    open: Callable[[bool], Iterator[Span]]  # reads the video; True: only if it is a clip
    spans: Iterator[Span] = dataclasses.field(default_factory=lambda: iter(()))
    seconds: float = 0.0
    is_clip: bool = True  # one span is all there is, and it is the whole video
    fps: float = 0.0

    def begin(self) -> "VideoInput":
        """Reads as far as it takes to know whether this is a clip, and a clip to its end; holds no file open. Raises VideoDecodeError."""
        self.spans = iter(list(self.open(True)))
        if not self.is_clip:
            self.spans = self.open(False)
        return self


def clip_limit(data: DataConfig) -> float:
    """Seconds of the longest clip that the model reads as densely as it was trained to.

    With `data.sampling` "rate" or "segment" those that `num_frames` at `frame_rate` last. With
    "even" that depends on how long the clips of the training
    split were, of which a config says nothing: SENTENCE, or as many seconds as `num_frames` stored frames last, if that is longer.
    """
    if data.sampling == "even":
        return max(SENTENCE, data.num_frames / STORED_FRAME_RATE)
    return data.num_frames / data.frame_rate


def longest_clip(data: DataConfig, inference: InferenceConfig) -> float:
    """Seconds up to which a video is a clip: `inference.max_clip_seconds`, or if that is 0 the model's own limit."""
    return inference.max_clip_seconds or clip_limit(data)


def longest_window(data: DataConfig, inference: InferenceConfig) -> float:
    """Seconds that a piece of a recording has at most: `inference.window_seconds`, or if that is 0 what the model can see as in training."""
    return inference.window_seconds or min(clip_limit(data), longest_clip(data, inference))


def thinner_than_trained(span: Span, fps: float, data: DataConfig) -> str | None:
    """What to say of a span of which the model sees fewer frames a second than in training; None where it sees as many."""
    seconds, limit = span.end - span.start, clip_limit(data)
    if seconds > limit * 1.02 + 1.0 / data.frame_rate and data.sampling != "segment":
        seen = len(span.frames) / seconds
        return (
            f"{seconds:.1f} s from {span.start:.1f} s on were read in {len(span.frames)} frames, {seen:.1f} a second: "
            f"the model was trained on clips of up to {limit:.1f} s ({data.num_frames / limit:.1f} a second), so words may be missing; "
            "leave max_clip_seconds and window_seconds out, or lower them"
        )
    if data.sampling != "even" and 0 < fps < 0.9 * data.frame_rate:
        return f"the video has {fps:.1f} frames a second, and the model was trained on {data.frame_rate:.1f}: words may be missing"
    return None


def open_video_input(
    clip: Clip,
    fps: float | None,
    data: DataConfig,
    inference: InferenceConfig,
    limits: VideoLimits = RECORDING,
    hear: Hear | None = None,
) -> VideoInput:
    """The spans of a video file (its path or its bytes) or of RGB frames (t, h, w, 3) at `fps` frames a second (None: `data.frame_rate`).

    A file is decoded as its spans are asked for, which then raise VideoDecodeError: memory does not grow with its length. `hear` says what CTC
    hears, where that tells times: a recording is then cut between its sentences; else where nothing moves. Raises ClipError.
    """
    if isinstance(clip, np.ndarray):
        check_frames(clip)
    footage = VideoInput(
        lambda only_clip: _spans(footage, clip, fps, data, inference, limits, hear, only_clip)
    )
    footage.spans = footage.open(False)
    return footage


def check_frames(frames: np.ndarray) -> None:
    """Raises ClipError for what is not uint8 RGB of shape (t, h, w, 3)."""
    if frames.ndim != 4 or frames.shape[-1] != 3 or frames.dtype != np.uint8 or not frames.size:
        raise ClipError(
            f"frames have shape {frames.shape} and dtype {frames.dtype}; allowed: uint8 RGB of shape (t, h, w, 3), none of them 0"
        )


def sampled(
    frames: Sequence[UInt8[np.ndarray, "s s 3"]], fps: float, data: DataConfig, start: float = 0.0
) -> Span:
    """What evaluation would see of a clip of these frames, which are in the model's size already and begin at `start` seconds."""
    chosen = sample_frames(len(frames), fps, data, data.num_frames)
    return Span(
        np.stack([frames[i] for i in chosen]),
        start,
        start + len(frames) / fps,
        tuple(start + float(i) / fps for i in chosen),
    )


def segment_of(span: Span, said: Hypothesis) -> Segment:
    """What was said of the span, in its place in time."""
    others = tuple(
        Alternative(other.text, other.score, other.confidence)
        for other in said.alternatives
        if other.text
    )
    return Segment(span.start, span.end, said.text, said.score, said.confidence, said.words, others)


def signs_of(span: Span, heard: Sequence[Heard]) -> list[Sign]:
    """What CTC heard in the span, in seconds of the video."""
    step = (span.times[-1] - span.times[0]) / max(len(span.times) - 1, 1)
    return [
        Sign(span.times[one.start], span.times[one.end - 1] + step)
        for one in heard
        if one.confidence >= 0.5
    ]


def _spans(
    footage: VideoInput,
    clip: Clip,
    fps: float | None,
    data: DataConfig,
    inference: InferenceConfig,
    limits: VideoLimits,
    hear: Hear | None,
    only_clip: bool,
) -> Iterator[Span]:
    if isinstance(clip, np.ndarray):
        rate = fps or data.frame_rate
        yield from _cut(
            footage,
            VideoStream(rate, ((i / rate, frame) for i, frame in enumerate(clip))),
            data,
            inference,
            hear,
            only_clip,
        )
    elif isinstance(clip, bytes):
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "clip"
            path.write_bytes(clip)
            yield from _spans(footage, path, fps, data, inference, limits, hear, only_clip)
    else:
        with open_video(
            clip, Sampling(short_side=2 * data.image_size, max_frame_rate=STORED_FRAME_RATE), limits
        ) as video:
            yield from _cut(footage, video, data, inference, hear, only_clip)


def _cut(
    footage: VideoInput,
    video: VideoStream,
    data: DataConfig,
    inference: InferenceConfig,
    hear: Hear | None,
    only_clip: bool,
) -> Iterator[Span]:
    """One span where the video ends within the longest clip, else the pieces of a recording."""
    footage.fps = video.fps
    most = max(round(longest_clip(data, inference) * video.fps), 1)
    frames = (
        (seconds, fit_frames([frame], data.image_size, data.resize_mode)[0])
        for seconds, frame in video.frames
    )
    held = list(itertools.islice(frames, most + 1))
    origin = held[0][0]
    footage.seconds = origin + len(held) / video.fps
    if len(held) <= most:
        yield sampled([frame for _, frame in held], video.fps, data, origin)
        return
    footage.is_clip = False
    if only_clip:
        return
    for frame, spans in _Recording(origin, video.fps, data, inference, hear).read(
        itertools.chain(held, frames)
    ):
        footage.seconds = origin + frame / video.fps
        yield from spans


class _Recording:
    """Cuts the frames of a recording into spans, and holds no more of them than three windows have (and the piece under way)."""

    def __init__(
        self,
        origin: float,
        fps: float,
        data: DataConfig,
        inference: InferenceConfig,
        hear: Hear | None,
    ):
        self._fps, self._data, self._hear, self._origin = fps, data, hear, origin
        self._window = longest_window(data, inference)
        rest = inference.rest_seconds if hear else 2.0 * inference.rest_seconds
        self._cutter = Cutter(self._window, inference.window_overlap, rest)
        self._cutter.restart(origin)
        self._held: list[np.ndarray] = []
        self._first = 0  # number of the first frame that is held
        self._shot = origin  # seconds: where the shot begins
        self._heard = origin  # and the next window to hear
        self._motions: list[tuple[float, float]] = []  # not yet heard
        self._levels: collections.deque[float] = collections.deque(maxlen=2000)

    def read(self, frames: Iterable[tuple[float, np.ndarray]]) -> Iterator[tuple[int, list[Span]]]:
        """Whenever spans are certain, how many frames have been read, and the spans."""
        seen, count = None, 0
        for count, (_, frame) in enumerate(frames, 1):
            now, coarse = self._seconds(count - 1), blocks(frame)
            if seen is not None and is_other_shot(seen, coarse):
                yield count, self._listen(now, ended=True)
                self._restart(now)
            elif seen is not None:
                moved = motion(seen, coarse)
                self._cutter.see(now, moved)
                self._motions.append((now, moved))
            seen = coarse
            self._held.append(frame)
            if now - self._heard >= _HEARD_TOGETHER * self._window / 2 + self._window:
                yield count, self._listen(now, ended=False)
        yield count, self._listen(self._seconds(count), ended=True)

    def _seconds(self, frame: int) -> float:
        return self._origin + frame / self._fps

    def _frame(self, seconds: float) -> int:
        return round((seconds - self._origin) * self._fps)

    def _restart(self, seconds: float) -> None:
        """Another shot: nothing of what was is needed."""
        self._cutter.restart(seconds)
        self._shot = self._heard = seconds
        self._motions = []
        self._forget(seconds)

    def _forget(self, seconds: float) -> None:
        gone = min(max(self._frame(seconds) - self._first, 0), len(self._held))
        del self._held[:gone]
        self._first += gone

    def _span(self, start: float, end: float) -> Span:
        first = min(max(self._frame(start) - self._first, 0), len(self._held) - 1)
        last = max(self._frame(end) - self._first, first + 1)
        return sampled(
            self._held[first:last], self._fps, self._data, self._seconds(self._first + first)
        )

    def _listen(self, now: float, ended: bool) -> list[Span]:
        """Hears what has come and cuts what is certain."""
        if not self._held:
            return []
        if self._hear is None:
            self._levels.extend(moved for _, moved in self._motions)
            self._cutter.hear(
                moving(
                    self._motions, float(np.quantile(self._levels, 0.9)) if self._levels else 0.0
                ),
                self._heard,
                now,
            )
            self._motions, self._heard = self._motions[-1:], now
        else:
            self._hear_windows(now, ended)
        spans = [self._span(piece.start, piece.end) for piece in self._cutter.pieces(ended)]
        self._forget(min(self._cutter.begin, self._heard))
        return spans

    def _hear_windows(self, now: float, ended: bool) -> None:
        """Hears windows of which each sees half of the one before: the middle of each counts, and its edges where there is no other."""
        starts = []
        while self._heard + self._window <= now:
            starts.append(self._heard)
            self._heard += self._window / 2
        if ended and self._heard < now:
            starts.append(self._heard)
        spans = [self._span(start, min(start + self._window, now)) for start in starts]
        for start, span, heard in zip(starts, spans, self._hear(spans) if spans else []):
            since = start + (0.0 if start == self._shot else self._window / 4)
            until = now if ended and start == starts[-1] else start + 0.75 * self._window
            self._cutter.hear(signs_of(span, heard), since, until)
