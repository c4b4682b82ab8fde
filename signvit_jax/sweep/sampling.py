"""What to try next, what to stop early, and which keys matter: by Optuna, from the trials' files.

Optuna holds no state: its study is made in memory from the table of trials each time. Everything
here is a function of that table and of the sweep's seed.
"""

import contextlib
import dataclasses
import hashlib
import logging
import warnings
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Literal

from signvit_jax.config.typed_sections import flatten
from signvit_jax.runtime.exit_codes import UsageError
from signvit_jax.runtime.optional_deps import import_optional
from signvit_jax.sweep.space import Dimension, Value, grid
from signvit_jax.sweep.trial_files import Settings, Sweep, Trial, best_of

if TYPE_CHECKING:
    import optuna

SAMPLERS = ("tpe", "random", "grid")
PRUNERS = ("median", "quartile", "none")
_RANDOM_FIRST = 10  # trials before TPE has enough to go by
_COMPARED = 5  # finished trials before one is stopped early
_RUNGS_SPARED = 1  # validations of a trial before it can be stopped
_LEAST_FOR_IMPORTANCE = 4

log = logging.getLogger(__name__)


def next_parameters(sweep: Sweep, trials: Sequence[Trial], number: int) -> dict[str, Value] | None:
    """The values of trial `number`; None if a grid has no more.

    The first trial changes nothing. The same table gives the same values.
    """
    settings = sweep.settings
    if not any(trial.kind == "base" for trial in trials):
        return {}
    if settings.sampler == "grid":
        seen = [trial.parameters for trial in trials if trial.kind == "search"]
        base = base_values(sweep)
        left = (point for point in grid(settings.space) if point not in seen and point != base)
        return next(left, None)
    import optuna

    with _quiet_optuna():
        seed = _seed(settings.seed, number)
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
        study = _study(sweep, trials, sampler)
        asked = study.ask({d.key: _distribution(d) for d in settings.space})
        return {d.key: _rounded(d, asked.params[d.key]) for d in settings.space}


def base_values(sweep: Sweep) -> dict[str, Value]:
    """The values of the searched keys in the config."""
    flat = flatten(dataclasses.asdict(sweep.base))
    values: dict[str, Value] = {}
    for dimension in sweep.settings.space:
        value = flat[dimension.key]
        if isinstance(value, int | float | str | bool):
            values[dimension.key] = value
    return values


def check_sampler(settings: Settings) -> None:
    """Raise UsageError for a missing Optuna, and for a grid of what has no grid."""
    if settings.sampler == "grid":
        grid(settings.space)
    import_optional("optuna", "signvit sweep", UsageError)


def should_prune(sweep: Sweep, trial: Trial, trials: Sequence[Trial]) -> bool:
    """Return True if a running trial does worse than finished ones did after as many clips.

    Trials with other batch sizes are compared at equal clips seen, not at equal steps. The config
    untouched and the repetitions of the best always run to their end.
    """
    settings = sweep.settings
    if settings.pruner == "none" or trial.kind != "search" or not trial.curve:
        return False
    import optuna

    with _quiet_optuna():
        percentile = {"median": 50.0, "quartile": 25.0}[settings.pruner]
        pruner = optuna.pruners.PercentilePruner(
            percentile, n_startup_trials=_COMPARED, n_warmup_steps=_RUNGS_SPARED + 1
        )
        study = optuna.create_study(direction=_direction(settings), pruner=pruner)
        for other in sorted(trials, key=lambda one: one.number):
            if other.state != "complete" or other.kind == "seed" or other.value is None:
                continue
            values = {}
            for rung, (clips, _) in enumerate(trial.curve, 1):
                if (value := value_at(other, clips, trial.batch_size)) is not None:
                    values[rung] = value
            study.add_trial(
                optuna.trial.create_trial(value=other.value, intermediate_values=values)
            )
        running = optuna.trial.create_trial(
            state=optuna.trial.TrialState.RUNNING,
            intermediate_values={rung: best for rung, (_, best) in enumerate(trial.curve, 1)},
        )
        return bool(pruner.prune(study, running))


