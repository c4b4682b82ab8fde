"""Random bits of dropout as a hash of each entry's position: quick, and nothing is stored.

Threefry takes about a hundred integer operations per entry. The generator of the device ('rbg')
writes its bits to memory, where they take more room than the activations that they mask, and draws
different numbers on different meshes. A hash is computed inside the operation that uses it, by each
device for its own entries, and again in the backward pass. All meshes and devices draw the same
numbers. It is good enough for masks, not for cryptography or simulation.
"""

import jax
import jax.numpy as jnp
from jax.extend.random import define_prng_impl
from jaxtyping import Array, Key, UInt32


def hashing_key(key: Key[Array, ""]) -> Key[Array, ""]:
    """Return a key with the data of `key`, a threefry key, whose bits are hashes."""
    return jax.random.wrap_key_data(jax.random.key_data(key), impl=HASH)


def draws_hashes(key: Key[Array, ""]) -> bool:
    """Return True if `key` is a `hashing_key` or derived from one."""
    return jax.random.key_impl(key) == HASH


def _mix(x: UInt32[Array, "*shape"]) -> UInt32[Array, "*shape"]:
    """Make every bit of the result depend on all bits of `x` (Wellons 2018, "lowbias32")."""
    x = (x ^ (x >> 16)) * jnp.uint32(0x7FEB352D)
    x = (x ^ (x >> 15)) * jnp.uint32(0x846CA68B)
    return x ^ (x >> 16)


def _random_bits(
    data: UInt32[Array, "2"], bit_width: int, shape: tuple[int, ...]
) -> UInt32[Array, "*shape"]:
    if bit_width != 32:
        raise NotImplementedError(f"{bit_width} bits per hash; allowed: 32")
    shape = shape or (1,)
    # Rows and columns are hashed one after the other, because a large batch has more entries than
    # there are 32-bit numbers.
    row = jnp.zeros((1,) * len(shape), jnp.uint32)
    for axis, size in enumerate(shape[:-1]):
        row = row * jnp.uint32(size)
        row = row + jax.lax.broadcasted_iota(jnp.uint32, (*shape[:-1], 1), axis)
    column = jax.lax.broadcasted_iota(jnp.uint32, shape, len(shape) - 1)
    row = _mix(_mix(row ^ data[0]) ^ data[1])
    return _mix(row ^ (column * jnp.uint32(0x9E3779B9)))


def _threefry(data: UInt32[Array, "2"]) -> Key[Array, ""]:
    return jax.random.wrap_key_data(data, impl="threefry2x32")


HASH = define_prng_impl(
    key_shape=(2,),
    seed=lambda seed: jax.random.key_data(jax.random.key(seed, impl="threefry2x32")),
    split=lambda data, shape: jax.random.key_data(jax.random.split(_threefry(data), shape)),
    random_bits=lambda data, bit_width, shape: _random_bits(data, bit_width, shape).reshape(shape),
    fold_in=lambda data, number: jax.random.key_data(jax.random.fold_in(_threefry(data), number)),
    name="hash",
    tag="hash",
)
