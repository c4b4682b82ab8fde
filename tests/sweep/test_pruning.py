"""Pruning of trials: each pruner decides like a live study of Optuna."""

import dataclasses
import random
from pathlib import Path

import optuna
import pytest

from signvit_jax.runtime.exit_codes import UsageError
from signvit_jax.sweep.pruning import Pruner, pruner_of, should_prune
from signvit_jax.sweep.sampling import quiet_optuna
from signvit_jax.sweep.trial_files import Trial
from tests.sweep.test_worker import new_sweep


def curves(*finals: float) -> list[Trial]:
    """Complete trials whose error falls from 1 to the given values in four validations."""
    trials = []
    for number, final in enumerate(finals):
        curve = tuple((64 * i, 1 - (1 - final) * i / 4) for i in range(1, 5))
        trials.append(Trial(number, "search", {}, Path(), "complete", final, curve=curve))
    return trials


def running(*values: float, batch_size: int = 1) -> Trial:
    """Return a running trial with these values of its first validations."""
    curve = tuple((64 * i, value) for i, value in enumerate(values, 1))
    return Trial(99, "search", {}, Path(), "running", curve=curve, batch_size=batch_size)


def test_a_trial_is_pruned_only_if_it_is_worse_after_as_many_clips(tmp_path):
    sweep = new_sweep(tmp_path / "sweep")
    others = curves(0.1, 0.2, 0.3, 0.4, 0.5, 0.6)
    assert not should_prune(sweep, running(0.95), others)  # after the first validation
    assert should_prune(sweep, running(0.95, 0.9), others)
    assert not should_prune(sweep, running(0.95, 0.5), others)  # others have 0.55 to 0.8 here
    assert not should_prune(sweep, running(0.95, 0.9), others[:4])  # too few trials to compare with
    untouched = dataclasses.replace(running(0.95, 0.9), kind="base")
    assert not should_prune(sweep, untouched, others)
    never = new_sweep(tmp_path / "never", pruner="none")
    assert not should_prune(never, running(0.95, 0.9), others)


def test_trials_of_other_batch_sizes_are_compared_after_equal_clips(tmp_path):
    sweep = new_sweep(tmp_path / "sweep")
    # The other trials have half as many validations, the first of them after 128 clips.
    others = [
        dataclasses.replace(trial, curve=trial.curve[1::2], batch_size=8)
        for trial in curves(0.1, 0.2, 0.3, 0.4, 0.5, 0.6)
    ]
    slow = running(0.95, 0.9, batch_size=8)
    assert should_prune(sweep, slow, others)
    last = dataclasses.replace(slow, curve=((70, 0.95), (134, 0.9)))  # after a padded last batch
    assert should_prune(sweep, last, others)
    full = dataclasses.replace(slow, curve=((60, 0.95), (124, 0.9)))  # others are padded
    assert should_prune(sweep, full, others)
    early = dataclasses.replace(slow, curve=((50, 0.95), (110, 0.9)))  # earlier than any other
    assert not should_prune(sweep, early, others)


def test_pruning_does_not_depend_on_the_order_of_the_trials(tmp_path):
    sweep = new_sweep(tmp_path / "sweep")
    rng = random.Random(7)
    finals = [rng.uniform(0.1, 0.9) for _ in range(12)]
    others = curves(*finals)
    trials = [running(0.99, 1 - value, 1 - value) for value in finals]
    decisions = [should_prune(sweep, trial, others) for trial in trials]
    assert True in decisions and False in decisions
    shuffled = random.Random(1).sample(others, len(others))
    assert [should_prune(sweep, trial, shuffled) for trial in trials] == decisions


LENGTH = 9  # validations of a complete trial
LIVE_PRUNERS = {
    "median": lambda: optuna.pruners.MedianPruner(5, 2),
    "percentile:60": lambda: optuna.pruners.PercentilePruner(60.0, 5, 2),
    "threshold:0.7": lambda: optuna.pruners.ThresholdPruner(upper=0.7, n_warmup_steps=2),
    "patient:2": lambda: optuna.pruners.PatientPruner(None, 2),
    "successive_halving": lambda: optuna.pruners.SuccessiveHalvingPruner(2),
    "successive_halving:2": lambda: optuna.pruners.SuccessiveHalvingPruner(2, 2),
    "hyperband": lambda: optuna.pruners.HyperbandPruner(2, LENGTH, 3),
    "hyperband:2": lambda: optuna.pruners.HyperbandPruner(2, LENGTH, 2),
}


