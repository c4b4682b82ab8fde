"""Which stored frames a clip is made of. Deterministic without a random generator (evaluation); in training one draw a clip.

Three policies (`data.sampling`): "even" gives every clip exactly `num_frames` frames spread evenly over it (the reference's rule, repeating
frames of a shorter clip); "rate" takes `frame_rate` frames a second, so that clips keep their own length up to `num_frames`, longer ones more thinly;
"segment" never thins: of a clip that is too long it takes one piece, drawn anywhere in training, the middle in evaluation. The text of a piece is
that of the whole clip: it suits single words and long still ends, not sentences that fill their clip.
"""

import math

import numpy as np
from jaxtyping import Int

from signvit_jax.config.schema import DataConfig


def clip_length(num_stored: int, fps: float, config: DataConfig) -> int:
    """Frames that evaluation takes of a clip of `num_stored` frames at `fps` frames a second: 1 to `num_frames`."""
    if config.sampling == "even":
        return config.num_frames
    return min(_frames_at_step(num_stored, _rate_step(fps, config)), config.num_frames)


def sample_frames(
    num_stored: int,
    fps: float,
    config: DataConfig,
    limit: int,
    rng: np.random.Generator | None = None,
) -> Int[np.ndarray, " t"]:
    """Rising indices of the stored frames that make the clip; at most `limit` of them (the clip's bucket), at least one.

    Without `rng` there are `clip_length` of them. With it the draws of `config.augment` apply: `speed`, `frame_jitter`, `frame_drop`.
    """
    if num_stored < 1:
        raise ValueError("a clip without frames cannot be sampled")
    augment = config.augment
    speed = rng.uniform(-augment.speed, augment.speed) if rng and augment.speed else 0.0
    if config.sampling == "even":
        positions = _warp(np.linspace(0, num_stored - 1, min(config.num_frames, limit)), speed)
    else:
        step = _rate_step(fps, config) * (1.0 + speed)  # below 1, in slower play, frames repeat
        take = _segment if config.sampling == "segment" else _at_rate
        positions = take(num_stored, step, min(config.num_frames, limit), rng)
    if rng and augment.frame_jitter:
        span = positions[-1] - positions[0] if config.sampling == "segment" else num_stored - 1
        gap = span / max(len(positions) - 1, 1)
        positions = np.sort(
            positions
            + rng.uniform(-augment.frame_jitter, augment.frame_jitter, len(positions)) * gap
        )
    if rng and augment.frame_drop:
        dropped = int(rng.uniform(0, augment.frame_drop) * len(positions) + 0.5)
        positions = np.sort(rng.choice(positions, max(len(positions) - dropped, 1), replace=False))
    return np.clip(positions.astype(np.int64), 0, num_stored - 1)


def _rate_step(fps: float, config: DataConfig) -> float:
    """Stored frames between two samples; a rate above the stored one takes every frame once."""
    known = fps if math.isfinite(fps) and fps > 0 else config.frame_rate
    return max(known / config.frame_rate, 1.0)


def _frames_at_step(num_stored: int, step: float) -> int:
    return (
        int((num_stored - 1) / step + 1e-6) + 1
    )  # 1e-6: 2.9999999 steps are 3 that floating point missed


def _at_rate(
    num_stored: int, step: float, limit: int, rng: np.random.Generator | None
) -> np.ndarray:
    count = _frames_at_step(num_stored, step)
    if count > limit:  # too long for its bucket: the whole clip, more thinly
        return np.linspace(0, num_stored - 1, limit)
    return np.arange(count) * step


def _segment(
    num_stored: int, step: float, limit: int, rng: np.random.Generator | None
) -> np.ndarray:
    count = min(_frames_at_step(num_stored, step), limit)
    spare = num_stored - 1 - (count - 1) * step  # stored frames by which the piece can be moved
    if count < limit:
        return np.arange(count) * step
    return spare * (rng.uniform() if rng else 0.5) + np.arange(count) * step


def _warp(positions: np.ndarray, speed: float) -> np.ndarray:
    """Plays a clip of a fixed number of frames at a speed between 1 + speed (start) and 1 - speed (end), its two ends kept.

    A uniform change of speed would not change an even spread over the whole clip at all.
    """
    last = positions[-1]
    if not speed or not last:
        return positions
    return np.clip(positions + speed * last / np.pi * np.sin(np.pi * positions / last), 0, last)
