"""The Dense ViT: a vision Transformer (Dosovitskiy et al. 2021) applied to every frame."""

import math
from functools import partial
from itertools import pairwise

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, DTypeLike, Float, Int, Key, UInt8

from signvit_jax.backbones.backbone import BackboneOutput, Preprocess
from signvit_jax.backbones.token_merging import (
    mean_of_merged,
    proportional_attention,
    run_merging_blocks,
)
from signvit_jax.config.schema import EncoderConfig
from signvit_jax.layers.attention import dropout, needs_even_length, split_heads
from signvit_jax.layers.compute_policy import ComputePolicy
from signvit_jax.layers.half_precision import in_row_major, is_half
from signvit_jax.layers.hashed_bits import hashing_key
from signvit_jax.layers.layer_stack import run_stack, stack
from signvit_jax.layers.positions import sinusoids_2d
from signvit_jax.layers.random_streams import fold
from signvit_jax.layers.transformer import (
    LAYER_NORM_EPSILON,
    CrossAttention,
    TransformerBlock,
    gelu,
    layer_norm,
    linear,
    truncated_normal,
)


class DenseViT(nnx.Module):
    """A `Backbone`: features (n, d) of images (n, h, w, c).

    Its tokens are the class token and the patches. In training `encoder.patch_drop` drops patches
    (Li et al. 2023); in evaluation `encoder.token_merge` merges tokens (see `token_merging`).

    With `policy.frames_per_chunk` images run in chunks of at most that many, and the backward pass
    recomputes each chunk: memory is that of one chunk, for clips of any length.
    """

    def __init__(
        self,
        config: EncoderConfig,
        image_size: int,
        channels: int = 3,
        *,
        policy: ComputePolicy,
        rngs: nnx.Rngs,
    ):
        width, heads, dtype = config.vit_hidden_dim, config.vit_num_heads, policy.dtype
        side = image_size // config.patch_size
        epsilon = config.norm_epsilon or LAYER_NORM_EPSILON

        def make_block(rngs: nnx.Rngs) -> TransformerBlock:
            return TransformerBlock(
                width,
                heads,
                config.vit_mlp_dim,
                dropout_rate=config.dropout,
                attention_dropout=config.attention_dropout,
                attention=policy.attention,
                norm_epsilon=epsilon,
                dtype=dtype,
                rngs=rngs,
            )

        stem = {"patch": PatchEmbedding, "conv": ConvStem}[config.stem]
        self.embed = stem(config.patch_size, width, channels, dtype=dtype, rngs=rngs)
        self.class_token = nnx.Param(truncated_normal(rngs.params(), (1, 1, width)))
        self.positions = nnx.Param(_initial_positions(config.position_init, side, width, rngs))
        self.blocks = stack(make_block, config.vit_num_layers, rngs)
        self.norm = layer_norm(width, epsilon=epsilon, dtype=dtype, rngs=rngs)
        pooling = None
        if config.frame_pooling == "attention":
            pooling = FramePooling(width, heads, dtype=dtype, rngs=rngs)
        elif config.frame_pooling == "concat":
            pooling = PatchConcat(width, 1 + side * side, dtype=dtype, rngs=rngs)
        self.pooling = pooling
        self.num_layers = config.vit_num_layers
        self.num_heads = heads
        self.attention_dropout = config.attention_dropout
        self.dropout_rate = config.dropout
        self.drop_path_rate = config.drop_path
        self.patch_drop = config.patch_drop
        self.token_merge = config.token_merge
        self.policy = policy

    def __call__(
        self,
        images: Float[Array, "n h w c"] | UInt8[Array, "n h w c"],
        *,
        preprocess: Preprocess | None = None,
        rng: Key[Array, ""] | None = None,
        sample_mask: Float[Array, "n"] | None = None,
    ) -> BackboneOutput:
        """As in `Backbone`. `preprocess` runs per chunk: the images stay uint8 until then.

        `sample_mask` has no effect, as there is no BatchNorm.
        """
        del sample_mask
        if rng is not None:
            rng = dropout_key(rng, self.policy.dropout_rng_impl)
        n, size = images.shape[0], self.policy.frames_per_chunk
        num_chunks = -(-n // size) if size else 1
        if num_chunks == 1:
            return BackboneOutput(self._features(images, preprocess, rng))
        graphdef, state = nnx.split(self)

        def run(inputs: tuple[Array, Int[Array, ""]]) -> Float[Array, "m d"]:
            chunk, number = inputs
            vit = nnx.merge(graphdef, state)
            return vit._features(chunk, preprocess, fold(rng, "vit.chunk", number))

        # Image i goes to chunk i % num_chunks, not i // size: so each chunk has images of every
        # device, and no image moves to another device.
        padded = jnp.pad(images, ((0, -n % num_chunks), *((0, 0),) * (images.ndim - 1)))
        chunks = jnp.moveaxis(padded.reshape(-1, num_chunks, *images.shape[1:]), 1, 0)
        run = jax.checkpoint(run, prevent_cse=False)
        features = jax.lax.map(run, (chunks, jnp.arange(num_chunks)))
        features = jnp.moveaxis(features, 0, 1).reshape(-1, features.shape[-1])[:n]
        return BackboneOutput(features)

    def intermediates(self, images: Float[Array, "n h w c"]) -> dict[str, Float[Array, "n s d"]]:
        """Return the tokens in evaluation, at three places.

        "embedding": after the embedding; "blocks": after the last block; "tokens": after the final
        LayerNorm. `images`: normalized pixels. The class token is first; s = 1 + patches. No token
        is merged.
        """
        embedding = self.embed_images(images)
        blocks = self.run_blocks(embedding)
        return {"embedding": embedding, "blocks": blocks, "tokens": self.norm(blocks)}

    def merged_tokens(
        self, images: Float[Array, "n h w c"]
    ) -> tuple[Float[Array, "n r d"], Float[Array, "n r"]]:
        """Return the normalized tokens that remain after merging in every block, and their sizes.

        The size of a token is the number of input tokens that it stands for.
        """
        x = self.embed_images(images)
        x, sizes = run_merging_blocks(self.blocks, self.num_layers, x, self.token_merge)
        return self.norm(x), sizes

    def embed_images(
        self, images: Float[Array, "n h w c"], rng: Key[Array, ""] | None = None
    ) -> Float[Array, "n s d"]:
        """Return the input tokens of the blocks: class token and patches, with positions."""
        dtype = self.policy.dtype
        patches = self.embed(images.astype(dtype))
        class_token = self.class_token[...].astype(dtype)
        class_token = jnp.broadcast_to(class_token, (patches.shape[0], 1, patches.shape[-1]))
        x = jnp.concatenate([class_token, patches], axis=1) + self.positions[...].astype(dtype)
        # The blocks' streams have the indices 0 to num_layers - 1.
        patch_rng = fold(rng, "vit.patch_drop", self.num_layers)
        if self.patch_drop and patch_rng is not None:
            x = drop_patches(x, self.patch_drop, patch_rng)
        return dropout(x, self.dropout_rate, fold(rng, "vit.embedding_dropout", self.num_layers))

    def run_blocks(
        self, x: Float[Array, "n s d"], rng: Key[Array, ""] | None = None
    ) -> Float[Array, "n s d"]:
        """Run all blocks. The drop path rate rises linearly from 0 in the first block."""
        num_tokens = x.shape[1]
        pad_to_even = rng is not None and num_tokens % 2 == 1 and self._needs_even_length()

        def call(block: TransformerBlock, x: Array, layer: Array | int, rate: Array) -> Array:
            drop_path_rate = rate if self.drop_path_rate else None
            block_rng = fold(rng, "vit.block", layer)
            return block(
                x,
                rng=block_rng,
                drop_path_rate=drop_path_rate,
                num_tokens=num_tokens if pad_to_even else None,
            )

        rates = np.linspace(0.0, self.drop_path_rate, self.num_layers, dtype=np.float32)
        if pad_to_even:  # once here, and not in every layer
            x = jnp.pad(x, ((0, 0), (0, 1), (0, 0)))
        # XLA would choose a layout that every layer has to transpose.
        if is_half(x.dtype):
            x = in_row_major(x)
        x = run_stack(self.blocks, x, call, rates, policy=self.policy)
        if is_half(x.dtype):
            x = in_row_major(x)
        return x[:, :num_tokens]

    def _needs_even_length(self) -> bool:
        """Return True if attention in training would pad an odd number of tokens in each layer."""
        head_width = self.class_token.shape[-1] // self.num_heads
        plain = self.attention_dropout == 0.0
        dtype = self.policy.dtype
        return is_half(dtype) and needs_even_length(
            self.policy.attention, dtype, head_width, plain=plain
        )

    def _features(
        self,
        images: Float[Array, "n h w c"] | UInt8[Array, "n h w c"],
        preprocess: Preprocess | None,
        rng: Key[Array, ""] | None,
    ) -> Float[Array, "n d"]:
        images = images if preprocess is None else preprocess(images)
        if self.token_merge and rng is None:
            tokens, sizes = self.merged_tokens(images)
            if isinstance(self.pooling, FramePooling):
                return self.pooling(tokens, sizes)
            return mean_of_merged(tokens, sizes)
        tokens = self.norm(self.run_blocks(self.embed_images(images, rng), rng))
        return tokens.mean(axis=1) if self.pooling is None else self.pooling(tokens)


class PatchEmbedding(nnx.Module):
    """Projection of each patch with one matrix (a convolution whose stride is its size)."""

    def __init__(
        self, patch_size: int, width: int, channels: int, *, dtype: DTypeLike, rngs: nnx.Rngs
    ):
        self.project = nnx.Linear(
            patch_size * patch_size * channels,
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
    """4x4 patches, then stride-2 3x3 convolutions down to the patch grid (Xiao et al. 2021).

    LayerNorm over channels and ReLU follow each step. The patches of the first step do not overlap:
    at full resolution a convolution would cost more than all the rest of a small ViT. `patch_size`
    is a power of two, at least 4.
    """

    def __init__(
        self, patch_size: int, width: int, channels: int, *, dtype: DTypeLike, rngs: nnx.Rngs
    ):
        steps = round(math.log2(patch_size // 4))  # each halves the sides of the 4x4 patches' grid
        widths = [max(16, width >> (steps - step)) for step in range(steps + 1)]
        conv = partial(
            nnx.Conv,
            kernel_size=(3, 3),
            strides=(2, 2),
            padding=((1, 1), (1, 1)),
            use_bias=False,
            dtype=dtype,
            param_dtype=jnp.float32,
            rngs=rngs,
        )
        self.patches = PatchEmbedding(4, widths[0], channels, dtype=dtype, rngs=rngs)
        self.convs = nnx.List([conv(before, after) for before, after in pairwise(widths)])
        self.norms = nnx.List([layer_norm(size, dtype=dtype, rngs=rngs) for size in widths])
        self.project = linear(widths[-1], width, dtype=dtype, rngs=rngs)

    def __call__(self, images: Float[Array, "n h w c"]) -> Float[Array, "n p d"]:
        n, h, w, _ = images.shape
        x = jax.nn.relu(self.norms[0](self.patches(images).reshape(n, h // 4, w // 4, -1)))
        for conv, norm in zip(self.convs, self.norms[1:]):
            x = jax.nn.relu(norm(conv(x)))
        return self.project(x.reshape(n, -1, x.shape[-1]))


class FramePooling(nnx.Module):
    """Attention of one learned query to the tokens of an image.

    Merged tokens are weighted by their sizes, as in `token_merging`.
    """

    def __init__(self, width: int, heads: int, *, dtype: DTypeLike, rngs: nnx.Rngs):
        self.query = nnx.Param(truncated_normal(rngs.params(), (1, 1, width)))
        self.attention = CrossAttention(width, heads, dropout_rate=0.0, dtype=dtype, rngs=rngs)

    def __call__(
        self, tokens: Float[Array, "n s d"], sizes: Float[Array, "n s"] | None = None
    ) -> Float[Array, "n d"]:
        query = jnp.broadcast_to(
            self.query[...].astype(tokens.dtype), (tokens.shape[0], 1, tokens.shape[-1])
        )
        if sizes is None:
            return self.attention(query, tokens)[:, 0]
        key, value = self.attention.project_memory(tokens)
        query = split_heads(self.attention.query(query), self.attention.heads)
        return self.attention.out(proportional_attention(query, key, value, sizes))[:, 0]


class PatchConcat(nnx.Module):
    """The feature of an image from all its tokens: narrowed, concatenated, projected to the width.

    Unlike a mean this keeps the place of each patch.
    """

    def __init__(self, width: int, num_tokens: int, *, dtype: DTypeLike, rngs: nnx.Rngs):
        narrow = max(4, 4 * width // num_tokens)
        self.narrow = linear(width, narrow, dtype=dtype, rngs=rngs)
        self.widen = linear(narrow * num_tokens, width, dtype=dtype, rngs=rngs)

    def __call__(self, tokens: Float[Array, "n s d"]) -> Float[Array, "n d"]:
        return self.widen(gelu(self.narrow(tokens)).reshape(tokens.shape[0], -1))


def dropout_key(rng: Key[Array, ""], generator: str) -> Key[Array, ""]:
    """Convert a threefry key to a key of `generator`: 'threefry', 'rbg' or 'hash'."""
    if generator == "rbg":
        return jax.random.wrap_key_data(jnp.tile(jax.random.key_data(rng), 2), impl="rbg")
    return hashing_key(rng) if generator == "hash" else rng


def drop_patches(
    x: Float[Array, "n s d"], rate: float, rng: Key[Array, ""]
) -> Float[Array, "n r d"]:
    """Drop a share `rate` of each image's patches at random.

    At least one patch stays, and so does the first token (the class token).
    """
    patches = x.shape[1] - 1
    num_kept = max(1, round(patches * (1.0 - rate)))
    kept = jax.random.uniform(rng, (x.shape[0], patches)).argsort(axis=1)[:, :num_kept]
    return jnp.concatenate(
        [x[:, :1], jnp.take_along_axis(x[:, 1:], kept[..., None], axis=1)], axis=1
    )


def _initial_positions(kind: str, side: int, width: int, rngs: nnx.Rngs) -> Float[Array, "1 s d"]:
    if kind == "normal":
        return truncated_normal(rngs.params(), (1, 1 + side * side, width))
    class_token = np.zeros((1, width), np.float32)
    return jnp.asarray(np.concatenate([class_token, sinusoids_2d(side, side, width)]))[None]
