"""MobileNetV3-Large features (Howard et al. 2019), as torchvision lays them out: symmetric padding, BatchNorm with epsilon 1e-3 and momentum 0.01."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, DTypeLike, Float, UInt8

from signvit_jax.backbones.vit import REMAT_POLICIES
from signvit_jax.config.mobilenet_sizes import channels, mobilenet_feature_width
from signvit_jax.layers.batch_norm import BatchMoments, BatchNorm, Moments

EPSILON = 1e-3
kernel_init = nnx.initializers.variance_scaling(2.0, "fan_out", "normal")
LayerMoments = dict[str, Moments | None]


class Block(NamedTuple):
    """Sizes of an inverted residual: 1x1 to `expanded` channels (left out if that is what comes in), depthwise, squeeze and excitation, 1x1."""

    kernel: int
    expanded: int
    outputs: int
    squeeze: int  # channels between the two layers of squeeze and excitation; 0 = none
    hard_swish: bool  # else ReLU
    stride: int


class Sizes(NamedTuple):
    """Channels of the first convolution, the blocks, and the last convolution."""

    stem: int
    blocks: tuple[Block, ...]
    features: int


# kernel, expanded, outputs, squeeze and excitation, hard-swish, stride: table 1 of the paper
_LARGE = [
    (3, 16, 16, False, False, 1),
    (3, 64, 24, False, False, 2),
    (3, 72, 24, False, False, 1),
    (5, 72, 40, True, False, 2),
    (5, 120, 40, True, False, 1),
    (5, 120, 40, True, False, 1),
    (3, 240, 80, False, True, 2),
    (3, 200, 80, False, True, 1),
    (3, 184, 80, False, True, 1),
    (3, 184, 80, False, True, 1),
    (3, 480, 112, True, True, 1),
    (3, 672, 112, True, True, 1),
    (5, 672, 160, True, True, 2),
    (5, 960, 160, True, True, 1),
    (5, 960, 160, True, True, 1),
]


def large(width: float = 1.0) -> Sizes:
    """The sizes of MobileNetV3-Large with all channels times `width`, rounded to multiples of 8."""
    blocks = []
    for kernel, expanded, outputs, squeezes, hard_swish, stride in _LARGE:
        wide = channels(expanded, width)
        blocks.append(
            Block(
                kernel,
                wide,
                channels(outputs, width),
                channels(wide // 4, 1.0) if squeezes else 0,
                hard_swish,
                stride,
            )
        )
    return Sizes(channels(16, width), tuple(blocks), mobilenet_feature_width(width))


class Depthwise(nnx.Module):
    """A convolution with one filter a channel; its kernel is (k, k, 1, c)."""

    def __init__(self, width: int, kernel: int, stride: int, *, dtype: DTypeLike, rngs: nnx.Rngs):
        self.kernel = nnx.Param(kernel_init(rngs.params(), (kernel, kernel, 1, width)))
        self.stride, self.dtype = stride, dtype

    def __call__(self, x: Float[Array, "n h w c"]) -> Float[Array, "n h2 w2 c"]:
        convolve = depthwise_by_shifts if jax.default_backend() == "cpu" else depthwise
        return convolve(x, self.kernel[...].astype(self.dtype), self.stride)


def depthwise(
    x: Float[Array, "n h w c"], kernel: Float[Array, "k k 1 c"], stride: int
) -> Float[Array, "n h2 w2 c"]:
    """Zero-padded by k // 2 on every side."""
    margin = (kernel.shape[0] // 2,) * 2
    axes = ("NHWC", "HWIO", "NHWC")
    return jax.lax.conv_general_dilated(
        x,
        kernel,
        (stride, stride),
        (margin, margin),
        dimension_numbers=axes,
        feature_group_count=x.shape[-1],
    )


def depthwise_by_shifts(
    x: Float[Array, "n h w c"], kernel: Float[Array, "k k 1 c"], stride: int
) -> Float[Array, "n h2 w2 c"]:
    """The same as a sum of k * k shifted pictures: XLA runs a grouped convolution, and its gradients, many times as slowly on a CPU."""
    n, *sides, c = x.shape
    margin = kernel.shape[0] // 2
    high, wide = (
        (side - 1) // stride * stride + 1 for side in sides
    )  # from the first output's place to the last one's
    padded = jnp.pad(x, ((0, 0), (margin, margin), (margin, margin), (0, 0)))
    outputs = jnp.zeros((), x.dtype)
    for i, j in np.ndindex(*kernel.shape[:2]):
        outputs = (
            outputs
            + jax.lax.slice(
                padded, (0, i, j, 0), (n, i + high, j + wide, c), (1, stride, stride, 1)
            )
            * kernel[i, j, 0]
        )
    return outputs


class ConvNorm(nnx.Module):
    """Convolution without bias, BatchNorm, activation; `depthwise` has one filter a channel."""

    def __init__(
        self,
        inputs: int,
        outputs: int,
        kernel: int = 1,
        stride: int = 1,
        activation: Callable[[Array], Array] | None = None,
        *,
        depthwise: bool = False,
        epsilon: float,
        dtype: DTypeLike,
        rngs: nnx.Rngs,
    ):
        if depthwise:
            self.conv = Depthwise(inputs, kernel, stride, dtype=dtype, rngs=rngs)
        else:
            self.conv = nnx.Conv(
                inputs,
                outputs,
                (kernel, kernel),
                strides=(stride, stride),
                padding=((kernel // 2, kernel // 2),) * 2,
                use_bias=False,
                kernel_init=kernel_init,
                dtype=dtype,
                param_dtype=jnp.float32,
                rngs=rngs,
            )
        self.norm = BatchNorm(outputs, epsilon=epsilon, dtype=dtype, rngs=rngs)
        self.activation = activation

    def __call__(
        self, x: Float[Array, "n h w c"], counted: Float[Array, "n"] | None
    ) -> tuple[Float[Array, "n h2 w2 e"], LayerMoments]:
        x, moments = self.norm(self.conv(x), counted)
        return x if self.activation is None else self.activation(x), {"norm": moments}


class SqueezeExcitation(nnx.Module):
    """Channels weighed by what the whole picture shows (Hu et al. 2018)."""

    def __init__(self, width: int, squeezed: int, *, dtype: DTypeLike, rngs: nnx.Rngs):
        self.reduce = nnx.Linear(
            width,
            squeezed,
            kernel_init=kernel_init,
            dtype=dtype,
            param_dtype=jnp.float32,
            rngs=rngs,
        )
        self.expand = nnx.Linear(
            squeezed,
            width,
            kernel_init=kernel_init,
            dtype=dtype,
            param_dtype=jnp.float32,
            rngs=rngs,
        )

    def __call__(self, x: Float[Array, "n h w c"]) -> Float[Array, "n h w c"]:
        weights = jax.nn.hard_sigmoid(self.expand(jax.nn.relu(self.reduce(x.mean(axis=(1, 2))))))
        return x * weights[:, None, None]


class InvertedResidual(nnx.Module):
    def __init__(
        self, inputs: int, block: Block, *, epsilon: float, dtype: DTypeLike, rngs: nnx.Rngs
    ):
        activation = jax.nn.hard_swish if block.hard_swish else jax.nn.relu
        layer = {"epsilon": epsilon, "dtype": dtype, "rngs": rngs}
        self.expansion = (
            ConvNorm(inputs, block.expanded, activation=activation, **layer)
            if block.expanded != inputs
            else None
        )
        self.depthwise = ConvNorm(
            block.expanded,
            block.expanded,
            block.kernel,
            block.stride,
            activation,
            depthwise=True,
            **layer,
        )
        self.squeeze = (
            SqueezeExcitation(block.expanded, block.squeeze, dtype=dtype, rngs=rngs)
            if block.squeeze
            else None
        )
        self.projection = ConvNorm(block.expanded, block.outputs, **layer)
        self.residual = block.stride == 1 and inputs == block.outputs

    def __call__(
        self, x: Float[Array, "n h w c"], counted: Float[Array, "n"] | None
    ) -> tuple[Float[Array, "n h2 w2 e"], dict[str, LayerMoments]]:
        moments, y = {}, x
        if self.expansion is not None:
            y, moments["expansion"] = self.expansion(y, counted)
        y, moments["depthwise"] = self.depthwise(y, counted)
        if self.squeeze is not None:
            y = self.squeeze(y)
        y, moments["projection"] = self.projection(y, counted)
        return x + y if self.residual else y, moments


class MobileNetV3(nnx.Module):
    """Pictures (n, h, w, c), normalized, to one feature each (n, `sizes.features`): the mean over the picture.

    With `remat` blocks are computed again in the backward pass: what they keep is most of a step's memory.
    """

    def __init__(
        self,
        sizes: Sizes,
        inputs: int = 3,
        *,
        epsilon: float = EPSILON,
        remat: str = "none",
        dtype: DTypeLike = jnp.float32,
        rngs: nnx.Rngs,
    ):
        layer = {"epsilon": epsilon, "dtype": dtype, "rngs": rngs}
        self.stem = ConvNorm(inputs, sizes.stem, 3, 2, jax.nn.hard_swish, **layer)
        widths = [sizes.stem, *(block.outputs for block in sizes.blocks)]
        self.blocks = nnx.List(
            [InvertedResidual(width, block, **layer) for width, block in zip(widths, sizes.blocks)]
        )
        self.head = ConvNorm(widths[-1], sizes.features, activation=jax.nn.hard_swish, **layer)
        self.remat, self.dtype = remat, dtype

    def __call__(
        self,
        images: Float[Array, "n h w c"] | UInt8[Array, "n h w c"],
        prepare: Callable[[Array], Array] = lambda images: images,
        counted: Float[Array, "n"] | None = None,
    ) -> tuple[Float[Array, "n d"], BatchMoments | None]:
        """`prepare` makes normalized pictures of what is given. `counted` (training): 1 for pictures that BatchNorm is to count, 0 for padding."""
        stages, layers = self.stages(prepare(images), counted)
        features = stages[-1].astype(jnp.float32).mean(axis=(1, 2)).astype(self.dtype)
        return features, None if counted is None else BatchMoments(counted.sum(), layers)

    def stages(
        self, images: Float[Array, "n h w c"], counted: Float[Array, "n"] | None = None
    ) -> tuple[Sequence[Array], dict[str, LayerMoments]]:
        """The outputs of the first convolution, of each block and of the last convolution; and the sums that BatchNorm's statistics are made of."""
        x, first = self.stem(images.astype(self.dtype), counted)
        outputs, in_blocks = [x], {}
        for number, block in enumerate(self.blocks):
            graphdef, state = nnx.split(block)

            def run(
                x: Array, state: nnx.State, counted: Array | None, graphdef: nnx.GraphDef = graphdef
            ) -> tuple[Array, dict[str, LayerMoments]]:
                return nnx.merge(graphdef, state)(x, counted)

            if self.remat != "none":
                run = jax.checkpoint(run, policy=REMAT_POLICIES[self.remat])
            x, in_blocks[str(number)] = run(x, state, counted)
            outputs.append(x)
        x, last = self.head(x, counted)
        return [*outputs, x], {"stem": first, "blocks": in_blocks, "head": last}
