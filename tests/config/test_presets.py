"""Tests of the presets at full size, with shapes only, so that no array is allocated."""

import dataclasses
import math
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from signvit_jax.config.files import load_config
from signvit_jax.config.schema import MeshConfig, with_ctc_target
from signvit_jax.models.definition import ModelDefinition
from signvit_jax.models.translator import abstract_model, count_parameters
from signvit_jax.optimization.flat_start import with_flat_start
from signvit_jax.optimization.optimizer import make_optimizer
from signvit_jax.optimization.schedules import group_schedules
from signvit_jax.optimization.train_state import abstract_on_mesh, new_state
from signvit_jax.optimization.train_step import make_train_step
from signvit_jax.parallel.mesh import make_mesh
from signvit_jax.planning.memory import batch_shapes
from signvit_jax.training.run_data import num_epochs

CONFIGS = sorted(
    path
    for path in (Path(__file__).parents[2] / "signvit_jax/presets").glob("*.py")
    if path.stem != "__init__"
)


def sizes(name: str, vocabulary: int) -> tuple[int, int]:
    """Return the number of all parameters and of those of the backbone."""
    model = abstract_model(load_config(str(CONFIGS[0].with_name(f"{name}.py"))), vocabulary)
    return count_parameters(model), count_parameters(model.encoder.backbone)


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_every_config_loads_and_documents_its_command(path):
    load_config(str(path))
    docstring = path.read_text().split('"""')[1]
    assert f"python -m signvit_jax.train --config={path.stem} --workdir=" in docstring
    assert len(path.read_text().splitlines()) < 110


# Presets that differ from another one only in sizes and data are traced in the long suite only.
_LONG = ("mobilenet_v3", "overfit_small", "quickstart", "signer", "dense_vit_100m")


@pytest.mark.parametrize(
    "path",
    [
        pytest.param(path, id=path.stem, marks=[pytest.mark.long] * (path.stem in _LONG))
        for path in CONFIGS
    ],
)
def test_every_config_can_be_traced_for_a_gpu(monkeypatch, path):
    """Trace with the attention that 'auto' chooses on an H100; JAX checks shapes while tracing."""
    config = with_ctc_target(dataclasses.replace(load_config(str(path)), mesh=MeshConfig()), "text")
    mesh = make_mesh(config.mesh)
    optimizer = make_optimizer(config.training, total_steps=1000)
    definition = ModelDefinition(config, vocab_size=500)
    state, shardings = abstract_on_mesh(lambda: new_state(definition, optimizer, 0, mesh), mesh)
    batch = batch_shapes(config, mesh, config.data.num_frames, text_length=32)
    step = make_train_step(
        definition, optimizer, config.training, mesh, shardings, frozen_backbone=False
    )
    monkeypatch.setattr(
        "jax._src.cudnn.fused_attention_stablehlo.check_cudnn_version", lambda: 91300
    )
    h100 = SimpleNamespace(platform="gpu", compute_capability="9.0")
    monkeypatch.setattr("signvit_jax.layers.attention.traced_device", lambda: h100)
    program = str(step.trace(state, batch).jaxpr)
    encoder = config.model.encoder
    uses_fused_attention = (
        encoder.backbone == "dense_vit"
        and config.training.use_amp
        and encoder.attention_dropout == 0
    )
    assert ("dot_product_attention_fwd" in program) == uses_fused_attention


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_no_config_chooses_the_best_checkpoint_by_bleu4(path):
    assert load_config(str(path)).training.best_metric != "bleu4"


def test_reference_has_its_stated_number_of_parameters():
    assert sizes("reference", 30_522) == (354_323_258, 303_301_632)


def test_dense_vit_has_the_backbone_of_the_reference():
    assert sizes("dense_vit", 8_000)[1] == 303_301_632


@pytest.mark.parametrize("vocabulary", [16_000, 30_522])
def test_dense_vit_100m_has_about_100_million_parameters(vocabulary):
    assert 95e6 <= sizes("dense_vit_100m", vocabulary)[0] <= 105e6


def test_mobilenet_v3_has_at_most_16_million_parameters():
    total, backbone = sizes("mobilenet_v3", 30_522)
    assert total <= 16e6 and backbone == 2_971_952


def test_reference_takes_a_bert_vocabulary_file_as_argument():
    path = str(CONFIGS[0].with_name("reference.py"))
    assert load_config(path).tokenizer.name == "bpe"
    with_file = load_config(f"{path}:some/vocab.txt").tokenizer
    assert (with_file.name, with_file.vocab_file) == ("bert", "some/vocab.txt")


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
@pytest.mark.parametrize("clips", [7_096, 119_000])  # PHOENIX-2014T, iSign
def test_a_flat_start_outlasts_the_warm_up_at_useful_rates(path, clips):
    training = load_config(str(path)).training
    if not training.ctc_flat_start_steps:
        pytest.skip("no flat start")
    steps = num_epochs(training, clips) * math.ceil(clips / training.batch_size)
    flat_steps = with_flat_start(training, steps).ctc_flat_start_steps
    assert flat_steps >= min(2 * training.warmup_ratio * steps, steps)
    rate = group_schedules(training, steps)["encoder"]
    mean_rate = np.mean([float(rate(step)) for step in np.linspace(0, flat_steps, 1001)])
    # `small`, which learns because of its flat start, has 1.1.
    assert flat_steps * mean_rate >= 0.3
