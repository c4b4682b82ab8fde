"""The images of a model: their size, their normalization, and channels for motion."""

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, UInt8

from signvit_jax.config.schema import DataConfig

# In units of normalized pixels: about six gray levels.
MOTION_FLOOR = 0.1


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


def with_motion(
    video: Float[Array, "b t h w 3"], mask: Bool[Array, "b t"], kind: str, *, colors: bool
) -> Float[Array, "b t h w c"]:
    """Return the `motion_channels` of video: after its colors, or alone."""
    motion = motion_channels(video, mask, kind)
    return jnp.concatenate([video, motion], axis=-1) if colors else motion


def motion_channels(
    video: Float[Array, "b t h w c"], mask: Bool[Array, "b t"], kind: str
) -> Float[Array, "b t h w c"]:
    """Differences that show motion; `mask` is True at the frames of a clip.

    'clip_mean' is each frame minus the mean of its clip, which removes background, clothes and
    light. 'difference' is each frame minus the one before it. 'magnitude' is the size of a pixel's
    difference from the clip's mean, the frame before and the frame after: see `_magnitudes`.
    """
    if kind == "difference":
        return video - jnp.concatenate([video[:, :1], video[:, :-1]], axis=1)
    shares = mask / mask.sum(axis=1, keepdims=True)
    moved = video - jnp.einsum("bt,bthwc->bhwc", shares.astype(video.dtype), video)[:, None]
    return moved if kind == "clip_mean" else _magnitudes(video, moved, mask)


def _magnitudes(
    video: Float[Array, "b t h w c"],
    moved: Float[Array, "b t h w c"],  # minus the clip's mean
    mask: Bool[Array, "b t"],
) -> Float[Array, "b t h w 3"]:
    """Magnitudes of three differences: to the clip's mean, the frame before and the frame after.

    They are means over the colors, so that a light hand on a dark shirt looks like a dark hand on a
    light one. They are divided by the clip's root mean square (with MOTION_FLOOR, so that the noise
    of a still clip stays small), so that contrast and the share of the image that moves do not
    matter. Where a hand is, both differences in time are large; where it comes from or goes to, one
    of them is.
    """
    frames = mask.astype(video.dtype)[:, :, None, None]
    energy = (_color_mean(moved**2) * frames).mean(axis=(1, 2, 3))
    mean_square = energy / frames.mean(axis=(1, 2, 3))
    scale = jax.lax.rsqrt(mean_square + MOTION_FLOOR**2)[:, None, None, None]
    steps = _color_mean(jnp.abs(video[:, 1:] - video[:, :-1])) * frames[:, 1:]
    # Padded and not concatenated: jax2onnx does not recognize the length 1 + (t - 1) as t.
    before, after = (jnp.pad(steps, ((0, 0), edges, (0, 0), (0, 0))) for edges in ((1, 0), (0, 1)))
    return jnp.stack([_color_mean(jnp.abs(moved)), before, after], axis=-1) * scale[..., None]


def _color_mean(images: Float[Array, "b t h w c"]) -> Float[Array, "b t h w"]:
    """Return the mean over the colors, three times as fast on CPUs as `jnp.mean`."""
    colors = [images[..., c].astype(jnp.float32) for c in range(images.shape[-1])]
    return (sum(colors[1:], colors[0]) / len(colors)).astype(images.dtype)
