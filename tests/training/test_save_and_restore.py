"""The state of a run before its first step."""

import jax
import numpy as np
import pytest

from signvit_jax.checkpoints.workdir import Workdir
from signvit_jax.config.files import load_config
from signvit_jax.training.resolve_config import resolve_config
from signvit_jax.training.run_data import RunData
from signvit_jax.training.save_and_restore import fresh_state
from signvit_jax.training.step_programs import StepPrograms

pytestmark = pytest.mark.usefixtures("light_jax")


def test_the_seed_is_an_argument_of_the_compiled_program(trained, tmp_path, monkeypatch):
    seed = 2**32 + 3  # a key is made of the lower 32 bits of a seed
    config = load_config(str(trained.config), [("training.seed", str(seed))])
    resolved = resolve_config(config, Workdir.create(tmp_path / "run"))
    data = RunData(resolved.config, resolved.dataset)
    programs = StepPrograms(data, data.train_batches(), None, thaws=False)
    as_constant = jax.jit(programs.initial_state, out_shardings=programs.shardings)()

    seeds = []
    original = programs.initial_state

    def initial_state(seed):
        seeds.append(seed)
        return original(seed)

    monkeypatch.setattr(programs, "initial_state", initial_state)
    as_argument = fresh_state(programs)
    assert isinstance(seeds[0], jax.core.Tracer)
    jax.tree.map(np.testing.assert_array_equal, as_argument, as_constant)
