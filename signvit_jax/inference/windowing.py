"""Windows of a video as a model reads them, one for a clip and several for a recording.

A recording is split where nobody signs (`inference.resting`), so that a window is a sentence, as in
training. Only if signing without a rest lasts longer than a clip may, it is read in overlapping
windows, and `inference.joining` joins their texts.
"""

import itertools
import os
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple, Self

import numpy as np
from jaxtyping import UInt8

from signvit_jax.captions.segments import Alternative, Segment
from signvit_jax.config.schema import DataConfig, InferenceConfig
from signvit_jax.data.frame_sampling import sample_frames
from signvit_jax.data.schema import STORED_FRAME_RATE
from signvit_jax.decoding.sign_times import TimedUnit
from signvit_jax.errors.base import SignVitError
from signvit_jax.inference.predictor import CtcWord, Hypothesis
from signvit_jax.inference.resting import (
    CtcSign,
    Cutter,
    MotionSigns,
    Sign,
    block_means,
    is_new_shot,
    motion,
)
from signvit_jax.media.frames import fit_frames
from signvit_jax.media.video import Sampling, VideoDecodeError, VideoLimits, VideoStream, open_video

Clip = str | os.PathLike | bytes | np.ndarray

_SENTENCE = 6.0  # seconds of the longest clip, if they do not follow from the config
_CTC_BATCH = 4  # CTC reads a recording again when it has grown by this many half windows
MOST_CTC_WINDOWS = _CTC_BATCH + 1  # windows that CTC then reads together
RECORDING = VideoLimits(  # limits of one file that allow recordings of hours
    max_seconds=6 * 3600.0, max_frames=600_000, cpu_seconds=7200.0, wall_seconds=7200.0
)


class ClipError(SignVitError, ValueError):
    """Frames that are not a clip; the message gives shape and dtype, and what is allowed."""


class VideoWindow(NamedTuple):
    """A part of a video as the model reads it."""

    frames: UInt8[np.ndarray, "t s s 3"]  # sampled, in the model's size
    start: float  # seconds in the video
    end: float
    times: tuple[float, ...] = ()  # of the frames, seconds in the video


# The signs that CTC detects in each of some windows.
DetectSigns = Callable[[Sequence[VideoWindow]], Sequence[Sequence[CtcSign]]]


def clip_limit(data: DataConfig) -> float:
    """Seconds of the longest clip that the model sees at the frame rate of training.

    With `data.sampling` "rate" or "segment": `num_frames / frame_rate`. With "even" the limit
    depends on the length of the training clips, which is not in a config: then it is _SENTENCE, or
    the seconds of `num_frames` stored frames if that is longer.
    """
    if data.sampling == "even":
        return max(_SENTENCE, data.num_frames / STORED_FRAME_RATE)
    return data.num_frames / data.frame_rate


def longest_clip(data: DataConfig, inference: InferenceConfig) -> float:
    """Seconds of the longest clip: `inference.max_clip_seconds`, or with 0 `clip_limit`."""
    return inference.max_clip_seconds or clip_limit(data)


def longest_window(data: DataConfig, inference: InferenceConfig) -> float:
    """Seconds of a recording's longest window: `inference.window_seconds`, or with 0 a clip's."""
    return inference.window_seconds or min(clip_limit(data), longest_clip(data, inference))


def frame_rate_warning(window: VideoWindow, fps: float, data: DataConfig) -> str | None:
    """Return a warning if the model sees fewer frames per second of the window than in training."""
    seconds, limit = window.end - window.start, clip_limit(data)
    longest = limit * 1.02 + 1.0 / data.frame_rate  # tolerates rounding
    if seconds > longest and data.sampling != "segment":
        count = len(window.frames)
        return (
            f"{seconds:.1f} s from {window.start:.1f} s on were read in {count} frames, "
            f"{count / seconds:.1f} a second: the model was trained on clips of up to "
            f"{limit:.1f} s ({data.num_frames / limit:.1f} a second), so words may be missing; "
            "leave max_clip_seconds and window_seconds out, or lower them"
        )
    is_slower = 0 < fps < 0.9 * data.frame_rate  # up to a tenth less needs no warning
    if data.sampling != "even" and is_slower:
        return (
            f"the video has {fps:.1f} frames per second, and the model was trained on "
            f"{data.frame_rate:.1f}: words may be missing"
        )
    return None


def check_frames(frames: np.ndarray) -> None:
    """Raise ClipError for frames that are not uint8 RGB of shape (t, h, w, 3)."""
    if frames.ndim != 4 or frames.shape[-1] != 3 or frames.dtype != np.uint8 or not frames.size:
        raise ClipError(
            f"frames have shape {frames.shape} and dtype {frames.dtype}; "
            "allowed: uint8 RGB of shape (t, h, w, 3), none of them 0"
        )


