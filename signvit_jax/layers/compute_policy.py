"""The compute policy: dtype, recomputation and kernels, not what a model computes."""

import dataclasses

import jax.numpy as jnp
from jaxtyping import DTypeLike

from signvit_jax.config.schema import Config


@dataclasses.dataclass(frozen=True)
class ComputePolicy:
    """The way a model is computed. Outputs of two policies differ only in rounding and dropout.

    The parameters are the same under every policy, so a checkpoint fits all of them.
    """

    dtype: DTypeLike = jnp.float32  # of activations; parameters and logits are float32
    remat: str = "none"  # what the backward pass recomputes: a key of `REMAT_POLICIES`, or 'none'
    scan_layers: bool = True  # False unrolls the ViT's blocks
    attention: str = "auto"  # of the ViT: `layers.attention.attend`'s `implementation`
    frames_per_chunk: int = 0  # frames that the ViT runs at once; 0 = all
    dropout_rng_impl: str = "threefry"  # of the ViT: 'threefry', 'rbg' (the device's) or 'hash'


def compute_policy(config: Config) -> ComputePolicy:
    """Return the policy of a training run."""
    encoder, training = config.model.encoder, config.training
    return ComputePolicy(
        dtype=jnp.bfloat16 if training.use_amp else jnp.float32,
        remat=training.remat,
        scan_layers=training.scan_layers,
        attention=encoder.attention,
        frames_per_chunk=encoder.frames_per_chunk,
        dropout_rng_impl=encoder.dropout_rng_impl,
    )
