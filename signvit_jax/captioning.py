"""From a video of any length to what a model reads, one span for a clip and overlapping windows for a recording; and from its text to segments."""

import dataclasses
import itertools
import os
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import UInt8

from signvit_jax.config import DataConfig, InferenceConfig
from signvit_jax.data.frames import fit_frames
from signvit_jax.data.sampling import sample_frames
from signvit_jax.data.video import Sampling, VideoLimits, VideoStream, open_video
from signvit_jax.decoding.subtitles import Alternative, Segment
from signvit_jax.evaluation.evaluator import Hypothesis

Clip = str | os.PathLike | bytes | np.ndarray

STORED_FRAME_RATE = 25.0  # builders keep at most this many frames a second of a source; translating a file sees what training saw
RECORDING = VideoLimits(max_seconds=6 * 3600.0, max_frames=600_000, cpu_seconds=7200.0, wall_seconds=7200.0)  # what one file may cost


class ClipError(ValueError):
    """Frames that are not a clip; the message gives shape and dtype, and what is allowed."""

    exit_code = 2


class Span(NamedTuple):
    """A piece of video as the model reads it."""

    frames: UInt8[np.ndarray, "t s s 3"]  # sampled, in the model's size
    start: float  # seconds in the video
    end: float


@dataclasses.dataclass
class Footage:
    """One video on its way through: its spans in order of time, and how many seconds of it have been read."""

    spans: Iterator[Span]
    seconds: float = 0.0
    is_clip: bool = True  # one span is all there is

    def begin(self) -> "Footage":
        """Reads as far as it takes to know whether this is a clip. Raises VideoDecodeError."""
        head = list(itertools.islice(self.spans, 2))
        self.is_clip, self.spans = len(head) == 1, itertools.chain(head, self.spans)
        return self


def open_footage(clip: Clip, fps: float | None, data: DataConfig, inference: InferenceConfig, limits: VideoLimits = RECORDING) -> Footage:
    """The spans of a video file (its path or its bytes) or of RGB frames (t, h, w, 3) at `fps` frames a second (None: `data.frame_rate`).

    A file is decoded as its spans are asked for, which then raise VideoDecodeError: memory does not grow with its length. Raises ClipError.
    """
    if isinstance(clip, np.ndarray):
        check_frames(clip)
    footage = Footage(iter(()))
    footage.spans = _spans(footage, clip, fps, data, inference, limits)
    return footage


def check_frames(frames: np.ndarray) -> None:
    """Raises ClipError for what is not uint8 RGB of shape (t, h, w, 3)."""
    if frames.ndim != 4 or frames.shape[-1] != 3 or frames.dtype != np.uint8 or not frames.size:
        raise ClipError(f"frames have shape {frames.shape} and dtype {frames.dtype}; allowed: uint8 RGB of shape (t, h, w, 3), none of them 0")


def sampled(frames: Sequence[UInt8[np.ndarray, "s s 3"]], fps: float, data: DataConfig) -> UInt8[np.ndarray, "t s s 3"]:
    """The frames that evaluation would take of a clip of these, which are in the model's size already."""
    return np.stack([frames[i] for i in sample_frames(len(frames), fps, data, data.num_frames)])


def segment_of(span: Span, said: Hypothesis) -> Segment:
    """What was said of the span, in its place in time."""
    others = tuple(Alternative(other.text, other.score, other.confidence) for other in said.alternatives if other.text)
    return Segment(span.start, span.end, said.text, said.score, said.confidence, said.words, others)


def _spans(footage: Footage, clip: Clip, fps: float | None, data: DataConfig, inference: InferenceConfig, limits: VideoLimits) -> Iterator[Span]:
    if isinstance(clip, np.ndarray):
        rate = fps or data.frame_rate
        yield from _cut(footage, VideoStream(rate, ((i / rate, frame) for i, frame in enumerate(clip))), data, inference)
    elif isinstance(clip, bytes):
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "clip"
            path.write_bytes(clip)
            yield from _spans(footage, path, fps, data, inference, limits)
    else:
        with open_video(clip, Sampling(short_side=2 * data.image_size, max_frame_rate=STORED_FRAME_RATE), limits) as video:
            yield from _cut(footage, video, data, inference)


def _cut(footage: Footage, video: VideoStream, data: DataConfig, inference: InferenceConfig) -> Iterator[Span]:
    """One span where the video ends within `max_clip_seconds`, else windows. No more frames are held than such a clip has, in the model's size."""
    fps = video.fps
    per_window = max(round(inference.window_seconds * fps), 1)
    hop = max(round(per_window * (1.0 - inference.window_overlap)), 1)
    longest = max(round(inference.max_clip_seconds * fps), per_window)
    held: list[np.ndarray] = []
    first, origin, is_recording = 0, 0.0, False

    def span(count: int) -> Span:
        start = origin + first / fps
        return Span(sampled(held[:count], fps, data), start, start + count / fps)

    for seconds, frame in video.frames:
        if not footage.seconds:
            origin = seconds
        held.append(fit_frames([frame], data.image_size, data.fit)[0])
        footage.seconds = origin + (first + len(held)) / fps
        is_recording = is_recording or len(held) > longest
        while is_recording and len(held) >= per_window:
            yield span(per_window)
            del held[:hop]
            first += hop
    if not is_recording or len(held) > per_window - hop:  # what no window has seen yet
        yield span(len(held))