def sample_window(
    frames: Sequence[UInt8[np.ndarray, "s s 3"]], fps: float, data: DataConfig, start: float = 0.0
) -> VideoWindow:
    """Sample frames as evaluation does; they have the model's size and begin at `start` seconds."""
    chosen = sample_frames(len(frames), fps, data, data.num_frames)
    return VideoWindow(
        np.stack([frames[i] for i in chosen]),
        start,
        start + len(frames) / fps,
        tuple(start + float(i) / fps for i in chosen),
    )


def to_segment(window: VideoWindow, hypothesis: Hypothesis) -> Segment:
    """The hypothesis about a window as a segment of the video's text."""
    return Segment(
        window.start,
        window.end,
        hypothesis.text,
        hypothesis.score,
        hypothesis.confidence,
        hypothesis.words,
        tuple(
            Alternative(other.text, other.score, other.confidence)
            for other in hypothesis.alternatives
            if other.text
        ),
    )


def to_video_time(window: VideoWindow, signs: Sequence[CtcSign]) -> list[Sign]:
    """The surer of CTC's signs in a window (probability 0.5 or more), in seconds of the video."""
    return [
        Sign(*_seconds_of(window, sign.start, sign.end)) for sign in signs if sign.confidence >= 0.5
    ]


def timed_units(window: VideoWindow, words: Sequence[CtcWord]) -> list[TimedUnit]:
    """CTC's words in a window, in seconds of the video."""
    return [TimedUnit(word.text, *_seconds_of(window, word.start, word.end)) for word in words]


def _seconds_of(window: VideoWindow, start: int, end: int) -> tuple[float, float]:
    """When the sampled frames from `start` to before `end` begin and end in the video."""
    step = (window.times[-1] - window.times[0]) / max(len(window.times) - 1, 1)
    return window.times[start], window.times[end - 1] + step


class VideoInput:
    """A video that is being read: its windows in order of time, and the seconds read so far.

    `clip`: a video file (its path or bytes), or RGB frames (t, h, w, 3) at `fps`; None stands for
    `data.frame_rate`. A file is decoded while its windows are taken, which may raise
    VideoDecodeError; memory does not grow with its length. With `detect_signs`, for a model whose
    CTC gives times, a recording is split between sentences; without, where nothing moves. Raises
    ClipError.
    """

    def __init__(
        self,
        clip: Clip,
        fps: float | None,
        data: DataConfig,
        inference: InferenceConfig,
        limits: VideoLimits = RECORDING,
        detect_signs: DetectSigns | None = None,
    ):
        if isinstance(clip, np.ndarray):
            check_frames(clip)
        self._clip = clip
        self._given_fps = fps
        self._data = data
        self._inference = inference
        self._limits = limits
        self._detect_signs = detect_signs
        self.windows = self._read()
        self.seconds = 0.0
        self.is_clip = True  # one window is the complete video
        self.fps = 0.0

    def peek(self) -> Self:
        """Read a clip to its end, or a recording until it is known to be one.

        Raises VideoDecodeError. No file stays open. The windows of a recording start again from its
        beginning.
        """
        self.windows = iter(list(self._read(only_clip=True)))
        if not self.is_clip:
            self.windows = self._read()
        return self

    def _read(self, only_clip: bool = False) -> Iterator[VideoWindow]:
        """Yield the windows; with `only_clip` none of a recording, which is then not decoded."""
        clip = self._clip
        if isinstance(clip, np.ndarray):
            rate = self._given_fps or self._data.frame_rate
            stream = VideoStream(rate, ((i / rate, frame) for i, frame in enumerate(clip)))
            yield from self._split(stream, only_clip)
        elif isinstance(clip, bytes):
            with tempfile.TemporaryDirectory() as folder:
                path = Path(folder) / "clip"
                path.write_bytes(clip)
                try:
                    yield from self._read_file(path, only_clip)
                except VideoDecodeError as error:  # hide the meaningless name of the temporary file
                    name = f"a video of {len(clip):,} bytes"
                    raise VideoDecodeError(name, error.reason) from None
        else:
            yield from self._read_file(clip, only_clip)

    def _read_file(self, path: str | os.PathLike, only_clip: bool) -> Iterator[VideoWindow]:
        sampling = Sampling(short_side=2 * self._data.image_size, max_frame_rate=STORED_FRAME_RATE)
        with open_video(path, sampling, self._limits) as stream:
            yield from self._split(stream, only_clip)

    def _split(self, stream: VideoStream, only_clip: bool) -> Iterator[VideoWindow]:
        """Yield one window if the video ends within the longest clip, else a recording's."""
        data = self._data
        self.fps = stream.fps
        max_frames = max(round(longest_clip(data, self._inference) * stream.fps), 1)
        frames = (
            (seconds, fit_frames([frame], data.image_size, data.resize_mode)[0])
            for seconds, frame in stream.frames
        )
        beginning = list(itertools.islice(frames, max_frames + 1))  # one more than a clip may have
        origin = beginning[0][0]
        self.seconds = origin + len(beginning) / stream.fps
        if len(beginning) <= max_frames:
            yield sample_window([frame for _, frame in beginning], stream.fps, data, origin)
            return
        self.is_clip = False
        if only_clip:
            return
        recording = _Recording(origin, stream.fps, data, self._inference, self._detect_signs)
        for count, windows in recording.read(itertools.chain(beginning, frames)):
            self.seconds = origin + count / stream.fps
            yield from windows


