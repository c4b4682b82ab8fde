"""Trains the tiny model on one device and on meshes of eight virtual ones.

    python eight_devices.py FOLDER MESH...

It is a program of its own, because the number of devices is fixed per process. For each run it
prints a line: its name, the number of sharded arrays in its state, and the losses of its steps.
Each run saves a checkpoint halfway; NAME_restored resumes from the one of the run before it.
Dropout is off. The vocabulary is odd, so it is padded where the tensor axis is 2.
"""

import os

# Threads of XLA: a collective blocks one per device, and several run at once. With too few of them
# the program hangs.
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
from signvit_jax.parallel.vocabulary import reshard_like
from tests.helpers import tiny_model

STEPS, SAVED, CLIPS, FRAMES = 5, 3, 8, 6
MESHES = {
    "data": MeshConfig(8, 1, 1),
    "fsdp": MeshConfig(1, 8, 1),
    "tensor": MeshConfig(1, 4, 2),
    "mixed": MeshConfig(2, 2, 2),
}
DROPS = {f"model__{part}__dropout": 0.0 for part in ("encoder", "temporal", "decoder", "ctc")} | {
    "model__encoder__attention_dropout": 0.0
}
CONFIG = tiny_model.config(**DROPS, training__encoder_lr=1e-3, training__decoder_lr=1e-3)
LENGTH = tiny_model.VOCABULARY


class Run:
    """A compiled training step on a mesh."""

    def __init__(self, mesh, folder):
        self.definition = ModelDefinition(CONFIG, LENGTH)
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
        """The initial state of one device, so that every mesh starts with the same numbers."""
        fresh = jax.device_get(jax.jit(lambda: new_state(self.definition, self.optimizer, 0))())
        shardings = jax.tree.map(lambda leaf: leaf.sharding, self.saved)
        return self.padded(jax.device_put(fresh, shardings))

    def padded(self, state):
        return reshard_like(state, self.abstract)

    def run(self, state, first=0):
        """Run the steps from `first` on; returns the state and the losses."""
        losses = []
        for number in range(first, STEPS):
            if number == SAVED > first:
                self.save(reshard_like(state, self.saved))
            state, report = self.step(state, self.batch(number))
            losses.append(float(report.loss.total))
        return state, losses

    def save(self, state):
        with contextlib.closing(CheckpointStore(self.folder)) as store:
            store.save(SAVED, state.params, other_items(state), {}, wait=True)

    def restored(self):
        with contextlib.closing(CheckpointStore(self.folder)) as store:
            found = store.restore(self.saved.params, other_items(self.saved))
        return self.padded(TrainState(params=found.params, ema=None, **found.opt_state))

    def check(self, state):
        """The vocabulary is padded with zeros, and no activations of frames are communicated."""
        embedding = np.asarray(state.params["decoder"]["embedding"])
        assert len(embedding) == LENGTH + LENGTH % self.mesh.shape["tensor"]
        assert embedding[1:LENGTH].any(axis=1).all()
        assert not embedding[LENGTH:].any()
        collectives = [
            line
            for line in self.step.as_text().splitlines()
            if re.search(r" (all-\w+|reduce-scatter|collective-permute)\(", line)
        ]
        assert collectives
        ways = self.mesh.shape["data"] * self.mesh.shape["fsdp"]
        frames = "|".join(str(CLIPS * FRAMES // part) for part in (1, 2, 4) if part < ways)
        # A frame has 4 patches, or 5 tokens with the class token.
        assert not [line for line in collectives if re.search(rf"\[({frames}),[45],", line)]
        # Fused projections are sharded by heads, so splitting them communicates nothing.
        splitting = r'(all-to-all|collective-permute)\(.*op_name="[^"]*/(split|concatenate)"'
        assert not [line for line in collectives if re.search(splitting, line)]


def other_items(state):
    return {
        name: getattr(state, name)
        for name in ("opt_state", "step", "nonfinite_in_row", "nonfinite_total")
    }


def main(folder, *names):
    single = Run(
        jax.make_mesh(
            (1, 1, 1), AXES, devices=jax.devices()[:1], axis_types=(jax.sharding.AxisType.Auto,) * 3
        ),
        folder,
    )
    print("single", 0, *single.run(single.start())[1])
    for name in names:
        run = Run(make_mesh(MESHES[name]), folder)
        if name != names[0]:
            print(f"{name}_restored", 0, *run.run(run.restored(), SAVED)[1])
        state = run.start()
        sharded = sum(
            not leaf.sharding.is_fully_replicated
            for leaf in jax.tree.leaves((state.params, state.opt_state))
        )
        state, losses = run.run(state)
        run.check(state)
        print(name, sharded, *losses)
    print("single_restored", 0, *single.run(single.restored(), SAVED)[1])


if __name__ == "__main__":
    jax.config.update("jax_num_cpu_devices", 8)
    jax.config.update("jax_disable_most_optimizations", True)
    main(Path(sys.argv[1]), *sys.argv[2:])
