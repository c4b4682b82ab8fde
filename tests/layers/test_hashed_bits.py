"""Dropout masks from hashes of positions, which must look like independent random bits."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from signvit_jax.layers.attention import dropout
from signvit_jax.layers.hashed_bits import draws_hashes, hashing_key

RATE = 0.2
SHAPE = (64, 50, 128)


def centered_mask(seed=0, shape=SHAPE, stream=0):
    """Return an array of the mean zero: 1 - RATE for dropped entries, -RATE for the others."""
    key = jax.random.fold_in(hashing_key(jax.random.key(seed)), stream)
    out = jax.jit(lambda key: dropout(jnp.ones(shape), RATE, key))(key)
    return np.asarray(out == 0, np.float64) - RATE


def deviations(products):
    """Return the mean of products of two masks, in standard deviations of independent masks."""
    variance = RATE * (1 - RATE)
    return abs(products.mean()) / variance * np.sqrt(products.size)


def test_the_share_of_dropped_entries_is_the_rate():
    dropped = centered_mask()
    spread = np.sqrt(RATE * (1 - RATE))
    assert abs(dropped.mean()) / spread * np.sqrt(dropped.size) < 4
    for axes in ((0, 1), (0, 2), (1, 2)):
        counts = dropped.sum(axes)
        entries = dropped.size / counts.size
        assert np.square(counts / (spread * np.sqrt(entries))).mean() == pytest.approx(1, abs=0.5)


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("distance", [1, 2, 16])
def test_neighbors_are_independent(axis, distance):
    dropped = centered_mask()
    assert deviations(dropped * np.roll(dropped, distance, axis)) < 4.5


@pytest.mark.parametrize("other", [{"seed": 1}, {"stream": 1}, {"seed": 2**31}])
def test_masks_of_other_keys_are_independent(other):
    assert deviations(centered_mask() * centered_mask(**other)) < 4.5


def test_rows_beyond_32_bits_of_entries_do_not_repeat():
    """If entries were numbered with 32 bits, row 2**25 would have the mask of row 0."""
    key = hashing_key(jax.random.key(0))
    shape = (2**25 + 1, 128)

    def ends(key):
        bits = jax.random.bits(key, shape)
        return jnp.stack([bits[0], bits[-1]])

    first, last = np.asarray(jax.jit(ends)(key))
    assert (first != last).mean() > 0.99


def test_derived_keys_draw_hashes_too():
    key = hashing_key(jax.random.key(0))
    assert draws_hashes(jax.random.fold_in(key, 3))
    assert all(draws_hashes(part) for part in jax.random.split(key))
    assert not draws_hashes(jax.random.key(0))
    assert not draws_hashes(jax.random.key(0, impl="rbg"))


def test_a_scalar_and_a_uniform_number_can_be_drawn():
    key = hashing_key(jax.random.key(0))
    assert jax.random.bits(key).shape == ()
    uniform = np.asarray(jax.random.uniform(key, (4096,)))
    assert 0 <= uniform.min() < 0.01
    assert 0.99 < uniform.max() < 1
    assert uniform.mean() == pytest.approx(0.5, abs=0.02)


def test_other_widths_than_32_bits_are_refused():
    with pytest.raises(NotImplementedError, match="16 bits per hash; allowed: 32"):
        jax.random.bits(hashing_key(jax.random.key(0)), (3,), jnp.uint16)
