"""A finished run that is started again. For interrupted runs, see tests/reliability."""

import logging
import shutil

import pytest

from signvit_jax.checkpoints.reader import CheckpointReader
from signvit_jax.commands import train
from signvit_jax.optimization.train_step import train_step
from tests.helpers import tiny_run
from tests.helpers.compiled_programs import compiled_programs

pytestmark = pytest.mark.usefixtures("light_jax")
STEP = f"jit({train_step.__name__})"


def start_again(trained, workdir, caplog, *flags):
    """Start the run again; return the names of the programs that it compiled."""
    with caplog.at_level(logging.INFO), compiled_programs(caplog) as names:
        command = (f"--config={trained.config}", f"--workdir={workdir}", *flags)
        assert tiny_run.command(train.main, *command) == 0
    return names


def test_a_finished_run_compiles_no_step_and_writes_nothing(trained, tmp_path, caplog):
    workdir = shutil.copytree(trained.workdir, tmp_path / "run")
    before = (workdir / "metrics.csv").read_bytes()
    names = start_again(trained, workdir, caplog)
    assert "nothing to do" in caplog.text
    assert STEP not in names
    assert (workdir / "metrics.csv").read_bytes() == before
    assert (
        CheckpointReader(workdir / "checkpoints").steps()
        == CheckpointReader(trained.workdir / "checkpoints").steps()
    )


@pytest.mark.long
def test_a_run_with_another_epoch_compiles_its_step(trained, tmp_path, caplog):
    """This shows that the test above looks for the right name of a program."""
    workdir = shutil.copytree(trained.workdir, tmp_path / "run")
    flag = f"--config.training.num_epochs={tiny_run.EPOCHS + 1}"
    assert STEP in start_again(trained, workdir, caplog, flag)
