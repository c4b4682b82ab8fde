"""Files from other people are read but never run: no pickle, no code.

Any bytes in the files of a workdir give a result or an error of this package.
"""

import ast
import json
import re
import shutil
import sys

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from signvit_jax.checkpoints import manifest
from signvit_jax.checkpoints.reader import CheckpointError, CheckpointReader
from signvit_jax.commands import translate
from signvit_jax.config.errors import ConfigError
from signvit_jax.config.schema import Config, from_json, to_json
from signvit_jax.data import schema
from signvit_jax.telemetry.metrics_file import read_metrics
from signvit_jax.text.tokenizer import Tokenizer, TokenizerError
from tests.helpers import tiny_run
from tfds_builders.annotation_files.tables import AnnotationError, read_table

SOURCES = sorted(
    path
    for folder in ("signvit_jax", "tfds_builders", "configs", "scripts")
    for path in (tiny_run.REPOSITORY / folder).rglob("*.py")
)
PICKLES = {"pickle", "_pickle", "cPickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"}
RUNS_CODE = {"eval", "exec", "compile", "__import__", "breakpoint"}
RUNS_COMMANDS = {
    "os.system",
    "os.popen",
    "subprocess.getoutput",
    "subprocess.getstatusoutput",
    "pty.spawn",
    "asyncio.create_subprocess_shell",
}
RUNS_FILES = (".exec_module", ".run_path", ".run_module", ".unsafe_load", ".read_pickle")
RUNS_PROGRAMS = re.compile(r"os\.(exec|spawn|posix_spawn)\w+")
# The only exceptions, and what they run or unpickle.
ALLOWED = {
    # The file of --config.
    "signvit_jax/config/files.py": ["module_spec.loader.exec_module(...)"],
    # Its neighbor pose_model.py: the child process runs as a file, without the package.
    "signvit_jax/media/video_worker.py": ["spec.loader.exec_module(...)"],
    # Its neighbor video_worker.py, for the same reason.
    "signvit_jax/media/caption_worker.py": ["spec.loader.exec_module(...)"],
    # The training command of this installation, with flags.
    "signvit_jax/sweep/launch.py": ["os.execv(...)"],
    "signvit_jax/sweep/results_commands.py": ["os.execv(...)"],
    # The file of --space, which a user writes in Python like a config.
    "signvit_jax/sweep/space.py": ["spec.loader.exec_module(...)"],
    # A data set that is released as a pickle. Its unpickler refuses all classes and functions
    # (tests/tfds_builders tests that).
    "tfds_builders/csl_daily/csl_daily_dataset_builder.py": ["import pickle"],
}


