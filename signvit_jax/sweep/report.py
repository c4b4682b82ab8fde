"""A sweep as a table for the terminal and as one HTML page."""

import math
import shlex
from collections.abc import Mapping, Sequence

from signvit_jax.config.files import load_config
from signvit_jax.errors.base import SignVitError
from signvit_jax.reports.html_kit import header, page, paragraph, section, table, text
from signvit_jax.sweep.sampling import base_values, importance, seeds_verdict
from signvit_jax.sweep.space import Dimension, Value, with_absolute_paths
from signvit_jax.sweep.trial_files import Sweep, Trial, best_of, override_flags, seeds_of

_WIDTH, _HEIGHT, _MARGIN = 720, 260, 46  # of a chart
_COLORS = {
    "complete": "var(--accent)",
    "running": "var(--good)",
    "pruned": "var(--soft)",
    "failed": "var(--bad)",
}
WORKDIR = "runs/best"  # of the command that trains the winner


def winning_flags(sweep: Sweep, trial: Trial, workdir: str = WORKDIR) -> list[str]:
    """The flags of `signvit train` that train a trial again.

    They name the config and the overrides that the sweep was started with. If these give another
    config by now, because a file was changed or a preset is of a later release, they name the
    config that the sweep has stored.
    """
    settings = sweep.settings
    config_flags = [
        f"--config={settings.config}",
        *(f"--config.{key}={value}" for key, value in settings.overrides),
    ]
    try:
        config_now = with_absolute_paths(load_config(settings.config, settings.overrides))
        if config_now != sweep.base:
            config_flags = [f"--config={sweep.config_file}"]
    except (SignVitError, OSError):
        config_flags = [f"--config={sweep.config_file}"]
    return [*config_flags, *override_flags(trial.parameters), f"--workdir={workdir}"]


def winning_command(sweep: Sweep, trial: Trial, workdir: str = WORKDIR) -> str:
    """The command line that trains a trial again."""
    return f"signvit train {shlex.join(winning_flags(sweep, trial, workdir))}"


def ranked(sweep: Sweep, trials: Sequence[Trial]) -> list[Trial]:
    """The trials, best value first; then those without a value, by number."""
    sign = -1.0 if sweep.settings.higher_is_better else 1.0
    order = {"complete": 0, "running": 1, "pruned": 2}

    def place(trial: Trial) -> tuple[int, float, int]:
        value = float("inf") if trial.value is None else sign * trial.value
        return order.get(trial.state, 3), value, trial.number

    return sorted(trials, key=place)


def columns(sweep: Sweep) -> list[str]:
    keys = [dimension.key for dimension in sweep.settings.space]
    return ["trial", "state", f"best {sweep.settings.metric}", "step", "worker", *keys]


def row_of(sweep: Sweep, trial: Trial, seeds: Sequence[Trial]) -> list[str]:
    """The cells of a trial; parameters that are as in the config are in parentheses.

    `seeds`: the repetitions of the best trial.
    """
    base = base_values(sweep)
    cells = []
    for dimension in sweep.settings.space:
        key = dimension.key
        value = trial.parameters.get(key, base.get(key, ""))
        cells.append(str(value) if key in trial.parameters else f"({value})")
    kind = "the config untouched" if trial.kind == "base" else ""
    if trial.kind == "seed":
        which = "the best" if trial in seeds else "an earlier best"
        kind = f"{which} again, seed {trial.parameters.get('training.seed')}"
    return [
        f"{trial.number}" + (f" {kind}" if kind else ""),
        trial.state.replace("_", " "),
        "" if trial.value is None else f"{trial.value:.4g}",
        str(trial.step) if trial.step >= 0 else "",
        trial.holder if trial.state == "running" else "",
        *cells,
    ]


