"""The whole model: frames in, pooled tokens, decoder logits and CTC logits out."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, DTypeLike, Float, Int, Key, UInt8

from signvit_jax.backbones import mobilenet_v3
from signvit_jax.backbones.vit import DenseViT
from signvit_jax.config.schema import Config, CTCConfig
from signvit_jax.layers.attention import dropout, key_for, length_mask
from signvit_jax.layers.batch_norm import BatchMoments
from signvit_jax.layers.transformer import gelu, linear, linear_in_float32
from signvit_jax.models.decoder import TextDecoder
from signvit_jax.models.pooling import AttentionPooling
from signvit_jax.models.temporal import TemporalNetwork
from signvit_jax.models.zoom import zoom_to_motion

SAVED = nnx.Any(
    nnx.Param, nnx.BatchStat
)  # all numbers of a model: what is trained, and BatchNorm's running statistics


class Encoded(NamedTuple):
    """What the encoder says of a batch of clips; positions of `frames` beyond `frame_lengths` are padding.

    `moments` are, in training, what a backbone with BatchNorm makes its new statistics of.
    """

    pooled: Float[Array, "b q d"]
    frames: Float[Array, "b t d"]
    frame_lengths: Int[Array, "b"]
    moments: BatchMoments | None = None


class TiedLinear(nnx.Module):
    """Linear to the vocabulary in float32, as `linear_in_float32`, whose matrix is the embedding,
    transposed; the bias is its own.
    """

    def __init__(self, vocab_size: int, *, dtype: DTypeLike):
        self.bias = nnx.Param(jnp.zeros(vocab_size))
        self.dtype = dtype

    def __call__(
        self, x: Float[Array, "*shape d"], embedding: Float[Array, "v d"]
    ) -> Float[Array, "*shape v"]:
        logits = jnp.matmul(x, embedding.astype(self.dtype).T, preferred_element_type=jnp.float32)
        return logits + self.bias[...]


class CTCHead(nnx.Module):
    """Linear -> GELU -> dropout -> Linear to the labels' logits, which are float32 whatever is
    computed in; label 0 is the blank. `tied`: the last matrix is the decoder's embedding.
    """

    def __init__(
        self,
        config: CTCConfig,
        width: int,
        num_labels: int,
        *,
        tied: bool = False,
        dtype: DTypeLike,
        rngs: nnx.Rngs,
    ):
        self.hidden = linear(width, width, dtype=dtype, rngs=rngs)
        self.out = (
            TiedLinear(num_labels, dtype=dtype)
            if tied
            else linear_in_float32(width, num_labels, dtype=dtype, rngs=rngs)
        )
        self.dropout_rate = config.dropout

    def __call__(
        self,
        x: Float[Array, "b s d"],
        embedding: Float[Array, "v d"],
        key: Key[Array, ""] | None = None,
    ) -> Float[Array, "b s l"]:
        x = dropout(gelu(self.hidden(x)), self.dropout_rate, key)
        return self.out(x, embedding) if isinstance(self.out, TiedLinear) else self.out(x)


def motion_channels(
    video: Float[Array, "b t h w c"], mask: Bool[Array, "b t"], kind: str
) -> Float[Array, "b t h w c"]:
    """What moves: each frame less the mean of its clip ('clip_mean': wall, clothes and light fall out) or less the frame before ('difference')."""
    if kind == "difference":
        return video - jnp.concatenate([video[:, :1], video[:, :-1]], axis=1)
    shares = mask / mask.sum(axis=1, keepdims=True)
    return video - jnp.einsum("bt,bthwc->bhwc", shares.astype(video.dtype), video)[:, None]


class VideoEncoder(nnx.Module):
    """uint8 video (b, t, h, w, 3) to `Encoded`."""

    def __init__(self, config: Config, *, dtype: DTypeLike, rngs: nnx.Rngs):
        encoder, temporal, width = (
            config.model.encoder,
            config.model.temporal,
            config.model.decoder.hidden_dim,
        )
        self.backbone = _backbone(config, dtype=dtype, rngs=rngs)
        self.temporal = TemporalNetwork(temporal, encoder.output_dim, width, dtype=dtype, rngs=rngs)
        self.pooling = AttentionPooling(temporal, width, dtype=dtype, rngs=rngs)
        self.mean, self.std = config.data.mean, config.data.std
        self.zoom, self.motion = encoder.zoom, encoder.motion

    def __call__(
        self,
        video: UInt8[Array, "b t h w 3"] | Float[Array, "b t h w 3"],
        frame_lengths: Int[Array, "b"],
        key: Key[Array, ""] | None = None,
        weights: Float[Array, "b"] | None = None,
        frozen_backbone: bool = False,
    ) -> Encoded:
        """Float video is taken as normalized already; uint8 video is normalized here, on the device.

        With a key as in training: dropout, and BatchNorm by the batch's own statistics, in which clips count as `weights` says (None: all alike).
        The BatchNorm of a frozen backbone works as in evaluation all the same.
        """
        b, t = video.shape[:2]
        mask = length_mask(frame_lengths, t)
        if self.zoom == "motion":
            video = zoom_to_motion(self._normalized(video), mask)
        if self.motion != "none":
            video = self._normalized(video)
            video = jnp.concatenate([video, motion_channels(video, mask, self.motion)], axis=-1)
        pictures = video.reshape(b * t, *video.shape[2:])
        counted = mask if weights is None else mask * weights[:, None]
        features, moments = self._features(
            pictures, counted.astype(jnp.float32).reshape(-1), key_for(key, 0), frozen_backbone
        )
        frames = self.temporal(features.reshape(b, t, -1), mask, key_for(key, 1))
        return Encoded(self.pooling(frames, mask, key_for(key, 2)), frames, frame_lengths, moments)

    def _features(
        self,
        pictures: Float[Array, "n h w c"] | UInt8[Array, "n h w c"],
        counted: Float[Array, "n"],
        key: Key[Array, ""] | None,
        frozen: bool,
    ) -> tuple[Float[Array, "n d"], BatchMoments | None]:
        if isinstance(self.backbone, mobilenet_v3.MobileNetV3):
            return self.backbone(
                pictures, self._normalized, None if key is None or frozen else counted
            )
        return self.backbone(pictures, key, self._normalized), None

    def _normalized(
        self, pictures: UInt8[Array, "*n h w c"] | Float[Array, "*n h w c"]
    ) -> Float[Array, "*n h w c"]:
        if pictures.dtype != jnp.uint8:
            return pictures
        mean, std = jnp.asarray(self.mean, jnp.float32), jnp.asarray(self.std, jnp.float32)
        return (pictures.astype(jnp.float32) / 255.0 - mean) / std


def _backbone(config: Config, *, dtype: DTypeLike, rngs: nnx.Rngs) -> nnx.Module:
    encoder, training = config.model.encoder, config.training
    if encoder.backbone == "dense_vit":
        return DenseViT(
            encoder,
            config.data.image_size,
            remat=training.remat,
            scan_layers=training.scan_layers,
            dtype=dtype,
            rngs=rngs,
        )
    return mobilenet_v3.MobileNetV3(
        mobilenet_v3.large(encoder.mobilenet_width),
        3 if encoder.motion == "none" else 6,
        epsilon=encoder.norm_epsilon or mobilenet_v3.EPSILON,
        remat=training.remat,
        dtype=dtype,
        rngs=rngs,
    )


class SignTranslator(nnx.Module):
    """Encoder, text decoder and CTC head. `gloss_vocab_size` is needed when `ctc.target` is 'gloss'; 'auto' must have been settled."""

    def __init__(
        self, config: Config, vocab_size: int, gloss_vocab_size: int = 0, *, rngs: nnx.Rngs
    ):
        dtype = compute_dtype(config)
        width, ctc = config.model.decoder.hidden_dim, config.model.ctc
        self.encoder = VideoEncoder(config, dtype=dtype, rngs=rngs)
        self.decoder = TextDecoder(config.model.decoder, vocab_size, dtype=dtype, rngs=rngs)
        spells_text = ctc.target != "gloss"
        self.ctc_head = CTCHead(
            ctc,
            width,
            vocab_size if spells_text else gloss_vocab_size,
            tied=ctc.tied and spells_text,
            dtype=dtype,
            rngs=rngs,
        )
        self.ctc_source, self.decoder_memory = ctc.source, config.model.decoder.memory

    def encode(
        self,
        video: UInt8[Array, "b t h w 3"] | Float[Array, "b t h w 3"],
        frame_lengths: Int[Array, "b"],
        key: Key[Array, ""] | None = None,
        weights: Float[Array, "b"] | None = None,
        frozen_backbone: bool = False,
    ) -> Encoded:
        return self.encoder(video, frame_lengths, key, weights, frozen_backbone)

    def memory(self, encoded: Encoded) -> tuple[Float[Array, "b s d"], Int[Array, "b"] | None]:
        """What the decoder attends to, and how much of it counts (None: all)."""
        return (
            (encoded.frames, encoded.frame_lengths)
            if self.decoder_memory == "frames"
            else (encoded.pooled, None)
        )

    def logits(
        self, encoded: Encoded, tokens: Int[Array, "b l"], key: Key[Array, ""] | None = None
    ) -> Float[Array, "b l v"]:
        """The decoder's logits with teacher forcing."""
        memory, lengths = self.memory(encoded)
        return self.decoder(tokens, memory, lengths, key)

    def frame_weights(self, encoded: Encoded, tokens: Int[Array, "b l"]) -> Float[Array, "b l t"]:
        """Which frames each position of the decoder looks at to say the next token, through the pooling where it reads pooled tokens."""
        memory, lengths = self.memory(encoded)
        weights = self.decoder.memory_weights(tokens, memory, lengths)
        if self.decoder_memory == "frames":
            return weights
        return weights @ self.encoder.pooling.weights(
            encoded.frames, length_mask(encoded.frame_lengths, encoded.frames.shape[1])
        )

    def ctc_logits(
        self, encoded: Encoded, key: Key[Array, ""] | None = None
    ) -> tuple[Float[Array, "b s v"], Int[Array, "b"]]:
        """CTC logits and how many steps of each row count."""
        embedding = self.decoder.embedding[...]
        if self.ctc_source == "frames":
            return self.ctc_head(encoded.frames, embedding, key), encoded.frame_lengths
        b, q = encoded.pooled.shape[:2]
        return self.ctc_head(encoded.pooled, embedding, key), jnp.full((b,), q, jnp.int32)


def compute_dtype(config: Config) -> DTypeLike:
    """bfloat16 with `training.use_amp`, else float32."""
    return jnp.bfloat16 if config.training.use_amp else jnp.float32


def abstract_model(config: Config, vocab_size: int, gloss_vocab_size: int = 0) -> SignTranslator:
    """The model with shapes in place of numbers: no memory, no computation."""
    return nnx.eval_shape(
        lambda: SignTranslator(
            config, vocab_size, gloss_vocab_size, rngs=nnx.Rngs(params=jax.random.key(0))
        )
    )


def count_parameters(module: nnx.Module) -> int:
    """What is trained; BatchNorm's statistics are not."""
    return sum(leaf.size for leaf in jax.tree.leaves(nnx.state(module, nnx.Param)))
