"""Hands as images of their own: cut out of frames that were not shrunk to the view, and encoded."""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Key

from signvit_jax.backbones.vit import DenseViT
from signvit_jax.config.schema import EncoderConfig
from signvit_jax.layers.compute_policy import ComputePolicy
from signvit_jax.models.hand_localizer import (
    HANDS,
    INPUT_SIZE,
    HandLocalizer,
    localization_loss,
    places,
)
from signvit_jax.models.images import motion_channels
from signvit_jax.models.zoom import Square, crop, crop_part

# Side of a hand's crop as a share of the view's side.
CROP_SHARE = 0.4
_NUM_HEADS, _MLP_RATIO = 4, 2
_PLACE = 3  # numbers for each hand: y, x, spread


class HandFeatures(NamedTuple):
    """Features of the hands; in training also the localizer's loss, `localization_loss`."""

    features: Float[Array, "b t f"]
    localization: Float[Array, "b"] | None


class HandCrops(nnx.Module):
    """Features of both hands, side by side, from normalized video and the square of its view.

    The view is the part of the images that the backbone sees, and in which a localizer finds the
    hands. Crops around them are cut out of the video itself, not of the view, and scaled to
    `crop_size` pixels. One small ViT encodes both hands; the second hand's crops are mirrored, so
    that both look like the same hand. The crops' places are part of the features. The places get no
    gradient from the translation: the localizer learns from motion alone.
    """

    def __init__(
        self, config: EncoderConfig, channels: int, *, policy: ComputePolicy, rngs: nnx.Rngs
    ):
        small = dataclasses.replace(
            config,
            vit_hidden_dim=config.crop_width,
            output_dim=config.crop_width,
            vit_num_layers=1,
            vit_num_heads=_NUM_HEADS,
            vit_mlp_dim=_MLP_RATIO * config.crop_width,
            patch_size=16,
            stem="conv",
            frame_pooling="concat",
            position_init="sincos2d",
            patch_drop=0.0,
            token_merge=0,
        )
        self.localizer = HandLocalizer(dtype=policy.dtype, rngs=rngs)
        self.encoder = DenseViT(small, config.crop_size, channels, policy=policy, rngs=rngs)
        self.size = config.crop_size
        self.motion = config.motion

    @staticmethod
    def width(config: EncoderConfig) -> int:
        """Width of the features."""
        return HANDS * (config.crop_width + _PLACE)

    def __call__(
        self,
        video: Float[Array, "b t h w 3"],
        view: Square,
        mask: Bool[Array, "b t"],
        rng: Key[Array, ""] | None = None,
    ) -> HandFeatures:
        """`view`: where the hands are looked for. `mask` is True at the frames of a clip."""
        b, t = mask.shape
        images = crop(video, view, INPUT_SIZE)
        maps = self.localizer(images.reshape(b * t, *images.shape[2:]))
        maps = maps.reshape(b, t, *maps.shape[1:])
        found = jax.lax.stop_gradient(places(maps))
        features = self.encoder(self._inputs(video, view, found.center, mask), rng=rng).features
        features = jnp.moveaxis(features.reshape(b, HANDS, t, -1), 1, 2)
        place = jnp.concatenate([2.0 * found.center - 1.0, found.spread[..., None]], axis=-1)
        features = jnp.concatenate([features, place.astype(features.dtype)], axis=-1)
        loss = None if rng is None else localization_loss(maps, images, mask)
        return HandFeatures(features.reshape(b, t, -1), loss)

    def _inputs(
        self,
        video: Float[Array, "b t h w 3"],
        view: Square,
        center: Float[Array, "b t hands 2"],
        mask: Bool[Array, "b t"],
    ) -> Float[Array, "n s s c"]:
        """Cut the crops out, with channels of the motion in them; n = clips x hands x frames."""
        b, t = mask.shape
        reach = jnp.broadcast_to(CROP_SHARE * view.reach[:, None], (b, t)).reshape(-1)
        middle = view.center[:, None, None] + (2.0 * center - 1.0) * view.reach[:, None, None, None]
        frames = video.reshape(b * t, 1, *video.shape[2:])
        hands = []
        for hand in range(HANDS):
            square = Square(middle[:, :, hand].reshape(-1, 2), reach)
            cut = crop_part(frames, square, self.size, CROP_SHARE).reshape(
                b, t, self.size, self.size, 3
            )
            hands.append(cut[:, :, :, ::-1] if hand else cut)
        clips = jnp.stack(hands, axis=1).reshape(b * HANDS, t, self.size, self.size, 3)
        if self.motion != "none":
            moved = motion_channels(clips, jnp.repeat(mask, HANDS, axis=0), self.motion)
            clips = jnp.concatenate([clips, moved], axis=-1)
        return clips.reshape(-1, *clips.shape[2:])
