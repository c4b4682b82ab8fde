"""From frame features to frames that know their neighbors: projection, depthwise convolutions over time, optional self-attention."""

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, DTypeLike, Float, Key

from signvit_jax.config.schema import TemporalConfig
from signvit_jax.layers.attention import dropout, key_for
from signvit_jax.layers.positions import sinusoids
from signvit_jax.layers.transformer import TransformerBlock, gelu, layer_norm, linear


class DepthwiseConv(nnx.Module):
    """Each channel convolved over time on its own, zero-padded to the same length, without bias."""

    def __init__(self, width: int, kernel_size: int, *, dtype: DTypeLike, rngs: nnx.Rngs):
        self.kernel = nnx.Param(
            nnx.initializers.uniform(2 * kernel_size**-0.5)(rngs.params(), (kernel_size, width))
            - kernel_size**-0.5
        )
        self.dtype = dtype

    def __call__(self, x: Float[Array, "b t d"]) -> Float[Array, "b t d"]:
        kernel = self.kernel[...].astype(self.dtype)
        reach = kernel.shape[0] // 2
        padded = jnp.pad(x, ((0, 0), (reach, reach), (0, 0)))
        # A sum of shifted products: a handful of fused multiply-adds, where a grouped convolution is slow on CPU and GPU alike.
        return sum(padded[:, i : i + x.shape[1]] * kernel[i] for i in range(kernel.shape[0]))


class TemporalConvBlock(nnx.Module):
    """x + dropout(pointwise(GELU(depthwise(LayerNorm(x)))))."""

    def __init__(
        self, width: int, kernel_size: int, *, dropout_rate: float, dtype: DTypeLike, rngs: nnx.Rngs
    ):
        self.norm = layer_norm(width, dtype=dtype, rngs=rngs)
        self.depthwise = DepthwiseConv(width, kernel_size, dtype=dtype, rngs=rngs)
        self.pointwise = linear(width, width, dtype=dtype, rngs=rngs)
        self.dropout_rate = dropout_rate

    def __call__(
        self, x: Float[Array, "b t d"], mask: Bool[Array, "b t"], key: Key[Array, ""] | None = None
    ) -> Float[Array, "b t d"]:
        # Frames that only pad the batch are zero before the convolution, so a clip sees the same border in every batch.
        visible = jnp.where(mask[..., None], self.norm(x), jnp.zeros((), x.dtype))
        return x + dropout(self.pointwise(gelu(self.depthwise(visible))), self.dropout_rate, key)


class TemporalNetwork(nnx.Module):
    """Frame features (b, t, input width) to frames in the decoder's width (b, t, d)."""

    def __init__(
        self, config: TemporalConfig, inputs: int, width: int, *, dtype: DTypeLike, rngs: nnx.Rngs
    ):
        self.project = linear(inputs, width, dtype=dtype, rngs=rngs)
        self.norm = layer_norm(width, dtype=dtype, rngs=rngs)
        self.convs = nnx.List(
            [
                TemporalConvBlock(
                    width, config.kernel_size, dropout_rate=config.dropout, dtype=dtype, rngs=rngs
                )
                for _ in range(config.num_temporal_conv)
            ]
        )
        self.attention = nnx.List(
            [
                TransformerBlock(
                    width,
                    config.num_heads,
                    4 * width,
                    dropout_rate=config.dropout,
                    attention_dropout=config.dropout,
                    dtype=dtype,
                    rngs=rngs,
                )
                for _ in range(config.num_attention_layers)
            ]
        )
        self.dropout_rate, self.time_positions, self.dtype = (
            config.dropout,
            config.time_positions,
            dtype,
        )

    def __call__(
        self,
        features: Float[Array, "b t f"],
        mask: Bool[Array, "b t"],
        key: Key[Array, ""] | None = None,
    ) -> Float[Array, "b t d"]:
        x = dropout(gelu(self.norm(self.project(features))), self.dropout_rate, key_for(key, 0))
        for number, conv in enumerate(self.convs, start=1):
            x = conv(x, mask, key_for(key, number))
        if self.time_positions == "sincos":
            x = x + jnp.asarray(sinusoids(x.shape[1], x.shape[2]), self.dtype)
        for number, block in enumerate(self.attention, start=1 + len(self.convs)):
            x = block(x, mask[:, None, :], key_for(key, number))
        return x
