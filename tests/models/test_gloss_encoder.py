"""The gloss encoder: its memory, and the errors that training puts into glosses."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from signvit_jax.config.schema import DecoderConfig
from signvit_jax.models.gloss_encoder import GlossEncoder, corrupted

WIDTH = 16


@pytest.fixture(scope="module")
def encoder():
    config = DecoderConfig(hidden_dim=WIDTH, num_heads=2, ff_dim=24)
    return GlossEncoder(config, 11, dtype=jnp.float32, rngs=nnx.Rngs(params=jax.random.key(0)))


def test_padding_does_not_change_the_memory(encoder):
    lengths = jnp.array([2, 1])
    short, short_lengths = encoder(jnp.array([[5, 7], [3, 0]]), lengths)
    long, long_lengths = encoder(jnp.array([[5, 7, 9, 1], [3, 4, 0, 2]]), lengths)
    assert short.shape == (2, 3, WIDTH) and long.shape == (2, 5, WIDTH)
    assert short_lengths.tolist() == long_lengths.tolist() == [3, 2]
    for row, length in enumerate(short_lengths.tolist()):
        np.testing.assert_allclose(long[row, :length], short[row, :length], atol=1e-6)


def test_the_memory_depends_on_the_order_and_no_glosses_have_one_too(encoder):
    memory, lengths = encoder(jnp.array([[5, 7], [7, 5], [0, 0]]), jnp.array([2, 2, 0]))
    assert np.abs(memory[0, 2] - memory[1, 2]).max() > 1e-3  # also at the end of the glosses
    assert lengths.tolist() == [3, 3, 1]
    assert np.isfinite(memory[2, 0]).all() and np.abs(memory[2, 0]).max() > 0.1


def test_a_third_of_the_errors_is_of_each_kind():
    """The drawn glosses are all 1, which no given gloss is."""
    clips, length, rate = 4000, 6, 0.3
    glosses = jnp.broadcast_to(jnp.arange(2, 2 + length), (clips, length))
    lengths = jnp.asarray(np.arange(clips) % (length + 1), jnp.int32)
    found, found_lengths = jax.device_get(
        jax.jit(corrupted, static_argnums=(2, 3))(glosses, lengths, rate, 2, jax.random.key(0))
    )
    total, kept, drawn = int(lengths.sum()), 0, 0
    for row, length_then, length_now in zip(found, lengths.tolist(), found_lengths.tolist()):
        assert not row[length_now:].any() and row[:length_now].all()
        ours = [gloss for gloss in row[:length_now].tolist() if gloss != 1]
        assert ours == sorted(set(ours)) and set(ours) <= set(range(2, 2 + length_then))
        kept += len(ours)
        drawn += length_now - len(ours)
    assert kept / total == pytest.approx(1 - 2 / 3 * rate, abs=0.01)
    assert drawn / total == pytest.approx(2 / 3 * rate, abs=0.01)
    whole = [row for row in found[6::7].tolist() if [g for g in row if g > 1] == [*range(2, 8)]]
    inserted = np.mean([row.count(1) for row in whole])
    assert inserted == pytest.approx(6 * (rate / 3) / (1 - 2 / 3 * rate), abs=0.1)


def test_glosses_are_corrupted_in_training_alone_and_alike_for_one_key(encoder):
    glosses, lengths = jnp.tile(jnp.arange(1, 9), (64, 1)), jnp.full(64, 8)
    key = jax.random.key(3)
    first, again = encoder(glosses, lengths, key), encoder(glosses, lengths, key)
    np.testing.assert_array_equal(first[0], again[0])
    assert len(set(first[1].tolist())) > 1
    assert encoder(glosses, lengths)[1].tolist() == [9] * 64
