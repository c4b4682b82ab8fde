"""Estimates of a step's memory, and the advice for a step that does not fit."""

from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from signvit_jax.config.schema import MeshConfig
from signvit_jax.errors.memory_advice import memory_advice
from signvit_jax.models.definition import ModelDefinition
from signvit_jax.optimization.optimizer import make_optimizer
from signvit_jax.optimization.train_state import abstract_on_mesh, new_state
from signvit_jax.parallel.mesh import AXES, make_mesh
from signvit_jax.planning.memory import (
    batch_shapes,
    bytes_per_device,
    describe_oom,
    memory_limit,
    step_advice,
    step_memory,
)
from signvit_jax.runtime.exit_codes import run_command
from tests.helpers import tiny_model


def sizes(data=1, fsdp=1, tensor=1):
    return dict(zip(AXES, (data, fsdp, tensor)))


def advice(mesh=None, **changes):
    return step_advice(tiny_model.config(**changes), mesh or sizes())


def in_order(text, *parts):
    """Return True if `text` has all parts in this order."""
    places = [text.find(part) for part in parts]
    return -1 not in places and places == sorted(places)


def test_advice_begins_with_options_that_keep_the_result():
    text = advice(training__batch_size=16)
    assert in_order(
        text,
        "gradient_accumulation=2 (2 x 8): runs a batch as that many microbatches (the same result)",
        "remat=dots, then =full",
        "batch_size=8: a smaller batch (another result)",
        "num_frames (now 6)",
    )


def test_advice_without_a_config_has_the_same_words_and_order():
    with_config = memory_advice(
        {"training.remat": "=full", "training.batch_size": "=8"}
    ).splitlines()
    without_config = memory_advice().splitlines()
    texts = [line.split(". ", 1)[1] for line in without_config[1:]]
    assert with_config[0] == without_config[0]
    places = [texts.index(line.split(". ", 1)[1]) for line in with_config[1:]]
    assert places == sorted(places)
    assert "inference.batch_size" in without_config[-1]


def test_advice_leaves_out_options_that_are_used_up():
    text = advice(
        training__batch_size=16, training__gradient_accumulation=16, training__remat="full"
    )
    assert "gradient_accumulation" not in text and "remat" not in text and "batch_size=8" in text
    assert "remat=full" in advice(training__remat="dots")
    assert "gradient_accumulation=3 (3 x 4):" in advice(
        training__batch_size=12, training__gradient_accumulation=2
    )


def test_advice_fits_the_mesh():
    text = advice(sizes(data=4, tensor=2), training__batch_size=24)
    assert (
        "gradient_accumulation=2" in text
        and "mesh.fsdp=4 --config.mesh.data=1:" in text
        and "batch_size=12" in text
    )
    alone = advice(sizes(fsdp=4), training__batch_size=4)  # one clip per device
    assert (
        "gradient_accumulation" not in alone
        and "--config.training.batch_size" not in alone
        and "mesh.fsdp" not in alone
    )


def test_bytes_per_device_count_one_shard():
    mesh = make_mesh(MeshConfig())
    tree = {
        "a": jax.ShapeDtypeStruct((6, 4), jnp.float32, sharding=NamedSharding(mesh, P())),
        "b": jax.device_put(np.zeros(3, np.int8)),
    }
    assert bytes_per_device(tree) == 6 * 4 * 4 + 3
    sharding = NamedSharding(jax.sharding.AbstractMesh((1, 2, 4), AXES), P("fsdp", "tensor"))
    sharded = jax.ShapeDtypeStruct((6, 4), jnp.float32, sharding=sharding)
    assert bytes_per_device(sharded) == 3 * 1 * 4


class Step:
    """A stand-in for a jitted step. `plan`: its memory plan, or None if it cannot be compiled."""

    def __init__(self, plan):
        self.plan = plan

    def lower(self, state, batch):
        return self

    def compile(self):
        if self.plan is None:
            run_out_of_memory()
        return self

    def memory_analysis(self):
        return self.plan


class Plan:
    argument_size_in_bytes = 10**6
    output_size_in_bytes = 10**6
    alias_size_in_bytes = 10**6
    temp_size_in_bytes = 3 * 2**30
    generated_code_size_in_bytes = 0


def run_out_of_memory():
    """Make XLA raise its own exception for an array of 4 exabytes."""
    jax.block_until_ready(jnp.zeros((2**30, 2**30), jnp.float32))


def test_the_limit_is_that_of_the_smallest_device_of_the_mesh(planned):
    _, real, state, batch = planned
    assert memory_limit(real) is None  # unknown for a CPU

    def device(limit):
        return SimpleNamespace(memory_stats=lambda: {"bytes_limit": limit} if limit else None)

    mesh = SimpleNamespace(local_devices=[device(3 * 2**30), device(None), device(2**31)])
    assert memory_limit(mesh) == 2**31
    assert "the device has                 2.000 GiB" in step_memory(state, batch).table(mesh)


@pytest.fixture
def planned():
    """Return (config, mesh, abstract state, batch shapes) of the tiny model."""
    config = tiny_model.config()
    mesh = make_mesh(config.mesh)
    definition = ModelDefinition(config, 17)
    optimizer = make_optimizer(config.training, 10)
    state, _ = abstract_on_mesh(lambda: new_state(definition, optimizer, 0, mesh), mesh)
    batch = batch_shapes(config, mesh, frames=6, text_length=8, gloss_length=8)
    return config, mesh, state, batch


def test_memory_of_a_state_and_two_batches(planned):
    _, _, state, batch = planned
    parameters = sum(leaf.size for leaf in jax.tree.leaves(state.params))
    memory = step_memory(state, batch)
    assert memory.parameters == 4 * parameters
    assert 0 <= memory.optimizer - 8 * parameters < 100  # two moments, and counters
    assert memory.batch == 2 * 4 * (6 * 16 * 16 * 3 + 2 * 4 * 8 + 4 * 4)


@pytest.mark.parametrize(
    ("plan", "temporaries"),
    [
        (Plan, "gradients and activations      3.000 GiB"),
        (None, "gradients and activations  not compiled"),
    ],
)
def test_out_of_memory_ends_with_an_estimate_and_code_5(plan, temporaries, planned, capsys):
    config, mesh, state, batch = planned

    def main():
        try:
            run_out_of_memory()
        except jax.errors.JaxRuntimeError as error:
            raise describe_oom(error, config, mesh, state, batch, Step(plan)) from error

    assert run_command(main) == 5
    text = capsys.readouterr().err
    assert in_order(
        text,
        "error: out of memory: RESOURCE_EXHAUSTED",
        "What one training step needs of each device",
        temporaries,
        "What to do, in this order:",
        "1. --config",
    )
    assert "Traceback" not in text
