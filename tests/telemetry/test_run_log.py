"""Messages hold texts of the data set: a terminal must not obey them, and run.log keeps them."""

import logging
import subprocess
import sys

import pytest

from signvit_jax.telemetry import run_log

TEXT = "samples\n  reference: \x1b]0;owned\x07 \u202e"
SHOWN = "samples\n  reference: \\x1b]0;owned\\x07 \\u202e"


@pytest.mark.parametrize("terminal", [False, True])
def test_the_terminal_shows_escapes_and_the_log_keeps_the_text(
    tmp_path, capsys, monkeypatch, terminal
):
    monkeypatch.setattr(
        run_log,
        "CONSOLE",
        run_log.Console(stderr=True, force_terminal=terminal, color_system=None, width=200),
    )
    run_log.start_run_log(tmp_path / "run.log")
    logging.getLogger("signvit_jax.test").info("%s", TEXT)
    said = capsys.readouterr().err
    assert [line.split("  reference", 1)[-1].rstrip() for line in said.splitlines()][
        -1
    ] == SHOWN.split("  reference", 1)[-1]
    assert "\x1b" not in said and "\x07" not in said
    assert TEXT in (tmp_path / "run.log").read_text(encoding="utf-8")


def test_a_warning_before_there_is_a_log_is_clean_too():
    warns = "import logging; from signvit_jax.runtime.exit_codes import run_command; run_command(lambda: logging.getLogger('signvit_jax').warning('a\\x1b[31m'))"
    assert (
        subprocess.run([sys.executable, "-c", warns], capture_output=True, check=True).stderr
        == b"a\\x1b[31m\n"
    )
