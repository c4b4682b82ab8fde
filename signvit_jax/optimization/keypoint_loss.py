"""Keypoints as a second task: the backbone's feature of a frame has to tell where they are.

The head is one linear map, trained with the model and saved with the optimizer, so that neither
evaluation nor an export has it.
"""

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PyTree

from signvit_jax.config.schema import TrainingConfig
from signvit_jax.layers.attention import length_mask
from signvit_jax.models.zoom import inside_square
from signvit_jax.optimization.losses import TermInputs

KEYPOINT_HEAD = "keypoint_head"  # its name among the parameters beside the model
_HUBER = 0.1  # half sides of the view; beyond it an error counts linearly


@dataclasses.dataclass(frozen=True)
class KeypointTerm:
    """keypoint_weight * Huber loss of the keypoints, fading linearly to 0 at `keypoint_steps`.

    The coordinates are those of the square that the backbone sees, from -1 to 1: a zoomed view does
    not show where in the image it is. Points outside of it do not count; the others are weighted by
    their confidence. The loss of a clip is the mean over its points, divided by _HUBER so that it
    is about the mean error in half sides of the view. The result is the mean over clips.
    """

    config: TrainingConfig
    metrics = ("keypoints",)

    def __call__(self, inputs: TermInputs) -> tuple[Float[Array, ""], dict[str, Array]]:
        encoded, batch = inputs.outputs.encoded, inputs.batch
        assert encoded.view is not None, "only training has this term"
        head = inputs.aux[KEYPOINT_HEAD]
        found = encoded.view.features.astype(jnp.float32) @ head["kernel"] + head["bias"]
        points = jnp.asarray(batch["keypoints"])
        shares, inside = inside_square(points[..., 1::-1], encoded.view.square)
        found = found.reshape(shares.shape)
        mask = length_mask(encoded.frame_lengths, points.shape[1])
        weights = points[..., 2] * inside * mask[..., None]
        # A missing point may have any coordinates.
        targets = jnp.where(weights[..., None] > 0.0, 2.0 * shares - 1.0, 0.0)
        error = huber(found - targets).sum(axis=-1) / _HUBER
        per_clip = jnp.sum(error * weights, axis=(1, 2)) / jnp.maximum(
            weights.sum(axis=(1, 2)), 1e-6
        )
        mean = jnp.sum(per_clip * batch["weights"]) / inputs.counts.clips
        weight = self.config.keypoint_weight * self._share(inputs.step)
        return weight * mean, {"keypoints": mean}

    def _share(self, step: Int[Array, ""] | None) -> Float[Array, ""] | float:
        if step is None or not self.config.keypoint_steps:
            return 1.0
        return jnp.maximum(1.0 - step / self.config.keypoint_steps, 0.0)


def huber(error: Float[Array, "*n"]) -> Float[Array, "*n"]:
    """Half the square up to _HUBER, linear from there (Huber 1964)."""
    size = jnp.abs(error)
    inner = jnp.minimum(size, _HUBER)
    return 0.5 * inner**2 + _HUBER * (size - inner)


def initial_keypoint_head(
    width: int, num_keypoints: int, seed: int | Int[Array, ""]
) -> dict[str, PyTree]:
    """Return {"keypoint_head": a linear map to y and x of each point}; {} for no points.

    It is traceable.
    """
    if not num_keypoints:
        return {}
    key = jax.random.fold_in(jax.random.key(seed), num_keypoints)
    kernel = jax.nn.initializers.xavier_uniform()(key, (width, 2 * num_keypoints))
    return {KEYPOINT_HEAD: {"kernel": kernel, "bias": jnp.zeros(2 * num_keypoints)}}
