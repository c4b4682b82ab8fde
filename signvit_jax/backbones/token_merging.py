"""Token merging at inference (ToMe, Bolya et al. 2023).

After the attention of every block the most similar tokens of an image are merged. A merged token is
the mean of its original tokens, and its size is their number. Attention and the mean over the
tokens weight it by its size.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from signvit_jax.layers.attention import attention_scores
from signvit_jax.layers.layer_stack import block_at
from signvit_jax.layers.transformer import TransformerBlock


def run_merging_blocks(
    blocks: TransformerBlock, num_layers: int, x: Float[Array, "n s d"], count: int
) -> tuple[Float[Array, "n r d"], Float[Array, "n r"]]:
    """Run a stack of `TransformerBlock`s that merges `count` tokens in every block.

    Returns the tokens and their sizes. The blocks are unrolled, because each has its own shapes.
    """
    sizes = jnp.ones(x.shape[:2], jnp.float32)
    for layer in range(num_layers):
        block = block_at(blocks, layer)
        query, key, value = block.attention.project(block.attention_norm(x))
        x = x + block.attention.out(proportional_attention(query, key, value, sizes))
        x, sizes = merge_tokens(x, sizes, key.mean(axis=2), count)
        x = x + block.feed_forward(block.feed_forward_norm(x))
    return x, sizes


def mean_of_merged(x: Float[Array, "n s d"], sizes: Float[Array, "n s"]) -> Float[Array, "n d"]:
    """Mean over the original tokens."""
    shares = sizes / sizes.sum(axis=1, keepdims=True)
    return jnp.einsum("ns,nsd->nd", shares, x.astype(jnp.float32)).astype(x.dtype)


def merge_tokens(
    x: Float[Array, "b s d"], sizes: Float[Array, "b s"], metric: Float[Array, "b s k"], count: int
) -> tuple[Float[Array, "b r d"], Float[Array, "b r"]]:
    """Merge `count` tokens into others; return the remaining tokens and their sizes.

    The first token (the class token) is not merged, and at most half of the others are.

    Bipartite soft matching: each token at an even position is paired with the token at an odd
    position whose `metric` has the highest cosine similarity, and the `count` best pairs are
    merged. The order of the result is: class token, remaining even positions, odd positions.
    """
    count = min(count, (x.shape[1] - 1) // 2)
    if count <= 0:
        return x, sizes
    unit = metric.astype(jnp.float32)
    unit = unit / jnp.maximum(jnp.linalg.norm(unit, axis=-1, keepdims=True), 1e-6)
    # Positions 2, 4, ... are paired with positions 1, 3, ... (0 is the class token), of which there
    # are at least as many.
    similarity = jnp.einsum("iak,ick->iac", unit[:, 2::2], unit[:, 1::2])
    order = jnp.argsort(-similarity.max(axis=-1), axis=-1)
    merged, remaining = order[:, :count], order[:, count:]
    target = jnp.take_along_axis(similarity.argmax(axis=-1), merged, axis=1)

    # Sums over original tokens; their last entry is the size.
    sums = jnp.concatenate([x.astype(jnp.float32) * sizes[..., None], sizes[..., None]], axis=-1)
    even, odd = sums[:, 2::2], sums[:, 1::2]
    added = jnp.take_along_axis(even, merged[..., None], axis=1)
    odd = odd.at[jnp.arange(x.shape[0])[:, None], target].add(added)
    unmerged = jnp.take_along_axis(even, remaining[..., None], axis=1)
    sums = jnp.concatenate([sums[:, :1], unmerged, odd], axis=1)
    return (sums[..., :-1] / sums[..., -1:]).astype(x.dtype), sums[..., -1]


def proportional_attention(
    query: Float[Array, "b l n k"],
    key: Float[Array, "b s n k"],
    value: Float[Array, "b s n k"],
    sizes: Float[Array, "b s"],
) -> Float[Array, "b l width"]:
    """Attention that weights each token by its size: softmax(query key^T / sqrt(k) + log size)."""
    scores = attention_scores(query, key) + jnp.log(sizes)[:, None, None, :]
    weights = jax.nn.softmax(scores).astype(value.dtype)
    out = jnp.einsum("bnls,bsnk->blnk", weights, value)
    return out.reshape(*out.shape[:2], -1)
