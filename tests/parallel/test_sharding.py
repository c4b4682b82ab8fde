"""Many devices and one: the same numbers. The devices are eight virtual ones of a CPU, in a process of their own."""

import re
import subprocess
import sys
from pathlib import Path

import jax
import pytest

from signvit_jax.config import ConfigError, MeshConfig
from signvit_jax.config_file import load_config
from signvit_jax.parallel.mesh import make_mesh
from signvit_jax.parallel.sharding import RULES, parameter_path, partition_spec
from signvit_jax.training.train_state import ModelDefinition

EIGHT_DEVICES = """
import os
os.environ["NPROC"] = "64"  # threads for XLA: a collective blocks one for each device, and several run at a time; with too few they wait for ever
import jax
jax.config.update("jax_num_cpu_devices", 8)
jax.config.update("jax_disable_most_optimizations", True)
import sys
import numpy as np, tiny_model
from signvit_jax.config import ConfigError, MeshConfig
from signvit_jax.parallel.mesh import make_mesh
from signvit_jax.parallel.sharding import to_device
from signvit_jax.training.optimizer import make_optimizer
from signvit_jax.training.train_state import ModelDefinition, abstract_on_mesh, new_state
from signvit_jax.training.train_step import make_train_step

drops = {f"model__{part}__dropout": 0.0 for part in ("encoder", "temporal", "decoder", "ctc")}
tiny = tiny_model.config(**drops, model__encoder__attention_dropout=0.0, training__encoder_lr=1e-3, training__decoder_lr=1e-3)
definition, optimizer = ModelDefinition(tiny, 16), make_optimizer(tiny.training, 10)
make = lambda: new_state(definition, optimizer, 0)
start = jax.device_get(jax.jit(make)())
meshes = dict(single=None, data=MeshConfig(8, 1, 1), fsdp=MeshConfig(1, 8, 1), tensor=MeshConfig(1, 4, 2), mixed=MeshConfig(2, 2, 2))
for name in sys.argv[1:]:
    mesh_config = meshes[name]
    if mesh_config is None:
        mesh = jax.make_mesh((1, 1, 1), ("data", "fsdp", "tensor"), devices=jax.devices()[:1], axis_types=(jax.sharding.AxisType.Auto,) * 3)
    else:
        mesh = make_mesh(mesh_config)
    _, shardings = abstract_on_mesh(make, mesh)
    step = make_train_step(definition, optimizer, tiny.training, mesh, shardings, frozen_backbone=False)
    state = jax.device_put(start, shardings)
    cut = sum(not leaf.sharding.is_fully_replicated for leaf in jax.tree.leaves((state.params, state.opt_state)))
    losses = []
    for number in range(3):
        batch = tiny_model.batch(8, seed=number)
        batch["tokens"] = np.minimum(batch["tokens"], 15)
        state, report = step(state, to_device(batch, mesh))
        losses.append(float(report.loss.total))
    print(name, cut, *losses)
try:
    make_mesh(MeshConfig(2, 2, 2), batch_size=6)
except ConfigError as error:
    print("refused", error)
"""


@pytest.mark.parametrize("meshes", [["mixed"], pytest.param(["data", "fsdp", "tensor"], marks=pytest.mark.long)])
def test_eight_devices_cut_the_state_and_reach_the_losses_of_one(meshes):
    paths = f"import sys; sys.path.insert(0, {str(Path(__file__).parents[1])!r})\n"
    done = subprocess.run([sys.executable, "-c", paths + EIGHT_DEVICES, "single", *meshes], capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stderr[-2000:]
    *lines, refused = [line.split() for line in done.stdout.splitlines()]
    cut = {name: int(leaves) for name, leaves, *_ in lines}
    losses = {name: [float(loss) for loss in found] for name, _, *found in lines}
    for name in meshes:
        assert cut[name] > 10 or name == "data", name
        assert losses[name] == pytest.approx(losses["single"], rel=1e-5), name
    assert refused[0] == "refused" and {"6", "multiple", "4"} <= set(refused)


def test_every_rule_is_of_use_to_the_full_model():
    definition = ModelDefinition(load_config(str(Path(__file__).parents[2] / "configs" / "reference.py")), 30_522)
    mesh = make_mesh(MeshConfig())
    leaves = jax.tree_util.tree_leaves_with_path(definition.abstract_params())
    specs = {parameter_path(path): (leaf.shape, partition_spec(parameter_path(path), leaf.shape, mesh)) for path, leaf in leaves}
    deciding = {}
    for path, (_, spec) in specs.items():
        first = next(((pattern, axes) for pattern, axes in RULES if re.fullmatch(pattern, path)), None)
        if first:
            deciding[first[0]] = path
            assert tuple(spec)[-len(first[1]) :] == first[1], path
    assert set(deciding) == {pattern for pattern, _ in RULES}
    whole = sum(shape != () and not any(spec) and len(shape) > 1 for shape, spec in specs.values())
    assert whole < 0.5 * len(specs)


@pytest.mark.parametrize(("mesh", "words"), [(MeshConfig(3, 1, 1), "data=3"), (MeshConfig(-1, 2, 1), "fsdp=2"), (MeshConfig(1, 1, 7), "tensor=7")])
def test_a_mesh_that_does_not_fit_the_devices_is_refused(mesh, words):
    with pytest.raises(ConfigError, match=words):
        make_mesh(mesh)
