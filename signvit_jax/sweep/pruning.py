"""Which trials to stop early, decided by Optuna's pruners from the trials' files.

All functions depend only on the table of trials. For each decision, an Optuna study is created in
memory and the validations of every trial are replayed into it, in the order of the trials' numbers.
"""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from signvit_jax.errors.nearest import did_you_mean
from signvit_jax.runtime.exit_codes import UsageError
from signvit_jax.sweep.sampling import direction, quiet_optuna
from signvit_jax.sweep.trial_files import Settings, Sweep, Trial

if TYPE_CHECKING:
    import optuna

_FORMS = {
    "median": "",
    "quartile": "",
    "percentile": ":SHARE",
    "threshold": ":VALUE",
    "patient": ":VALIDATIONS[:PRUNER]",
    "successive_halving": "[:FACTOR]",
    "hyperband": "[:FACTOR]",
    "none": "",
}
PRUNER_FORMS = tuple(name + form for name, form in _FORMS.items())
# Pruners of Optuna that are not offered, and why.
_NOT_OFFERED = {
    "wilcoxon": "it compares independent problem instances, which validations of one run are not"
}
_SHARES = {"median": 50.0, "quartile": 25.0}
_FACTORS = {"successive_halving": 4.0, "hyperband": 3.0}  # Optuna's
_COMPARED = 5  # a trial is stopped by a percentile only once this many others are complete


class Pruner(NamedTuple):
    """A pruner of Optuna's. `number`: as in `NAME:NUMBER`. `wrapped`: what "patient" holds back."""

    name: str
    number: float = 0.0
    wrapped: "Pruner | None" = None

    @property
    def has_rungs(self) -> bool:
        """True if trials compete only at a few validations (rungs), together with pruned ones."""
        return self.name in _FACTORS


def pruner_of(text: str) -> Pruner:
    """Read NAME or NAME:NUMBER, as in `percentile:30`. Raises UsageError."""
    name, has_number, rest = text.partition(":")
    if name not in _FORMS:
        reason = f"{_NOT_OFFERED[name]}; " if name in _NOT_OFFERED else ""
        raise UsageError(
            f"--pruner={text}: {reason}allowed: {', '.join(PRUNER_FORMS)}"
            f"{did_you_mean(name, _FORMS)}"
        )
    wrapped = None
    if name == "patient":
        rest, has_wrapped, other = rest.partition(":")
        wrapped = pruner_of(other) if has_wrapped else None
        if wrapped is not None and wrapped.name not in (*_SHARES, "percentile"):
            raise UsageError(
                f"--pruner={text}: patient can hold back median, quartile and percentile:SHARE"
            )
    number = _number(rest)
    allowed = {
        "percentile": ("a SHARE above 0 and below 100", 0 < number < 100),
        "threshold": (f"a VALUE of the metric, as in {name}:0.9", math.isfinite(number)),
        "patient": ("VALIDATIONS, an integer >= 1", number >= 1 and number.is_integer()),
        "successive_halving": ("a FACTOR, an integer >= 2", number >= 2 and number.is_integer()),
        "hyperband": ("a FACTOR, an integer >= 2", number >= 2 and number.is_integer()),
    }
    if name in _SHARES or name == "none":
        if has_number:
            raise UsageError(f"--pruner={text}: {name} takes no number")
        return Pruner(name, _SHARES.get(name, 0.0))
    if name in _FACTORS and not has_number:
        return Pruner(name, _FACTORS[name])
    what, fits = allowed[name]
    if not fits:
        raise UsageError(f"--pruner={text}: {name} takes {what}")
    return Pruner(name, number, wrapped)


