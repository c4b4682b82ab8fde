"""A finished run that is started again changes nothing. tests/reliability has stopped runs."""

import logging
import shutil

import jax
import pytest

from signvit_jax.checkpoints.reader import CheckpointReader
from signvit_jax.commands import train
from tests.helpers import tiny_run


@pytest.mark.usefixtures("light_jax")
def test_a_finished_run_compiles_no_step(trained, tmp_path, caplog):
    workdir = shutil.copytree(trained.workdir, tmp_path / "run")
    before = (workdir / "metrics.csv").read_bytes()
    jax.config.update("jax_log_compiles", True)
    try:
        with caplog.at_level(logging.INFO):
            assert (
                tiny_run.command(train.main, f"--config={trained.config}", f"--workdir={workdir}")
                == 0
            )
    finally:
        jax.config.update("jax_log_compiles", False)
    assert "nothing to do" in caplog.text
    assert "train_step" not in caplog.text
    assert (workdir / "metrics.csv").read_bytes() == before
    assert (
        CheckpointReader(workdir / "checkpoints").steps()
        == CheckpointReader(trained.workdir / "checkpoints").steps()
    )
