"""Tests that the documentation builds, and that the commands, keys, files and tests in it exist."""

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from tests.helpers import tiny_run

TINY = {
    "model.encoder.output_dim": 32,
    "model.encoder.vit_hidden_dim": 32,
    "model.encoder.vit_num_heads": 2,
    "model.encoder.vit_mlp_dim": 32,
    "model.decoder.hidden_dim": 32,
    "model.decoder.num_heads": 2,
    "model.decoder.ff_dim": 32,
    "model.temporal.num_heads": 2,
    "training.num_epochs": 1,
    "training.min_steps": 0,
    "training.batch_size": 4,
    "data.name": "video_folder",
    "data.image_size": 32,
    "data.num_frames": 8,
    "data.frame_buckets": "(8,)",
}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    """The path of a wheel, built from a copy of the sources because a build writes files there."""
    source, folder = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    for name in ("signvit_jax", "tfds_builders", "configs"):
        shutil.copytree(tiny_run.REPOSITORY / name, source / name)
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(tiny_run.REPOSITORY / name, source)
    build = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "--quiet"]
    done = subprocess.run(
        [*build, f"--wheel-dir={folder}", str(source)], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return next(folder.glob("*.whl"))


@pytest.fixture(scope="module")
def run_wheel(wheel, trained, tmp_path_factory):
    """A function that runs the wheel's commands in a folder with an unusable `configs` package."""
    site, here = tmp_path_factory.mktemp("site"), tmp_path_factory.mktemp("empty")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(site)
    (here / "configs").mkdir()
    for name in ("__init__", "small"):
        (here / "configs" / f"{name}.py").write_text("raise ImportError('not ours')")
    environment = os.environ | {
        "PYTHONPATH": str(site),
        "JAX_DISABLE_MOST_OPTIMIZATIONS": "true",
        "JAX_COMPILATION_CACHE_DIR": str(trained.cache),
    }

    def run(*arguments: str) -> subprocess.CompletedProcess:
        return subprocess.run(
            [sys.executable, "-m", "signvit_jax", *arguments],
            cwd=here,
            env=environment,
            capture_output=True,
            text=True,
        )

    return run


def test_the_wheel_has_two_packages_and_no_dummy_data(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    packages = {name.split("/")[0] for name in names if ".dist-info" not in name}
    assert packages == {"signvit_jax", "tfds_builders"}
    assert not [name for name in names if "dummy_data" in name]
    assert "signvit_jax/py.typed" in names and "signvit_jax/presets/small.py" in names


@pytest.mark.long
def test_the_wheel_trains_evaluates_and_translates_by_preset(run_wheel, trained):
    overrides = [f"--config.{key}={value}" for key, value in TINY.items()]
    data = f"--config.data.data_dir={trained.data_dir}"
    done = run_wheel("train", "--config=small", "--workdir=run", data, *overrides)
    assert done.returncode == 0, done.stderr
    done = run_wheel("eval", "--workdir=run", "--split=test", "--decode=greedy")
    assert done.returncode == 0 and "WER" in done.stdout, done.stderr
    done = run_wheel("translate", str(trained.video(0)), "--workdir=run", "--decode=greedy")
    assert done.returncode == 0, done.stderr


def test_the_demo_of_the_wheel_runs_in_an_empty_folder(run_wheel):
    done = run_wheel("demo", "--decode=greedy")
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("right, confidence") >= 8


def test_an_unknown_preset_is_refused_with_a_list_of_presets(run_wheel):
    done = run_wheel("train", "--config=smal", "--workdir=run2")
    assert done.returncode == 2
    assert "no preset 'smal'; did you mean 'small'? presets: dense_vit, " in done.stderr
