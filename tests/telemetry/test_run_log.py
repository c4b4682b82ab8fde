"""Tests of log messages with control characters, which texts of a data set may have.

The terminal shows them as escapes, so they cannot control it. run.log keeps them as they are.
"""

import logging
import subprocess
import sys

import pytest

from signvit_jax.telemetry import run_log

# A sequence that sets the title of the terminal's window, and an override of the text direction.
TEXT = "samples\n  reference: \x1b]0;owned\x07 \u202e"
SHOWN = "samples\n  reference: \\x1b]0;owned\\x07 \\u202e"
WARNING_SCRIPT = """
import logging
from signvit_jax.runtime.exit_codes import run_command
run_command(lambda: logging.getLogger("signvit_jax").warning("a\\x1b[31m"))
"""


@pytest.mark.parametrize("is_terminal", [False, True], ids=["pipe", "terminal"])
def test_the_terminal_escapes_control_characters(tmp_path, capsys, monkeypatch, is_terminal):
    monkeypatch.setattr(
        run_log,
        "CONSOLE",
        run_log.Console(stderr=True, force_terminal=is_terminal, color_system=None, width=200),
    )
    run_log.start_run_log(tmp_path / "run.log")
    logging.getLogger("signvit_jax.test").info("%s", TEXT)
    shown = capsys.readouterr().err
    # A terminal has the time and the level before the first line, and spaces around the other
    # lines.
    assert shown.splitlines()[-1].strip() == SHOWN.splitlines()[-1].strip()
    assert "\x1b" not in shown and "\x07" not in shown
    assert TEXT in (tmp_path / "run.log").read_text(encoding="utf-8")


def test_warnings_before_the_log_starts_are_escaped():
    done = subprocess.run([sys.executable, "-c", WARNING_SCRIPT], capture_output=True, check=True)
    assert done.stderr == b"a\\x1b[31m\n"
