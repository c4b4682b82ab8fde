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
import contextlib, sys
from pathlib import Path
import numpy as np, tiny_model
from signvit_jax.config import ConfigError, MeshConfig
from signvit_jax.parallel.mesh import AXES, make_mesh
from signvit_jax.parallel.sharding import to_device
from signvit_jax.parallel.vocabulary import laid_out_as
from signvit_jax.training.checkpoint import CheckpointStore
from signvit_jax.training.optimizer import make_optimizer
from signvit_jax.training.train_state import ModelDefinition, TrainState, abstract_on_mesh, new_state
from signvit_jax.training.train_step import make_train_step

STEPS, SAVED = 5, 3
drops = {f"model__{part}__dropout": 0.0 for part in ("encoder", "temporal", "decoder", "ctc")}
tiny = tiny_model.config(**drops, model__encoder__attention_dropout=0.0, training__encoder_lr=1e-3, training__decoder_lr=1e-3)
definition, optimizer = ModelDefinition(tiny, tiny_model.VOCABULARY), make_optimizer(tiny.training, 10)
meshes = dict(data=MeshConfig(8, 1, 1), fsdp=MeshConfig(1, 8, 1), tensor=MeshConfig(1, 4, 2), mixed=MeshConfig(2, 2, 2))


class Run:
    def __init__(self, mesh):
        self.mesh = mesh
        self.saved, saved_shardings = abstract_on_mesh(lambda: new_state(definition, optimizer, 0), mesh)
        make = lambda: new_state(definition, optimizer, 0, mesh)
        self.abstract, self.shardings = abstract_on_mesh(make, mesh)
        self.step = make_train_step(definition, optimizer, tiny.training, mesh, self.shardings, frozen_backbone=False)

    def go_on(self, state, first=0):
        losses = []
        for number in range(first, STEPS):
            if number == SAVED > first:
                save(laid_out_as(state, self.saved))
            state, report = self.step(state, to_device(tiny_model.batch(8, seed=number), self.mesh))
            losses.append(float(report.loss.total))
        return state, losses


def beside(state):
    return {name: getattr(state, name) for name in ("opt_state", "step", "nonfinite_in_row", "nonfinite_total")}

def save(state):
    with contextlib.closing(CheckpointStore(Path(sys.argv[1]))) as store:
        store.save(SAVED, state.params, beside(state), {}, wait=True)

def restore(wanted):
    with contextlib.closing(CheckpointStore(Path(sys.argv[1]))) as store:
        found = store.restore(wanted.params, beside(wanted))
    return TrainState(params=found.params, ema=None, **found.opt_state)


alone = Run(jax.make_mesh((1, 1, 1), AXES, devices=jax.devices()[:1], axis_types=(jax.sharding.AxisType.Auto,) * 3))
start = jax.device_get(jax.jit(lambda: new_state(definition, optimizer, 0))())
print("single", 0, *alone.go_on(jax.device_put(start, alone.shardings))[1])
for name in sys.argv[2:]:
    run = Run(make_mesh(meshes[name]))
    if name != sys.argv[2]:
        print(name + "_restored", 0, *run.go_on(laid_out_as(restore(run.saved), run.abstract), SAVED)[1])  # what the mesh before this one left
    state = laid_out_as(jax.device_put(start, jax.tree.map(lambda leaf: leaf.sharding, run.saved)), run.abstract)
    cut = sum(not leaf.sharding.is_fully_replicated for leaf in jax.tree.leaves((state.params, state.opt_state)))
    state, losses = run.go_on(state)
    print(name, cut, *losses)
    embedding, length = np.asarray(state.params["decoder"]["embedding"]), tiny_model.VOCABULARY
    assert len(embedding) == length + length % run.mesh.shape["tensor"] and not embedding[length:].any() and embedding[1:length].any(axis=1).all()
print("single_restored", 0, *alone.go_on(restore(alone.saved), SAVED)[1])
try:
    make_mesh(MeshConfig(2, 2, 2), batch_size=6)
except ConfigError as error:
    print("refused", error)
"""


@pytest.mark.parametrize("meshes", [["mixed"], pytest.param(["data", "fsdp", "tensor"], marks=pytest.mark.long)])
def test_eight_devices_cut_the_state_and_reach_the_losses_of_one_also_from_each_others_checkpoints(meshes, tmp_path):
    """The vocabulary is odd: where the tensor axis is 2 it is padded on the devices, and in no checkpoint."""
    paths = f"import sys; sys.path.insert(0, {str(Path(__file__).parents[1])!r})\n"
    done = subprocess.run([sys.executable, "-c", paths + EIGHT_DEVICES, str(tmp_path), *meshes], capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stderr[-2000:]
    *lines, refused = [line.split() for line in done.stdout.splitlines()]
    cut = {name: int(leaves) for name, leaves, *_ in lines}
    losses = {name: [float(loss) for loss in found] for name, _, *found in lines}
    assert len(losses) == 1 + 2 * len(meshes) and len(losses["single"]) == 5
    for name, found in losses.items():
        assert cut[name] > 10 or name not in ("fsdp", "tensor", "mixed"), name
        assert found == pytest.approx(losses["single"][-len(found) :], rel=1e-5), name
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


def test_a_tensor_axis_over_several_processes_is_refused(monkeypatch):
    monkeypatch.setattr(jax, "device_count", lambda: 8)
    monkeypatch.setattr(jax, "process_count", lambda: 4)
    with pytest.raises(ConfigError, match="tensor is 4, but each of the 4 processes has 2 devices"):
        make_mesh(MeshConfig(2, 1, 4))