def dangers(source: str) -> list[str]:
    """Return the lines of a source that could unpickle or run its input."""
    tree = ast.parse(source)
    found = []
    full_names = {}  # of names that an import binds, e.g. system -> os.system
    for node in ast.walk(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            prefix = "" if isinstance(node, ast.Import) else f"{node.module or ''}."
            modules = [node.module or ""] if prefix else [alias.name for alias in node.names]
            found += [
                f"line {node.lineno}: import {module}"
                for module in modules
                if module.split(".")[0] in PICKLES
            ]
            full_names |= {
                alias.asname or alias.name: prefix + alias.name
                for alias in node.names
                if alias.asname or prefix
            }
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            first, dot, rest = ast.unparse(node.func).partition(".")
            name = (full_names.get(first, first) + dot + rest).removeprefix("builtins.")
            options = {option.arg: ast.unparse(option.value) for option in node.keywords}
            # These options can be positional: allow_pickle is the third argument of np.load, shell
            # is the ninth of Popen.
            pickles = shell = "False"
            if len(node.args) > 2:
                pickles = ast.unparse(node.args[2])
            if len(node.args) > 8 and name.startswith("subprocess."):
                shell = ast.unparse(node.args[8])
            pickles = options.get("allow_pickle", pickles)
            shell = options.get("shell", shell)
            dangerous = (
                name in RUNS_CODE | RUNS_COMMANDS
                or RUNS_PROGRAMS.fullmatch(name)
                or name.endswith(RUNS_FILES)
                or (
                    name == "torch.load"
                    and "import torch" in source
                    and options.get("weights_only") != "True"
                )
                or (name in ("np.load", "numpy.load") and pickles != "False")
                or (name.endswith("yaml.load") and "Safe" not in options.get("Loader", ""))
                or shell != "False"
            )
            if dangerous:
                found.append(f"line {node.lineno}: {ast.unparse(node.func)}(...)")
    return found


@pytest.mark.parametrize(
    "path", SOURCES, ids=lambda path: path.relative_to(tiny_run.REPOSITORY).as_posix()
)
def test_no_source_unpickles_or_runs_its_input(path):
    found = [danger.partition(": ")[2] for danger in dangers(path.read_text(encoding="utf-8"))]
    assert found == ALLOWED.get(path.relative_to(tiny_run.REPOSITORY).as_posix(), [])


@pytest.mark.parametrize(
    "source",
    [
        "import pickle",
        "from dill import loads",
        "import torch\ntorch.load(path)",
        "import torch\ntorch.load(path, weights_only=False)",
        "np.load(path, allow_pickle=True)",
        "x = eval(text)",
        "spec.loader.exec_module(module)",
        "yaml.load(text)",
        "subprocess.run(command, shell=True)",
        "subprocess.run(command, shell=1)",
        "subprocess.run(command, shell=not False)",
        "import subprocess as s\ns.Popen(command, 0, None, None, None, None, None, True, True)",
        "import os\nos.system(command)",
        "from os import system as run\nrun(command)",
        "import os as machine\nmachine.popen(command)",
        "import os\nos.execv(path, arguments)",
        "import subprocess\nsubprocess.getoutput(command)",
        "np.load(path, None, True)",
        "import numpy\nnumpy.load(path, None, allow)",
        "import runpy\nrunpy.run_path(path)",
        "pandas.read_pickle(path)",
        "import builtins\nbuiltins.exec(text)",
    ],
)
def test_the_search_finds_each_danger(source):
    assert dangers(source)


HARMLESS = """
import json
import os
import subprocess
import torch
np.load(path, allow_pickle=False)
np.load(path, None, False)
torch.load(path, weights_only=True)
model.eval()
re.compile(text)
os._exit(1)
subprocess.run(command, shell=False, check=True)
"""


def test_the_search_finds_no_danger_in_harmless_code():
    assert not dangers(HARMLESS)


INDEX_ENTRY = {
    "id": "a",
    "video_id": "a",
    "text": "t",
    "gloss": "",
    "signer": "",
    "num_frames": 3,
    "fps": 25.0,
}
_unpickled: list[str] = []
_listening = [False]


def _listen(event: str, arguments: tuple) -> None:
    if _listening[0] and event == "pickle.find_class":
        _unpickled.append(".".join(map(str, arguments)))


@pytest.mark.usefixtures("light_jax")
def test_translate_runs_no_code_of_a_workdir(trained, tmp_path, monkeypatch, capfd):
    workdir = shutil.copytree(trained.workdir, tmp_path / "run")
    planted = f"from pathlib import Path\nPath({str(tmp_path / 'was_run')!r}).touch()\n"
    for name in (
        "config.py",
        "tiny_config.py",
        "__init__.py",
        "sitecustomize.py",
        "json.py",
        "jax.py",
    ):
        (workdir / name).write_text(planted)
    monkeypatch.chdir(workdir)
    sys.addaudithook(_listen)  # a hook cannot be removed, only switched off
    _listening[0] = True
    try:
        assert tiny_run.command(translate.main, trained.video(0), f"--workdir={workdir}") == 0
    finally:
        _listening[0] = False
    assert capfd.readouterr().out.strip()
    assert _unpickled == [] and not (tmp_path / "was_run").exists()


# The tests below put any bytes into each file that the package reads.

fuzzed = settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3)
    ),
    max_leaves=8,
)


def damaged(good: str):
    """Return a strategy of damaged versions of a file with the text `good`.

    A part is removed or replaced, the bytes are random, or the file is other JSON, JSON with too
    many levels or, if `good` is JSON, has another value for one key.
    """
    content = good.encode()

    def with_part_replaced(drawn) -> bytes:
        a, b, part = drawn
        return content[: min(a, b)] + part + content[max(a, b) :]

    position = st.integers(0, len(content))
    contents = [
        st.tuples(position, position, st.binary(max_size=6)).map(with_part_replaced),
        st.binary(max_size=60),
        json_values.map(lambda value: json.dumps(value).encode()),
        st.sampled_from([b"[" * 100_000, b'{"model":' * 100_000]),
    ]
    try:
        values = json.loads(good)
    except ValueError:
        return st.one_of(contents)

    def with_other_value(drawn) -> bytes:
        key, value = drawn
        return json.dumps(values | {key: value}).encode()

    keys = st.sampled_from(sorted(values))
    return st.one_of(*contents, st.tuples(keys, json_values).map(with_other_value))


