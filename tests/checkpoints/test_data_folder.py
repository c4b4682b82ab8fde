"""The data folder of a run, which is found from any working directory and after a move."""

import json
import shutil
from pathlib import Path

import pytest

from signvit_jax.checkpoints.data_folder import (
    find_data_dir,
    with_absolute_data_dir,
    with_data_of_run,
)
from signvit_jax.checkpoints.workdir import Workdir
from signvit_jax.commands import eval as evaluation
from signvit_jax.commands import export, train
from signvit_jax.config.schema import from_mapping
from tests.helpers import tiny_run

pytestmark = pytest.mark.usefixtures("light_jax")


def config_of(data_dir):
    return from_mapping({"data": {"name": "toy", "data_dir": str(data_dir)}})


def data_dir_of(workdir: Path) -> str:
    return json.loads((workdir / "config.json").read_text())["data"]["data_dir"]


def set_data_dir(workdir: Path, data_dir: str) -> None:
    """Write a path that may be relative into config.json, as earlier releases did."""
    values = json.loads((workdir / "config.json").read_text())
    values["data"]["data_dir"] = data_dir
    (workdir / "config.json").write_text(json.dumps(values))


@pytest.fixture
def project(trained, tmp_path):
    """A project folder with `data/` and `runs/mine`."""
    (tmp_path / "project" / "runs").mkdir(parents=True)
    (tmp_path / "project" / "data").symlink_to(trained.data_dir)
    shutil.copytree(trained.workdir, tmp_path / "project" / "runs" / "mine")
    return tmp_path / "project"


def test_training_records_an_absolute_data_dir(trained, project, monkeypatch, capfd):
    workdir = project / "runs" / "mine"
    set_data_dir(workdir, "data")
    monkeypatch.chdir(project)
    flags = [f"--config={trained.config}", "--workdir=runs/mine", "--config.data.data_dir=data"]
    assert tiny_run.command(train.main, *flags) == 0
    assert data_dir_of(workdir) == str(project / "data")
    assert "config.data.data_dir is now" not in capfd.readouterr().err
    (project / "elsewhere").mkdir()
    monkeypatch.chdir(project / "elsewhere")
    flags = ["--workdir=../runs/mine", "--decode=greedy", "--output=results.json"]
    assert tiny_run.command(evaluation.main, *flags) == 0
    results = json.loads(Path("results.json").read_text())
    assert len(results["predictions"]) == tiny_run.CLIPS["test"]


@pytest.mark.parametrize("recorded", ["data", "../project/data", "/a/folder/that/was/moved/data"])
def test_a_moved_data_set_is_found_near_the_workdir(
    project, monkeypatch, tmp_path, caplog, recorded
):
    workdir = project / "runs" / "mine"
    set_data_dir(workdir, recorded)
    monkeypatch.chdir(tmp_path)
    assert tiny_run.command(evaluation.main, f"--workdir={workdir}", "--decode=greedy") == 0
    assert (workdir / "eval" / "test.json").is_file()
    assert str(project) in caplog.text  # the log names the folder in use


def export_with_calibration(argv):
    return export.main([*argv, "--format=int8", "--quantize=weights_and_inputs", "--output=out"])


@pytest.mark.parametrize("command", [evaluation.main, export_with_calibration])
def test_the_error_of_a_missing_data_set_does_not_advise_a_build(
    project, monkeypatch, tmp_path, capfd, command
):
    workdir = project / "runs" / "mine"
    set_data_dir(workdir, "gone")
    monkeypatch.chdir(tmp_path)
    assert tiny_run.command(command, f"--workdir={workdir}") == 2
    shown = capfd.readouterr().err
    assert "no folder 'gone'" in shown and "--data_dir=DIR" in shown
    assert "tfds_builders.build" not in shown


def test_the_error_of_a_resumed_run_names_its_data_set(
    trained, project, monkeypatch, tmp_path, capfd
):
    workdir = project / "runs" / "mine"
    monkeypatch.chdir(tmp_path)
    flags = [f"--config={trained.config}", f"--workdir={workdir}", "--config.data.data_dir=data"]
    assert tiny_run.command(train.main, *flags) == 2
    shown = capfd.readouterr().err
    assert f"--config.data.data_dir={trained.data_dir}" in shown
    assert "tfds_builders.build" not in shown
    set_data_dir(workdir, "gone")
    assert tiny_run.command(train.main, *flags) == 2
    shown = capfd.readouterr().err
    assert "--config.data.data_dir=DIR" in shown and "tfds_builders.build" not in shown


def test_given_values_replace_those_of_the_run(tmp_path):
    (tmp_path / "data" / "toy").mkdir(parents=True)
    workdir = Workdir(tmp_path / "run")
    assert with_data_of_run(config_of("data"), workdir).data.data_dir == str(tmp_path / "data")
    given = with_data_of_run(config_of("data"), workdir, data_dir="/no/such", name="other").data
    assert (given.data_dir, given.name) == ("/no/such", "other")


def test_an_existing_absolute_data_dir_is_not_changed(tmp_path):
    (tmp_path / "data" / "toy").mkdir(parents=True)
    config = config_of(tmp_path / "data")
    assert find_data_dir(config, Workdir(Path("/"))) == config
    assert with_absolute_data_dir(config) == config