def render(sweep: Sweep, trials: Sequence[Trial]) -> str:
    """The page's HTML."""
    settings = sweep.settings
    best = best_of(settings, trials)
    seeds = seeds_of(best, trials)
    states = {trial.state: 0 for trial in trials}
    for trial in trials:
        states[trial.state] += 1
    counts = ", ".join(f"{count} {state.replace('_', ' ')}" for state, count in states.items())
    direction = "higher" if settings.higher_is_better else "lower"
    sections = [
        header(
            "Sweep",
            f"{text(settings.config)}; {text(settings.metric)}, {direction} is better; "
            f"{text(settings.sampler)}, pruned by {text(settings.pruner)}; {text(counts)}",
        ),
        _winner(sweep, trials, best),
        section(
            "Curves",
            _curves(sweep, trials, best),
            "The best value so far of each trial, by the clips that it has seen. Bold: the best "
            "trial; black: the config untouched; gray: pruned.",
        ),
        _importance(sweep, trials),
        section(
            "Parameters",
            _parallel(sweep, trials, best),
            "A line is a complete trial, from the value of each key to the result on the right.",
        ),
        section(
            "Trials",
            table(
                columns(sweep),
                [[text(c) for c in row_of(sweep, t, seeds)] for t in ranked(sweep, trials)],
            ),
            "Best first. Values in parentheses are those of the config.",
        ),
        _reasons(trials),
    ]
    return page(f"Sweep of {settings.config}", [part for part in sections if part], _STYLE)


def _winner(sweep: Sweep, trials: Sequence[Trial], best: Trial | None) -> str:
    if best is None or best.value is None:
        return section("Best", paragraph("No trial is complete yet."))
    changed = ", ".join(f"{key}={value}" for key, value in best.parameters.items())
    verdict = seeds_verdict(sweep.settings, trials)
    parts = [
        f"<p>Trial {best.number}: {text(sweep.settings.metric)} <strong>{best.value:.4g}</strong> "
        f"with {text(changed or 'the config untouched')}.</p>",
        f"<p>{text(verdict)}.</p>" if verdict else "",
        f"<pre>{text(winning_command(sweep, best))}</pre>",
    ]
    return section("Best", "".join(parts))


def _importance(sweep: Sweep, trials: Sequence[Trial]) -> str:
    shares = importance(sweep, trials)
    if not shares:
        return ""
    rows = [
        [
            text(key),
            f"{share:.0%}",
            f"<svg class=bar viewBox='0 0 100 10' preserveAspectRatio=none role=img "
            f"aria-label='{share:.0%}'><rect width='{100 * share:.1f}' height=10 /></svg>",
        ]
        for key, share in shares.items()
    ]
    return section(
        "Importance",
        table(["key", "share", ""], rows),
        "How much each key decides whether a trial is among the best tenth (PED-ANOVA). With a few "
        "dozen trials this is a hint.",
    )


def _curves(sweep: Sweep, trials: Sequence[Trial], best: Trial | None) -> str:
    drawn = [trial for trial in trials if trial.curve and trial.kind != "seed"]
    if not drawn:
        return paragraph("No trial has been validated yet.")
    max_clips = max(trial.curve[-1][0] for trial in drawn)
    values = sorted(value for trial in drawn for _, value in trial.curve)
    # A diverged trial would flatten all others.
    low, high = values[0], values[min(int(0.98 * len(values)), len(values) - 1)]
    span = (high - low) or abs(high) or 1.0

    def point(clips: int, value: float) -> str:
        x = _MARGIN + clips / max(max_clips, 1) * (_WIDTH - _MARGIN - 8)
        share = min(max((value - low) / span, 0.0), 1.0)
        return f"{x:.1f},{8 + (1 - share) * (_HEIGHT - 36):.1f}"

    lines = []
    for trial in sorted(drawn, key=lambda one: (one == best, one.kind == "base")):
        points = [point(clips, value) for clips, value in trial.curve]
        kind = "best" if trial == best else trial.kind
        color = "var(--ink)" if trial.kind == "base" else _COLORS.get(trial.state, "var(--soft)")
        mark = (
            f"<polyline points='{' '.join(points)}' />"
            if len(points) > 1
            else f"<circle cx='{points[0].split(',')[0]}' cy='{points[0].split(',')[1]}' r=3 />"
        )
        lines.append(
            f"<g class='{kind} {trial.state}' stroke='{color}' fill='none'>{mark}"
            f"<title>trial {trial.number}: {trial.curve[-1][1]:.4g}</title></g>"
        )
    axes = (
        f"<text x=0 y=18>{high:.3g}</text><text x=0 y='{_HEIGHT - 28}'>{low:.3g}</text>"
        f"<text x='{_MARGIN}' y='{_HEIGHT - 6}'>0</text>"
        f"<text x='{_WIDTH - 8}' y='{_HEIGHT - 6}' text-anchor=end>{max_clips:,} clips</text>"
    )
    return _svg(axes + "".join(lines), f"{sweep.settings.metric} by clips seen")


