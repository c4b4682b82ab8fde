"""Commands as processes in unusual environments: pipes, containers, unprintable names."""

import json
import os
import pty
import shutil
import subprocess
import sys

import pytest

from tests.helpers import tiny_run

NAMES = (b"a\xff.mp4", b"b\x1b[31m\n\t.mp4", "c\u202e\u00e9.mp4".encode(), b"d.mp4")
# Commands without a home folder and with an unknown user, as in a container with --user=54321.
WITHOUT_HOME = """
import os, pwd, sys
os.environ.pop("HOME")
def unknown(user):
    raise KeyError(f"getpwuid(): uid not found: {user}")
pwd.getpwuid = unknown
import json, importlib
from signvit_jax.runtime.exit_codes import run_command
for module, arguments in json.loads(sys.argv[1]):
    command = importlib.import_module(module)
    code = run_command(lambda: command.main(arguments))
    print(module, code, flush=True)
"""


@pytest.fixture
def environment(trained):
    light = {
        "JAX_DISABLE_MOST_OPTIMIZATIONS": "true",
        "JAX_COMPILATION_CACHE_DIR": str(trained.cache),
        "PYTHONPATH": str(tiny_run.REPOSITORY),
    }
    return os.environ | light


def translate(trained, *arguments, shell="{}", environment):
    """Run translate in a process; `shell` is a command line in which {} stands for it."""
    command = [
        sys.executable,
        "-m",
        "signvit_jax.translate",
        f"--workdir={trained.workdir}",
        *map(os.fsencode, arguments),
    ]
    line = ["bash", "-c", shell.format('"$@"'), "bash", *command]
    return subprocess.run(
        line,
        env=environment,
        capture_output=True,
        timeout=280,
        stdin=subprocess.DEVNULL,
        check=False,
    )


@pytest.fixture
def odd_names(trained, tmp_path):
    folder = tmp_path / "odd"
    folder.mkdir()
    try:
        for name in NAMES:
            shutil.copy(trained.video(0), os.fsencode(folder) + b"/" + name)
    except OSError:
        pytest.skip("this file system has no such names")
    return folder


def test_names_that_cannot_be_printed_are_escaped(trained, odd_names, environment):
    result = translate(trained, odd_names, environment=environment | {"PYTHONIOENCODING": "ascii"})
    assert result.returncode == 0, result.stderr
    lines = result.stdout.decode("ascii").splitlines()
    names = [line.split("\t")[0].removeprefix(f"{odd_names}/") for line in lines]
    assert names == ["a\\xff.mp4", "b\\x1b[31m\\n\\t.mp4", "c\\u202e\\xe9.mp4", "d.mp4"]
    assert len({line.split("\t")[1] for line in lines}) == 1 and lines[0].split("\t")[1]


def test_json_has_the_exact_name_of_every_file(trained, odd_names, environment):
    result = translate(
        trained,
        odd_names,
        "--format=json",
        environment=environment | {"PYTHONIOENCODING": "latin-1"},
    )
    assert result.returncode == 0, result.stderr
    paths = [json.loads(line)["path"] for line in result.stdout.decode("latin-1").splitlines()]
    assert [os.fsencode(path) for path in paths] == [
        os.fsencode(odd_names) + b"/" + name for name in NAMES
    ]


def test_head_ends_translate_silently_with_exit_0(trained, environment):
    # Without rest_evidence every video has a text. A note about videos without text would appear or
    # not, depending on when the pipe closes.
    clips = [trained.video(number) for number in range(12)]
    result = translate(
        trained,
        *clips,
        "--rest_evidence=0",
        shell="{} | head -1; exit ${{PIPESTATUS[0]}}",
        environment=environment,
    )
    assert (result.returncode, result.stderr) == (0, b"")
    assert result.stdout.startswith(str(clips[0]).encode()) and result.stdout.count(b"\n") == 1