def value_at(trial: Trial, clips: int, batch_size: int) -> float | None:
    """The best value of a trial once it had seen `clips`; None if it has not seen as many.

    The last batch of an epoch is filled up, so that two batch sizes give ends of epochs that differ
    by up to a batch.
    """
    tolerance = max(batch_size, trial.batch_size)
    seen = [best for at, best in trial.curve if at <= clips + tolerance]
    if not seen or trial.curve[-1][0] < clips - tolerance:
        return None
    return seen[-1]


def importance(sweep: Sweep, trials: Sequence[Trial]) -> dict[str, float]:
    """How much each searched key decides whether a trial is among the best tenth, in shares of 1.

    By PED-ANOVA (Watanabe et al. 2023); {} with fewer than four complete trials.
    """
    complete = [t for t in trials if t.state == "complete" and t.kind != "seed"]
    if len(complete) < _LEAST_FOR_IMPORTANCE:
        return {}
    import optuna

    with _quiet_optuna():
        study = _study(sweep, complete, optuna.samplers.RandomSampler(0))
        if len(study.trials) < _LEAST_FOR_IMPORTANCE:
            return {}
        evaluator = optuna.importance.PedAnovaImportanceEvaluator()
        try:
            return dict(optuna.importance.get_param_importances(study, evaluator=evaluator))
        except (ValueError, RuntimeError) as error:  # all trials alike
            log.info("the importance of the keys cannot be computed: %s", error)
            return {}


def seeds_verdict(settings: Settings, trials: Sequence[Trial]) -> str:
    """Say whether the gain of the best trial exceeds the spread of its seeds; "" without them."""
    best, base = best_of(settings, trials), _base(trials)
    values = [t.value for t in trials if t.kind == "seed" and t.value is not None]
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


def _study(
    sweep: Sweep, trials: Sequence[Trial], sampler: "optuna.samplers.BaseSampler"
) -> "optuna.Study":
    """The trials of the search as Optuna sees them.

    Those that ran out of memory or were refused count as pruned before their first value: the
    sampler then avoids such values. Failed ones say nothing. A trial whose values are outside the
    space, as those of the config may be, is left out.
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
    study = optuna.create_study(direction=_direction(sweep.settings), sampler=sampler)
    distributions = {d.key: _distribution(d) for d in sweep.settings.space}
    base = base_values(sweep)
    for trial in sorted(trials, key=lambda one: one.number):
        if trial.kind == "seed" or trial.state not in states:
            continue
        with contextlib.suppress(ValueError):
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


def _distribution(dimension: Dimension) -> "optuna.distributions.BaseDistribution":
    from optuna.distributions import (
        CategoricalDistribution,
        FloatDistribution,
        IntDistribution,
    )

    if dimension.choices:
        return CategoricalDistribution(dimension.choices)
    if dimension.integer:
        step = round(dimension.step) or 1
        return IntDistribution(round(dimension.low), round(dimension.high), dimension.log, step)
    return FloatDistribution(
        dimension.low, dimension.high, dimension.log, step=dimension.step or None
    )


def _rounded(dimension: Dimension, value: Value) -> Value:
    if dimension.choices or isinstance(value, str | bool):
        return value
    return dimension.rounded(value)


def _direction(settings: Settings) -> Literal["maximize", "minimize"]:
    return "maximize" if settings.higher_is_better else "minimize"


def _seed(seed: int, number: int) -> int:
    """A seed of its own for each trial, the same on every host."""
    return int.from_bytes(hashlib.sha256(f"{seed} {number}".encode()).digest()[:4], "big")


@contextlib.contextmanager
def _quiet_optuna() -> Iterator[None]:
    """Keep Optuna from messages of every trial, and from warnings about experimental options."""
    import optuna

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
