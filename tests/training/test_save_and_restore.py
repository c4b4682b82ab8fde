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


def test_a_seed_is_data_of_the_first_program_not_part_of_it(trained, tmp_path, monkeypatch):
    seed = 2**32 + 3  # more bits than the key reads
    config = load_config(str(trained.config), [("training.seed", str(seed))])
    resolved = resolve_config(config, Workdir.create(tmp_path / "run"))
    data = RunData(resolved.config, resolved.dataset)
    programs = StepPrograms(data, data.train_batches(), None, thaws=False)
    as_constant = jax.jit(programs.initial_state, out_shardings=programs.shardings)()

    given = []
    original = programs.initial_state
    monkeypatch.setattr(
        programs, "initial_state", lambda seed: given.append(seed) or original(seed)
    )
    as_argument = fresh_state(programs)
    assert isinstance(given[0], jax.core.Tracer)
    jax.tree.map(np.testing.assert_array_equal, as_argument, as_constant)
