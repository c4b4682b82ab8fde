"""Messages may have texts of the data set: the terminal shows escapes, run.log keeps them."""

import logging
import subprocess
import sys

import pytest

from signvit_jax.telemetry import run_log

TEXT = "samples\n  reference: \x1b]0;owned\x07 \u202e"
WARNING_SCRIPT = """
import logging
from signvit_jax.runtime.exit_codes import run_command
run_command(lambda: logging.getLogger("signvit_jax").warning("a\\x1b[31m"))
"""
SHOWN = "samples\n  reference: \\x1b]0;owned\\x07 \\u202e"


@pytest.mark.parametrize("terminal", [False, True])
def test_the_terminal_escapes_control_characters(tmp_path, capsys, monkeypatch, terminal):
    monkeypatch.setattr(
        run_log,
        "CONSOLE",
        run_log.Console(stderr=True, force_terminal=terminal, color_system=None, width=200),
    )
    run_log.start_run_log(tmp_path / "run.log")
    logging.getLogger("signvit_jax.test").info("%s", TEXT)
    shown = capsys.readouterr().err
    last_line = shown.splitlines()[-1]
    assert last_line.split("  reference", 1)[-1].rstrip() == SHOWN.split("  reference", 1)[-1]
    assert "\x1b" not in shown and "\x07" not in shown
    assert TEXT in (tmp_path / "run.log").read_text(encoding="utf-8")


def test_warnings_before_the_log_starts_are_escaped():
    done = subprocess.run([sys.executable, "-c", WARNING_SCRIPT], capture_output=True, check=True)
    assert done.stderr == b"a\\x1b[31m\n"
