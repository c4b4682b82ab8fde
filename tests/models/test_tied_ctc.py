"""The CTC head: weights that are tied to the decoder's embedding, and the precision of logits."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from signvit_jax.config.schema import CTCConfig
from signvit_jax.layers.transformer import gelu
from signvit_jax.models.ctc_head import CTCHead
from signvit_jax.models.translator import Encoded, abstract_model, count_parameters
from tests.helpers import tiny_model


def test_a_tied_head_uses_the_embedding_and_its_own_bias():
    tied = tiny_model.config(model__ctc__tied=True)
    model = tiny_model.model(tied)
    plain = abstract_model(tiny_model.config(), tiny_model.VOCABULARY)
    width = tied.model.decoder.hidden_dim
    assert count_parameters(plain) - count_parameters(model) == width * tiny_model.VOCABULARY
    bias = np.random.default_rng(0).normal(size=tiny_model.VOCABULARY).astype(np.float32)
    model.ctc_head.out.bias[...] = bias
    frames = jnp.asarray(np.random.default_rng(1).normal(size=(2, 6, width)), jnp.float32)
    logits, _ = model.ctc_logits(Encoded(frames[:, :3], frames, jnp.array([6, 6])))
    head = model.ctc_head.hidden
    hidden = jax.nn.gelu(frames @ head.kernel[...] + head.bias[...], approximate=False)
    np.testing.assert_allclose(logits, hidden @ model.decoder.embedding[...].T + bias, atol=1e-5)


def test_a_gloss_head_is_never_tied():
    glosses = tiny_model.config(model__ctc__tied=True, model__ctc__target="gloss")
    kernel = abstract_model(glosses, tiny_model.VOCABULARY, 5).ctc_head.out.kernel
    assert kernel.shape == (glosses.model.decoder.hidden_dim, 5)


@pytest.mark.parametrize("tied", [False, True])
def test_logits_are_float32_sums_of_bfloat16_factors(tied):
    rng = np.random.default_rng(0)
    head = CTCHead(CTCConfig(), 64, 50, tied=tied, dtype=jnp.bfloat16, rngs=nnx.Rngs(0))
    embedding = jnp.asarray(rng.standard_normal((50, 64)), jnp.float32)
    head.out.bias[...] = jnp.asarray(rng.standard_normal(50), jnp.float32)
    x = jnp.asarray(4 * rng.standard_normal((2, 6, 64)), jnp.bfloat16)

    def rounded_to_bfloat16(factor):
        return np.asarray(factor.astype(jnp.bfloat16), np.float64)

    hidden = rounded_to_bfloat16(gelu(head.hidden(x)))
    matrix = rounded_to_bfloat16(embedding.T if tied else head.out.kernel[...])
    logits = head(x, embedding)
    assert logits.dtype == jnp.float32
    expected = hidden @ matrix + np.asarray(head.out.bias[...], np.float64)
    np.testing.assert_allclose(logits, expected, rtol=1e-5, atol=1e-5)
