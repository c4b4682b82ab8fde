"""Exit codes of commands, and what they print about errors."""

import sys

import jax
import pytest

from signvit_jax.checkpoints.store import CheckpointDamaged
from signvit_jax.checkpoints.workdir import WorkdirError
from signvit_jax.config.errors import ConfigError
from signvit_jax.runtime.exit_codes import (
    FAILED,
    INTERRUPTED,
    OUT_OF_MEMORY,
    TERMINATED,
    USAGE,
    is_out_of_memory,
    run_command,
)


def raising(error):
    def main():
        raise error

    return main


def test_codes_are_the_documented_ones():
    assert (FAILED, USAGE, OUT_OF_MEMORY, INTERRUPTED, TERMINATED) == (1, 2, 5, 130, 143)


def test_the_return_value_of_main_is_the_exit_code():
    assert run_command(lambda: None) == 0 and run_command(lambda: 3) == 3
    assert run_command(lambda: sys.exit(2)) == 2 and run_command(lambda: sys.exit()) == 0


@pytest.mark.parametrize(
    ("error", "code"),
    [(ConfigError("bad key"), 2), (WorkdirError("bad key"), 2), (CheckpointDamaged("bad key"), 1)],
    ids=repr,
)
def test_our_errors_are_one_line_without_a_traceback(error, code, capsys):
    assert run_command(raising(error)) == code
    assert capsys.readouterr().err == "error: bad key\n"


def test_an_interrupt_is_exit_130(capsys):
    assert run_command(raising(KeyboardInterrupt())) == 130
    assert "Traceback" not in capsys.readouterr().err


def test_a_refused_allocation_is_exit_5_with_advice(capsys):
    def allocate_four_exabytes():
        jax.block_until_ready(jax.numpy.zeros((2**30, 2**30), jax.numpy.float32))

    assert run_command(allocate_four_exabytes) == 5  # the exception is XLA's
    text = capsys.readouterr().err
    for part in ("out of memory", "gradient_accumulation=2", "batch_size=8"):
        assert part in text
    assert "Traceback" not in text


def test_a_memory_error_is_found_as_the_cause_of_another_exception():
    try:
        try:
            raise MemoryError
        except MemoryError as error:
            raise RuntimeError("reading failed") from error
    except RuntimeError as wrapped:
        assert is_out_of_memory(wrapped)
    assert not is_out_of_memory(ValueError("RESOURCE_EXHAUSTED: No space left on device"))


def test_an_unexpected_error_has_its_traceback_in_the_log(tmp_path, capsys):
    log = tmp_path / "run.log"
    assert run_command(raising(ZeroDivisionError("division by zero")), lambda: log) == 1
    assert "Traceback" in log.read_text() and "ZeroDivisionError" in log.read_text()
    assert "Traceback" not in capsys.readouterr().err


@pytest.mark.parametrize("log", [None, "no_such_folder/run.log"])
def test_without_a_log_the_traceback_is_shown(log, tmp_path, capsys):
    assert run_command(raising(ZeroDivisionError("x")), lambda: log and tmp_path / log) == 1
    assert "Traceback" in capsys.readouterr().err
