import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from signvit_jax.config.schema import MeshConfig
from signvit_jax.models.definition import ModelDefinition
from signvit_jax.optimization.optimizer import make_optimizer
from signvit_jax.optimization.train_state import abstract_on_mesh, new_state
from signvit_jax.parallel.mesh import AXES, make_mesh
from signvit_jax.planning.memory import (
    batch_shapes,
    bytes_per_device,
    describe_oom,
    memory_advice,
    step_memory,
)
from signvit_jax.runtime.exit_codes import run_command
from tests.helpers import tiny_model


class FakeMesh:
    """Sizes of a mesh that is not here."""

    def __init__(self, data=1, fsdp=1, tensor=1):
        self.shape = dict(zip(AXES, (data, fsdp, tensor)))
        self.size = data * fsdp * tensor


def advice(mesh=None, **changes):
    return memory_advice(tiny_model.config(**changes), mesh or FakeMesh())


def order(text, *parts):
    places = [text.find(part) for part in parts]
    return -1 not in places and places == sorted(places)


def test_advice_begins_with_what_changes_no_result():
    text = advice(training__batch_size=16)
    assert order(
        text,
        "gradient_accumulation=2: the batch of 16 is run as 2 x 8",
        "remat=dots, then full",
        "batch_size=8",
        "num_frames, now 6",
    )


def test_advice_is_only_what_the_config_still_has_to_give():
    text = advice(
        training__batch_size=16, training__gradient_accumulation=16, training__remat="full"
    )
    assert "gradient_accumulation" not in text and "remat" not in text and "batch_size=8" in text
    assert "remat=full" in advice(training__remat="dots")
    assert "gradient_accumulation=3:" in advice(
        training__batch_size=12, training__gradient_accumulation=2
    )


def test_advice_fits_the_mesh():
    text = advice(FakeMesh(data=4, tensor=2), training__batch_size=24)
    assert (
        "gradient_accumulation=2" in text
        and "mesh.data=1 --config.mesh.fsdp=4:" in text
        and "batch_size=12" in text
    )
    alone = advice(FakeMesh(fsdp=4), training__batch_size=4)  # a clip a device
    assert (
        "gradient_accumulation" not in alone
        and "--config.training.batch_size" not in alone
        and "mesh.fsdp" not in alone
    )


def test_bytes_are_those_of_one_devices_part():
    mesh = make_mesh(MeshConfig())
    tree = {
        "a": jax.ShapeDtypeStruct((6, 4), jnp.float32, sharding=NamedSharding(mesh, P())),
        "b": jax.device_put(np.zeros(3, np.int8)),
    }
    assert bytes_per_device(tree) == 6 * 4 * 4 + 3
    cut = NamedSharding(jax.sharding.AbstractMesh((1, 2, 4), AXES), P("fsdp", "tensor"))
    assert bytes_per_device(jax.ShapeDtypeStruct((6, 4), jnp.float32, sharding=cut)) == 3 * 1 * 4


class Step:
    """What a jitted step says of itself before it is compiled, and its plan of memory."""

    def __init__(self, plan):
        self.plan = plan

    def lower(self, state, batch):
        return self

    def compile(self):
        if self.plan is None:
            refused()
        return self

    def memory_analysis(self):
        return self.plan


class Plan:
    (
        argument_size_in_bytes,
        output_size_in_bytes,
        alias_size_in_bytes,
        temp_size_in_bytes,
        generated_code_size_in_bytes,
    ) = (
        10**6,
        10**6,
        10**6,
        3 * 2**30,
        0,
    )


def refused():
    jax.block_until_ready(jnp.zeros((2**30, 2**30), jnp.float32))  # 4 exabytes: XLA's own refusal


@pytest.mark.parametrize(
    ("plan", "said"),
    [
        (Plan, "gradients and activations      3.000 GiB"),
        (None, "gradients and activations  not compiled"),
    ],
)
def test_running_out_of_memory_is_explained_with_the_estimate_and_ends_with_5(plan, said, capsys):
    config = tiny_model.config()
    mesh, definition, optimizer = (
        make_mesh(config.mesh),
        ModelDefinition(config, 17),
        make_optimizer(config.training, 10),
    )
    state, _ = abstract_on_mesh(lambda: new_state(definition, optimizer, 0, mesh), mesh)
    batch = batch_shapes(config, mesh, frames=6, text_length=8, gloss_length=8)
    parameters = sum(leaf.size for leaf in jax.tree.leaves(state.params))
    memory = step_memory(state, batch)
    assert memory.parameters == 4 * parameters
    assert 0 <= memory.optimizer - 8 * parameters < 100  # two moments, and counters
    assert memory.batch == 2 * 4 * (6 * 16 * 16 * 3 + 2 * 4 * 8 + 4 * 4)

    def main():
        try:
            refused()
        except jax.errors.JaxRuntimeError as error:
            raise describe_oom(error, config, mesh, state, batch, Step(plan)) from error

    assert run_command(main) == 5
    text = capsys.readouterr().err
    assert order(
        text,
        "error: out of memory: RESOURCE_EXHAUSTED",
        "What one training step needs of each device",
        said,
        "What to do, in this order:",
        "1. --config",
    )
    assert "Traceback" not in text
