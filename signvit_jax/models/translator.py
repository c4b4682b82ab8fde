"""The complete model: video in; pooled tokens, decoder logits and CTC logits out."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int, Key, UInt8

from signvit_jax.backbones import mobilenet_v3
from signvit_jax.backbones.backbone import Backbone
from signvit_jax.backbones.vit import DenseViT
from signvit_jax.config.schema import Config, EncoderConfig, ModelConfig
from signvit_jax.layers.attention import length_mask
from signvit_jax.layers.batch_norm import BatchMoments
from signvit_jax.layers.compute_policy import ComputePolicy, compute_policy
from signvit_jax.layers.random_streams import fold
from signvit_jax.layers.transformer import linear
from signvit_jax.models.ctc_head import CTCHead
from signvit_jax.models.decoder import TextDecoder
from signvit_jax.models.gloss_encoder import GlossEncoder
from signvit_jax.models.hand_crops import HandCrops
from signvit_jax.models.hand_localizer import Localization
from signvit_jax.models.images import ImageFormat, image_format, with_motion
from signvit_jax.models.pooling import AttentionPooling
from signvit_jax.models.temporal import TemporalNetwork
from signvit_jax.models.zoom import Square, crop, moving_square, whole_image

# All arrays of a model: what is trained, and BatchNorm's running statistics.
SAVED = nnx.Any(nnx.Param, nnx.BatchStat)


class View(NamedTuple):
    """The backbone's feature of every frame, and the square of each image that it saw."""

    features: Float[Array, "b t f"]
    square: Square


class FrameFeatures(NamedTuple):
    """Features of every frame of a batch of clips, before the temporal network.

    `moments` are for BatchNorm's running statistics, in training of a backbone that has it.
    `localization` is what the localizer of hands can learn from, in training with crops. `view` is
    for losses on the backbone alone, in training.
    """

    features: Float[Array, "b t f"]
    moments: BatchMoments | None = None
    localization: Localization | None = None
    view: View | None = None


class Encoded(NamedTuple):
    """The encoder's output for a batch of clips.

    Positions of `frames` from `frame_lengths` on are padding. `moments`, `localization` and `view`
    are those of `FrameFeatures`.
    """

    pooled: Float[Array, "b q d"]
    frames: Float[Array, "b t d"]
    frame_lengths: Int[Array, "b"]
    moments: BatchMoments | None = None
    localization: Localization | None = None
    view: View | None = None