def test_head_does_not_stop_translate_from_writing_files(trained, tmp_path, environment):
    clips = [trained.video(number) for number in range(12)]
    output = tmp_path / "out"
    result = translate(
        trained,
        *clips,
        f"--output_dir={output}",
        shell="{} | head -1; exit ${{PIPESTATUS[0]}}",
        environment=environment,
    )
    assert (result.returncode, result.stdout.count(b"\n")) == (0, 1)
    assert len(list(output.iterdir())) == 12 and b"12 files written" in result.stderr


@pytest.mark.parametrize("cache", [None, "cache"])
def test_every_command_works_without_a_home_or_known_user(trained, tmp_path, environment, cache):
    data = tmp_path / "data"
    workdir = trained.workdir
    page = tmp_path / "report.html"
    build_arguments = [
        "video_folder",
        f"--data_dir={data}",
        f"--csv={trained.source / 'clips.csv'}",
        f"--videos={trained.source / 'videos'}",
        "--workers=1",
    ]
    commands = [
        ("signvit_jax.inspect_config", [f"--config={trained.config}", "--no_compile"]),
        ("tfds_builders.build", build_arguments),
        (
            "signvit_jax.data_report",
            [
                f"--config={trained.config}",
                f"--data_dir={data}",
                "--name=video_folder",
                f"--output={page}",
            ],
        ),
        ("signvit_jax.translate", [str(trained.video(0)), f"--workdir={workdir}"]),
        (
            "signvit_jax.eval",
            [f"--workdir={workdir}", "--decode=greedy", f"--output={tmp_path / 'eval.json'}"],
        ),
    ]
    environment |= {"TMPDIR": str(tmp_path)}
    if cache is not None:  # one command is enough to test the cache folder that the user has set
        commands = commands[:1]
        environment["XDG_CACHE_HOME"] = str(tmp_path / cache)
        environment.pop("JAX_COMPILATION_CACHE_DIR")
    result = subprocess.run(
        [sys.executable, "-c", WITHOUT_HOME, json.dumps(commands)],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    lines = result.stdout.splitlines()
    failed = [module for module, _ in commands if f"{module} 0" not in lines]
    assert failed == [], result.stderr[-2000:]
    assert "Traceback" not in result.stderr
    home = tmp_path / f"signvit_jax-{os.getuid()}"
    assert home.stat().st_mode & 0o777 == 0o700


def test_without_a_home_the_cache_folder_is_private(tmp_path, monkeypatch):
    from signvit_jax.runtime import exit_codes

    monkeypatch.setattr(exit_codes.tempfile, "tempdir", str(tmp_path))
    mine = exit_codes.private_folder()
    assert exit_codes.private_folder() == mine
    os.chmod(mine, 0o777)  # now other users could put programs into it
    assert exit_codes.private_folder() != mine
    os.rmdir(mine)
    os.symlink(tmp_path, mine)
    assert exit_codes.private_folder() != mine


def test_a_terminal_of_20_columns_shows_every_score(trained, tmp_path, environment):
    command = [
        sys.executable,
        "-m",
        "signvit_jax.eval",
        f"--workdir={trained.workdir}",
        "--decode=greedy",
        f"--output={tmp_path / 'eval.json'}",
    ]
    our_end, terminal = pty.openpty()
    with subprocess.Popen(
        command,
        env=environment | {"COLUMNS": "20", "LINES": "40"},
        stdout=terminal,
        stderr=terminal,
    ) as process:
        os.close(terminal)
        output = bytearray()
        while True:
            try:
                output += os.read(our_end, 65536)
            except OSError:  # the command has closed the terminal
                break
    os.close(our_end)
    shown = output.decode().replace("\r", "\n")
    assert process.returncode == 0
    assert [part for part in ("6/6", "BLEU-4 ", "WER ", "exact ") if part not in shown] == []
    assert "…" not in shown
    assert str(tmp_path / "eval.json") in shown
