"""Tests that an address such as gs://bucket is refused as a path, and creates no folder."""

from pathlib import Path

import pytest

from signvit_jax import load_translator
from signvit_jax.checkpoints.workdir import Workdir, WorkdirError
from signvit_jax.commands import convert, data_report, distill, export, train, translate
from signvit_jax.commands import eval as eval_command
from signvit_jax.config.errors import ConfigError
from signvit_jax.config.schema import from_mapping
from signvit_jax.data.dataset import DatasetError, open_dataset
from signvit_jax.files.local_paths import is_address
from signvit_jax.serving.export_dir import ExportError, ExportFolder
from tests.helpers import tiny_run
from tfds_builders import build

ADDRESS = "gs://bucket/run"
SMALL = f"--config={Path(__file__).parents[2] / 'configs' / 'small.py'}"
# Command -> its function, flags that it needs, and all flags that take a path.
COMMANDS = {
    "train": (
        train.main,
        [SMALL, "--workdir=W"],
        ["--workdir", "--config", "--config.data.data_dir", "--config.model.encoder.pretrained"],
    ),
    "distill": (
        distill.main,
        [SMALL, "--workdir=W", "--teacher=T"],
        ["--workdir", "--teacher", "--config.tokenizer.vocab_file"],
    ),
    "convert": (
        convert.main,
        ["--weights=F", "--workdir=W"],
        ["--weights", "--workdir", "--tokenizer"],
    ),
    "export": (
        export.main,
        ["--workdir=W", "--output=O", "--format=int8"],
        ["--workdir", "--output", "--data_dir"],
    ),
    "eval": (eval_command.main, ["--workdir=W"], ["--workdir", "--output", "--data_dir"]),
    "translate": (translate.main, ["clip.mp4", "--workdir=W"], ["--workdir", "--output_dir"]),
    "data_report": (data_report.main, ["--data_dir=D", "--name=toy"], ["--data_dir", "--output"]),
}


@pytest.mark.parametrize(
    ("command", "flag"),
    [(name, flag) for name, (_, _, flags) in COMMANDS.items() for flag in flags],
)
def test_every_path_flag_refuses_an_address_and_creates_nothing(
    command, flag, tmp_path, monkeypatch, capfd
):
    main, needed_flags, _ = COMMANDS[command]
    monkeypatch.chdir(tmp_path)
    arguments = [needed for needed in needed_flags if not needed.startswith(f"{flag}=")]
    assert tiny_run.command(main, *arguments, f"{flag}={ADDRESS}") == 2
    message = capfd.readouterr().err
    assert ADDRESS in message and "a path on this machine" in message
    assert "Traceback" not in message
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("flag", ["--data_dir", "--csv", "--videos"])
def test_a_build_refuses_an_address(flag, tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    others = [f"{name}=x" for name in ("--data_dir", "--csv", "--videos") if name != flag]
    assert tiny_run.command(build.main, "video_folder", *others, f"{flag}={ADDRESS}") == 2
    assert ADDRESS in capfd.readouterr().err and not list(tmp_path.iterdir())


def test_the_web_address_of_a_clip_is_refused(tmp_path, capfd):
    assert tiny_run.command(translate.main, "https://host/clip.mp4", f"--workdir={tmp_path}") == 2
    assert "https://host/clip.mp4" in capfd.readouterr().err


def test_the_python_api_refuses_an_address(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for call, error_type in (
        (lambda: load_translator(ADDRESS), WorkdirError),
        (lambda: load_translator(Path(ADDRESS)), WorkdirError),
        (lambda: Workdir.create(ADDRESS), WorkdirError),
        (lambda: open_dataset(ADDRESS, "toy"), DatasetError),
        (lambda: ExportFolder.new(ADDRESS).__enter__(), ExportError),
        (lambda: from_mapping({"training": {"distillation": {"teacher": ADDRESS}}}), ConfigError),
    ):
        with pytest.raises(error_type, match=r"gs:/+bucket/run.*a path on this machine"):
            call()
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("models", ["runs/a,hf://x/y", "hf://x/y,runs/a"])
def test_a_hub_address_is_refused_in_an_ensemble(models, capfd):
    assert tiny_run.command(translate.main, "clip.mp4", f"--workdir={models}") == 2
    message = capfd.readouterr().err
    assert models in message
    assert "allowed: such an address alone" in message


@pytest.mark.parametrize(
    "path",
    [
        "gs://b",
        "s3://b/x",
        "hdfs://host:9000/x",
        "file:///tmp/x",
        "https://h/x",
        Path("gs://b/x"),
        "runs/a,gs://b/x",
    ],
)
def test_a_path_with_a_scheme_is_an_address(path):
    assert is_address(path)


@pytest.mark.parametrize(
    "path",
    [
        "",
        "runs/a",
        "/tmp/a:b",
        "./gs://b",
        "C:/x",
        "a:b",
        "runs/a,runs/b",
        "runs/http://x",
        Path("/gs:/x"),
    ],
)
def test_a_path_without_a_scheme_is_not_an_address(path):
    assert not is_address(path)