def should_prune(sweep: Sweep, trial: Trial, trials: Sequence[Trial]) -> bool:
    """Return True if a running trial is to be stopped, as of its latest validation.

    Trials with different batch sizes are compared at equal numbers of clips, not of steps. The
    config untouched, the repetitions of the best, and pruned trials that were resumed always run to
    their end.
    """
    settings = sweep.settings
    pruner = pruner_of(settings.pruner)
    spared = trial.kind != "search" or trial.is_spared
    if pruner.name == "none" or spared or len(trial.curve) <= settings.prune_after:
        return False
    import optuna

    with quiet_optuna():
        of_optuna = _optuna_pruner(pruner, settings, trial, trials)
        if of_optuna is None:
            return False
        study = optuna.create_study(
            direction=direction(settings),
            pruner=of_optuna,
            study_name="sweep",  # Hyperband's brackets follow from it and the trials' numbers
            sampler=optuna.samplers.RandomSampler(0),
        )
        others = {other.number: other for other in trials if other.number != trial.number}
        replays = [study.ask() for _ in range(max([trial.number, *others]) + 1)]
        running = replays[trial.number]
        for number, replayed in enumerate(replays):
            if number == trial.number:
                continue
            if (other := others.get(number)) is None or not _is_compared(other):
                study.tell(replayed, state=optuna.trial.TrialState.FAIL)
            else:
                _replay(study, replayed, other, trial, has_rungs=pruner.has_rungs)
        # Report the best value so far. Only "patient" must see values that got worse.
        reported = [best for _, best in trial.curve]
        if pruner.name == "patient" and len(trial.values) == len(reported):
            reported = list(trial.values)
        for rung, value in enumerate(reported, 1):
            running.report(value, rung)
            if pruner.has_rungs and rung < len(reported):
                running.should_prune()  # enters the trial in the rung
        return bool(running.should_prune())


def _is_compared(trial: Trial) -> bool:
    """Return True for trials whose values others are compared with."""
    has_not_failed = trial.state in ("complete", "pruned", "running", "waiting")
    return has_not_failed and trial.kind != "seed" and bool(trial.curve)


def _replay(
    study: "optuna.Study",
    replayed: "optuna.Trial",
    other: Trial,
    trial: Trial,
    *,
    has_rungs: bool,
) -> None:
    """Report what `other` had after as many clips as `trial` at each of its validations."""
    import optuna

    for rung, (clips, _) in enumerate(trial.curve, 1):
        if (value := value_at(other, clips, trial.batch_size)) is not None:
            replayed.report(value, rung)
            if has_rungs:
                replayed.should_prune()  # enters the trial in the rung, whatever the answer
    if other.state == "complete":
        study.tell(replayed, other.value)
    elif other.state == "pruned":
        study.tell(replayed, state=optuna.trial.TrialState.PRUNED)


def _optuna_pruner(
    pruner: Pruner, settings: Settings, trial: Trial, trials: Sequence[Trial]
) -> "optuna.pruners.BasePruner | None":
    """Optuna's pruner, whose steps are the validations of `trial`; None if it cannot decide yet."""
    from optuna import pruners

    first = settings.prune_after + 1  # the validation after which a trial can be stopped
    if pruner.name in (*_SHARES, "percentile"):
        return pruners.PercentilePruner(
            pruner.number, n_startup_trials=_COMPARED, n_warmup_steps=first
        )
    if pruner.name == "threshold":
        worst = pruner.number
        lower, upper = (worst, None) if settings.higher_is_better else (None, worst)
        return pruners.ThresholdPruner(lower, upper, n_warmup_steps=first)
    if pruner.name == "patient":
        wrapped = pruner.wrapped and _optuna_pruner(pruner.wrapped, settings, trial, trials)
        return pruners.PatientPruner(wrapped, int(pruner.number))
    factor = int(pruner.number)
    if pruner.name == "successive_halving":
        return pruners.SuccessiveHalvingPruner(min_resource=first, reduction_factor=factor)
    complete = [one for one in trials if one.state == "complete" and one.kind != "seed"]
    if not complete:
        return None
    # Always the number of the first complete trial, so that a trial stays in its bracket.
    clips = min(complete, key=lambda one: one.number).curve[-1][0]
    validations = round(clips * len(trial.curve) / max(trial.curve[-1][0], 1))
    return pruners.HyperbandPruner(first, max(validations, first), factor)


def value_at(trial: Trial, clips: int, batch_size: int) -> float | None:
    """The best value of a trial after `clips` clips; None if it has not seen as many.

    `batch_size`: of the trial that it is compared with. The last batch of an epoch is padded, so
    with two batch sizes the counts at the end of an epoch differ by up to a batch.
    """
    tolerance = max(batch_size, trial.batch_size)
    until_then = [best for count, best in trial.curve if count <= clips + tolerance]
    if not until_then or trial.curve[-1][0] < clips - tolerance:
        return None
    return until_then[-1]


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return math.nan
