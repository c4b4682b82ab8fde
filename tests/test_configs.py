"""The files in configs/, at full size and without memory: shapes only."""

import math
from pathlib import Path

import numpy as np
import pytest

from signvit_jax.config_file import load_config
from signvit_jax.models.translator import abstract_model, count_parameters
from signvit_jax.training.losses import with_flat_start
from signvit_jax.training.optimizer import learning_rates
from signvit_jax.training.run_data import num_epochs

CONFIGS = sorted(path for path in (Path(__file__).parents[1] / "configs").glob("*.py") if path.stem != "__init__")


def sizes(name: str, vocabulary: int) -> tuple[int, int]:
    """(all parameters, those of the backbone)"""
    model = abstract_model(load_config(str(CONFIGS[0].with_name(f"{name}.py"))), vocabulary)
    return count_parameters(model), count_parameters(model.encoder.backbone)


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_every_config_loads_and_says_how_to_run_it(path):
    load_config(str(path))
    docstring = path.read_text().split('"""')[1]
    assert f"python -m signvit_jax.train --config=configs/{path.name} --workdir=" in docstring
    assert len(path.read_text().splitlines()) < 110


def test_reference_has_exactly_the_parameters_of_its_stated_sizes():
    assert sizes("reference", 30_522) == (354_323_258, 303_301_632)


def test_dense_vit_keeps_the_references_backbone():
    assert sizes("dense_vit", 8_000)[1] == 303_301_632


@pytest.mark.parametrize("vocabulary", [16_000, 30_522])
def test_dense_vit_100m_is_what_its_name_says(vocabulary):
    assert 95e6 <= sizes("dense_vit_100m", vocabulary)[0] <= 105e6


def test_mobilenet_v3_is_small_enough_for_a_phone_with_a_bert_vocabulary():
    whole, features = sizes("mobilenet_v3", 30_522)
    assert whole <= 16e6 and features == 2_971_952


def test_reference_takes_a_bert_vocabulary_file_as_argument():
    path = str(CONFIGS[0].with_name("reference.py"))
    assert load_config(path).tokenizer.name == "bpe"
    with_file = load_config(f"{path}:some/vocab.txt").tokenizer
    assert (with_file.name, with_file.vocab_file) == ("bert", "some/vocab.txt")


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
@pytest.mark.parametrize("clips", [7_096, 119_000])  # PHOENIX-2014T, iSign
def test_a_flat_start_outlasts_the_warm_up_and_sees_rates_that_teach(path, clips):
    training = load_config(str(path)).training
    if not training.ctc_flat_start_steps:
        pytest.skip("no flat start")
    steps = num_epochs(training, clips) * math.ceil(clips / training.batch_size)
    flat = with_flat_start(training, steps).ctc_flat_start_steps
    assert flat >= min(2 * training.warmup_ratio * steps, steps)
    rate = learning_rates(training, steps)["encoder"]
    made = np.linspace(0, flat, 1001)
    assert flat * np.mean([float(rate(step)) for step in made]) >= 0.3  # `small`, which learns by it: 1.1
