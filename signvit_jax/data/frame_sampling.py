"""Frame sampling: which stored frames make a clip.

Without a random generator (evaluation) it is deterministic; in training it is drawn once per clip.

Three policies (`data.sampling`):
- "even": exactly `num_frames` frames, evenly spaced over the clip (the reference system's rule); a
  shorter clip repeats frames.
- "rate": `frame_rate` frames per second. Clips keep their own length up to `num_frames`; longer
  ones are sampled at a lower rate.
- "segment": `frame_rate` frames per second; of a clip that is too long, one segment: anywhere in
  training, the middle in evaluation. The target is the text of the complete clip: this suits single
  words and long still ends, not sentences that fill their clip.
"""

import math

import numpy as np
from jaxtyping import Int

from signvit_jax.config.schema import DataConfig


def clip_length(num_stored: int, fps: float, config: DataConfig) -> int:
    """Return the number of frames that evaluation samples, 1 to `num_frames`.

    The clip has `num_stored` frames, `fps` per second.
    """
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
    """Return the indices of the sampled frames, not decreasing: 1 to `limit` (the clip's bucket).

    Without `rng` there are `clip_length` of them. With `rng`, the draws of `config.augment` apply:
    `speed`, `frame_jitter`, `frame_drop`. Raises ValueError for a clip without frames.
    """
    if num_stored < 1:
        raise ValueError("a clip without frames cannot be sampled")
    augment = config.augment
    speed = rng.uniform(-augment.speed, augment.speed) if rng and augment.speed else 0.0
    if config.sampling == "even":
        positions = _warp(np.linspace(0, num_stored - 1, min(config.num_frames, limit)), speed)
    else:
        step = _rate_step(fps, config) * (1.0 + speed)  # below 1 (slower), frames repeat
        sample = _segment if config.sampling == "segment" else _at_rate
        positions = sample(num_stored, step, min(config.num_frames, limit), rng)
    if rng and augment.frame_jitter:
        span = positions[-1] - positions[0] if config.sampling == "segment" else num_stored - 1
        gap = span / max(len(positions) - 1, 1)
        jitter = rng.uniform(-augment.frame_jitter, augment.frame_jitter, len(positions))
        positions = np.sort(positions + jitter * gap)
    if rng and augment.frame_drop:
        dropped = int(rng.uniform(0, augment.frame_drop) * len(positions) + 0.5)
        positions = np.sort(rng.choice(positions, max(len(positions) - dropped, 1), replace=False))
    return np.clip(positions.astype(np.int64), 0, num_stored - 1)


def _rate_step(fps: float, config: DataConfig) -> float:
    """Stored frames from one sample to the next, at least 1.

    A rate above the stored one, or an unknown stored rate, samples every frame once.
    """
    known = fps if math.isfinite(fps) and fps > 0 else config.frame_rate
    return max(known / config.frame_rate, 1.0)


def _frames_at_step(num_stored: int, step: float) -> int:
    # 1e-6 makes 3 steps of 2.9999999, which floating point can give.
    return int((num_stored - 1) / step + 1e-6) + 1


def _at_rate(
    num_stored: int, step: float, limit: int, rng: np.random.Generator | None
) -> np.ndarray:
    count = _frames_at_step(num_stored, step)
    if count > limit:  # too long for its bucket: the complete clip at a lower rate
        return np.linspace(0, num_stored - 1, limit)
    return np.arange(count) * step


def _segment(
    num_stored: int, step: float, limit: int, rng: np.random.Generator | None
) -> np.ndarray:
    count = min(_frames_at_step(num_stored, step), limit)
    spare = num_stored - 1 - (count - 1) * step  # stored frames by which the segment can move
    if count < limit:
        return np.arange(count) * step
    return spare * (rng.uniform() if rng else 0.5) + np.arange(count) * step


def _warp(positions: np.ndarray, speed: float) -> np.ndarray:
    """Change the speed over the clip from 1 + `speed` at its start to 1 - `speed` at its end.

    The two ends stay. A uniform change of speed would not change evenly spaced positions at all.
    """
    last = positions[-1]
    if not speed or not last:
        return positions
    return np.clip(positions + speed * last / np.pi * np.sin(np.pi * positions / last), 0, last)
