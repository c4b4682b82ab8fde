"""AdamW with one learning rate for the encoder and one for the rest, a one-cycle schedule, and clipping by the global norm before both."""

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int, PyTree

from signvit_jax.config import TrainingConfig

START_DIVISOR = 25.0
END_DIVISOR = 25e4


def one_cycle(peak: float, total_steps: int, warmup_ratio: float) -> optax.Schedule:
    """Cosine from peak / 25 up to `peak`, then cosine down to peak / 25e4 (Smith & Topin 2018), with PyTorch's index convention:
    the peak is at index warmup_ratio * total_steps - 1 and the end at total_steps - 1; beyond it the rate stays.
    """
    top = max(warmup_ratio * total_steps - 1.0, 1e-6)
    last = max(total_steps - 1.0, top + 1e-6)

    def rate(step: Int[Array, ""] | int) -> Float[Array, ""]:
        index = jnp.minimum(jnp.asarray(step, jnp.float32), last)
        rising = _cosine(peak / START_DIVISOR, peak, index / top)
        falling = _cosine(peak, peak / END_DIVISOR, (index - top) / (last - top))
        return jnp.where(index <= top, rising, falling)

    return rate


def _cosine(start: float, end: float, share: Float[Array, ""]) -> Float[Array, ""]:
    # cos^2 and sin^2 of the half angle are (1 + cos) / 2 and (1 - cos) / 2 without cancellation: the end is a 250,000th of the peak.
    half_angle = jnp.pi / 2.0 * jnp.clip(share, 0.0, 1.0)
    return start * jnp.cos(half_angle) ** 2 + end * jnp.sin(half_angle) ** 2


def learning_rates(config: TrainingConfig, total_steps: int) -> dict[str, optax.Schedule]:
    """The schedule of each group of parameters."""
    peaks = {"encoder": config.encoder_lr, "rest": config.decoder_lr}
    return {group: one_cycle(peak, total_steps, config.warmup_ratio) for group, peak in peaks.items()}


def make_optimizer(config: TrainingConfig, total_steps: int) -> optax.GradientTransformation:
    """Clip, Adam (betas 0.9, 0.999, eps 1e-8), decoupled weight decay, then each group's rate."""
    by_rate = {group: optax.scale_by_learning_rate(schedule) for group, schedule in learning_rates(config, total_steps).items()}
    return optax.chain(
        optax.clip_by_global_norm(config.max_grad_norm),
        optax.scale_by_adam(b1=0.9, b2=0.999, eps=1e-8),
        optax.add_decayed_weights(config.weight_decay, mask=matrices if config.weight_decay_on == "matrices" else None),
        optax.partition(by_rate, groups),
    )


def groups(params: PyTree) -> PyTree:
    """'encoder' or 'rest' for every parameter."""
    return jax.tree_util.tree_map_with_path(lambda path, _: "encoder" if path[0].key == "encoder" else "rest", params)


def matrices(params: PyTree) -> PyTree:
    """True for the kernels of linear maps and convolutions: what weight decay is for."""
    return jax.tree_util.tree_map_with_path(lambda path, _: path[-1].key == "kernel", params)
