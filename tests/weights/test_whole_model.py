"""The conversion of a complete model, from a workdir to a file and from a file to a workdir."""

from pathlib import Path

import jax
import numpy as np
import pytest

from signvit_jax.checkpoints.reader import CheckpointReader
from signvit_jax.commands import convert, train
from signvit_jax.inference.trained_model import load_trained
from signvit_jax.models.definition import ModelDefinition
from signvit_jax.weights.mapping import WeightsError
from signvit_jax.weights.tensor_files import read_description, read_tensors
from signvit_jax.weights.whole_model import export_safetensors, parameters_from
from tests.helpers import tiny_model, tiny_run

VECTORS = Path(__file__).parents[1] / "fixtures" / "translator_small.npz"


def description(workdir):
    """Return the texts that are saved with the weights."""
    return {
        "config": workdir.config_json.read_text(),
        "tokenizer": workdir.tokenizer_json.read_text(),
    }


def same(ours, theirs):
    jax.tree.map(np.testing.assert_array_equal, jax.device_get(ours), jax.device_get(theirs))


@pytest.mark.long
@pytest.mark.usefixtures("light_jax")
def test_a_workdir_converts_to_a_file_and_back_and_trains(trained, tmp_path):
    model = load_trained(trained.workdir)
    file, workdir = tmp_path / "model.safetensors", tmp_path / "converted"
    assert export_safetensors(file, model.params, description(model.workdir)) == "reference"
    assert read_description(file)["names"] == "reference"
    assert "decoder.embed.weight" in read_tensors(file)
    assert tiny_run.command(convert.main, f"--weights={file}", f"--workdir={workdir}") == 0
    converted = load_trained(workdir)
    same(converted.params, model.params)
    assert converted.tokenizer.tokens == model.tokenizer.tokens

    # A second conversion is refused, because the workdir has a checkpoint.
    assert tiny_run.command(convert.main, f"--weights={file}", f"--workdir={workdir}") == 2
    assert tiny_run.command(train.main, f"--config={trained.config}", f"--workdir={workdir}") == 0
    assert "starting from the converted weights" in (workdir / "run.log").read_text()
    reader = CheckpointReader(workdir / "checkpoints")
    after_training = reader.restore_params("last", prefer_ema=False)
    assert after_training.step == tiny_run.STEPS_PER_EPOCH * tiny_run.EPOCHS
    # These few steps change the weights only a little, which shows that they are the start.
    before, after = jax.tree.leaves(model.params), jax.tree.leaves(after_training.params)
    changes = [np.abs(new - np.asarray(old)).max() for old, new in zip(before, after)]
    assert 0.0 < max(changes) < 0.2


def test_models_unlike_the_reference_are_saved_with_our_names(tmp_path):
    options = tiny_model.MOBILENET | {
        "model__decoder__final_norm": True,
        "model__ctc__tied": True,
        "model__temporal__num_attention_layers": 1,
    }
    shapes = ModelDefinition(tiny_model.config(**options), tiny_model.VOCABULARY).abstract_params()
    rng = np.random.default_rng(0)
    params = jax.tree.map(lambda leaf: rng.normal(size=leaf.shape).astype(np.float32), shapes)
    assert export_safetensors(tmp_path / "model.safetensors", params) == "signvit_jax"
    tensors = read_tensors(tmp_path / "model.safetensors")
    same(parameters_from(tensors, shapes), params)
    del tensors["decoder/embedding"]
    with pytest.raises(WeightsError, match="missing: decoder/embedding"):
        parameters_from(
            tensors | {"decoder/layers/0/self_norm/scale": np.ones(2, np.float32)}, shapes
        )


def test_the_references_checkpoint_becomes_a_workdir(tmp_path, capsys):
    tensors = read_tensors(VECTORS)
    words = len(tensors["decoder.embed.weight"])
    vocabulary = tmp_path / "vocab.txt"
    entries = ["[PAD]", *(f"[unused{i}]" for i in range(99)), "[UNK]", "[CLS]", "[SEP]"]
    flags = [
        f"--weights={VECTORS}",
        f"--workdir={tmp_path / 'reference'}",
        f"--tokenizer={vocabulary}",
    ]
    all_entries = entries + [f"word{i}" for i in range(words - len(entries))]
    vocabulary.write_text("\n".join(all_entries) + "\n")
    assert tiny_run.command(convert.main, *flags) == 0
    params = jax.device_get(load_trained(tmp_path / "reference").params)
    np.testing.assert_array_equal(
        params["decoder"]["embedding"], tensors["decoder.embed.weight"].astype(np.float32)
    )
    vocabulary.write_text("\n".join([*entries, "word"]) + "\n")
    flags[1] = f"--workdir={tmp_path / 'other'}"
    assert tiny_run.command(convert.main, *flags) == 2
    assert f"the weights have {words} words" in capsys.readouterr().err


def test_without_vocabulary_or_config_the_error_names_the_flag(tmp_path, capsys):
    workdir = f"--workdir={tmp_path / 'a'}"
    assert tiny_run.command(convert.main, f"--weights={VECTORS}", workdir) == 2
    assert "--tokenizer=FILE" in capsys.readouterr().err
    without_config = tmp_path / "without_config.npz"
    np.savez(without_config, **{"decoder.embed.weight": np.ones((3, 2))})
    assert tiny_run.command(convert.main, f"--weights={without_config}", workdir) == 2
    assert "--config=" in capsys.readouterr().err
