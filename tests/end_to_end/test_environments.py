"""Commands as processes in odd environments: pipes, containers, names that cannot be printed."""

import json
import os
import pty
import shutil
import subprocess
import sys

import pytest

from tests.helpers import tiny_run

NAMES = (b"a\xff.mp4", b"b\x1b[31m\n\t.mp4", "c\u202e\u00e9.mp4".encode(), b"d.mp4")
# No home and an unknown user, as in a container that is run with --user=54321.
HOMELESS = """
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
    done = translate(trained, odd_names, environment=environment | {"PYTHONIOENCODING": "ascii"})
    assert done.returncode == 0, done.stderr
    lines = done.stdout.decode("ascii").splitlines()
    names = [line.split("\t")[0].removeprefix(f"{odd_names}/") for line in lines]
    assert names == ["a\\xff.mp4", "b\\x1b[31m\\n\\t.mp4", "c\\u202e\\xe9.mp4", "d.mp4"]
    assert len({line.split("\t")[1] for line in lines}) == 1 and lines[0].split("\t")[1]


def test_json_has_the_exact_name_of_every_file(trained, odd_names, environment):
    done = translate(
        trained,
        odd_names,
        "--format=json",
        environment=environment | {"PYTHONIOENCODING": "latin-1"},
    )
    assert done.returncode == 0, done.stderr
    paths = [json.loads(line)["path"] for line in done.stdout.decode("latin-1").splitlines()]
    assert [os.fsencode(path) for path in paths] == [
        os.fsencode(odd_names) + b"/" + name for name in NAMES
    ]


def test_head_ends_translate_silently_with_exit_0(trained, environment):
    # Every video gets a text: the note of those without one would come or not, depending on when
    # the pipe closes.
    clips = [trained.video(number) for number in range(12)]
    done = translate(
        trained,
        *clips,
        "--rest_evidence=0",
        shell="{} | head -1; exit ${{PIPESTATUS[0]}}",
        environment=environment,
    )
    assert (done.returncode, done.stderr) == (0, b"")
    assert done.stdout.startswith(str(clips[0]).encode()) and done.stdout.count(b"\n") == 1


def test_head_does_not_stop_the_writing_of_files(trained, tmp_path, environment):
    clips = [trained.video(number) for number in range(12)]
    output = tmp_path / "out"
    done = translate(
        trained,
        *clips,
        f"--output_dir={output}",
        shell="{} | head -1; exit ${{PIPESTATUS[0]}}",
        environment=environment,
    )
    assert (done.returncode, done.stdout.count(b"\n")) == (0, 1)
    assert len(list(output.iterdir())) == 12 and b"12 files written" in done.stderr


@pytest.mark.parametrize("cache", [None, "cache"])
def test_every_command_works_without_a_home_or_known_user(trained, tmp_path, environment, cache):
    data = tmp_path / "data"
    workdir = trained.workdir
    page = tmp_path / "report.html"
    built = [
        "video_folder",
        f"--data_dir={data}",
        f"--csv={trained.source / 'clips.csv'}",
        f"--videos={trained.source / 'videos'}",
        "--workers=1",
    ]
    commands = [
        ("signvit_jax.inspect_config", [f"--config={trained.config}", "--no_compile"]),
        ("tfds_builders.build", built),
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
    # A cache folder of the environment's own, or none: where a home would be asked for its cache.
    commands = commands if cache is None else commands[:1]
    environment |= {"TMPDIR": str(tmp_path)} | (
        {} if cache is None else {"XDG_CACHE_HOME": str(tmp_path / cache)}
    )
    if cache is not None:
        environment.pop("JAX_COMPILATION_CACHE_DIR")
    done = subprocess.run(
        [sys.executable, "-c", HOMELESS, json.dumps(commands)],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert [
        f"{module} 0" for module, _ in commands if f"{module} 0" not in done.stdout.splitlines()
    ] == [], done.stderr[-2000:]
    assert "Traceback" not in done.stderr
    home = tmp_path / f"signvit_jax-{os.getuid()}"
    assert home.stat().st_mode & 0o777 == 0o700


def test_without_a_home_the_cache_folder_is_private(tmp_path, monkeypatch):
    from signvit_jax.runtime import exit_codes

    monkeypatch.setattr(exit_codes.tempfile, "tempdir", str(tmp_path))
    mine = exit_codes.private_folder()
    assert exit_codes.private_folder() == mine
    os.chmod(mine, 0o777)  # somebody else could have planted programs in it
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
    reading, terminal = pty.openpty()
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
                output += os.read(reading, 65536)
            except OSError:  # closed by the last writer
                break
    os.close(reading)
    shown = output.decode().replace("\r", "\n")
    assert process.returncode == 0
    assert (
        "6/6" in shown
        and "BLEU-4 " in shown
        and "WER " in shown
        and "exact " in shown
        and "…" not in shown
    )
    assert str(tmp_path / "eval.json") in shown
