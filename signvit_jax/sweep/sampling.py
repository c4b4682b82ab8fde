"""Optuna's answers for a sweep: which values to try next, and which keys matter.

Optuna keeps no state between calls: each function creates a study in memory from the trials that
the sweep has on the disk. Results depend only on these trials and on the sweep's seed.
"""

import contextlib
import dataclasses
import hashlib
import logging
import warnings
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Literal

from signvit_jax.config.typed_sections import flatten
from signvit_jax.errors.nearest import did_you_mean
from signvit_jax.runtime.exit_codes import UsageError
from signvit_jax.runtime.optional_deps import import_optional
from signvit_jax.sweep.space import Dimension, Value, grid
from signvit_jax.sweep.trial_files import Settings, Sweep, Trial, best_of, seeds_of

if TYPE_CHECKING:
    import optuna

SAMPLERS = ("tpe", "qmc", "random", "grid")
# Samplers of Optuna that `--sampler` does not offer, and why.
_NOT_OFFERED = {
    "cmaes": (
        "it needs the package cmaes, and keeps its state as a pickle in Optuna's storage, which a "
        "sweep does not have"
    ),
    "gp": "it needs the package torch, which is not among those that a sweep is tested with",
    "nsgaii": "it is for several metrics at once, and a sweep compares one",
    "nsgaiii": "it is for several metrics at once, and a sweep compares one",
    "brute_force": "it is called grid here",
}
_RANDOM_FIRST = 10  # TPE draws the values of this many first trials at random and learns from them
_MIN_TRIALS_FOR_IMPORTANCE = 4

log = logging.getLogger(__name__)


def next_parameters(sweep: Sweep, trials: Sequence[Trial], number: int) -> dict[str, Value] | None:
    """Return the values of trial `number`: config key -> value; None if the grid is exhausted.

    The first trial is the config as it is, so its dict is empty. The same `trials` give the same
    values.
    """
    settings = sweep.settings
    if not any(trial.kind == "base" for trial in trials):
        return {}
    if settings.sampler == "grid":
        tried = [trial.parameters for trial in trials if trial.kind == "search"]
        tried.append(base_values(sweep))  # the first trial
        return next((point for point in grid(settings.space) if point not in tried), None)
    import optuna

    with quiet_optuna():
        seed = _seed(settings.seed, number)
        if settings.sampler == "qmc":
            return _quasi_random(settings, sum(trial.kind == "search" for trial in trials))
        if settings.sampler == "random":
            sampler: optuna.samplers.BaseSampler = optuna.samplers.RandomSampler(seed)
        else:
            sampler = optuna.samplers.TPESampler(
                seed=seed,
                n_startup_trials=_RANDOM_FIRST,
                multivariate=True,
                group=True,
                constant_liar=True,
            )
        study = study_of(sweep, trials, sampler)
        suggested = study.ask({d.key: distribution_of(d) for d in settings.space})
        return {d.key: _rounded(d, suggested.params[d.key]) for d in settings.space}


def _quasi_random(settings: Settings, count: int) -> dict[str, Value]:
    """Return point `count` (from 0) of Sobol's sequence, scrambled by the sweep's seed."""
    import optuna

    distributions = {d.key: distribution_of(d) for d in settings.space}
    sampler = optuna.samplers.QMCSampler(scramble=True, seed=settings.seed)
    study = optuna.create_study(sampler=sampler)
    # The sampler reads the search space from the study's first trial, so add one with any values.
    # Each later `ask` gives the next point.
    any_values = {d.key: d.extremes[0] for d in settings.space}
    study.add_trial(
        optuna.trial.create_trial(value=0.0, params=any_values, distributions=distributions)
    )
    for _ in range(count):  # skip the points of earlier trials
        study.ask(distributions)
    suggested = study.ask(distributions)
    return {d.key: _rounded(d, suggested.params[d.key]) for d in settings.space}


def base_values(sweep: Sweep) -> dict[str, Value]:
    """Return the values that the sweep's config has for the searched keys."""
    flat = flatten(dataclasses.asdict(sweep.base))
    values: dict[str, Value] = {}
    for dimension in sweep.settings.space:
        value = flat[dimension.key]
        if isinstance(value, int | float | str | bool):
            values[dimension.key] = value
    return values


def check_sampler(settings: Settings) -> None:
    """Raise UsageError for an unknown sampler, a missing package, or a space without a grid."""
    if (name := settings.sampler) not in SAMPLERS:
        reason = f"{_NOT_OFFERED[name]}; " if name in _NOT_OFFERED else ""
        allowed = f"{', '.join(SAMPLERS)}{did_you_mean(name, SAMPLERS)}"
        raise UsageError(f"--sampler={name}: {reason}allowed: {allowed}")
    if settings.sampler == "grid":
        grid(settings.space)
    import_optional("optuna", "signvit sweep", UsageError)


