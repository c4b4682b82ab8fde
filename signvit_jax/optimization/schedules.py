"""The schedules of the learning rates: one cycle for each group of parameters."""

from collections.abc import Callable

import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float

from signvit_jax.config.schema import TrainingConfig

# The peak divided by the first rate, and by the last one: PyTorch's defaults.
START_DIVISOR = 25.0
END_DIVISOR = 25e4

Schedule = Callable[[ArrayLike], Array]  # number of applied updates -> learning rate of the next


def one_cycle(
    peak: float, total_steps: int, warmup_ratio: float, final_ratio: float = 0.0
) -> Schedule:
    """Return the one-cycle schedule of Smith & Topin (2018), with PyTorch's index convention.

    Updates are counted from 0. The rate rises by a cosine from peak / 25 to `peak` at update
    warmup_ratio * total_steps - 1, then falls by a cosine to `final_ratio` * peak (to peak / 25e4
    if `final_ratio` is 0) at update total_steps - 1, and stays there.
    """
    peak_update = max(warmup_ratio * total_steps - 1.0, 1e-6)  # above 0, because it divides
    last_update = max(total_steps - 1.0, peak_update + 1e-6)
    end = final_ratio * peak if final_ratio else peak / END_DIVISOR

    def rate(updates: ArrayLike) -> Float[Array, ""]:
        update = jnp.minimum(jnp.asarray(updates, jnp.float32), last_update)
        rising = _cosine(peak / START_DIVISOR, peak, update / peak_update)
        falling = _cosine(peak, end, (update - peak_update) / (last_update - peak_update))
        return jnp.where(update <= peak_update, rising, falling)

    return rate


def _cosine(start: float, end: float, progress: Float[Array, ""]) -> Float[Array, ""]:
    """Go from `start` to `end` along half a period of a cosine; `progress` is clipped to [0, 1]."""
    # (1 + cos(x)) / 2 would lose the last digits near x = pi, where the rate is a 250,000th of its
    # peak; cos(x / 2)^2 is the same without a difference of nearly equal numbers.
    half_angle = jnp.pi / 2.0 * jnp.clip(progress, 0.0, 1.0)
    return start * jnp.cos(half_angle) ** 2 + end * jnp.sin(half_angle) ** 2


def group_schedules(config: TrainingConfig, total_steps: int) -> dict[str, Schedule]:
    """Return the schedule of each parameter group: that of the encoder, and of the rest."""
    peaks = {"encoder": config.encoder_lr, "rest": config.decoder_lr}
    return {
        group: one_cycle(peak, total_steps, config.warmup_ratio, config.final_lr_ratio)
        for group, peak in peaks.items()
    }
