"""Standard streams of commands in real processes: readers that leave, closed streams, encodings."""

import json
import os
import subprocess
import sys

import pytest

from signvit_jax.runtime.standard_streams import clean, clean_json
from tests.helpers import tiny_run

# The lines are long, so that the reader of a pipe has left before the second line.
PRINT_LINES = """
import sys
from signvit_jax.runtime.exit_codes import run_command
def main():
    for number in range(3):
        print("text", number, "x" * 100_000, flush=True)
    print("message", file=sys.stderr, flush=True)
    open(sys.argv[1], "w").write("all done")
    return 3
sys.exit(run_command(main))
"""
RUN = """
import sys
from signvit_jax.runtime.exit_codes import run_command
def main():
    {}
sys.exit(run_command(main))
"""


def python(script, *arguments, shell="{}", **environment):
    """Run `script` in a process; `shell` is a command line in which {} stands for the process."""
    command = shell.format('"$@"')
    path = str(tiny_run.REPOSITORY)
    return subprocess.run(
        ["bash", "-c", command, "bash", sys.executable, "-c", script, *map(str, arguments)],
        env=os.environ | {"PYTHONPATH": path} | environment,
        capture_output=True,
        timeout=120,
        check=False,
    )


def test_a_command_continues_when_its_reader_leaves(tmp_path):
    result = python(PRINT_LINES, tmp_path / "done", shell="{} | head -c 1; exit ${{PIPESTATUS[0]}}")
    assert (result.returncode, result.stdout, result.stderr) == (3, b"t", b"message\n")
    assert (tmp_path / "done").read_text() == "all done"


def test_a_command_continues_when_the_reader_of_both_streams_leaves(tmp_path):
    result = python(
        PRINT_LINES, tmp_path / "done", shell="{} 2>&1 | head -c 1; exit ${{PIPESTATUS[0]}}"
    )
    assert (result.returncode, result.stdout, result.stderr) == (3, b"t", b"")
    assert (tmp_path / "done").read_text() == "all done"


@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_closed_standard_error_keeps_messages_out_of_texts(unbuffered):
    result = python(
        RUN.format("print('text'); raise FileNotFoundError(2, 'No such file', 'x')"),
        shell="{} 2>&-",
        PYTHONUNBUFFERED=unbuffered,
    )
    assert (result.returncode, result.stdout, result.stderr) == (1, b"text\n", b"")


def test_a_closed_descriptor_is_not_given_to_the_next_file(tmp_path):
    writes = (
        f"file = open({str(tmp_path / 'file')!r}, 'w'); "
        "import os; os.write(2, b'a message of a library'); file.write('content')"
    )
    assert python(RUN.format(writes), shell="{} 2>&-").returncode == 0
    assert (tmp_path / "file").read_text() == "content"


def test_standard_output_on_a_full_disk_is_one_line_and_exit_1():
    result = python(RUN.format("print('text')"), shell="{} > /dev/full")
    assert result.returncode == 1
    assert result.stderr == b"error: standard output cannot be written: No space left on device\n"


def test_a_command_continues_when_messages_cannot_be_written(tmp_path):
    result = python(PRINT_LINES, tmp_path / "done", shell="{} 2> /dev/full")
    assert result.returncode == 3 and (tmp_path / "done").read_text() == "all done"


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8", "utf-8:surrogateescape"])
def test_characters_that_the_encoding_lacks_are_escaped(encoding):
    result = python(RUN.format(r"print('\u0105 \udcff')"), PYTHONIOENCODING=encoding)
    assert result.returncode == 0
    assert result.stdout in (b"\\u0105 \\udcff\n", "ą \\udcff\n".encode())


def test_a_deleted_working_directory_is_reported(tmp_path):
    (tmp_path / "gone").mkdir()
    result = python(
        RUN.format("print('text')"), shell=f"cd {tmp_path}/gone && rmdir {tmp_path}/gone && {{}}"
    )
    assert result.returncode == 2 and result.stdout == b""
    assert (
        result.stderr.startswith(b"error: the working directory has been deleted")
        and b"Traceback" not in result.stderr
    )


def test_an_operating_system_error_is_one_line():
    result = python(RUN.format("open('/nowhere/\\x1b[31m')"))
    assert (result.returncode, result.stderr) == (
        1,
        b"error: /nowhere/\\x1b[31m: No such file or directory\n",
    )


def test_a_traceback_holds_no_control_characters():
    result = python(RUN.format(r"raise RuntimeError('\x1b]0;owned\x07')"))
    assert (
        result.returncode == 1
        and b"Traceback" in result.stderr
        and b"\x1b" not in result.stderr
        and b"\x07" not in result.stderr
    )


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain ą 中文 العربية 👩‍👧", "plain ą 中文 العربية 👩‍👧"),
        ("\x1b[31m", "\\x1b[31m"),
        ("a\tb\nc\rd", "a\\tb\\nc\\rd"),
        ("\x9b31m\x7f", "\\x9b31m\\x7f"),
        ("\u202egpj.\u2066", "\\u202egpj.\\u2066"),
        ("\u2028", "\\u2028"),
        (os.fsdecode(b"a\xff.mp4"), "a\\xff.mp4"),
        ("\ud800", "\\ud800"),
    ],
)
def test_control_characters_are_shown_as_escapes(text, shown):
    assert clean(text) == shown
    assert clean(text, keep="\n\t").replace("\n", "\\n").replace("\t", "\\t") == shown


@pytest.mark.parametrize("encoding", ["utf-8", "ascii", "latin-1"])
def test_cleaned_json_has_the_same_values(encoding):
    value = {"path": "a\udcff\x9b\u202e\x1b", "text": "é 中 👩"}
    line = clean_json(json.dumps(value, ensure_ascii=False) + "\n", encoding)
    assert json.loads(line.encode(encoding).decode(encoding)) == value
    assert not set(line[:-1]) & set("\x9b\u202e\x1b\udcff\n")
