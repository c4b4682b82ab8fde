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
from signvit_jax.training import resolve_config as resolving
from signvit_jax.training.resolve_config import resolve_config
from signvit_jax.training.run_data import RunData
from signvit_jax.training.save_and_restore import fresh_state, with_source_model
from signvit_jax.training.step_programs import StepPrograms
from tests.helpers import tiny_run
from tfds_builders import build

pytestmark = pytest.mark.usefixtures("light_jax")


@pytest.fixture(scope="module")
def other_data(trained, tmp_path_factory):
    """The videos under other texts: Zoe for Ann, and as many words."""
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


def first_state(config, workdir):
    """The state before the first step, with the run's vocabulary, and the random one."""
    resolved = resolve_config(config, Workdir.create(workdir))
    data = RunData(resolved.config, resolved.dataset)
    programs = StepPrograms(data, data.train_batches(), None, thaws=False)
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
    there, random, here = by_path(averaged.params), by_path(fresh.params), by_path(state.params)
    words = Tokenizer.from_json((trained.workdir / "tokenizer.json").read_text()).tokens
    for path in here:
        if path not in ("decoder/embedding", "ctc_head/out/kernel", "ctc_head/out/bias"):
            np.testing.assert_array_equal(here[path], there[path], path)
    for i, word in enumerate(data.tokenizer.tokens):
        if word == "zoe":
            expected, place = random, i
        else:
            expected, place = there, words.index(word)
        for path, axis in (("decoder/embedding", 0), ("ctc_head/out/kernel", 1)):
            np.testing.assert_array_equal(
                here[path].take(i, axis), expected[path].take(place, axis), word
            )
    np.testing.assert_array_equal(
        by_path(state.ema)["decoder/embedding"], here["decoder/embedding"]
    )


def test_a_run_says_what_it_took_and_resumes_without_it(trained, other_data, tmp_path):
    workdir, source = tmp_path / "run", shutil.copytree(trained.workdir, tmp_path / "source")
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
    shutil.rmtree(source)  # a resumed run does not read it
    assert tiny_run.command(train.main, *flags) == 0
    assert log.count("starting from") == (workdir / "run.log").read_text().count("starting from")
    assert load_trained(workdir).step > 0


@pytest.mark.parametrize("export_format", ["int8", "safetensors", "stablehlo"])
def test_a_run_starts_from_an_export(trained, config, tmp_path, monkeypatch, export_format):
    monkeypatch.setattr(writing, "write_stablehlo", lambda model, folder: None)
    model = load_trained(trained.workdir)
    quantize = "weights" if export_format == "int8" else "none"
    with ExportFolder.new(tmp_path / "export") as folder:
        manifest = ExportManifest(export_format, quantize, model.step)
        writing.write_export(model, folder, manifest, list)
    source = read_source(str(tmp_path / "export"))
    assert source.kind.startswith(f"{export_format} export of step")
    exact = by_path(model.params)
    assert source.params.keys() == exact.keys()
    for path, value in source.params.items():
        error = 0.0 if export_format != "int8" else np.abs(exact[path]).max() / 127
        assert value.dtype == np.float32 and np.abs(value - exact[path]).max() <= error, path
    config = with_init_from(config, str(tmp_path / "export"))
    state, _, _ = first_state(config, tmp_path / "run")
    name = "encoder/temporal/project/kernel"
    np.testing.assert_array_equal(by_path(state.params)[name], source.params[name])


def test_an_onnx_export_has_nothing_to_train(trained, tmp_path):
    folder = ExportFolder(tmp_path)
    folder.write_manifest(ExportManifest("onnx", "none", 3))
    (tmp_path / "config.json").write_text((trained.workdir / "config.json").read_text())
    with pytest.raises(ConfigError, match="an ONNX export, whose encoder is a program"):
        read_source(str(tmp_path))


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("nowhere", "which is no folder"),
        ("a,b", "names several models"),
        ("empty", "neither a workdir nor an export"),
        ("unsaved", "no checkpoint in"),
    ],
)
def test_a_source_that_is_no_model_is_an_error(
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


def test_the_message_of_a_bad_source_names_the_key(tmp_path):
    with pytest.raises(ConfigError, match=r"config\.model\.init_from is '/nowhere', which is no"):
        read_source("/nowhere")


def test_a_model_of_another_kind_is_refused_before_a_step(trained, tmp_path, capsys):
    flags = (
        f"--config={trained.config}",
        f"--workdir={tmp_path / 'run'}",
        f"--config.model.init_from={trained.workdir}",
        "--config.model.decoder.num_heads=4",
    )
    assert tiny_run.command(train.main, *flags) == 2
    assert "config.model.decoder.num_heads is 4, but" in capsys.readouterr().err


def test_a_backbone_and_a_model_to_start_from_are_one_too_many():
    with pytest.raises(ConfigError, match="a model starts from one of them"):
        from_mapping({"model": {"init_from": "runs/a", "encoder": {"pretrained": "vit.npz"}}})


def test_the_epsilon_of_the_source_is_taken(trained, config, tmp_path, monkeypatch):
    source = read_source(str(trained.workdir))
    source = source._replace(config=with_norm_epsilon(source.config, 1e-6))
    monkeypatch.setattr(resolving, "read_source", lambda path: source)
    taken = resolve_config(config, Workdir.create(tmp_path / "a")).config
    assert taken.model.encoder.norm_epsilon == 1e-6
    given = resolve_config(with_norm_epsilon(config, 1e-5), Workdir.create(tmp_path / "b")).config
    assert given.model.encoder.norm_epsilon == 1e-5


def test_a_new_vocabulary_fits_a_padded_one(config, tmp_path):
    """As on a mesh whose tensor axis does not divide the vocabulary."""
    resolved = resolve_config(config, Workdir.create(tmp_path / "run"))
    data = RunData(resolved.config, resolved.dataset)
    programs = StepPrograms(data, data.train_batches(), None, thaws=False)
    fresh = fresh_state(programs)
    embedding = fresh.params["decoder"]["embedding"]
    padded = jax.numpy.pad(embedding, ((0, 3), (0, 0)))
    params = fresh.params | {"decoder": fresh.params["decoder"] | {"embedding": padded}}
    state = with_source_model(
        dataclasses.replace(fresh, params=params, ema=None), resolved.source, data, programs
    )
    found = np.asarray(state.params["decoder"]["embedding"])
    assert found.shape[0] == data.tokenizer.vocab_size + 3 and not found[-3:].any()
    assert not np.array_equal(found[5], np.asarray(embedding)[5])