class VideoEncoder(nnx.Module):
    """Video (b, t, h, w, 3) to `Encoded`: `frame_features`, then `pool`."""

    def __init__(
        self, config: ModelConfig, images: ImageFormat, *, policy: ComputePolicy, rngs: nnx.Rngs
    ):
        encoder, width, dtype = config.encoder, config.decoder.hidden_dim, policy.dtype
        self.view_size = encoder.view_size or images.size
        self.backbone = _make_backbone(encoder, self.view_size, policy=policy, rngs=rngs)
        self.temporal = TemporalNetwork(
            config.temporal, encoder.output_dim, width, dtype=dtype, rngs=rngs
        )
        self.pooling = AttentionPooling(config.temporal, width, dtype=dtype, rngs=rngs)
        self.images = images
        self.zoom = encoder.zoom
        self.motion = encoder.motion
        self.colors = encoder.colors
        hands = join = None
        if encoder.crops != "none":
            hands = HandCrops(encoder, _channels(encoder), policy=policy, rngs=rngs)
            joined = encoder.output_dim + HandCrops.width(encoder)
            join = linear(joined, encoder.output_dim, dtype=dtype, rngs=rngs)
        self.hands = hands
        self.join = join

    def __call__(
        self,
        video: UInt8[Array, "b t h w 3"] | Float[Array, "b t h w 3"],
        frame_lengths: Int[Array, "b"],
        rng: Key[Array, ""] | None = None,
        clip_mask: Float[Array, "b"] | None = None,
        frozen_backbone: bool = False,
    ) -> Encoded:
        """Encode a batch of clips; the arguments are those of `frame_features`."""
        of_frames = self.frame_features(video, frame_lengths, rng, clip_mask, frozen_backbone)
        pooled, frames = self.pool(of_frames.features, frame_lengths, rng)
        return Encoded(pooled, frames, frame_lengths, *of_frames[1:])

    def frame_features(
        self,
        video: UInt8[Array, "b t h w 3"] | Float[Array, "b t h w 3"],
        frame_lengths: Int[Array, "b"],
        rng: Key[Array, ""] | None = None,
        clip_mask: Float[Array, "b"] | None = None,
        frozen_backbone: bool = False,
    ) -> FrameFeatures:
        """Run the backbone on the view of every frame, and the encoder of hands on their crops.

        The view is the image, or the square to which the clip is zoomed, in `view_size` pixels.

        Bytes are normalized on the device; float video is normalized already.

        With a key `rng`, as in training, there is dropout, and BatchNorm uses the statistics of the
        batch, in which clips with `clip_mask` 0 (padding rows) do not count; None: all clips count.
        The BatchNorm of a frozen backbone uses its running statistics also in training.
        """
        b, t = video.shape[:2]
        mask = length_mask(frame_lengths, t)
        zooms, shrinks = self.zoom == "motion", self.view_size != video.shape[2]
        square, view = None, video
        if zooms or shrinks or self.hands is not None:
            video = view = self.images.normalize(video)
            square = moving_square(video, mask) if zooms else whole_image(b)
        if square is not None and (zooms or shrinks):
            view = crop(video, square, self.view_size)
        if self.motion != "none":
            view = self.images.normalize(view)
            view = with_motion(view, mask, self.motion, colors=self.colors)
        sample_mask = None
        if rng is not None and not frozen_backbone:
            sample_mask = mask if clip_mask is None else mask * clip_mask[:, None]
            sample_mask = sample_mask.astype(jnp.float32).reshape(-1)
        features, moments = self.backbone(
            view.reshape(b * t, *view.shape[2:]),
            preprocess=self.images.normalize,
            rng=fold(rng, "encoder.backbone"),
            sample_mask=sample_mask,
        )
        features = features.reshape(b, t, -1)
        backbone_view = None if rng is None else View(features, square or whole_image(b))
        if self.hands is None or self.join is None or square is None:
            return FrameFeatures(features, moments, view=backbone_view)
        hands = self.hands(video, square, mask, fold(rng, "encoder.hands"))
        joined = self.join(jnp.concatenate([features, hands.features], axis=-1))
        return FrameFeatures(joined, moments, hands.localization, backbone_view)

    def pool(
        self,
        features: Float[Array, "b t f"],
        frame_lengths: Int[Array, "b"],
        rng: Key[Array, ""] | None = None,
    ) -> tuple[Float[Array, "b q d"], Float[Array, "b t d"]]:
        """Turn frame features into pooled tokens and frames: the temporal network, and pooling."""
        mask = length_mask(frame_lengths, features.shape[1])
        frames = self.temporal(features, mask, fold(rng, "encoder.temporal"))
        return self.pooling(frames, mask, fold(rng, "encoder.pooling")), frames


def _make_backbone(
    config: EncoderConfig, image_size: int, *, policy: ComputePolicy, rngs: nnx.Rngs
) -> Backbone:
    channels = _channels(config)
    if config.backbone == "dense_vit":
        return DenseViT(config, image_size, channels, policy=policy, rngs=rngs)
    return mobilenet_v3.MobileNetV3(
        mobilenet_v3.mobilenet_v3_large_spec(config.mobilenet_width),
        channels,
        epsilon=config.norm_epsilon or mobilenet_v3.EPSILON,
        policy=policy,
        rngs=rngs,
    )


def _channels(config: EncoderConfig) -> int:
    """The channels of an image: its colors, and those of motion."""
    return 3 * config.colors + 3 * (config.motion != "none")


