"""Token merging, compared with the algorithm in a loop and with attention over unmerged tokens."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from signvit_jax.backbones.token_merging import (
    mean_of_merged,
    merge_tokens,
    proportional_attention,
)
from signvit_jax.layers.attention import attend


def slow_merge(x, sizes, metric, count):
    """Return the sorted (size, *token) of the tokens that remain of one image.

    Each token at an even position, except the first, is paired with the most similar token at an
    odd position. The `count` most similar pairs are merged, one after the other.
    """
    unit = metric / np.linalg.norm(metric, axis=-1, keepdims=True)
    odd = range(1, len(x), 2)
    pairs = [max((unit[a] @ unit[b], a, b) for b in odd) for a in range(2, len(x), 2)]
    sums = {i: x[i] * sizes[i] for i in range(len(x))}
    counts = dict(enumerate(sizes))
    for _, a, b in sorted(pairs, reverse=True)[:count]:
        sums[b], counts[b] = sums[b] + sums.pop(a), counts[b] + counts.pop(a)
    return sorted((float(counts[i]), *(sums[i] / counts[i])) for i in sums)


@pytest.mark.parametrize(("tokens", "count"), [(9, 3), (10, 2), (9, 99), (2, 1), (9, 0)])
def test_merging_equals_the_bipartite_matching_in_a_loop(tokens, count):
    rng = np.random.default_rng(tokens)
    x = rng.standard_normal((2, tokens, 3)).astype(np.float32)
    metric = rng.standard_normal((2, tokens, 4)).astype(np.float32)
    sizes = rng.integers(1, 4, (2, tokens)).astype(np.float32)
    merged, new_sizes = jax.jit(merge_tokens, static_argnums=3)(x, sizes, metric, count)
    assert merged.shape[1] == tokens - min(count, (tokens - 1) // 2)
    for row in range(2):
        found = sorted(
            (float(size), *token) for size, token in zip(new_sizes[row], np.asarray(merged[row]))
        )
        expected = slow_merge(x[row], sizes[row], metric[row], count)
        np.testing.assert_allclose(found, expected, atol=1e-5)
    np.testing.assert_array_equal(merged[:, 0], x[:, 0])
    np.testing.assert_allclose(new_sizes.sum(1), sizes.sum(1))
    mean_before = mean_of_merged(jnp.asarray(x), jnp.asarray(sizes))
    np.testing.assert_allclose(mean_of_merged(merged, new_sizes), mean_before, atol=1e-5)


def test_attention_weights_a_token_by_its_size():
    query, key, value = (jax.random.normal(jax.random.key(i), (2, 4, 3, 8)) for i in range(3))
    sizes = jnp.array([[1.0, 3.0, 2.0, 1.0]] * 2)
    repeats = jnp.array([1, 3, 2, 1])
    repeated_key, repeated_value = (jnp.repeat(x, repeats, axis=1) for x in (key, value))
    np.testing.assert_allclose(
        proportional_attention(query, key, value, sizes),
        attend(query, repeated_key, repeated_value),
        atol=1e-5,
    )
