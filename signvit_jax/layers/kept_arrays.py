"""Names of the arrays that `training.remat = "names"` keeps for the backward pass.

With them the backward pass recomputes no matrix product and no attention of a ViT's block, only
operations on single entries or rows.
"""

from jax.ad_checkpoint import checkpoint_name
from jaxtyping import Array, Key, Shaped

NORMALIZED = "normalized"  # outputs of a LayerNorm, which are inputs of matrix products
PROJECTED = "projected"  # query, key and value
ATTENDED = "attended"  # values, weighted by attention
HIDDEN = "hidden"  # hidden layer of the feed-forward network, before its activation
KEPT = (NORMALIZED, PROJECTED, ATTENDED, HIDDEN)


def keep(
    x: Shaped[Array, "*shape"], name: str, rng: Key[Array, ""] | None
) -> Shaped[Array, "*shape"]:
    """Name an array in training; without a key `rng` (evaluation, exports) return it as it is."""
    return x if rng is None else checkpoint_name(x, name)