class SignTranslator(nnx.Module):
    """Encoder, text decoder, CTC head and, if the decoder has a gloss memory, gloss encoder.

    `ctc.target` is 'text' or 'gloss' ('auto' is resolved before); 'gloss' needs `gloss_vocab_size`.
    """

    def __init__(
        self,
        config: ModelConfig,
        images: ImageFormat,
        vocab_size: int,
        gloss_vocab_size: int = 0,
        *,
        policy: ComputePolicy,
        rngs: nnx.Rngs,
    ):
        dtype = policy.dtype
        self.encoder = VideoEncoder(config, images, policy=policy, rngs=rngs)
        self.decoder = TextDecoder(config.decoder, vocab_size, dtype=dtype, rngs=rngs)
        spells_text = config.ctc.target != "gloss"
        self.ctc_head = CTCHead(
            config.ctc,
            config.decoder.hidden_dim,
            vocab_size if spells_text else gloss_vocab_size,
            tied=config.ctc.tied and spells_text,
            dtype=dtype,
            rngs=rngs,
        )
        self.ctc_source = config.ctc.source
        self.decoder_memory = config.decoder.memory
        gloss_encoder = None
        if config.decoder.gloss_memory and not spells_text:
            gloss_encoder = GlossEncoder(config.decoder, gloss_vocab_size, dtype=dtype, rngs=rngs)
        self.gloss_encoder = gloss_encoder

    @classmethod
    def from_config(
        cls,
        config: Config,
        vocab_size: int,
        gloss_vocab_size: int = 0,
        *,
        policy: ComputePolicy | None = None,
        rngs: nnx.Rngs,
    ) -> "SignTranslator":
        """Make the model of a run; `policy` None is that of the run, `compute_policy(config)`."""
        return cls(
            config.model,
            image_format(config.data),
            vocab_size,
            gloss_vocab_size,
            policy=policy or compute_policy(config),
            rngs=rngs,
        )

    def encode(
        self,
        video: UInt8[Array, "b t h w 3"] | Float[Array, "b t h w 3"],
        frame_lengths: Int[Array, "b"],
        rng: Key[Array, ""] | None = None,
        clip_mask: Float[Array, "b"] | None = None,
        frozen_backbone: bool = False,
    ) -> Encoded:
        """Run the encoder, as `VideoEncoder.frame_features` describes."""
        return self.encoder(video, frame_lengths, rng, clip_mask, frozen_backbone)

    def memory(self, encoded: Encoded) -> tuple[Float[Array, "b s d"], Int[Array, "b"] | None]:
        """Return the decoder's memory and its valid lengths (None: all positions are valid)."""
        if self.decoder_memory == "frames":
            return encoded.frames, encoded.frame_lengths
        return encoded.pooled, None

    def logits(
        self, encoded: Encoded, tokens: Int[Array, "b l"], rng: Key[Array, ""] | None = None
    ) -> Float[Array, "b l v"]:
        """Return the decoder's logits with teacher forcing."""
        memory, lengths = self.memory(encoded)
        return self.decoder(tokens, memory, lengths, rng)

    def gloss_logits(
        self,
        glosses: Int[Array, "b g"],
        gloss_lengths: Int[Array, "b"],
        tokens: Int[Array, "b l"],
        rng: Key[Array, ""] | None = None,
    ) -> Float[Array, "b l v"]:
        """Return the decoder's logits with teacher forcing, given glosses in place of a video."""
        assert self.gloss_encoder is not None, "the decoder has no gloss memory"
        memory, lengths = self.gloss_encoder(glosses, gloss_lengths, fold(rng, "glosses.encoder"))
        return self.decoder(tokens, memory, lengths, fold(rng, "glosses.decoder"))

    def frame_weights(self, encoded: Encoded, tokens: Int[Array, "b l"]) -> Float[Array, "b l t"]:
        """Return the attention of each position of the decoder to the frames, for diagnostics.

        Where the decoder attends to pooled tokens, it is the product with the pooling's attention.
        """
        memory, lengths = self.memory(encoded)
        weights = self.decoder.memory_weights(tokens, memory, lengths)
        if self.decoder_memory == "frames":
            return weights
        frame_mask = length_mask(encoded.frame_lengths, encoded.frames.shape[1])
        return weights @ self.encoder.pooling.weights(encoded.frames, frame_mask)

    def ctc_logits(
        self, encoded: Encoded, rng: Key[Array, ""] | None = None
    ) -> tuple[Float[Array, "b s v"], Int[Array, "b"]]:
        """Return CTC logits and the number of valid steps of each clip."""
        embedding = self.decoder.embedding[...]
        if self.ctc_source == "frames":
            return self.ctc_head(encoded.frames, embedding, rng), encoded.frame_lengths
        b, q = encoded.pooled.shape[:2]
        return self.ctc_head(encoded.pooled, embedding, rng), jnp.full((b,), q, jnp.int32)


def abstract_model(
    config: Config,
    vocab_size: int,
    gloss_vocab_size: int = 0,
    policy: ComputePolicy | None = None,
) -> SignTranslator:
    """Make the model with shapes in place of arrays: no memory, no computation."""
    return nnx.eval_shape(
        lambda: SignTranslator.from_config(
            config,
            vocab_size,
            gloss_vocab_size,
            policy=policy,
            rngs=nnx.Rngs(params=jax.random.key(0)),
        )
    )


def count_parameters(module: nnx.Module) -> int:
    """Number of trained parameters, which BatchNorm's running statistics are not."""
    return sum(leaf.size for leaf in jax.tree.leaves(nnx.state(module, nnx.Param)))
