"""Tests of `signvit COMMAND`, one program for all commands."""

import subprocess
import sys

import pytest

import signvit_jax
from signvit_jax.commands import dispatch

SLOW_PACKAGES = "jax", "grain", "tensorflow_datasets", "matplotlib", "av"


def test_help_lists_every_command(capsys):
    assert dispatch.main([]) == 0
    listed = capsys.readouterr().out
    assert all(f"  {name}" in listed for name in dispatch.COMMANDS)


def test_the_version_is_that_of_the_package(capsys):
    assert dispatch.main(["--version"]) == 0
    assert capsys.readouterr().out == f"signvit-jax {signvit_jax.__version__}\n"


def test_a_misspelled_command_is_refused_with_the_nearest(capsys):
    assert dispatch.main(["trian"]) == 2
    assert "no command 'trian'; allowed: demo, record, build, " in (err := capsys.readouterr().err)
    assert err.endswith("configs; did you mean 'train'?\n")
    assert dispatch.main(["xyz"]) == 2
    assert "no command 'xyz'; allowed: demo, " in capsys.readouterr().err


@pytest.mark.parametrize("name", dispatch.COMMANDS)
def test_help_of_every_command_imports_no_slow_package(name):
    program = (
        "import sys; from signvit_jax.commands.dispatch import main\n"
        f"try: main([{name!r}, '--help'])\n"
        f"finally: print([package for package in {SLOW_PACKAGES!r} if package in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    *text, slow = done.stdout.splitlines()
    assert len(text) > 3 and slow == "[]", done.stderr


def test_configs_lists_presets_with_a_line_each(capsys):
    assert dispatch.main(["configs"]) == 0
    lines = dict(line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines())
    assert "small" in lines and all(lines.values())


def test_configs_shows_every_value_of_a_preset(capsys):
    assert dispatch.main(["configs", "small"]) == 0
    assert '"batch_size"' in capsys.readouterr().out


def test_a_dash_in_a_command_counts_as_an_underscore(capsys):
    assert dispatch.main(["data-report", "--help"]) == 0
    assert capsys.readouterr().out.startswith("usage: signvit data_report")