class _Recording:
    """A recording that is split into windows.

    It holds the frames of three windows at most, besides those of the piece that is not final yet.
    """

    def __init__(
        self,
        origin: float,
        fps: float,
        data: DataConfig,
        inference: InferenceConfig,
        detect_signs: DetectSigns | None,
    ):
        self._origin = origin
        self._fps = fps
        self._data = data
        self._detect_signs = detect_signs
        self._window = longest_window(data, inference)
        rest = inference.rest_seconds if detect_signs else 2.0 * inference.rest_seconds
        self._cutter = Cutter(self._window, inference.window_overlap, rest)
        self._cutter.restart(origin)
        self._held: list[np.ndarray] = []
        self._first = 0  # number of the first frame that is held
        self._shot = origin  # seconds at which the shot begins
        self._next = origin  # seconds at which the next window of `detect_signs` begins
        self._moving = MotionSigns()  # of the frames after `_next`

    def read(
        self, frames: Iterable[tuple[float, np.ndarray]]
    ) -> Iterator[tuple[int, list[VideoWindow]]]:
        """Yield (number of frames read so far, the windows that are final by then)."""
        last, count = None, 0
        for count, (_, frame) in enumerate(frames, 1):
            now, blocks = self._seconds(count - 1), block_means(frame)
            if last is not None and is_new_shot(last, blocks):
                yield count, self._final_windows(now, ended=True)
                self._restart(now)
            elif last is not None:
                moved = motion(last, blocks)
                self._cutter.add_motion(now, moved)
                if self._detect_signs is None:
                    self._moving.add(now, moved)
            last = blocks
            self._held.append(frame)
            if now - self._next >= _CTC_BATCH * self._window / 2 + self._window:
                yield count, self._final_windows(now, ended=False)
        yield count, self._final_windows(self._seconds(count), ended=True)

    def _seconds(self, frame: int) -> float:
        return self._origin + frame / self._fps

    def _frame(self, seconds: float) -> int:
        return round((seconds - self._origin) * self._fps)

    def _restart(self, seconds: float) -> None:
        """A new shot begins, for which no earlier frame is needed."""
        self._cutter.restart(seconds)
        self._shot = seconds
        self._next = seconds
        self._moving.restart()
        self._drop_before(seconds)

    def _drop_before(self, seconds: float) -> None:
        count = min(max(self._frame(seconds) - self._first, 0), len(self._held))
        del self._held[:count]
        self._first += count

    def _sample(self, start: float, end: float) -> VideoWindow:
        first = min(max(self._frame(start) - self._first, 0), len(self._held) - 1)
        last = max(self._frame(end) - self._first, first + 1)
        return sample_window(
            self._held[first:last], self._fps, self._data, self._seconds(self._first + first)
        )

    def _final_windows(self, now: float, ended: bool) -> list[VideoWindow]:
        """Detect signs up to `now`, and return the windows that are final."""
        if not self._held:
            return []
        if self._detect_signs is None:
            self._cutter.add_signs(self._moving.take(), self._next, now)
            self._next = now
        else:
            self._add_ctc_signs(self._detect_signs, now, ended)
        windows = [self._sample(piece.start, piece.end) for piece in self._cutter.pieces(ended)]
        self._drop_before(min(self._cutter.begin, self._next))
        return windows

    def _add_ctc_signs(self, detect_signs: DetectSigns, now: float, ended: bool) -> None:
        """Give the cutter CTC's signs, from windows that each repeat half of the previous one.

        The signs in the middle of each window count. Those near its edges count only where no other
        window has them in its middle: at the beginning of a shot and at its end.
        """
        starts = []
        while self._next + self._window <= now:
            starts.append(self._next)
            self._next += self._window / 2
        if ended and self._next < now:
            starts.append(self._next)
        windows = [self._sample(start, min(start + self._window, now)) for start in starts]
        detected = detect_signs(windows) if windows else []
        for start, window, signs in zip(starts, windows, detected):
            since = start + (0.0 if start == self._shot else self._window / 4)
            until = now if ended and start == starts[-1] else start + 0.75 * self._window
            self._cutter.add_signs(to_video_time(window, signs), since, until)
