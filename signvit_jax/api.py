"""What a notebook or a server uses: `load_translator(workdir).translate(clip).text`."""

import dataclasses
import os
import tempfile
import threading
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from signvit_jax.data.frames import fit_frames
from signvit_jax.data.sampling import sample_frames
from signvit_jax.data.video import VideoLimits, read_video
from signvit_jax.evaluation.evaluator import Predictor
from signvit_jax.training.trained_model import TrainedModel, load_trained

Clip = str | os.PathLike | bytes | np.ndarray

STORED_FRAME_RATE = 25.0  # builders keep at most this many frames a second of a source; translating a file sees what training saw


@dataclasses.dataclass(frozen=True)
class Translation:
    """`score` is the decoder's own; `confidence` the mean probability of the tokens, 0 to 1; `seconds` the clip's length."""

    text: str
    tokens: tuple[int, ...]
    score: float
    confidence: float
    seconds: float
    decoder: str


class ClipError(ValueError):
    """Frames that are not a clip; the message gives shape and dtype, and what is allowed."""

    exit_code = 2


def load_translator(workdir: str | os.PathLike, *, checkpoint: str = "best") -> "Translator":
    """The translator that a training run left in `workdir`; `checkpoint` is "best" or "last". Raises WorkdirError."""
    return Translator(load_trained(workdir, checkpoint))


class Translator:
    """Translates clips, one sentence a clip. Safe to call from several threads; each clip length and decoder is compiled once."""

    def __init__(self, model: TrainedModel):
        self.model = model
        self._predictors: dict[tuple, Predictor] = {}
        self._lock = threading.Lock()

    def translate(self, clip: Clip | Sequence[Clip], *, decode: str = "greedy", fps: float | None = None, **inference: object):
        """One `Translation`, or a list of them for a list of clips.

        A clip is the path of a video, the bytes of a video file, or uint8 RGB frames (t, h, w, 3), the last with `fps` frames a second (default: the
        rate that the model was trained at). `decode` is "greedy", "beam", "ctc" or "sample"; keyword arguments such as `beam_size=8` replace
        values of the config's `inference` group. Raises VideoDecodeError for a file that cannot be read, ClipError for frames of another shape and
        ConfigError for a decoder or an inference value that is not allowed.
        """
        if isinstance(clip, list | tuple):
            return self._translate_all([self._read(item, fps) for item in clip], decode, inference)
        return self._translate_all([self._read(clip, fps)], decode, inference)[0]

    def warm_up(self, decode: str = "greedy", **inference: object) -> None:
        """Compiles every clip length ahead of the first request."""
        config = self.model.config
        size = config.data.image_size
        clips = [(np.zeros((bucket, size, size, 3), np.uint8), 0.0) for bucket in config.frame_buckets]
        for clip in clips:
            self._run([clip], config.frame_buckets, decode, inference)

    def _translate_all(self, clips: list[tuple[np.ndarray, float]], decode: str, inference: dict) -> list[Translation]:
        """Clips of one bucket are run together, `inference.batch_size` at a time."""
        buckets = self.model.config.frame_buckets
        chosen = [next(bucket for bucket in buckets if len(frames) <= bucket) for frames, _ in clips]
        results: list[Translation | None] = [None] * len(clips)
        for bucket in sorted(set(chosen)):
            rows = [row for row, its_bucket in enumerate(chosen) if its_bucket == bucket]
            size = min(self.model.config.inference.batch_size, len(rows))
            for start in range(0, len(rows), size):
                part = rows[start : start + size]
                for row, translation in zip(part, self._run([clips[row] for row in part], buckets, decode, inference, batch_size=size)):
                    results[row] = translation
        return results

    def _run(
        self, clips: list[tuple[np.ndarray, float]], buckets: tuple[int, ...], decode: str, inference: dict, batch_size: int = 1
    ) -> list[Translation]:
        devices = self.model.mesh.size
        rows = -(-max(batch_size, len(clips)) // devices) * devices
        longest = max(len(frames) for frames, _ in clips)
        bucket = next(bucket for bucket in buckets if longest <= bucket)
        video = np.zeros((rows, bucket, *clips[0][0].shape[1:]), np.uint8)
        lengths = np.ones((rows,), np.int32)
        for row, (frames, _) in enumerate(clips):
            video[row, : len(frames)], lengths[row] = frames, len(frames)
        found = self._predictor(decode, inference)(self.model.params, {"video": video, "frame_lengths": lengths})[decode]
        return [
            Translation(hypothesis.text, hypothesis.tokens, hypothesis.score, hypothesis.confidence, seconds, decode)
            for hypothesis, (_, seconds) in zip(found, clips)
        ]

    def _predictor(self, decode: str, inference: dict) -> Predictor:
        key = (decode, *sorted(inference.items()))
        with self._lock:
            if key not in self._predictors:
                self._predictors[key] = self.model.predictor([decode], **inference)
            return self._predictors[key]

    def _read(self, clip: Clip, fps: float | None) -> tuple[np.ndarray, float]:
        """The clip's sampled frames in the model's size, and its length in seconds."""
        data = self.model.config.data
        if isinstance(clip, np.ndarray):
            frames, rate = _checked_frames(clip), fps or data.frame_rate
        elif isinstance(clip, bytes):
            with tempfile.TemporaryDirectory() as folder:
                path = Path(folder) / "clip"
                path.write_bytes(clip)
                return self._read(path, fps)
        else:
            video = read_video(clip, max_frame_rate=STORED_FRAME_RATE, short_side=2 * data.image_size, limits=VideoLimits())
            frames, rate = video.frames, video.fps
        picked = sample_frames(len(frames), rate, data, data.num_frames)
        return fit_frames(frames[picked], data.image_size, data.fit), len(frames) / rate


def _checked_frames(frames: np.ndarray) -> np.ndarray:
    if frames.ndim != 4 or frames.shape[-1] != 3 or frames.dtype != np.uint8 or not frames.size:
        raise ClipError(f"frames have shape {frames.shape} and dtype {frames.dtype}; allowed: uint8 RGB of shape (t, h, w, 3), none of them 0")
    return frames
