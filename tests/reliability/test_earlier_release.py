"""A workdir of release 0.1 can still be read and resumed (tests/fixtures/workdir_0.1.tar.xz)."""

import json
import lzma
import shutil
import sys
import tarfile
from pathlib import Path

import jax
import numpy as np
import pytest

from signvit_jax import load_translator
from signvit_jax.checkpoints.store import CheckpointStore
from signvit_jax.config.schema import from_json
from signvit_jax.models.definition import ModelDefinition
from signvit_jax.optimization.optimizer import make_optimizer
from signvit_jax.optimization.train_state import abstract_on_mesh, new_state
from signvit_jax.parallel.mesh import make_mesh
from signvit_jax.text.tokenizer import Tokenizer
from tests.helpers import tiny_run

ARCHIVE = Path(__file__).parents[1] / "fixtures" / "workdir_0.1.tar.xz"
PACKED = ("config.json", "tokenizer.json", "training_split.txt", "expected.json", "checkpoints")


def clips() -> list[np.ndarray]:
    return [tiny_run.frames_of(who, what, 8) for who in range(4) for what in (0, 3)]


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    folder = tmp_path_factory.mktemp("release")
    with tarfile.open(ARCHIVE) as archive:
        archive.extractall(folder, filter="data")
    return folder


def test_the_fixture_of_release_0_1_is_small():
    assert ARCHIVE.stat().st_size < 200_000


@pytest.mark.usefixtures("light_jax")
def test_a_workdir_of_release_0_1_gives_the_same_texts(workdir):
    expected = json.loads((workdir / "expected.json").read_text())
    translations = load_translator(workdir, checkpoint="last").translate(clips())
    assert [list(translation.tokens) for translation in translations] == expected["tokens"]
    assert [translation.text for translation in translations] == expected["texts"]
    assert len(set(expected["texts"])) >= 3
    scores = [translation.score for translation in translations]
    np.testing.assert_allclose(scores, expected["scores"], rtol=1e-3)


def test_a_training_state_of_release_0_1_is_restored(workdir):
    config = from_json((workdir / "config.json").read_text())
    vocabulary = Tokenizer.from_json((workdir / "tokenizer.json").read_text()).vocab_size
    definition = ModelDefinition(config, vocabulary)
    optimizer = make_optimizer(config.training, 3 * config.training.num_epochs)
    target, _ = abstract_on_mesh(
        lambda: new_state(definition, optimizer, 0), make_mesh(config.mesh)
    )
    items = {
        name: getattr(target, name)
        for name in ("opt_state", "step", "nonfinite_in_row", "nonfinite_total")
    }
    data = DataIterator()
    restored = CheckpointStore(workdir / "checkpoints", strict=True).restore(
        target.params, items, target.ema, data
    )
    steps = 3 * config.training.num_epochs
    assert restored.step == restored.opt_state["step"] == data.state["next_step"] == steps
    assert restored.meta["epoch"] == config.training.num_epochs and restored.metrics["loss"] > 0
    moments = jax.tree.leaves(restored.opt_state["opt_state"])
    assert all(np.isfinite(leaf).all() for leaf in moments)
    assert sum(float(np.abs(leaf).sum()) for leaf in moments) > 0
    assert restored.ema is not None


class DataIterator:
    """A data iterator without data, which keeps the state that a checkpoint restores."""

    def set_state(self, state):
        self.state = state


def make_fixture(data_dir: Path, folder: Path) -> None:
    """Train a model of 3,500 parameters and pack its workdir.

    Run this once, with the code of the release: later code must read what that release wrote.

    JAX_PLATFORMS=cpu PYTHONPATH=. python tests/reliability/test_earlier_release.py DATA_DIR FOLDER
    """
    from signvit_jax.commands import train

    config = tiny_run.write_config(folder / "config.py", data_dir)
    small = {
        "model.encoder": {
            "output_dim": 8,
            "vit_hidden_dim": 8,
            "vit_num_heads": 1,
            "vit_num_layers": 1,
            "vit_mlp_dim": 4,
            "patch_size": 4,
        },
        "model.temporal": {"num_queries": 2, "num_heads": 1, "num_temporal_conv": 0},
        "model.decoder": {"hidden_dim": 8, "num_layers": 1, "num_heads": 1, "ff_dim": 4},
        "model.ctc": {"source": "frames", "dropout": 0.0},
        "data": {"image_size": 16},
        "training": {
            "num_epochs": 80,
            "encoder_lr": 2e-2,
            "decoder_lr": 4e-2,
            "keep_last_n_checkpoints": 1,
            "eval_every_n_epochs": 80,
            "patience": 0,
        },
    }
    overrides = [
        f"--config.{group}.{key}={value}"
        for group, values in small.items()
        for key, value in values.items()
    ]
    flags = [
        f"--config={config}",
        f"--workdir={folder / 'run'}",
        "--config.training.save_every_n_epochs=80",
        *overrides,
    ]
    assert tiny_run.command(train.main, *flags) == 0
    translations = load_translator(folder / "run", checkpoint="last").translate(clips())
    expected = {
        "texts": [translation.text for translation in translations],
        "tokens": [list(translation.tokens) for translation in translations],
        "scores": [translation.score for translation in translations],
    }
    (folder / "run" / "expected.json").write_text(json.dumps(expected, indent=1) + "\n")
    checkpoints = (folder / "run" / "checkpoints").iterdir()
    for step in sorted(checkpoints, key=lambda path: int(path.name))[:-1]:
        shutil.rmtree(step)
    with (
        lzma.open(ARCHIVE, "w", preset=9) as packed,
        tarfile.open(fileobj=packed, mode="w") as archive,
    ):
        for name in PACKED:
            archive.add(folder / "run" / name, name)


if __name__ == "__main__":
    make_fixture(Path(sys.argv[1]), Path(sys.argv[2]))
