"""Plot the metrics of a run: metrics.png from metrics.csv."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from signvit_jax.files.atomic import write_atomically
from signvit_jax.telemetry.metric_writer import read_metrics

Series = dict[str, tuple[list[int], list[float]]]
_QUALITY = {
    "validation/wer": "WER",
    "validation/bleu4": "BLEU-4",
    "validation/chrf": "chrF",
    "validation/exact_match": "exact match",
}
_COLORS = {"total": "#1b4f8a", "ce": "#d1742c", "ctc": "#4d8f5b", "other": "#7a5ba6"}


def plot_metrics(
    metrics_csv: Path, image: Path, best_metric: str = "loss", best_step: int | None = None
) -> None:
    """Draw losses, translation quality (if there is any) and learning rates over steps.

    A star marks the best checkpoint, on the curve of `best_metric`. An empty metrics.csv gives no
    image. Raises OSError.
    """
    series = read_metrics(metrics_csv)
    if not any(steps for steps, _ in series.values()):
        return
    panels = [_losses, _rates]
    if any(name in series for name in _QUALITY):
        panels.insert(1, _quality)
    with matplotlib.rc_context(
        {
            "axes.spines.top": False,
            "axes.spines.right": False,
            "axes.grid": True,
            "grid.alpha": 0.25,
            "font.size": 10,
        }
    ):
        # Without pyplot: no display, no window, nothing shared with a notebook that trains.
        figure = Figure(figsize=(9, 2.1 + 2.3 * len(panels)))
        axes = figure.subplots(
            len(panels), 1, sharex=True, height_ratios=[2] + [1] * (len(panels) - 1)
        )
        # Fixed margins: a computed layout takes twice as long.
        figure.subplots_adjust(left=0.09, right=0.98, top=0.95, bottom=0.065, hspace=0.14)
        for axis, draw in zip(axes, panels):
            draw(axis, series)
        _mark_best(axes, series, best_metric, best_step)
        axes[-1].set_xlabel("step")
        axes[0].set_title(metrics_csv.parent.name, loc="left", fontweight="bold")
        write_atomically(image, lambda file: figure.savefig(file, format="png", dpi=120))


def _losses(axis: Axes, series: Series) -> None:
    validation = {"linestyle": "--", "marker": "o", "markersize": 3}
    for name, label in (("ctc", "CTC"), ("ce", "cross entropy"), ("loss", "total")):
        line = {
            "color": _COLORS["total" if name == "loss" else name],
            "linewidth": 1.8 if name == "loss" else 1.1,
        }
        _line(axis, series, f"train/{name}", f"{label}, training", smooth=True, **line)
        _line(axis, series, f"validation/{name}", f"{label}, validation", **line, **validation)
    if any((np.asarray(line.get_ydata()) > 0).any() for line in axis.lines):
        axis.set_yscale("log")
    axis.yaxis.set_major_formatter("{x:g}")
    axis.yaxis.set_minor_formatter(lambda x, _: f"{x:g}" if f"{x:e}"[0] in "235" else "")
    axis.set_ylabel("loss")
    axis.legend(fontsize=8, ncols=2, frameon=False)


def _mark_best(axes: Sequence[Axes], series: Series, metric: str, step: int | None) -> None:
    name = f"validation/{metric}"
    steps, values = _finite(series.get(name, ([], [])))
    at = np.flatnonzero(steps == step)
    if step is None or not len(at):
        return
    value = values[at[-1]]
    if metric == "loss":
        axis, columns, label, height = axes[0], 2, "loss", value
    else:
        axis, columns, label, height = axes[1], 3, _QUALITY[name], value * _to_percent(name)
    mark = f"best checkpoint: validation {label} {value:.4g} at step {step:,}"
    axis.plot(step, height, "*", color=_COLORS["total"], markersize=13, label=mark)
    axis.legend(fontsize=8, ncols=columns, frameon=False)


def _to_percent(name: str) -> float:
    """Return the factor from a metric to percent: 1 for BLEU and chrF, which are percent."""
    return 1.0 if name.endswith(("bleu4", "chrf")) else 100.0


def _quality(axis: Axes, series: Series) -> None:
    """Draw translation quality in percent: WER falls, the other metrics rise."""
    colors = [_COLORS[key] for key in ("ce", "total", "other", "ctc")]
    for (name, label), color in zip(_QUALITY.items(), colors):
        steps, values = _finite(series.get(name, ([], [])))
        if len(values):
            axis.plot(
                steps,
                values * _to_percent(name),
                color=color,
                marker="o",
                markersize=3,
                label=label,
            )
    axis.set_ylabel("percent")
    axis.set_ylim(bottom=0)
    axis.legend(fontsize=8, ncols=3, frameon=False)


def _rates(axis: Axes, series: Series) -> None:
    colors = [_COLORS["total"], _COLORS["ce"], _COLORS["other"]]
    for number, name in enumerate(sorted(name for name in series if name.startswith("train/lr_"))):
        label = name.removeprefix("train/lr_")
        # Dashes, so that two rates that are equal can both be seen.
        style = ("-", "--", ":")[number % 3]
        _line(axis, series, name, label, color=colors[number % 3], linestyle=style)
    axis.set_ylabel("learning rate")
    axis.ticklabel_format(axis="y", style="sci", scilimits=(0, 0))
    axis.set_ylim(bottom=0)
    if axis.lines:
        axis.legend(fontsize=8, frameon=False)


def _line(
    axis: Axes,
    series: Series,
    name: str,
    label: str,
    *,
    color: str,
    smooth: bool = False,
    **style: Any,
) -> None:
    """Draw one metric; with `smooth` its running median, over the values in a pale color."""
    steps, values = _finite(series.get(name, ([], [])))
    if not len(values):
        return
    if smooth and len(values) > 60:
        axis.plot(steps, values, color=color, linewidth=0.6, alpha=0.25)
        values = _running_median(values, len(values) // 40 | 1)
    axis.plot(steps, values, color=color, label=label, **style)


def _finite(points: tuple[list[int], list[float]]) -> tuple[np.ndarray, np.ndarray]:
    kept = [(step, value) for step, value in zip(*points) if math.isfinite(value)]
    return np.array([step for step, _ in kept], int), np.array([value for _, value in kept], float)


def _running_median(values: np.ndarray, width: int) -> np.ndarray:
    """Return medians over `width` (odd) neighbors, over fewer at the ends."""
    half = width // 2
    return np.array(
        [np.median(values[max(0, i - half) : i + half + 1]) for i in range(len(values))]
    )
