"""The compute policy of a run, from its config."""

import jax.numpy as jnp
import pytest

from signvit_jax.layers.compute_policy import ComputePolicy, compute_policy
from tests.helpers import tiny_model


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"training__use_amp": True}, {"dtype": jnp.bfloat16}),
        ({"training__remat": "dots"}, {"remat": "dots"}),
        ({"training__scan_layers": False}, {"scan_layers": False}),
        ({"model__encoder__attention": "recompute"}, {"attention": "recompute"}),
        ({"model__encoder__frames_per_chunk": 3}, {"frames_per_chunk": 3}),
        ({"model__encoder__dropout_rng_impl": "hash"}, {"dropout_rng_impl": "hash"}),
        ({}, {}),
    ],
    ids=str,
)
def test_the_compute_policy_follows_the_config(change, expected):
    assert compute_policy(tiny_model.config(**change)) == ComputePolicy(**expected)
