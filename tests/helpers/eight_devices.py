"""Train the tiny model on one device, and then on meshes of eight virtual devices.

    python eight_devices.py FOLDER MESH...

It is a separate program, because JAX fixes the number of devices once per process. For each run
it prints a line: the run's name, the number of sharded arrays in its state, and the losses of its
steps. A run saves a checkpoint after SAVED steps; NAME_restored resumes from the checkpoint of the
run before it, which used another mesh. Dropout is off. The vocabulary has an odd size, so that a
tensor axis of 2 pads it.
"""

import os

# The number of XLA's threads. A collective blocks one thread per device, and several collectives
# run at once: with too few threads they would deadlock.
os.environ["NPROC"] = "64"

import contextlib
import re
import sys
from pathlib import Path

import jax
import numpy as np

from signvit_jax.checkpoints.store import CheckpointStore
from signvit_jax.config.schema import MeshConfig
from signvit_jax.models.definition import ModelDefinition
from signvit_jax.optimization.optimizer import make_optimizer
from signvit_jax.optimization.train_state import TrainState, abstract_on_mesh, new_state
from signvit_jax.optimization.train_step import make_train_step
from signvit_jax.parallel.mesh import AXES, make_mesh
from signvit_jax.parallel.sharding import to_device
from signvit_jax.parallel.vocabulary_padding import reshard_like
from tests.helpers import tiny_model

STEPS, SAVED, CLIPS, FRAMES = 5, 3, 8, 6
MESHES = {
    "data": MeshConfig(8, 1, 1),
    "fsdp": MeshConfig(1, 8, 1),
    "tensor": MeshConfig(1, 4, 2),
    "mixed": MeshConfig(2, 2, 2),
}
NO_DROPOUT = {f"model__{part}__dropout": 0.0 for part in ("encoder", "temporal", "decoder", "ctc")}
NO_DROPOUT["model__encoder__attention_dropout"] = 0.0
CONFIG = tiny_model.config(**NO_DROPOUT, training__encoder_lr=1e-3, training__decoder_lr=1e-3)
VOCABULARY = tiny_model.VOCABULARY


class Run:
    """A training run on one mesh; its checkpoints (`saved`) have the vocabulary without padding."""

    def __init__(self, mesh, folder):
        self.definition = ModelDefinition(CONFIG, VOCABULARY)
        self.optimizer = make_optimizer(CONFIG.training, 10)
        self.mesh = mesh
        self.folder = folder
        self.saved, _ = abstract_on_mesh(
            lambda: new_state(self.definition, self.optimizer, 0), mesh
        )
        self.abstract, shardings = abstract_on_mesh(
            lambda: new_state(self.definition, self.optimizer, 0, mesh), mesh
        )
        step = make_train_step(
            self.definition, self.optimizer, CONFIG.training, mesh, shardings, frozen_backbone=False
        )
        self.step = step.lower(self.abstract, self.batch(0)).compile()

    def batch(self, number):
        return to_device(tiny_model.batch(CLIPS, FRAMES, seed=number), self.mesh)

    def start(self):
        """Return the initial state; its values are the same on every mesh."""
        fresh = jax.device_get(jax.jit(lambda: new_state(self.definition, self.optimizer, 0))())
        shardings = jax.tree.map(lambda leaf: leaf.sharding, self.saved)
        return self.padded(jax.device_put(fresh, shardings))

    def padded(self, state):
        return reshard_like(state, self.abstract)

    def train(self, state, first=0):
        """Train to the last step; return the state and the losses of the steps from `first` on."""
        losses = []
        for number in range(first, STEPS):
            if number == SAVED > first:
                self.save(reshard_like(state, self.saved))
            state, report = self.step(state, self.batch(number))
            losses.append(float(report.loss.total))
        return state, losses

    def save(self, state):
        with contextlib.closing(CheckpointStore(self.folder)) as store:
            store.save(SAVED, state.params, optimizer_items(state), {}, wait=True)

    def restored(self):
        with contextlib.closing(CheckpointStore(self.folder)) as store:
            found = store.restore(self.saved.params, optimizer_items(self.saved))
        return self.padded(TrainState(params=found.params, ema=None, **found.opt_state))

    def check(self, state):
        """Check that padding stays zero, and that devices exchange no activations."""
        embedding = np.asarray(state.params["decoder"]["embedding"])
        assert len(embedding) == VOCABULARY + VOCABULARY % self.mesh.shape["tensor"]
        assert embedding[1:VOCABULARY].any(axis=1).all() and not embedding[VOCABULARY:].any()
        collectives = [
            line
            for line in self.step.as_text().splitlines()
            if re.search(r" (all-\w+|reduce-scatter|collective-permute)\(", line)
        ]
        num_batch_shards = self.mesh.shape["data"] * self.mesh.shape["fsdp"]
        # Numbers of frames that are more than one device's part of the batch.
        parts = [part for part in (1, 2, 4) if part < num_batch_shards]
        too_many_frames = "|".join(str(CLIPS * FRAMES // part) for part in parts)
        # 4 patches per frame, 5 with the class token.
        activations = re.compile(rf"\[({too_many_frames}),[45],")
        assert collectives and not [line for line in collectives if activations.search(line)]
        # Fused projections are sharded by heads, so splitting them into heads needs no collective.
        splits = re.compile(
            r'(all-to-all|collective-permute)\(.*op_name="[^"]*/(split|concatenate)"'
        )
        assert not [line for line in collectives if splits.search(line)]


def optimizer_items(state):
    return {
        name: getattr(state, name)
        for name in ("opt_state", "step", "nonfinite_in_row", "nonfinite_total")
    }


def main(folder, *names):
    auto = (jax.sharding.AxisType.Auto,) * 3
    one_device = jax.make_mesh((1, 1, 1), AXES, devices=jax.devices()[:1], axis_types=auto)
    single = Run(one_device, folder)
    print("single", 0, *single.train(single.start())[1])
    for name in names:
        run = Run(make_mesh(MESHES[name]), folder)
        if name != names[0]:
            print(f"{name}_restored", 0, *run.train(run.restored(), SAVED)[1])
        state = run.start()
        sharded = sum(
            not leaf.sharding.is_fully_replicated
            for leaf in jax.tree.leaves((state.params, state.opt_state))
        )
        state, losses = run.train(state)
        run.check(state)
        print(name, sharded, *losses)
    print("single_restored", 0, *single.train(single.restored(), SAVED)[1])


if __name__ == "__main__":
    jax.config.update("jax_num_cpu_devices", 8)
    jax.config.update("jax_disable_most_optimizations", True)
    main(Path(sys.argv[1]), *sys.argv[2:])
