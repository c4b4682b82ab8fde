"""The schedules of the learning rates: one cycle for each group of parameters."""

from collections.abc import Callable

import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float

from signvit_jax.config.schema import TrainingConfig

START_DIVISOR = 25.0
END_DIVISOR = 25e4

Schedule = Callable[[ArrayLike], Array]  # number of updates -> a scalar


def one_cycle(
    peak: float, total_steps: int, warmup_ratio: float, final_ratio: float = 0.0
) -> Schedule:
    """Return the one-cycle schedule of Smith & Topin (2018), with PyTorch's index convention.

    The rate rises by a cosine from peak / 25 to `peak` at index warmup_ratio * total_steps - 1,
    then falls by a cosine to `final_ratio` * peak (to peak / 25e4 if `final_ratio` is 0) at index
    total_steps - 1, and stays there.
    """
    top = max(warmup_ratio * total_steps - 1.0, 1e-6)
    last = max(total_steps - 1.0, top + 1e-6)
    end = final_ratio * peak if final_ratio else peak / END_DIVISOR

    def rate(step: ArrayLike) -> Float[Array, ""]:
        index = jnp.minimum(jnp.asarray(step, jnp.float32), last)
        rising = _cosine(peak / START_DIVISOR, peak, index / top)
        falling = _cosine(peak, end, (index - top) / (last - top))
        return jnp.where(index <= top, rising, falling)

    return rate


def _cosine(start: float, end: float, share: Float[Array, ""]) -> Float[Array, ""]:
    # cos^2 and sin^2 of the half angle are (1 + cos) / 2 and (1 - cos) / 2 without cancellation:
    # the end of the schedule is a 250,000th of its peak.
    half_angle = jnp.pi / 2.0 * jnp.clip(share, 0.0, 1.0)
    return start * jnp.cos(half_angle) ** 2 + end * jnp.sin(half_angle) ** 2


def learning_rates(config: TrainingConfig, total_steps: int) -> dict[str, Schedule]:
    """Return the schedule of each parameter group: applied updates -> learning rate."""
    peaks = {"encoder": config.encoder_lr, "rest": config.decoder_lr}
    return {
        group: one_cycle(peak, total_steps, config.warmup_ratio, config.final_lr_ratio)
        for group, peak in peaks.items()
    }