@pytest.mark.parametrize("name", LIVE_PRUNERS)
def test_pruning_from_the_table_decides_like_a_live_optuna_study(tmp_path, name):
    """One worker trains one trial after the other; the first is the unchanged config."""
    sweep = new_sweep(tmp_path / "sweep", pruner=name)
    rng = random.Random(3)
    table: list[Trial] = []
    decisions = []
    with quiet_optuna():
        study = optuna.create_study(study_name="sweep", pruner=LIVE_PRUNERS[name]())
    for number in range(12):
        optuna_trial = study.ask()
        kind = "search" if number else "base"
        final = rng.uniform(0.1, 0.9)
        values: list[float] = []
        trial = Trial(number, kind, {}, Path(), "running")
        for rung in range(1, LENGTH + 1):
            values.append(1 - (1 - final) * rung / LENGTH + rng.uniform(0, 0.2))
            curve = tuple((64 * i, min(values[:i])) for i in range(1, rung + 1))
            trial = dataclasses.replace(
                trial, curve=curve, values=tuple(values), value=curve[-1][1]
            )
            # Patience compares the values, the other pruners the best value so far.
            value = values[-1] if name.startswith("patient") else curve[-1][1]
            optuna_trial.report(value, rung)
            with quiet_optuna():
                expected = optuna_trial.should_prune() and kind == "search" and rung > 1
            # There is no later trial yet.
            assert should_prune(sweep, trial, [*table, trial]) == expected, (number, rung)
            if expected:
                study.tell(optuna_trial, state=optuna.trial.TrialState.PRUNED)
                trial = dataclasses.replace(trial, state="pruned")
                break
        else:
            study.tell(optuna_trial, trial.value)
            trial = dataclasses.replace(trial, state="complete")
        table.append(trial)
        decisions.append(trial.state)
    assert set(decisions) == {"complete", "pruned"}, decisions


def test_patience_with_median_prunes_only_if_both_prune(tmp_path):
    rng = random.Random(2)
    others = curves(*(rng.uniform(0.1, 0.9) for _ in range(8)))
    decisions = []
    for _ in range(12):
        values = [rng.uniform(0.2, 1.0) for _ in range(3)]
        curve = tuple((64 * i, min(values[:i])) for i in range(1, 4))
        trial = dataclasses.replace(running(*values), curve=curve, values=tuple(values))
        decisions.append(
            [
                should_prune(new_sweep(tmp_path / name, pruner=name), trial, others)
                for name in ("patient:1:median", "patient:1", "median")
            ]
        )
    assert all(both == (patient and median) for both, patient, median in decisions)
    assert len({tuple(row) for row in decisions}) >= 3


def test_a_resumed_trial_is_not_pruned_again(tmp_path):
    sweep = new_sweep(tmp_path / "sweep", pruner="threshold:0.5")
    trial = running(0.95, 0.9)
    assert should_prune(sweep, trial, [])
    assert not should_prune(sweep, dataclasses.replace(trial, is_spared=True), [])


def test_no_trial_is_pruned_before_prune_after_validations(tmp_path):
    for name in ("median", "threshold:0.5", "successive_halving", "hyperband:2"):
        sweep = new_sweep(tmp_path / name, pruner=name, prune_after=3)
        others = curves(0.1, 0.2, 0.3, 0.4, 0.5, 0.6)
        assert not should_prune(sweep, running(0.95, 0.9, 0.9), others), name
        # Trial 99 is in the bracket of Hyperband that can be pruned first.
        assert should_prune(sweep, running(0.95, 0.9, 0.9, 0.9), others), name


def test_a_threshold_of_a_score_is_a_lower_bound(tmp_path):
    sweep = new_sweep(tmp_path / "sweep", metric="bleu4", pruner="threshold:20")
    assert should_prune(sweep, running(5.0, 19.0), [])
    assert not should_prune(sweep, running(5.0, 21.0), [])


def test_hyperband_waits_for_a_complete_trial(tmp_path):
    sweep = new_sweep(tmp_path / "sweep", pruner="hyperband:2")
    others = curves(0.1, 0.2)
    assert should_prune(sweep, running(0.95, 0.9), others)
    unfinished = [dataclasses.replace(trial, state="running") for trial in others]
    assert not should_prune(sweep, running(0.95, 0.9), unfinished)


def test_seeds_of_the_best_trial_are_not_compared_in_rungs(tmp_path):
    sweep = new_sweep(tmp_path / "sweep", pruner="successive_halving")
    others = curves(0.1)
    assert should_prune(sweep, running(0.95, 0.9), others)
    seeds = [dataclasses.replace(trial, kind="seed") for trial in others]
    assert not should_prune(sweep, running(0.95, 0.9), seeds)


def test_pruners_by_name():
    assert pruner_of("quartile") == Pruner("quartile", 25.0)
    assert pruner_of("percentile:30") == Pruner("percentile", 30.0)
    assert pruner_of("hyperband") == Pruner("hyperband", 3.0)
    assert pruner_of("successive_halving:2") == Pruner("successive_halving", 2.0)
    assert pruner_of("patient:3:median") == Pruner("patient", 3.0, Pruner("median", 50.0))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("medium", "did you mean 'median'?"),
        ("wilcoxon", "independent problem instances"),
        ("median:30", "median takes no number"),
        ("percentile", "a SHARE above 0 and below 100"),
        ("percentile:100", "a SHARE above 0 and below 100"),
        ("threshold:inf", "a VALUE of the metric, as in threshold:0.9"),
        ("patient:0", "an integer >= 1"),
        ("patient:2:hyperband", "median, quartile and percentile:SHARE"),
        ("hyperband:1.5", "an integer >= 2"),
        ("hyperband:", "an integer >= 2"),
    ],
)
def test_invalid_pruners_are_refused(text, message):
    with pytest.raises(UsageError, match=message):
        pruner_of(text)
