"""Completion of `signvit ...` in a shell; the tests ask as argcomplete's shell function does."""

import os
import subprocess
import sys

import pytest

from signvit_jax.commands import dispatch
from tests.helpers import tiny_run


def completions(line, tmp_path):
    """Return (the completions that the program offers at the end of `line`, its exit code)."""
    pytest.importorskip("argcomplete")
    answer = tmp_path / "answer"
    python_path = [str(tiny_run.REPOSITORY)]
    if os.environ.get("PYTHONPATH"):
        python_path.append(os.environ["PYTHONPATH"])
    result = subprocess.run(
        [sys.executable, "-c", "from signvit_jax.commands.dispatch import main; exit(main())"],
        cwd=tmp_path,
        env=os.environ
        | {
            "PYTHONPATH": os.pathsep.join(python_path),
            "COMP_LINE": line,
            "COMP_POINT": str(len(line.encode())),
            "_ARGCOMPLETE": "1",
            "_ARGCOMPLETE_IFS": "\n",
            "_ARGCOMPLETE_STDOUT_FILENAME": str(answer),
        },
        check=False,
    )
    offered = answer.read_text().splitlines() if answer.exists() else []
    return offered, result.returncode


@pytest.mark.parametrize(
    ("line", "offered"),
    [
        ("signvit tr", ["train", "translate"]),
        ("signvit --ver", ["--version "]),
        ("signvit train --strict", ["--strict_restore "]),
        ("signvit train --config=small_", ["--config=small_gpu "]),
        ("signvit train --config small_", ["small_gpu "]),
        ("signvit train --config mi", ["mine.py "]),
        ("signvit distill --config.training.batch", ["--config.training.batch_size "]),
        ("signvit eval --workdir=a --checkpoint=b", ["--checkpoint=best "]),
        ("signvit translate clip.mp4 --decode ctc", ["ctc", "ctc_beam"]),
        ("signvit data-report --cl", ["--clips "]),
        ("signvit sweep st", ["status "]),
        ("signvit sweep run --keep=b", ["--keep=best "]),
        ("signvit sweep work --swe", ["--sweep "]),
        ("signvit doctor --qu", ["--quick "]),
        ("signvit configs small_", ["small_gpu "]),
        ("signvit build ph", ["phoenix14t "]),
        ("signvit build phoenix14t --jp", ["--jpeg_quality "]),
        ("signvit check ph", ["phoenix14t "]),
        ("signvit check mi", ["mine.py "]),
        ("signvit check phoenix14t --dec", ["--decode "]),
        *((f"signvit {name} --hel", ["--help "]) for name in ("demo", "convert", "inspect")),
        *((f"signvit {name} --hel", ["--help "]) for name in ("export", "pull", "push")),
    ],
)
def test_a_line_is_completed_with_the_arguments_of_its_command(tmp_path, line, offered):
    (tmp_path / "mine.py").touch()
    assert completions(line, tmp_path) == (offered, 0)


def test_arguments_of_an_unknown_command_are_not_completed(tmp_path):
    assert completions("signvit trian --wor", tmp_path) == ([], 2)
    assert completions("signvit build phenix --dat", tmp_path) == ([], 2)


def test_without_argcomplete_nothing_runs_and_the_error_names_it(monkeypatch, capsys):
    monkeypatch.setenv("_ARGCOMPLETE", "1")
    monkeypatch.setenv("COMP_LINE", "signvit configs ")
    monkeypatch.setenv("COMP_POINT", "16")
    for module in ("argcomplete", "argcomplete.lexers"):
        monkeypatch.setitem(sys.modules, module, None)
    assert dispatch.main([]) == 2
    printed = capsys.readouterr()
    assert "completion in a shell needs argcomplete" in printed.err and printed.out == ""
