"""A run that starts from another run's model (`model.init_from`), on another data set."""

import dataclasses
import shutil

import jax
import numpy as np
import pytest
from flax import traverse_util

from signvit_jax.checkpoints.reader import CheckpointReader
from signvit_jax.checkpoints.workdir import Workdir
from signvit_jax.commands import train
from signvit_jax.config.errors import ConfigError
from signvit_jax.config.files import load_config
from signvit_jax.config.schema import from_mapping, with_init_from, with_norm_epsilon
from signvit_jax.exporting import writing
from signvit_jax.inference.loading import read_source
from signvit_jax.inference.trained_model import load_trained
from signvit_jax.serving.export_dir import ExportFolder, ExportManifest
from signvit_jax.text.tokenizer import Tokenizer
from signvit_jax.training import resolve_config as resolve_config_module
from signvit_jax.training.resolve_config import resolve_config
from signvit_jax.training.run_data import RunData
from signvit_jax.training.save_and_restore import fresh_state, with_source_model
from signvit_jax.training.step_programs import StepPrograms
from tests.helpers import tiny_run
from tfds_builders import build

pytestmark = pytest.mark.usefixtures("light_jax")
PADDING = 3  # rows after those of the vocabulary
# The axis of the tokens in each parameter that has one.
VOCABULARY_AXES = {"decoder/embedding": 0, "ctc_head/out/kernel": 1, "ctc_head/out/bias": 0}


@pytest.fixture(scope="module")
def other_data(trained, tmp_path_factory):
    """A data set of the same videos, with Zoe in place of Ann in the texts."""
    folder = tmp_path_factory.mktemp("other")
    table = (trained.source / "clips.csv").read_text().replace("Ann", "Zoe")
    (folder / "clips.csv").write_text(table)
    options = [f"--csv={folder / 'clips.csv'}", f"--videos={trained.source / 'videos'}"]
    data_dir = folder / "data"
    flags = ["video_folder", f"--data_dir={data_dir}", *options, "--workers=1"]
    assert tiny_run.command(build.main, *flags) == 0
    return data_dir


@pytest.fixture
def config(trained, other_data):
    overrides = [("data.data_dir", str(other_data)), ("model.init_from", str(trained.workdir))]
    return load_config(str(trained.config), overrides)


def prepared(config, workdir):
    """Return the resolved config of a run, its data and its programs."""
    resolved = resolve_config(config, Workdir.create(workdir))
    data = RunData(resolved.config, resolved.dataset)
    return resolved, data, StepPrograms(data, data.train_batches(), None, thaws=False)


def first_state(config, workdir):
    """Return (the state that a run starts with, the random state before that, the run's data)."""
    resolved, data, programs = prepared(config, workdir)
    fresh = fresh_state(programs)
    return with_source_model(fresh, resolved.source, data, programs), fresh, data


def by_path(params) -> dict[str, np.ndarray]:
    return {
        path: np.asarray(value)
        for path, value in traverse_util.flatten_dict(jax.device_get(params), sep="/").items()
    }


def test_a_run_starts_from_the_averaged_weights(trained, config, tmp_path):
    state, fresh, data = first_state(config, tmp_path / "run")
    averaged = CheckpointReader(trained.workdir / "checkpoints").restore_params("best")
    assert averaged.averaged
    source, random, started = map(by_path, (averaged.params, fresh.params, state.params))
    for path in started.keys() - VOCABULARY_AXES.keys():
        np.testing.assert_array_equal(started[path], source[path], path)
    words = Tokenizer.from_json((trained.workdir / "tokenizer.json").read_text()).tokens
    for row, word in enumerate(data.tokenizer.tokens):
        if word == "zoe":
            expected, expected_row = random, row
        else:
            expected = source
            expected_row = words.index(word)
        for path, axis in VOCABULARY_AXES.items():
            np.testing.assert_array_equal(
                started[path].take(row, axis),
                expected[path].take(expected_row, axis),
                f"{path} of {word}",
            )
    averages = by_path(state.ema)
    for path in VOCABULARY_AXES:
        np.testing.assert_array_equal(averages[path], started[path], path)


@pytest.mark.long
def test_a_run_logs_the_copied_weights_and_reads_the_source_once(trained, other_data, tmp_path):
    workdir = tmp_path / "run"
    source = shutil.copytree(trained.workdir, tmp_path / "source")
    flags = (
        f"--config={trained.config}",
        f"--workdir={workdir}",
        f"--config.data.data_dir={other_data}",
        f"--config.model.init_from={source}",
    )
    assert tiny_run.command(train.main, *flags) == 0
    log = (workdir / "run.log").read_text()
    assert f"starting from {source}, the averaged weights of step" in log
    assert "new: 1 ('zoe'); not used here: 1 ('ann')" in log
    assert "not taken" not in log
    shutil.rmtree(source)  # a run that has checkpoints does not read the source
    assert tiny_run.command(train.main, *flags) == 0
    assert log.count("starting from") == (workdir / "run.log").read_text().count("starting from")
    assert load_trained(workdir).step > 0


