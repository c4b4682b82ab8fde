"""The images of a model: their size, their normalization, and channels for motion."""

import dataclasses

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, UInt8

from signvit_jax.config.schema import DataConfig


@dataclasses.dataclass(frozen=True)
class ImageFormat:
    """Images of size x size pixels whose RGB channels, as numbers from 0 to 1, are normalized."""

    size: int
    mean: tuple[float, ...]
    std: tuple[float, ...]

    def normalize(
        self, images: UInt8[Array, "*n h w c"] | Float[Array, "*n h w c"]
    ) -> Float[Array, "*n h w c"]:
        """Normalize bytes to mean 0 and deviation 1; floats are normalized already."""
        if images.dtype != jnp.uint8:
            return images
        mean, std = jnp.asarray(self.mean, jnp.float32), jnp.asarray(self.std, jnp.float32)
        return (images.astype(jnp.float32) / 255.0 - mean) / std


def image_format(config: DataConfig) -> ImageFormat:
    """Return the format of the images that the data pipeline makes."""
    return ImageFormat(config.image_size, config.mean, config.std)


def motion_channels(
    video: Float[Array, "b t h w c"], mask: Bool[Array, "b t"], kind: str
) -> Float[Array, "b t h w c"]:
    """Differences that show motion; `mask` is True at the frames of a clip.

    'clip_mean' is each frame minus the mean of its clip, which removes background, clothes and
    light; 'difference' is each frame minus the one before it.
    """
    if kind == "difference":
        return video - jnp.concatenate([video[:, :1], video[:, :-1]], axis=1)
    shares = mask / mask.sum(axis=1, keepdims=True)
    return video - jnp.einsum("bt,bthwc->bhwc", shares.astype(video.dtype), video)[:, None]
