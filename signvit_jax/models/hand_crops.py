"""Separate images of hands and faces, cut out of the video at its full resolution."""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Key

from signvit_jax.backbones.vit import DenseViT
from signvit_jax.config.schema import EncoderConfig
from signvit_jax.layers.compute_policy import ComputePolicy
from signvit_jax.layers.random_streams import fold
from signvit_jax.models.hand_localizer import (
    HANDS,
    INPUT_SIZE,
    HandLocalizer,
    Localization,
    PartMaps,
    cell_motion,
    places,
)
from signvit_jax.models.images import with_motion
from signvit_jax.models.zoom import Square, crop, crop_part

_NUM_HEADS, _MLP_RATIO = 4, 2
_PLACE_FEATURES = 4  # of each part: y, x, spread, presence


class CropFeatures(NamedTuple):
    """Features of the parts, concatenated; in training also the inputs of the localizer's loss."""

    features: Float[Array, "b t f"]
    localization: Localization | None


class HandCrops(nnx.Module):
    """Features of both hands, and of the face, from normalized video and the square of its view.

    The view is the part of the images that the backbone sees, and in which a localizer finds the
    parts. Crops around them are cut out of the video itself, not of the view, and scaled to
    `crop_size` pixels. One small ViT encodes both hands; the second hand's crops are mirrored, so
    that both look like the same hand. Another ViT encodes the face. The crops' places are features
    as well. A learned vector replaces the features of a part that is not in the image; in training,
    at the rate `crop_dropout`, also those of a part in all frames of a clip. The places get no
    gradient from the translation: the localizer learns from keypoints or motion alone.
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
        self.parts = self.number_of_parts(config)
        self.localizer = HandLocalizer(self.parts, dtype=policy.dtype, rngs=rngs)
        self.encoder = DenseViT(small, config.crop_size, channels, policy=policy, rngs=rngs)
        face_encoder = None
        if self.parts > HANDS:
            face_encoder = DenseViT(small, config.crop_size, channels, policy=policy, rngs=rngs)
        self.face_encoder = face_encoder
        self.missing = nnx.Param(jnp.zeros((self.parts, config.crop_width), jnp.float32))
        self.size = config.crop_size
        self.share = config.crop_share
        self.dropout = config.crop_dropout
        self.motion = config.motion
        self.colors = config.colors

    @staticmethod
    def number_of_parts(config: EncoderConfig) -> int:
        return HANDS + (config.crops == "hands_face")

    @classmethod
    def width(cls, config: EncoderConfig) -> int:
        """Width of the features."""
        return cls.number_of_parts(config) * (config.crop_width + _PLACE_FEATURES)

    def __call__(
        self,
        video: Float[Array, "b t h w 3"],
        view: Square,
        mask: Bool[Array, "b t"],
        rng: Key[Array, ""] | None = None,
    ) -> CropFeatures:
        """`view`: where the parts are looked for. `mask` is True at the frames of a clip."""
        b, t = mask.shape
        images = crop(video, view, INPUT_SIZE)
        maps, presence = self.localizer(images.reshape(b * t, *images.shape[2:]))
        parts = PartMaps(
            maps.reshape(b, t, *maps.shape[1:]), presence.reshape(b, t, *presence.shape[1:])
        )
        place = jax.lax.stop_gradient(places(parts.maps))
        features = self._encoded(self._inputs(video, view, place.center, mask), rng)
        present = jax.nn.sigmoid(jax.lax.stop_gradient(parts.presence))
        if rng is not None and self.dropout > 0.0:
            kept = jax.random.bernoulli(
                fold(rng, "crops.dropout"), 1.0 - self.dropout, (b, 1, self.parts)
            )
            present = present * kept
        present = present[..., None]
        missing = self.missing[...].astype(features.dtype)
        features = missing + present.astype(features.dtype) * (features - missing)
        # _PLACE_FEATURES numbers; y and x are in [-1, 1], and zero for a part that is not present.
        place_features = jnp.concatenate(
            [2.0 * place.center - 1.0, place.spread[..., None]], axis=-1
        )
        place_features = jnp.concatenate([place_features * present, present], axis=-1)
        features = jnp.concatenate([features, place_features.astype(features.dtype)], axis=-1)
        localization = None
        if rng is not None:
            localization = Localization(parts, cell_motion(images, mask), view)
        return CropFeatures(features.reshape(b, t, -1), localization)

    def _encoded(
        self, crops: Float[Array, "b parts t s s c"], rng: Key[Array, ""] | None
    ) -> Float[Array, "b t parts w"]:
        def encode(
            encoder: DenseViT, clips: Float[Array, "b p t s s c"], key: Key[Array, ""] | None
        ) -> Float[Array, "b t p w"]:
            images = clips.reshape(-1, *clips.shape[3:])
            features = encoder(images, rng=key).features
            return jnp.moveaxis(features.reshape(*clips.shape[:3], -1), 1, 2)

        features = encode(self.encoder, crops[:, :HANDS], fold(rng, "crops.hands"))
        if self.face_encoder is None:
            return features
        face = encode(self.face_encoder, crops[:, HANDS:], fold(rng, "crops.face"))
        return jnp.concatenate([features, face], axis=2)

    def _inputs(
        self,
        video: Float[Array, "b t h w 3"],
        view: Square,
        center: Float[Array, "b t parts 2"],
        mask: Bool[Array, "b t"],
    ) -> Float[Array, "b parts t s s c"]:
        """Cut the crops out, with channels of the motion in them."""
        b, t = mask.shape
        reach = jnp.broadcast_to(self.share * view.reach[:, None], (b, t)).reshape(-1)
        middle = view.center[:, None, None] + (2.0 * center - 1.0) * view.reach[:, None, None, None]
        frames = video.reshape(b * t, 1, *video.shape[2:])
        cuts = []
        for part in range(self.parts):
            square = Square(middle[:, :, part].reshape(-1, 2), reach)
            cut = crop_part(frames, square, self.size, self.share).reshape(
                b, t, self.size, self.size, 3
            )
            # The second part, the left hand, is mirrored: see the class.
            cuts.append(cut[:, :, :, ::-1] if part == 1 else cut)
        clips = jnp.stack(cuts, axis=1).reshape(b * self.parts, t, self.size, self.size, 3)
        if self.motion != "none":
            clip_mask = jnp.repeat(mask, self.parts, axis=0)
            clips = with_motion(clips, clip_mask, self.motion, colors=self.colors)
        return clips.reshape(b, self.parts, *clips.shape[1:])