@pytest.mark.parametrize(
    "export_format", [pytest.param("int8", marks=pytest.mark.long), "safetensors", "stablehlo"]
)
def test_a_run_starts_from_an_export(trained, config, tmp_path, monkeypatch, export_format):
    monkeypatch.setattr(writing, "write_stablehlo", lambda model, folder: None)
    model = load_trained(trained.workdir)
    quantize = "weights" if export_format == "int8" else "none"
    with ExportFolder.new(tmp_path / "export") as folder:
        manifest = ExportManifest(export_format, quantize, model.step)
        writing.write_export(model, folder, manifest, tiny_run.no_batches)
    source = read_source(str(tmp_path / "export"))
    assert source.kind.startswith(f"{export_format} export of step")
    exact = by_path(model.params)
    assert source.params.keys() == exact.keys()
    for path, value in source.params.items():
        # A channel's largest value is divided into 127 steps; it is at most that of the array.
        tolerance = np.abs(exact[path]).max() / 127 if export_format == "int8" else 0.0
        assert value.dtype == np.float32, path
        assert np.abs(value - exact[path]).max() <= tolerance, path
    config = with_init_from(config, str(tmp_path / "export"))
    state, _, _ = first_state(config, tmp_path / "run")
    name = "encoder/temporal/project/kernel"
    np.testing.assert_array_equal(by_path(state.params)[name], source.params[name])


def test_an_onnx_export_cannot_be_trained_further(trained, tmp_path):
    folder = ExportFolder(tmp_path)
    folder.write_manifest(ExportManifest("onnx", "none", 3))
    (tmp_path / "config.json").write_text((trained.workdir / "config.json").read_text())
    with pytest.raises(ConfigError, match="an ONNX export, whose encoder is a program"):
        read_source(str(tmp_path))


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("nowhere", "config.model.init_from is 'nowhere', which is not a folder"),
        ("a,b", "names several models"),
        ("empty", "neither a workdir nor an export"),
        ("unsaved", "no checkpoint in"),
    ],
)
def test_a_source_that_is_not_a_model_is_an_error(
    trained, tmp_path, monkeypatch, capsys, path, message
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    shutil.copytree(
        trained.workdir, tmp_path / "unsaved", ignore=shutil.ignore_patterns("checkpoints")
    )
    flags = (
        f"--config={trained.config}",
        f"--workdir={tmp_path / 'run'}",
        f"--config.model.init_from={path}",
    )
    assert tiny_run.command(train.main, *flags) == 2
    assert message in capsys.readouterr().err


def test_a_source_of_another_architecture_is_refused(trained, tmp_path, capsys):
    flags = (
        f"--config={trained.config}",
        f"--workdir={tmp_path / 'run'}",
        f"--config.model.init_from={trained.workdir}",
        "--config.model.decoder.num_heads=4",
    )
    assert tiny_run.command(train.main, *flags) == 2
    assert "config.model.decoder.num_heads is 4, but" in capsys.readouterr().err


def test_init_from_and_pretrained_exclude_each_other():
    with pytest.raises(ConfigError, match="a model starts from one of them"):
        from_mapping({"model": {"init_from": "runs/a", "encoder": {"pretrained": "vit.npz"}}})


def test_a_run_takes_the_epsilon_of_its_source(trained, config, tmp_path, monkeypatch):
    source = read_source(str(trained.workdir))
    source = source._replace(config=with_norm_epsilon(source.config, 1e-6))
    monkeypatch.setattr(resolve_config_module, "read_source", lambda path: source)
    resolved = resolve_config(config, Workdir.create(tmp_path / "a")).config
    assert resolved.model.encoder.norm_epsilon == 1e-6
    with_epsilon = with_norm_epsilon(config, 1e-5)
    resolved = resolve_config(with_epsilon, Workdir.create(tmp_path / "b")).config
    assert resolved.model.encoder.norm_epsilon == 1e-5


def test_source_rows_are_copied_into_a_padded_vocabulary(config, tmp_path):
    """A vocabulary is padded if the tensor axis of the mesh does not divide it."""
    resolved, data, programs = prepared(config, tmp_path / "run")
    fresh = fresh_state(programs)
    embedding = fresh.params["decoder"]["embedding"]
    padded = jax.numpy.pad(embedding, ((0, PADDING), (0, 0)))
    params = fresh.params | {"decoder": fresh.params["decoder"] | {"embedding": padded}}
    state = with_source_model(
        dataclasses.replace(fresh, params=params, ema=None), resolved.source, data, programs
    )
    found = np.asarray(state.params["decoder"]["embedding"])
    assert found.shape[0] == data.tokenizer.vocab_size + PADDING
    assert not found[-PADDING:].any()
    source = resolved.source
    words = source.vocabularies.text.tokens
    known = [row for row, word in enumerate(data.tokenizer.tokens) if word in words]
    rows = [words.index(data.tokenizer.tokens[row]) for row in known]
    np.testing.assert_array_equal(found[known], source.params["decoder/embedding"][rows])