def importance(sweep: Sweep, trials: Sequence[Trial]) -> dict[str, float]:
    """Return how much each searched key decides whether a trial is among the best tenth.

    Key -> share, by PED-ANOVA (Watanabe et al. 2023); the shares add up to 1. {} with fewer than
    _MIN_TRIALS_FOR_IMPORTANCE complete trials, or if all trials are alike.
    """
    complete = [t for t in trials if t.state == "complete" and t.kind != "seed"]
    if len(complete) < _MIN_TRIALS_FOR_IMPORTANCE:
        return {}
    import optuna

    with quiet_optuna():
        study = study_of(sweep, complete, optuna.samplers.RandomSampler(0))
        if len(study.trials) < _MIN_TRIALS_FOR_IMPORTANCE:
            return {}
        evaluator = optuna.importance.PedAnovaImportanceEvaluator()
        try:
            return dict(optuna.importance.get_param_importances(study, evaluator=evaluator))
        except (ValueError, RuntimeError) as error:  # all trials alike
            log.info("the importance of the keys cannot be computed: %s", error)
            return {}


def seeds_verdict(settings: Settings, trials: Sequence[Trial]) -> str:
    """Return a sentence: does the best trial gain more over the config than its seeds differ?

    "" if the first trial or all but one of the other seeds of the best trial have no value yet.
    """
    best, base = best_of(settings, trials), _base(trials)
    values = [t.value for t in seeds_of(best, trials) if t.value is not None]
    if best is None or base is None or base.value is None:
        return ""
    if best.kind == "base":
        return f"no trial was better than the config untouched ({settings.metric} {base.value:.4g})"
    if len(values) < 2:
        return ""
    mean, spread = sum(values) / len(values), max(values) - min(values)
    gain = mean - base.value if settings.higher_is_better else base.value - mean
    compared = "exceeds" if gain > spread else "does not exceed"
    return (
        f"{settings.metric} of the best trial with {len(values)} other seeds: {mean:.4g} on "
        f"average, {min(values):.4g} to {max(values):.4g}; the config untouched: {base.value:.4g} "
        f"(one seed). The gain of {gain:.4g} {compared} the spread of the seeds, {spread:.4g}"
    )


def _base(trials: Sequence[Trial]) -> Trial | None:
    return next((trial for trial in trials if trial.kind == "base"), None)


def study_of(
    sweep: Sweep, trials: Sequence[Trial], sampler: "optuna.samplers.BaseSampler"
) -> "optuna.Study":
    """Return the sweep's trials as a study of Optuna.

    A trial that ran out of memory or whose config was refused counts as pruned before its first
    value, so that the sampler avoids such values. The study leaves out failed trials, repetitions
    with other seeds, and trials with values outside the search space (as the config may have).
    """
    import optuna

    states = {
        "complete": optuna.trial.TrialState.COMPLETE,
        "pruned": optuna.trial.TrialState.PRUNED,
        "out_of_memory": optuna.trial.TrialState.PRUNED,
        "invalid": optuna.trial.TrialState.PRUNED,
        "running": optuna.trial.TrialState.RUNNING,
        "waiting": optuna.trial.TrialState.RUNNING,
    }
    study = optuna.create_study(direction=direction(sweep.settings), sampler=sampler)
    distributions = {d.key: distribution_of(d) for d in sweep.settings.space}
    base = base_values(sweep)
    for trial in sorted(trials, key=lambda trial: trial.number):
        if trial.kind == "seed" or trial.state not in states:
            continue
        with contextlib.suppress(ValueError):  # values outside the search space
            study.add_trial(
                optuna.trial.create_trial(
                    state=states[trial.state],
                    value=trial.value if trial.state == "complete" else None,
                    params=base | trial.parameters,
                    distributions=distributions,
                    intermediate_values=(
                        dict(trial.curve) if trial.state in ("complete", "pruned") else {}
                    ),
                )
            )
    return study


def distribution_of(dimension: Dimension) -> "optuna.distributions.BaseDistribution":
    """Return a dimension of the search space as Optuna has it."""
    from optuna.distributions import (
        CategoricalDistribution,
        FloatDistribution,
        IntDistribution,
    )

    if dimension.choices:
        return CategoricalDistribution(dimension.choices)
    if dimension.integer:
        step = round(dimension.step) or 1
        low, high = round(dimension.low), round(dimension.high)
        return IntDistribution(low, high, log=dimension.log, step=step)
    return FloatDistribution(
        dimension.low, dimension.high, log=dimension.log, step=dimension.step or None
    )


def _rounded(dimension: Dimension, value: Value) -> Value:
    if dimension.choices or isinstance(value, str | bool):
        return value
    return dimension.rounded(value)


def direction(settings: Settings) -> Literal["maximize", "minimize"]:
    """Return whether higher or lower values of the metric are better, in Optuna's words."""
    return "maximize" if settings.higher_is_better else "minimize"


def _seed(seed: int, number: int) -> int:
    """Return a different seed for each trial; it is the same on every host."""
    # Not Python's hash(), which differs between processes. RandomState takes seeds of 4 bytes.
    return int.from_bytes(hashlib.sha256(f"{seed} {number}".encode()).digest()[:4], "big")


@contextlib.contextmanager
def quiet_optuna() -> Iterator[None]:
    """Silence Optuna's message about each trial and its warnings about experimental options."""
    import optuna

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
