"""Greedy search: the most probable token at every step."""

from collections.abc import Sequence
from functools import partial

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from signvit_jax.decoding.autoregressive import Hypotheses, Source, checked_sources, generate


def greedy(
    sources: Source | Sequence[Source],
    *,
    bos_id: int,
    eos_id: int,
    max_len: int | None = None,
    no_repeat_ngram_size: int = 0,
    length_penalty: float | Float[Array, ""] = 1.0,
    formula: str = "power",
) -> Hypotheses:
    """One hypothesis a clip, (b, max_len) tokens. `max_len` counts BOS and EOS; None is the decoder's own. Scored as beam search scores.

    `no_repeat_ngram_size` n > 0: no run of n tokens comes twice. Raises DecodingError for models that cannot be an ensemble and a bad `max_len`.
    """
    sources, max_len = checked_sources(sources, max_len)
    return _greedy(sources, bos_id, eos_id, max_len, no_repeat_ngram_size, length_penalty, formula)


@partial(jax.jit, static_argnums=(1, 2, 3, 4, 6))
def _greedy(sources, bos_id, eos_id, max_len, no_repeat_ngram_size, length_penalty, formula):
    return generate(
        sources,
        lambda log_probs, position: jnp.argmax(log_probs, axis=-1),
        bos_id=bos_id,
        eos_id=eos_id,
        max_len=max_len,
        no_repeat_ngram_size=no_repeat_ngram_size,
        length_penalty=length_penalty,
        formula=formula,
    )
