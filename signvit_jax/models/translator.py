"""The whole model: frames in, pooled tokens, decoder logits and CTC logits out."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, DTypeLike, Float, Int, Key, UInt8

from signvit_jax.config import Config, CTCConfig
from signvit_jax.models.attention import dropout, key_for, length_mask
from signvit_jax.models.decoder import TextDecoder
from signvit_jax.models.layers import gelu, linear
from signvit_jax.models.pooling import AttentionPooling
from signvit_jax.models.temporal import TemporalNetwork
from signvit_jax.models.vit import DenseViT


class Encoded(NamedTuple):
    """What the encoder says of a batch of clips; positions of `frames` beyond `frame_lengths` are padding."""

    pooled: Float[Array, "b q d"]
    frames: Float[Array, "b t d"]
    frame_lengths: Int[Array, "b"]


class CTCHead(nnx.Module):
    """Linear -> GELU -> dropout -> Linear to the labels; label 0 is the blank."""

    def __init__(self, config: CTCConfig, width: int, num_labels: int, *, dtype: DTypeLike, rngs: nnx.Rngs):
        self.hidden = linear(width, width, dtype=dtype, rngs=rngs)
        self.out = linear(width, num_labels, dtype=dtype, rngs=rngs)
        self.dropout_rate = config.dropout

    def __call__(self, x: Float[Array, "b s d"], key: Key[Array, ""] | None = None) -> Float[Array, "b s v"]:
        return self.out(dropout(gelu(self.hidden(x)), self.dropout_rate, key)).astype(jnp.float32)


def motion_channels(video: Float[Array, "b t h w c"], mask: Bool[Array, "b t"], kind: str) -> Float[Array, "b t h w c"]:
    """What moves: each frame less the mean of its clip ('clip_mean': wall, clothes and light fall out) or less the frame before ('difference')."""
    if kind == "difference":
        return video - jnp.concatenate([video[:, :1], video[:, :-1]], axis=1)
    shares = mask / mask.sum(axis=1, keepdims=True)
    return video - jnp.einsum("bt,bthwc->bhwc", shares.astype(video.dtype), video)[:, None]


class VideoEncoder(nnx.Module):
    """uint8 video (b, t, h, w, 3) to `Encoded`."""

    def __init__(self, config: Config, *, dtype: DTypeLike, rngs: nnx.Rngs):
        encoder, temporal, width = config.model.encoder, config.model.temporal, config.model.decoder.hidden_dim
        self.backbone = DenseViT(
            encoder, config.data.image_size, remat=config.training.remat, scan_layers=config.training.scan_layers, dtype=dtype, rngs=rngs
        )
        self.temporal = TemporalNetwork(temporal, encoder.output_dim, width, dtype=dtype, rngs=rngs)
        self.pooling = AttentionPooling(temporal, width, dtype=dtype, rngs=rngs)
        self.mean, self.std, self.motion = config.data.mean, config.data.std, encoder.motion

    def __call__(
        self,
        video: UInt8[Array, "b t h w 3"] | Float[Array, "b t h w 3"],
        frame_lengths: Int[Array, "b"],
        key: Key[Array, ""] | None = None,
    ) -> Encoded:
        """Float video is taken as normalised already; uint8 video is normalised here, on the device."""
        b, t = video.shape[:2]
        mask = length_mask(frame_lengths, t)
        pictures = video.reshape(b * t, *video.shape[2:])
        if self.motion != "none":
            pictures = self._normalised(pictures)
            moved = motion_channels(pictures.reshape(b, t, *pictures.shape[1:]), mask, self.motion)
            pictures = jnp.concatenate([pictures, moved.reshape(pictures.shape)], axis=-1)
        features = self.backbone(pictures, key_for(key, 0), self._normalised).reshape(b, t, -1)
        frames = self.temporal(features, mask, key_for(key, 1))
        return Encoded(self.pooling(frames, mask, key_for(key, 2)), frames, frame_lengths)

    def _normalised(self, pictures: UInt8[Array, "n h w c"] | Float[Array, "n h w c"]) -> Float[Array, "n h w c"]:
        if pictures.dtype != jnp.uint8:
            return pictures
        mean, std = jnp.asarray(self.mean, jnp.float32), jnp.asarray(self.std, jnp.float32)
        return (pictures.astype(jnp.float32) / 255.0 - mean) / std


class SignTranslator(nnx.Module):
    """Encoder, text decoder and CTC head. `gloss_vocab_size` is needed when `ctc.target` is 'gloss'; 'auto' must have been settled."""

    def __init__(self, config: Config, vocab_size: int, gloss_vocab_size: int = 0, *, rngs: nnx.Rngs):
        dtype = compute_dtype(config)
        width, ctc = config.model.decoder.hidden_dim, config.model.ctc
        self.encoder = VideoEncoder(config, dtype=dtype, rngs=rngs)
        self.decoder = TextDecoder(config.model.decoder, vocab_size, dtype=dtype, rngs=rngs)
        self.ctc_head = CTCHead(ctc, width, gloss_vocab_size if ctc.target == "gloss" else vocab_size, dtype=dtype, rngs=rngs)
        self.ctc_source, self.decoder_memory = ctc.source, config.model.decoder.memory

    def encode(
        self,
        video: UInt8[Array, "b t h w 3"] | Float[Array, "b t h w 3"],
        frame_lengths: Int[Array, "b"],
        key: Key[Array, ""] | None = None,
    ) -> Encoded:
        return self.encoder(video, frame_lengths, key)

    def memory(self, encoded: Encoded) -> tuple[Float[Array, "b s d"], Int[Array, "b"] | None]:
        """What the decoder attends to, and how much of it counts (None: all)."""
        return (encoded.frames, encoded.frame_lengths) if self.decoder_memory == "frames" else (encoded.pooled, None)

    def logits(self, encoded: Encoded, tokens: Int[Array, "b l"], key: Key[Array, ""] | None = None) -> Float[Array, "b l v"]:
        """The decoder's logits with teacher forcing."""
        memory, lengths = self.memory(encoded)
        return self.decoder(tokens, memory, lengths, key)

    def frame_weights(self, encoded: Encoded, tokens: Int[Array, "b l"]) -> Float[Array, "b l t"]:
        """Which frames each position of the decoder looks at to say the next token, through the pooling where it reads pooled tokens."""
        memory, lengths = self.memory(encoded)
        weights = self.decoder.memory_weights(tokens, memory, lengths)
        if self.decoder_memory == "frames":
            return weights
        return weights @ self.encoder.pooling.weights(encoded.frames, length_mask(encoded.frame_lengths, encoded.frames.shape[1]))

    def ctc_logits(self, encoded: Encoded, key: Key[Array, ""] | None = None) -> tuple[Float[Array, "b s v"], Int[Array, "b"]]:
        """CTC logits and how many steps of each row count."""
        if self.ctc_source == "frames":
            return self.ctc_head(encoded.frames, key), encoded.frame_lengths
        b, q = encoded.pooled.shape[:2]
        return self.ctc_head(encoded.pooled, key), jnp.full((b,), q, jnp.int32)


def compute_dtype(config: Config) -> DTypeLike:
    """bfloat16 with `training.use_amp`, else float32."""
    return jnp.bfloat16 if config.training.use_amp else jnp.float32


def abstract_model(config: Config, vocab_size: int, gloss_vocab_size: int = 0) -> SignTranslator:
    """The model with shapes in place of numbers: no memory, no computation."""
    return nnx.eval_shape(lambda: SignTranslator(config, vocab_size, gloss_vocab_size, rngs=nnx.Rngs(params=jax.random.key(0))))


def count_parameters(module: nnx.Module) -> int:
    return sum(leaf.size for leaf in jax.tree.leaves(nnx.state(module, nnx.Param)))
