"""The temporal network: projection, convolutions over time, optional self-attention."""

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, DTypeLike, Float, Key

from signvit_jax.config.schema import TemporalConfig
from signvit_jax.layers.attention import dropout
from signvit_jax.layers.positions import sinusoids
from signvit_jax.layers.random_streams import fold
from signvit_jax.layers.transformer import TransformerBlock, gelu, layer_norm, linear


class TemporalNetwork(nnx.Module):
    """Frame features (b, t, inputs) to frames in the decoder's width (b, t, d)."""

    def __init__(
        self, config: TemporalConfig, inputs: int, width: int, *, dtype: DTypeLike, rngs: nnx.Rngs
    ):
        rate = config.dropout

        def make_conv() -> TemporalConvBlock:
            return TemporalConvBlock(
                width, config.kernel_size, dropout_rate=rate, dtype=dtype, rngs=rngs
            )

        def make_attention() -> TransformerBlock:
            return TransformerBlock(
                width,
                config.num_heads,
                4 * width,
                dropout_rate=rate,
                attention_dropout=rate,
                dtype=dtype,
                rngs=rngs,
            )

        self.project = linear(inputs, width, dtype=dtype, rngs=rngs)
        self.norm = layer_norm(width, dtype=dtype, rngs=rngs)
        self.convs = nnx.List([make_conv() for _ in range(config.num_temporal_conv)])
        self.attention = nnx.List([make_attention() for _ in range(config.num_attention_layers)])
        self.dropout_rate = rate
        self.time_positions = config.time_positions
        self.dtype = dtype

    def __call__(
        self,
        features: Float[Array, "b t f"],
        mask: Bool[Array, "b t"],
        rng: Key[Array, ""] | None = None,
    ) -> Float[Array, "b t d"]:
        """`mask` is True at the frames of a clip and False at padding."""
        x = gelu(self.norm(self.project(features)))
        x = dropout(x, self.dropout_rate, fold(rng, "temporal.input_dropout"))
        for layer, conv in enumerate(self.convs):
            x = conv(x, mask, fold(rng, "temporal.conv", layer))
        if self.time_positions == "sincos":
            x = x + jnp.asarray(sinusoids(x.shape[1], x.shape[2]), self.dtype)
        for layer, block in enumerate(self.attention, start=len(self.convs)):
            x = block(x, mask[:, None, :], fold(rng, "temporal.attention", layer))
        return x


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
        self, x: Float[Array, "b t d"], mask: Bool[Array, "b t"], rng: Key[Array, ""] | None = None
    ) -> Float[Array, "b t d"]:
        # Padding is zero before the convolution, so a clip has the same border in every batch.
        visible = jnp.where(mask[..., None], self.norm(x), jnp.zeros((), x.dtype))
        return x + dropout(self.pointwise(gelu(self.depthwise(visible))), self.dropout_rate, rng)


class DepthwiseConv(nnx.Module):
    """A convolution of each channel over time, zero-padded to the same length, without bias."""

    def __init__(self, width: int, kernel_size: int, *, dtype: DTypeLike, rngs: nnx.Rngs):
        bound = kernel_size**-0.5  # the kernel is uniform in [-bound, bound], as in PyTorch
        init = nnx.initializers.uniform(2 * bound)
        self.kernel = nnx.Param(init(rngs.params(), (kernel_size, width)) - bound)
        self.dtype = dtype

    def __call__(self, x: Float[Array, "b t d"]) -> Float[Array, "b t d"]:
        kernel = self.kernel[...].astype(self.dtype)
        margin = kernel.shape[0] // 2
        padded = jnp.pad(x, ((0, 0), (margin, margin), (0, 0)))
        # A sum of shifted products; a grouped convolution is slow on CPUs and GPUs.
        shifted = (padded[:, i : i + x.shape[1]] * kernel[i] for i in range(kernel.shape[0]))
        return jnp.asarray(sum(shifted))