def _parallel(sweep: Sweep, trials: Sequence[Trial], best: Trial | None) -> str:
    complete = [t for t in trials if t.state == "complete" and t.kind != "seed"]
    if len(complete) < 2:
        return paragraph("Needs two complete trials.")
    base = base_values(sweep)
    axes = sweep.settings.space
    values = [trial.value for trial in complete if trial.value is not None]
    low, high = min(values), max(values)
    gap = (_WIDTH - 80) / len(axes)

    def line(trial: Trial) -> str:
        found: Mapping[str, Value] = base | trial.parameters
        heights = [_place(axis, found.get(axis.key)) for axis in axes]
        assert trial.value is not None  # complete trials have one
        share = (trial.value - low) / ((high - low) or 1.0)
        heights.append(1 - share if sweep.settings.higher_is_better else share)
        points = " ".join(
            f"{40 + i * gap:.1f},{24 + height * (_HEIGHT - 64):.1f}"
            for i, height in enumerate(heights)
        )
        kind = "best" if trial == best else trial.kind
        color = "var(--ink)" if trial.kind == "base" else "var(--accent)"
        return (
            f"<g class='{kind} complete' stroke='{color}' fill=none><polyline points='{points}' />"
            f"<title>trial {trial.number}: {trial.value:.4g}</title></g>"
        )

    ends = [(axis.extremes[0], axis.extremes[-1]) for axis in axes]
    # Numbers rise upward, choices are listed downward.
    tops = [str(first if axis.choices else last) for axis, (first, last) in zip(axes, ends)]
    bottoms = [str(last if axis.choices else first) for axis, (first, last) in zip(axes, ends)]
    names = [*(axis.key.split(".")[-1] for axis in axes), sweep.settings.metric]
    best_end, worst_end = (high, low) if sweep.settings.higher_is_better else (low, high)
    labels = "".join(
        f"<line class=axis x1='{x:.1f}' x2='{x:.1f}' y1=24 y2='{_HEIGHT - 40}' />"
        f"<text x='{x:.1f}' y=14 text-anchor=middle>{text(top)}</text>"
        f"<text x='{x:.1f}' y='{_HEIGHT - 26}' text-anchor=middle>{text(bottom)}</text>"
        f"<text x='{x:.1f}' y='{_HEIGHT - 8}' text-anchor=middle>{text(name)}</text>"
        for x, name, top, bottom in zip(
            (40 + i * gap for i in range(len(names))),
            names,
            [*tops, f"{best_end:.3g}"],
            [*bottoms, f"{worst_end:.3g}"],
        )
    )
    ordered = sorted(complete, key=lambda one: (one == best, one.kind == "base"))
    return _svg(labels + "".join(map(line, ordered)), "parameters and result of each trial")


def _place(axis: Dimension, value: Value | None) -> float:
    """The place of a value on its axis, 0 at the top to 1; values out of range are at an end."""
    if axis.choices:
        index = axis.choices.index(value) if value in axis.choices else 0
        return index / (len(axis.choices) - 1)
    number = float(value) if isinstance(value, int | float) else axis.low
    low, high = axis.low, axis.high
    if axis.log:
        number, low, high = math.log(max(number, 1e-300)), math.log(low), math.log(high)
    return min(max(1 - (number - low) / (high - low), 0.0), 1.0)


def _reasons(trials: Sequence[Trial]) -> str:
    rows = [
        [str(t.number), text(t.state.replace("_", " ")), text(t.reason)]
        for t in trials
        if t.reason and t.state != "pruned"
    ]
    if not rows:
        return ""
    return section("Not completed", table(["trial", "state", "reason"], rows, "text"))


def _svg(content: str, label: str) -> str:
    return (
        f"<svg class=chart viewBox='0 0 {_WIDTH} {_HEIGHT}' role=img aria-label='{text(label)}'>"
        f"{content}</svg>"
    )


_STYLE = """
.chart { width: 100%; height: auto; max-width: 48rem; }
.chart text { font-size: 11px; fill: var(--soft); }
.chart g { stroke-width: 1.2; opacity: .55; }
.chart g.best { stroke-width: 3; opacity: 1; }
.chart g.base { stroke-width: 2; opacity: 1; }
.chart .axis { stroke: var(--line); }
.bar { width: 12rem; height: .7rem; fill: var(--accent); background: var(--line); }
pre { white-space: pre-wrap; background: var(--tint); padding: .7rem 1rem; border-radius: 4px; }
"""
