"""A run finds its data set again, from whatever folder it is read and wherever it was moved to."""

import json
import shutil
from pathlib import Path

import pytest

from signvit_jax.checkpoints.data_folder import located, of_run, with_absolute_data_dir
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
    """As an earlier release wrote it: as it was typed."""
    values = json.loads((workdir / "config.json").read_text())
    values["data"]["data_dir"] = data_dir
    (workdir / "config.json").write_text(json.dumps(values))


@pytest.fixture
def project(trained, tmp_path):
    """`data/` and `runs/mine`, as they lie for somebody who works in a folder of their own."""
    (tmp_path / "project" / "runs").mkdir(parents=True)
    (tmp_path / "project" / "data").symlink_to(trained.data_dir)
    shutil.copytree(trained.workdir, tmp_path / "project" / "runs" / "mine")
    return tmp_path / "project"


def test_training_writes_the_data_dir_down_so_that_it_means_the_same_from_every_folder(
    trained, project, monkeypatch, capfd
):
    workdir = project / "runs" / "mine"
    set_data_dir(workdir, "data")
    monkeypatch.chdir(project)
    assert (
        tiny_run.command(
            train.main,
            f"--config={trained.config}",
            "--workdir=runs/mine",
            "--config.data.data_dir=data",
        )
        == 0
    )
    assert data_dir_of(workdir) == str(project / "data")
    assert "config.data.data_dir is now" not in capfd.readouterr().err
    (project / "elsewhere").mkdir()
    monkeypatch.chdir(project / "elsewhere")
    assert (
        tiny_run.command(
            evaluation.main, "--workdir=../runs/mine", "--decode=greedy", "--output=results.json"
        )
        == 0
    )
    assert (
        len(json.loads(Path("results.json").read_text())["predictions"]) == tiny_run.CLIPS["test"]
    )


@pytest.mark.parametrize("kept", ["data", "../project/data", "/a/folder/that/was/moved/data"])
def test_a_data_set_is_found_beside_a_workdir_that_kept_another_path(
    project, monkeypatch, tmp_path, caplog, kept
):
    workdir = project / "runs" / "mine"
    set_data_dir(workdir, kept)
    monkeypatch.chdir(tmp_path)
    assert tiny_run.command(evaluation.main, f"--workdir={workdir}", "--decode=greedy") == 0
    assert (workdir / "eval" / "test.json").is_file()
    assert str(project) in caplog.text  # which one is read is said


def export_that_calibrates(argv):
    return export.main([*argv, "--format=int8", "--quantize=weights_and_inputs", "--output=out"])


@pytest.mark.parametrize("command", [evaluation.main, export_that_calibrates])
def test_a_run_whose_data_set_is_nowhere_is_not_advised_to_make_another(
    project, monkeypatch, tmp_path, capfd, command
):
    workdir = project / "runs" / "mine"
    set_data_dir(workdir, "gone")
    monkeypatch.chdir(tmp_path)
    assert tiny_run.command(command, f"--workdir={workdir}") == 2
    said = capfd.readouterr().err
    assert (
        "no folder 'gone'" in said
        and "--data_dir=DIR" in said
        and "tfds_builders.build" not in said
    )


def test_a_run_that_goes_on_elsewhere_is_told_where_its_data_set_is(
    trained, project, monkeypatch, tmp_path, capfd
):
    workdir = project / "runs" / "mine"
    monkeypatch.chdir(tmp_path)
    flags = [f"--config={trained.config}", f"--workdir={workdir}", "--config.data.data_dir=data"]
    assert tiny_run.command(train.main, *flags) == 2
    said = capfd.readouterr().err
    assert (
        f"--config.data.data_dir={trained.data_dir}" in said and "tfds_builders.build" not in said
    )
    set_data_dir(workdir, "gone")
    assert tiny_run.command(train.main, *flags) == 2
    said = capfd.readouterr().err
    assert "--config.data.data_dir=DIR" in said and "tfds_builders.build" not in said


def test_what_is_given_comes_before_what_the_run_says(tmp_path):
    (tmp_path / "data" / "toy").mkdir(parents=True)
    workdir = Workdir(tmp_path / "run")
    assert of_run(config_of("data"), workdir).data.data_dir == str(tmp_path / "data")
    given = of_run(config_of("data"), workdir, data_dir="/no/such", name="other").data
    assert (given.data_dir, given.name) == ("/no/such", "other")
    there = config_of(tmp_path / "data")
    assert located(there, Workdir(Path("/"))) == there == with_absolute_data_dir(there)
