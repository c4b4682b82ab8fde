"""Search spaces: their syntax, and errors that are reported before the first trial."""

import re

import pytest
import scipy.stats

from signvit_jax.config.errors import ConfigError
from signvit_jax.config.files import load_config
from signvit_jax.runtime.exit_codes import UsageError
from signvit_jax.sweep.sampling import check_sampler, next_parameters
from signvit_jax.sweep.space import (
    Dimension,
    check_space,
    dimension_of,
    grid,
    space_of_file,
    with_values,
)
from signvit_jax.sweep.trial_files import Settings, Sweep

BASE = load_config("small")


def dimension(key: str, spec: object) -> Dimension:
    return dimension_of(key, spec, BASE)


def test_ranges_choices_and_steps():
    rate = dimension("training.encoder_lr", "log:1e-4:3e-3")
    assert rate == Dimension("training.encoder_lr", (), 1e-4, 3e-3, 0.0, True, False)
    kernel = dimension("model.temporal.kernel_size", "3,5,7")
    assert kernel.choices == (3, 5, 7)
    epochs = dimension("training.num_epochs", "2:10:4")
    assert epochs.integer and grid([epochs]) == [{"training.num_epochs": n} for n in (2, 6, 10)]
    assert dimension("training.remat", "none,full").choices == ("none", "full")
    assert dimension("training.use_amp", [True, False]).choices == (True, False)
    assert dimension("training.encoder_lr", "1e-3,2e-3").choices == (1e-3, 2e-3)
    assert [*map(str, (rate, kernel, epochs))] == ["log:0.0001:0.003", "3,5,7", "2:10:4"]


@pytest.mark.parametrize(
    ("key", "spec", "error", "message"),
    [
        ("training.encoder_rate", "1:2", ConfigError, "unknown key config.training.encoder_rate"),
        ("training.encoder_lr", "log:0:1", UsageError, "LOW above 0 with log"),
        ("training.encoder_lr", "3:1", UsageError, "LOW must be below HIGH"),
        ("training.encoder_lr", "a:b", UsageError, "allowed: a,b,c"),
        ("training.encoder_lr", "1:2:3:4", UsageError, "allowed: a,b,c"),
        ("training.encoder_lr", "inf:2", UsageError, "allowed: a,b,c"),
        ("training.num_epochs", "1.5:3", UsageError, "takes integers"),
        ("training.num_epochs", "3", UsageError, "two or more different choices"),
        ("training.num_epochs", "3,3", UsageError, "two or more different choices"),
        ("training.seed", "0,1", UsageError, "cannot be searched"),
        ("training", "0,1", UsageError, "two or more"),
        ("data.frame_buckets", [(8,), (16,)], UsageError, "a number, a text"),
    ],
)
def test_dimensions_that_cannot_be_searched_are_refused(key, spec, error, message):
    if key == "training":
        error, message = ConfigError, "unknown key|group"
    with pytest.raises(error, match=message):
        dimension(key, spec)


def test_values_that_a_key_does_not_allow_are_refused():
    with pytest.raises(ConfigError, match=r"label_smoothing is 1\.5"):
        check_space(BASE, [dimension("training.label_smoothing", "0:1.5")])
    with pytest.raises(ConfigError, match="use_amp is 3"):
        check_space(BASE, [dimension("training.use_amp", [True, 3])])


def test_refused_combinations_are_counted():
    width = dimension("model.decoder.hidden_dim", "64,96")
    heads = dimension("model.decoder.num_heads", "2,5")
    corners, refused, reason = check_space(BASE, [width, heads])
    assert (corners, refused) == (4, 2) and "num_heads is 5" in reason
    with pytest.raises(UsageError, match="no corner of the space is a config that can be trained"):
        check_space(BASE, [dimension("model.decoder.num_heads", "5,7")])


def test_a_grid_needs_choices_or_steps():
    with pytest.raises(UsageError, match="needs choices or steps"):
        grid([dimension("training.encoder_lr", "1e-4:1e-3")])
    both = [dimension("training.num_epochs", "1:2"), dimension("training.use_amp", "True,False")]
    assert len(grid(both)) == 4


def test_a_space_file_is_read_or_its_error_is_reported(tmp_path):
    path = tmp_path / "space.py"
    path.write_text('def get_space():\n    return {"training.num_epochs": [1, 2]}\n')
    assert space_of_file(path) == {"training.num_epochs": [1, 2]}
    path.write_text("def get_space():\n    return {}\n")
    with pytest.raises(UsageError, match="must return a dict"):
        space_of_file(path)
    path.write_text("def get_space():\n    return 1 / 0\n")
    with pytest.raises(UsageError, match="ZeroDivisionError"):
        space_of_file(path)
    with pytest.raises(UsageError, match="no such file"):
        space_of_file(tmp_path / "none.py")


@pytest.mark.parametrize("sampler", ["tpe", "random", "qmc"])
def test_suggestions_are_within_the_space_and_have_four_digits(tmp_path, sampler):
    space = (
        dimension("training.encoder_lr", "log:1e-4:3e-3"),
        dimension("training.num_epochs", "2:10:4"),
        dimension("training.remat", "none,full"),
    )
    settings = Settings("small", (), space, "wer", sampler=sampler)
    sweep = Sweep.create(tmp_path, settings, BASE)
    assert next_parameters(sweep, [], 0) == {}
    sweep.add_trial(0, "base", {})
    rates = []
    for number in range(1, 14):
        trials = sweep.read(0.0)
        values = next_parameters(sweep, trials, number)
        assert values is not None and values == next_parameters(sweep, trials, number)
        assert 1e-4 <= values["training.encoder_lr"] <= 3e-3
        assert values["training.num_epochs"] in (2, 6, 10)
        assert float(f"{values['training.encoder_lr']:.4g}") == values["training.encoder_lr"]
        assert with_values(BASE, values).training.remat in ("none", "full")
        sweep.add_trial(number, "search", values)
        rates.append(values["training.encoder_lr"])
    assert len(set(rates)) == len(rates)


def test_suggestions_of_qmc_are_a_sobol_sequence(tmp_path):
    space = (
        dimension("training.label_smoothing", "0:0.4"),
        dimension("training.encoder_lr", "log:1e-4:1e-2"),
    )
    settings = Settings("small", (), space, "wer", sampler="qmc", seed=5)
    sweep = Sweep.create(tmp_path, settings, BASE)
    sweep.add_trial(0, "base", {})
    points = scipy.stats.qmc.Sobol(2, seed=5).random(8)
    suggestions = []
    for number in range(1, 9):
        values = next_parameters(sweep, sweep.read(0.0), number)
        assert values is not None
        sweep.add_trial(number, "search", values)
        suggestions.append(values)
    smoothing = [values["training.label_smoothing"] for values in suggestions]
    rates = [values["training.encoder_lr"] for values in suggestions]
    assert smoothing == pytest.approx(0.4 * points[:, 0], rel=1e-3)
    assert rates == pytest.approx(1e-4 * 100 ** points[:, 1], rel=1e-3)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("cmaes", "the package cmaes, and keeps its state as a pickle"),
        ("gp", "the package torch"),
        ("brute_force", "it is called grid here; allowed: tpe, qmc, random, grid"),
        ("tp", "did you mean 'tpe'?"),
    ],
)
def test_unsupported_samplers_are_refused(name, message):
    with pytest.raises(UsageError, match=re.escape(message)):
        check_sampler(Settings("small", (), (), "wer", sampler=name))
