"""Greedy and beam search against ids and scores that the reference system produced."""

import re
from functools import cache
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from signvit_jax.decoding.autoregressive import Source, best
from signvit_jax.decoding.beam_search import beam_search
from signvit_jax.decoding.greedy import greedy
from signvit_jax.models.decoder import PAD
from signvit_jax.weights.reference import load_reference

VECTORS = Path(__file__).parents[1] / "fixtures" / "translator_small.npz"
GROUPS = {"decode": ("params/", "in/video"), "trained_decode": ("trained_params/", "trained_in/video")}


@cache
def reference(group):
    """The file's arrays, the decoder with its memory, and the special ids."""
    vectors = dict(np.load(VECTORS))
    prefix, video = GROUPS[group]
    _, model, sizes = load_reference(vectors, prefix)
    frames = jnp.asarray(vectors[video]).transpose(0, 1, 3, 4, 2)
    encoded = jax.jit(lambda model, *inputs: model.encode(*inputs))(model, frames, jnp.full(frames.shape[0], frames.shape[1]))
    return vectors, Source(model.decoder, *model.memory(encoded)), {"bos_id": sizes["bos_id"], "eos_id": sizes["eos_id"]}


@pytest.mark.parametrize("group", GROUPS)
def test_greedy_ids_are_the_reference_systems(group):
    vectors, source, ids = reference(group)
    wanted = vectors[f"{group}/greedy"]
    found = np.asarray(greedy(source, **ids).tokens)
    np.testing.assert_array_equal(found[:, : wanted.shape[1]], wanted)
    assert (found[:, wanted.shape[1] :] == PAD).all()


@pytest.mark.parametrize("group", GROUPS)
def test_beam_ids_and_scores_are_the_reference_systems(group):
    vectors, source, ids = reference(group)
    searches = sorted({name.rsplit("_", 1)[0] for name in vectors if re.fullmatch(rf"{group}/beam.*_\d", name)})
    assert len(searches) >= 3
    for search in searches:
        size, penalty = re.fullmatch(rf"{group}/beam(\d+)_lp([\d.]+)", search).groups()
        found = best(beam_search(source, **ids, beam_size=int(size), length_penalty=float(penalty)))
        for clip in range(3):
            wanted = vectors[f"{search}_{clip}"]
            np.testing.assert_array_equal(found.tokens[clip, : found.lengths[clip]], wanted)
            np.testing.assert_allclose(found.scores[clip], vectors[f"{search}_{clip}_score"], atol=1e-5)