@fuzzed
@given(damaged(to_json(Config())))
def test_any_config_json_gives_a_config_or_an_error(content):
    try:
        assert isinstance(from_json(content.decode("utf-8", "replace")), Config)
    except ConfigError as error:
        assert str(error)


def test_any_tokenizer_json_gives_a_tokenizer_or_an_error(trained):
    @fuzzed
    @given(damaged((trained.workdir / "tokenizer.json").read_text()))
    def check(content):
        try:
            Tokenizer.from_json(content.decode("utf-8", "replace")).encode("Ann reads")
        except TokenizerError as error:
            assert str(error)

    check()


@fuzzed
@given(damaged("step,train/loss\n1,0.5\n2,0.25\n3,nan\n"))
def test_any_metrics_csv_gives_metrics(tmp_path_factory, content):
    path = tmp_path_factory.getbasetemp() / "metrics.csv"
    path.write_bytes(content)
    assert all(len(steps) == len(values) for steps, values in read_metrics(path).values())


@pytest.fixture(scope="module")
def checkpoint(trained, tmp_path_factory):
    """A copy of a checkpoint."""
    folder = tmp_path_factory.mktemp("fuzzed") / "checkpoints"
    newest = CheckpointReader(trained.workdir / "checkpoints").latest_step()
    shutil.copytree(trained.workdir / "checkpoints" / str(newest), folder / str(newest))
    return folder / str(newest)


@pytest.mark.parametrize("name", ["manifest.json", "meta/meta.json", "_CHECKPOINT_METADATA"])
def test_any_meta_of_a_checkpoint_gives_damage_or_meta(checkpoint, name):
    good = (checkpoint / name).read_bytes()

    @fuzzed
    @given(damaged(good.decode()))
    def check(content):
        (checkpoint / name).write_bytes(content)
        reader = CheckpointReader(checkpoint.parent)
        reader.steps()
        reader.best_step()
        assert isinstance(manifest.find_damage(checkpoint, ("meta",)), list)

    check()
    (checkpoint / name).write_bytes(good)


@pytest.mark.parametrize(
    "name", ["params/_METADATA", "params/manifest.ocdbt", "ema/_METADATA", "manifest.json"]
)
def test_parameter_files_with_a_forged_manifest_are_an_error(checkpoint, name):
    good = {path: path.read_bytes() for path in (checkpoint / name, checkpoint / "manifest.json")}
    for content in (
        b"",
        b"{}",
        b"\x80\x04cposix\nsystem\n",
        good[checkpoint / name][:-7],
        bytes(len(good[checkpoint / name])),
    ):
        (checkpoint / name).write_bytes(content)
        if name != "manifest.json":
            manifest.write_manifest(checkpoint)  # as an attacker would
        try:
            CheckpointReader(checkpoint.parent).restore_params(
                "last", prefer_ema=name.startswith("ema")
            )
        except CheckpointError:
            pass
        except Exception as error:  # Orbax raises it, as it cannot read the file
            assert not isinstance(error, MemoryError | SystemError), error
            assert name != "manifest.json", error
        for path, before in good.items():
            path.write_bytes(before)


@fuzzed
@given(damaged(json.dumps(INDEX_ENTRY)))
def test_any_index_of_a_split_gives_entries_or_an_error(tmp_path_factory, content):
    folder = tmp_path_factory.getbasetemp()
    schema.index_path(folder, "fuzzed").write_bytes(content)
    try:
        assert all(
            isinstance(entry, schema.IndexEntry) for entry in schema.read_index(folder, "fuzzed")
        )
    except (schema.SchemaError, UnicodeDecodeError) as error:
        assert str(error)  # the data set then recreates the index


@fuzzed
@given(damaged('uid,text\nclip-1,good morning\nclip-2,"a, b"\n'))
def test_any_annotation_table_gives_rows_or_an_error(tmp_path_factory, content):
    path = tmp_path_factory.getbasetemp() / "table.csv"
    path.write_bytes(content)
    try:
        table = read_table(path, ("uid", "text"))
        assert all(row.values["uid"] for row in table.rows)
    except AnnotationError as error:
        assert str(path) in str(error)
