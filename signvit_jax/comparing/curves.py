"""Curves of several runs in one image."""

import io
import math
from collections.abc import Sequence

import matplotlib
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from signvit_jax.comparing.sides import Side

# Metrics that are drawn where at least one run has them, and what they are called.
_METRICS = {
    "train/loss": "training loss",
    "validation/loss": "validation loss",
    "validation/wer": "validation WER, percent",
    "validation/bleu4": "validation BLEU-4",
    "validation/chrf": "validation chrF",
    "validation/exact_match": "exact match, percent",
}
_PERCENT = ("validation/wer", "validation/exact_match")


def curves_png(sides: Sequence[Side]) -> bytes | None:
    """Return the curves of the runs laid over each other, as PNG; None if there are none.

    A run keeps its color in all panels. Values that are not finite are left out.
    """
    names = [name for name in _METRICS if any(side.metrics.get(name) for side in sides)]
    if not names:
        return None
    rows = math.ceil(len(names) / 2)
    with matplotlib.rc_context(
        {
            "axes.spines.top": False,
            "axes.spines.right": False,
            "axes.grid": True,
            "grid.alpha": 0.25,
            "font.size": 9,
        }
    ):
        figure = Figure(figsize=(11, 0.6 + 2.8 * rows), layout="constrained")
        axes = figure.subplots(rows, 2, squeeze=False).flat
        for name, axis in zip(names, axes):  # `axes` is an iterator: it keeps the unused axes
            for number, side in enumerate(sides):
                steps, values = side.metrics.get(name, ([], []))
                factor = 100.0 if name in _PERCENT else 1.0
                points = [(s, factor * v) for s, v in zip(steps, values) if math.isfinite(v)]
                if points:
                    marker = "o" if name.startswith("validation") else ""
                    axis.plot(
                        *zip(*points),
                        color=f"C{number}",
                        marker=marker,
                        markersize=3,
                        linewidth=1.2,
                    )
            axis.set_title(_METRICS[name], loc="left", fontsize=9)
            axis.set_xlabel("step")
        for unused in list(axes):
            unused.remove()
        handles = [
            Line2D([], [], color=f"C{number}", label=_plain(side.name))
            for number, side in enumerate(sides)
            if side.metrics
        ]
        figure.legend(handles=handles, loc="outside upper left", ncols=3, frameon=False)
        file = io.BytesIO()
        figure.savefig(file, format="png", dpi=120)
    return file.getvalue()


def _plain(name: str) -> str:
    """A name in which Matplotlib finds no formula."""
    return name.replace("$", r"\$")
