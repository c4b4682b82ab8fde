"""Greedy search: the most probable token at every step."""

from collections.abc import Sequence
from functools import partial

import jax
import jax.numpy as jnp

from signvit_jax.decoding.autoregressive import Hypotheses, Source, checked_sources, generate
from signvit_jax.decoding.search_options import SearchOptions


@partial(jax.jit, static_argnames="options")
def greedy(sources: Source | Sequence[Source], options: SearchOptions) -> Hypotheses:
    """Return one hypothesis per clip, (b, max_len) tokens, scored as beam search scores.

    Raises DecodingError for models that cannot be an ensemble and a `max_len` out of range.
    """
    sources, max_len = checked_sources(sources, options)
    return generate(
        sources, lambda log_probs, position: jnp.argmax(log_probs, axis=-1), options, max_len
    )
