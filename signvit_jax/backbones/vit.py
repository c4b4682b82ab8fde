"""The Dense ViT: a vision Transformer (Dosovitskiy et al. 2021) applied to every frame on its own."""

from collections.abc import Callable
from functools import partial
from itertools import pairwise

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, DTypeLike, Float, Key, UInt8

from signvit_jax.backbones.token_merging import merge_tokens, proportional_attention
from signvit_jax.config.schema import EncoderConfig
from signvit_jax.layers.attention import dropout, key_for
from signvit_jax.layers.positions import sinusoids_2d
from signvit_jax.layers.transformer import (
    LAYER_NORM_EPSILON,
    CrossAttention,
    TransformerBlock,
    block_at,
    gelu,
    layer_norm,
    linear,
    stack,
    truncated_normal,
)

REMAT_POLICIES = {
    "dots": jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
    "full": jax.checkpoint_policies.nothing_saveable,
}


class PatchEmbedding(nnx.Module):
    """Cuts a picture into patches and maps each with one matrix product (a convolution whose stride is its size)."""

    def __init__(
        self, patch_size: int, width: int, channels: int, *, dtype: DTypeLike, rngs: nnx.Rngs
    ):
        inputs = patch_size * patch_size * channels
        self.project = nnx.Linear(
            inputs,
            width,
            kernel_init=truncated_normal,
            dtype=dtype,
            param_dtype=jnp.float32,
            rngs=rngs,
        )
        self.patch_size = patch_size

    def __call__(self, images: Float[Array, "n h w c"]) -> Float[Array, "n p d"]:
        n, h, w, c = images.shape
        size = self.patch_size
        grid = images.reshape(n, h // size, size, w // size, size, c).transpose(0, 1, 3, 2, 4, 5)
        return self.project(grid.reshape(n, (h // size) * (w // size), size * size * c))


class ConvStem(nnx.Module):
    """4x4 patches, then stride-2 3x3 convolutions down to the patch grid (Xiao et al. 2021), with LayerNorm over channels and ReLU between.

    The first step does not overlap: at full resolution a convolution would cost more than the whole of a small ViT.
    """

    def __init__(
        self, patch_size: int, width: int, channels: int, *, dtype: DTypeLike, rngs: nnx.Rngs
    ):
        steps = patch_size.bit_length() - 3
        widths = [max(16, width >> (steps - step)) for step in range(steps + 1)]
        conv = partial(nnx.Conv, dtype=dtype, param_dtype=jnp.float32, rngs=rngs)
        self.patches = PatchEmbedding(4, widths[0], channels, dtype=dtype, rngs=rngs)
        self.convs = nnx.List(
            [
                conv(i, o, (3, 3), strides=(2, 2), padding=((1, 1), (1, 1)), use_bias=False)
                for i, o in pairwise(widths)
            ]
        )
        self.norms = nnx.List([layer_norm(o, dtype=dtype, rngs=rngs) for o in widths])
        self.project = linear(widths[-1], width, dtype=dtype, rngs=rngs)

    def __call__(self, images: Float[Array, "n h w c"]) -> Float[Array, "n p d"]:
        n, h, w, _ = images.shape
        x = jax.nn.relu(self.norms[0](self.patches(images).reshape(n, h // 4, w // 4, -1)))
        for conv, norm in zip(self.convs, self.norms[1:]):
            x = jax.nn.relu(norm(conv(x)))
        return self.project(x.reshape(n, -1, x.shape[-1]))


class FramePooling(nnx.Module):
    """One learned query attends to the tokens of a frame."""

    def __init__(self, width: int, heads: int, *, dtype: DTypeLike, rngs: nnx.Rngs):
        self.query = nnx.Param(truncated_normal(rngs.params(), (1, 1, width)))
        self.attention = CrossAttention(width, heads, dropout_rate=0.0, dtype=dtype, rngs=rngs)

    def __call__(self, tokens: Float[Array, "n s d"]) -> Float[Array, "n d"]:
        query = jnp.broadcast_to(
            self.query[...].astype(tokens.dtype), (tokens.shape[0], 1, tokens.shape[-1])
        )
        return self.attention(query, tokens)[:, 0]


class PatchConcat(nnx.Module):
    """Every token narrowed by one matrix, all of a frame side by side, mapped back to the width: what is where in the picture stays apart."""

    def __init__(self, width: int, tokens: int, *, dtype: DTypeLike, rngs: nnx.Rngs):
        narrow = max(4, 4 * width // tokens)
        self.narrow = linear(width, narrow, dtype=dtype, rngs=rngs)
        self.widen = linear(narrow * tokens, width, dtype=dtype, rngs=rngs)

    def __call__(self, tokens: Float[Array, "n s d"]) -> Float[Array, "n d"]:
        return self.widen(gelu(self.narrow(tokens)).reshape(tokens.shape[0], -1))


class DenseViT(nnx.Module):
    """Pictures (n, h, w, c), normalized, to one feature each (n, d); c is 3, or 6 with `encoder.motion`.

    The blocks are kept stacked (a leading layer axis) whether they are scanned or unrolled, so a checkpoint fits both.

    With `encoder.frames_per_chunk` pictures are run so many at a time, and a chunk's activations are computed again in the backward pass: memory is
    that of one chunk, however long the clips are. With a key (training) `encoder.patch_drop` leaves patches out of each picture (Li et al. 2023);
    without one `encoder.token_merge` merges tokens (see `token_merging`).
    """

    def __init__(
        self,
        config: EncoderConfig,
        image_size: int,
        *,
        remat: str = "none",
        scan_layers: bool = True,
        dtype: DTypeLike,
        rngs: nnx.Rngs,
    ):
        width, side, epsilon = (
            config.vit_hidden_dim,
            image_size // config.patch_size,
            config.norm_epsilon or LAYER_NORM_EPSILON,
        )
        stem = {"patch": PatchEmbedding, "conv": ConvStem}[config.stem]
        self.embed = stem(
            config.patch_size, width, 3 if config.motion == "none" else 6, dtype=dtype, rngs=rngs
        )
        self.class_token = nnx.Param(truncated_normal(rngs.params(), (1, 1, width)))
        self.positions = nnx.Param(_initial_positions(config.position_init, side, width, rngs))
        self.blocks = stack(
            lambda block_rngs: TransformerBlock(
                width,
                config.vit_num_heads,
                config.vit_mlp_dim,
                dropout_rate=config.dropout,
                attention_dropout=config.attention_dropout,
                attention=config.attention,
                norm_epsilon=epsilon,
                dtype=dtype,
                rngs=block_rngs,
            ),
            config.vit_num_layers,
            rngs,
        )
        self.norm = layer_norm(width, epsilon=epsilon, dtype=dtype, rngs=rngs)
        pooling = {
            "mean": lambda: None,
            "attention": lambda: FramePooling(width, config.vit_num_heads, dtype=dtype, rngs=rngs),
            "concat": lambda: PatchConcat(width, 1 + side * side, dtype=dtype, rngs=rngs),
        }
        self.pooling = pooling[config.frame_pooling]()
        self.layers, self.dropout_rate, self.drop_path_rate = (
            config.vit_num_layers,
            config.dropout,
            config.drop_path,
        )
        self.chunk, self.patch_drop, self.token_merge, self.random = (
            config.frames_per_chunk,
            config.patch_drop,
            config.token_merge,
            config.dropout_rng_impl,
        )
        self.remat, self.scan_layers, self.dtype = remat, scan_layers, dtype

    def __call__(
        self,
        images: Float[Array, "n h w c"] | UInt8[Array, "n h w c"],
        key: Key[Array, ""] | None = None,
        prepare: Callable[[Array], Array] = lambda images: images,
    ) -> Float[Array, "n d"]:
        """`prepare` makes normalized pictures of what is given, chunk by chunk: a clip waits as bytes and not as floats four times the size."""
        if key is not None and self.random == "rbg":
            key = jax.random.wrap_key_data(jnp.tile(jax.random.key_data(key), 2), impl="rbg")
        n = images.shape[0]
        parts = -(-n // self.chunk) if self.chunk else 1
        if parts == 1:
            return self._features(prepare(images), key)
        graphdef, state = nnx.split(self)

        def run(inputs: tuple[Array, Array]) -> Array:
            part, number = inputs
            return nnx.merge(graphdef, state)._features(prepare(part), key_for(key, number))

        # Picture i goes to part i % parts: each device keeps its own pictures, whatever the mesh.
        padded = jnp.pad(images, ((0, -n % parts), *((0, 0),) * (images.ndim - 1)))
        split = jnp.moveaxis(padded.reshape(-1, parts, *images.shape[1:]), 1, 0)
        features = jax.lax.map(jax.checkpoint(run, prevent_cse=False), (split, jnp.arange(parts)))
        return jnp.moveaxis(features, 0, 1).reshape(-1, features.shape[-1])[:n]

    def tokens(
        self, images: Float[Array, "n h w c"], key: Key[Array, ""] | None = None
    ) -> Float[Array, "n s d"]:
        """All output tokens of each picture, the class token first (s = 1 + patches, less those dropped), after the last norm."""
        return self.norm(self._run_blocks(self._embedded(images, key), key))

    def _features(
        self, images: Float[Array, "n h w c"], key: Key[Array, ""] | None
    ) -> Float[Array, "n d"]:
        if self.token_merge and key is None:
            tokens, sizes = self._merged_tokens(images)
            if self.pooling is None:
                shares = sizes / sizes.sum(axis=1, keepdims=True)
                return jnp.einsum("ns,nsd->nd", shares, tokens.astype(jnp.float32)).astype(
                    tokens.dtype
                )
        else:
            tokens = self.tokens(images, key)
        return tokens.mean(axis=1) if self.pooling is None else self.pooling(tokens)

    def _embedded(
        self, images: Float[Array, "n h w c"], key: Key[Array, ""] | None
    ) -> Float[Array, "n s d"]:
        patches = self.embed(images.astype(self.dtype))
        class_token = jnp.broadcast_to(
            self.class_token[...].astype(self.dtype), (patches.shape[0], 1, patches.shape[-1])
        )
        x = jnp.concatenate([class_token, patches], axis=1) + self.positions[...].astype(self.dtype)
        if self.patch_drop and key is not None:
            x = drop_patches(x, self.patch_drop, key_for(key, self.layers + 1))
        return dropout(x, self.dropout_rate, key_for(key, self.layers))

    def _merged_tokens(
        self, images: Float[Array, "n h w c"]
    ) -> tuple[Float[Array, "n s d"], Float[Array, "n s"]]:
        """Output tokens after merging in every block, and how many each stands for. The blocks are export_config: each has a shape of its own."""
        x = self._embedded(images, None)
        sizes = jnp.ones(x.shape[:2], jnp.float32)
        for layer in range(self.layers):
            block = block_at(self.blocks, layer)
            query, key, value = block.attention.project(block.attention_norm(x))
            x = x + block.attention.out(proportional_attention(query, key, value, sizes))
            x, sizes = merge_tokens(x, sizes, key.mean(axis=2), self.token_merge)
            x = x + block.feed_forward(block.feed_forward_norm(x))
        return self.norm(x), sizes

    def _run_blocks(
        self, x: Float[Array, "n s d"], key: Key[Array, ""] | None
    ) -> Float[Array, "n s d"]:
        rates = np.linspace(0.0, self.drop_path_rate, self.layers, dtype=np.float32)
        graphdef, state = nnx.split(self.blocks)

        def run(x: Array, layer_state: nnx.State, layer: Array | int, rate: Array) -> Array:
            block = nnx.merge(graphdef, layer_state)
            return block(x, None, key_for(key, layer), rate if self.drop_path_rate else None)

        if self.remat != "none":
            run = jax.checkpoint(
                run, policy=REMAT_POLICIES[self.remat], prevent_cse=not self.scan_layers
            )
        if self.scan_layers:
            return jax.lax.scan(
                lambda x, inputs: (run(x, *inputs), None),
                x,
                (state, jnp.arange(self.layers), jnp.asarray(rates)),
            )[0]
        for layer in range(self.layers):
            x = run(x, nnx.state(block_at(self.blocks, layer)), layer, jnp.asarray(rates[layer]))
        return x


def drop_patches(
    x: Float[Array, "n s d"], rate: float, key: Key[Array, ""]
) -> Float[Array, "n r d"]:
    """A share `rate` of each picture's tokens left out at random, at least one patch kept; the first (the class token) always stays."""
    patches = x.shape[1] - 1
    kept = max(1, round(patches * (1.0 - rate)))
    order = jax.random.uniform(key, (x.shape[0], patches)).argsort(axis=1)[:, :kept]
    return jnp.concatenate(
        [x[:, :1], jnp.take_along_axis(x[:, 1:], order[..., None], axis=1)], axis=1
    )


def _initial_positions(kind: str, side: int, width: int, rngs: nnx.Rngs) -> Float[Array, "1 s d"]:
    if kind == "normal":
        return truncated_normal(rngs.params(), (1, 1 + side * side, width))
    table = sinusoids_2d(side, side, width)
    return jnp.asarray(np.concatenate([np.zeros((1, width), np.float32), table]))[None]
