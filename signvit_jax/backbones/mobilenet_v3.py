"""MobileNetV3-Large features (Howard et al. 2019), with torchvision's symmetric padding."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, DTypeLike, Float, Key, UInt8

from signvit_jax.backbones.backbone import BackboneOutput, Preprocess
from signvit_jax.config.mobilenet_sizes import mobilenet_feature_channels, scaled_channels
from signvit_jax.layers.batch_norm import BatchMoments, BatchNorm, Moments
from signvit_jax.layers.compute_policy import ComputePolicy
from signvit_jax.layers.layer_stack import rematerialized

EPSILON = 1e-3  # of BatchNorm, as in torchvision
_init_kernel = nnx.initializers.variance_scaling(2.0, "fan_out", "normal")
LayerMoments = dict[str, Moments | None]


class BlockSpec(NamedTuple):
    """Sizes of an inverted residual: 1x1 expansion, depthwise, squeeze and excitation, 1x1."""

    kernel: int
    expanded: int  # channels of the depthwise convolution; as many as the input: no expansion
    outputs: int
    squeeze: int  # channels between the two layers of squeeze and excitation; 0 = none
    hard_swish: bool  # else ReLU
    stride: int


class MobileNetSpec(NamedTuple):
    """Channels of the first convolution, the blocks, and channels of the last convolution."""

    stem: int
    blocks: tuple[BlockSpec, ...]
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


def mobilenet_v3_large_spec(multiplier: float = 1.0) -> MobileNetSpec:
    """Sizes of MobileNetV3-Large; all channels times `multiplier`, rounded to multiples of 8."""
    blocks = []
    for kernel, expanded, outputs, squeezes, hard_swish, stride in _LARGE:
        expanded = scaled_channels(expanded, multiplier)
        squeeze = scaled_channels(expanded // 4, 1.0) if squeezes else 0
        outputs = scaled_channels(outputs, multiplier)
        blocks.append(BlockSpec(kernel, expanded, outputs, squeeze, hard_swish, stride))
    return MobileNetSpec(
        scaled_channels(16, multiplier), tuple(blocks), mobilenet_feature_channels(multiplier)
    )


class MobileNetV3(nnx.Module):
    """A `Backbone`: images (n, h, w, c) to features (n, `spec.features`), averaged over h and w.

    With `policy.remat` the backward pass recomputes the blocks: their activations are most of the
    memory of a training step.
    """

    def __init__(
        self,
        spec: MobileNetSpec,
        channels: int = 3,
        *,
        epsilon: float = EPSILON,
        policy: ComputePolicy,
        rngs: nnx.Rngs,
    ):
        layer = {"epsilon": epsilon, "dtype": policy.dtype, "rngs": rngs}
        self.stem = ConvNorm(channels, spec.stem, 3, 2, jax.nn.hard_swish, **layer)
        widths = [spec.stem, *(block.outputs for block in spec.blocks)]
        self.blocks = nnx.List(
            [InvertedResidual(width, block, **layer) for width, block in zip(widths, spec.blocks)]
        )
        self.head = ConvNorm(widths[-1], spec.features, activation=jax.nn.hard_swish, **layer)
        self.policy = policy

    def __call__(
        self,
        images: Float[Array, "n h w c"] | UInt8[Array, "n h w c"],
        *,
        preprocess: Preprocess | None = None,
        rng: Key[Array, ""] | None = None,
        sample_mask: Float[Array, "n"] | None = None,
    ) -> BackboneOutput:
        """As in `Backbone`; `rng` has no effect, as there is no dropout."""
        del rng
        images = images if preprocess is None else preprocess(images)
        outputs, layers = self._run(images, sample_mask)
        features = outputs["head"].astype(jnp.float32).mean(axis=(1, 2)).astype(self.policy.dtype)
        moments = None if sample_mask is None else BatchMoments(sample_mask.sum(), layers)
        return BackboneOutput(features, moments)

    def intermediates(self, images: Float[Array, "n h w c"]) -> dict[str, Float[Array, "n _ _ _"]]:
        """Return `stem`, `blocks/<number>` and `head` of normalized images, in evaluation."""
        return self._run(images, None)[0]

    def _run(
        self, images: Float[Array, "n h w c"], sample_mask: Float[Array, "n"] | None
    ) -> tuple[dict[str, Array], dict[str, LayerMoments]]:
        """Outputs of all parts by name, and the moments of their layers."""
        x, stem_moments = self.stem(images.astype(self.policy.dtype), sample_mask)
        outputs, block_moments = {"stem": x}, {}
        for number, block in enumerate(self.blocks):
            run = rematerialized(block, self.policy.remat)
            x, block_moments[str(number)] = run(x, sample_mask)
            outputs[f"blocks/{number}"] = x
        outputs["head"], head_moments = self.head(x, sample_mask)
        return outputs, {"stem": stem_moments, "blocks": block_moments, "head": head_moments}


class InvertedResidual(nnx.Module):
    """One block: expansion, depthwise convolution, squeeze and excitation, projection.

    Where its input and output have the same shape, the input is added.
    """

    def __init__(
        self, inputs: int, spec: BlockSpec, *, epsilon: float, dtype: DTypeLike, rngs: nnx.Rngs
    ):
        activation = jax.nn.hard_swish if spec.hard_swish else jax.nn.relu
        width = spec.expanded
        layer = {"epsilon": epsilon, "dtype": dtype, "rngs": rngs}
        expansion, squeeze = None, None
        if width != inputs:
            expansion = ConvNorm(inputs, width, activation=activation, **layer)
        self.expansion = expansion
        self.depthwise = ConvNorm(
            width, width, spec.kernel, spec.stride, activation, depthwise=True, **layer
        )
        if spec.squeeze:
            squeeze = SqueezeExcitation(width, spec.squeeze, dtype=dtype, rngs=rngs)
        self.squeeze = squeeze
        self.projection = ConvNorm(width, spec.outputs, **layer)
        self.residual = spec.stride == 1 and inputs == spec.outputs

    def __call__(
        self, x: Float[Array, "n h w c"], sample_mask: Float[Array, "n"] | None
    ) -> tuple[Float[Array, "n h2 w2 e"], dict[str, LayerMoments]]:
        moments, y = {}, x
        if self.expansion is not None:
            y, moments["expansion"] = self.expansion(y, sample_mask)
        y, moments["depthwise"] = self.depthwise(y, sample_mask)
        if self.squeeze is not None:
            y = self.squeeze(y)
        y, moments["projection"] = self.projection(y, sample_mask)
        return x + y if self.residual else y, moments


class ConvNorm(nnx.Module):
    """Convolution without bias, BatchNorm, activation; `depthwise` has one filter per channel."""

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
                kernel_init=_init_kernel,
                dtype=dtype,
                param_dtype=jnp.float32,
                rngs=rngs,
            )
        self.norm = BatchNorm(outputs, epsilon=epsilon, dtype=dtype, rngs=rngs)
        self.activation = activation

    def __call__(
        self, x: Float[Array, "n h w c"], sample_mask: Float[Array, "n"] | None
    ) -> tuple[Float[Array, "n h2 w2 e"], LayerMoments]:
        x, moments = self.norm(self.conv(x), sample_mask)
        return x if self.activation is None else self.activation(x), {"norm": moments}


class SqueezeExcitation(nnx.Module):
    """Scaling of channels by gates, computed from the mean of the image (Hu et al. 2018)."""

    def __init__(self, width: int, squeezed: int, *, dtype: DTypeLike, rngs: nnx.Rngs):
        layer = {
            "kernel_init": _init_kernel,
            "dtype": dtype,
            "param_dtype": jnp.float32,
            "rngs": rngs,
        }
        self.reduce = nnx.Linear(width, squeezed, **layer)
        self.expand = nnx.Linear(squeezed, width, **layer)

    def __call__(self, x: Float[Array, "n h w c"]) -> Float[Array, "n h w c"]:
        gates = jax.nn.hard_sigmoid(self.expand(jax.nn.relu(self.reduce(x.mean(axis=(1, 2))))))
        return x * gates[:, None, None]


class Depthwise(nnx.Module):
    """A convolution with one filter per channel; its kernel is (k, k, 1, c)."""

    def __init__(self, width: int, kernel: int, stride: int, *, dtype: DTypeLike, rngs: nnx.Rngs):
        self.kernel = nnx.Param(_init_kernel(rngs.params(), (kernel, kernel, 1, width)))
        self.stride = stride
        self.dtype = dtype

    def __call__(self, x: Float[Array, "n h w c"]) -> Float[Array, "n h2 w2 c"]:
        convolve = depthwise_by_shifts if jax.default_backend() == "cpu" else depthwise
        return convolve(x, self.kernel[...].astype(self.dtype), self.stride)


def depthwise(
    x: Float[Array, "n h w c"], kernel: Float[Array, "k k 1 c"], stride: int
) -> Float[Array, "n h2 w2 c"]:
    """Depthwise convolution, zero-padded by k // 2 on every side."""
    margin = kernel.shape[0] // 2
    return jax.lax.conv_general_dilated(
        x,
        kernel,
        (stride, stride),
        [(margin, margin), (margin, margin)],
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=x.shape[-1],
    )


def depthwise_by_shifts(
    x: Float[Array, "n h w c"], kernel: Float[Array, "k k 1 c"], stride: int
) -> Float[Array, "n h2 w2 c"]:
    """`depthwise` as a sum of k * k shifted images, for CPUs.

    On a CPU, XLA is many times slower for a grouped convolution and its gradients.
    """
    n, height, width, c = x.shape
    margin = kernel.shape[0] // 2
    # Rows and columns from the first output's position to the last one's.
    rows = (height - 1) // stride * stride + 1
    columns = (width - 1) // stride * stride + 1
    padded = jnp.pad(x, ((0, 0), (margin, margin), (margin, margin), (0, 0)))
    outputs = jnp.zeros((), x.dtype)
    for i, j in np.ndindex(*kernel.shape[:2]):
        shifted = jax.lax.slice(
            padded, (0, i, j, 0), (n, i + rows, j + columns, c), (1, stride, stride, 1)
        )
        outputs = outputs + shifted * kernel[i, j, 0]
    return outputs
