"""From what a decoder says of its hypothesis to the probability that it is right: logistic scales, and the file that keeps them."""

import dataclasses
import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool, Float

_FORMAT = "signvit_jax calibration"
_VERSION = 1
_RIDGE = 1.0  # pull of the weights of standardized statistics towards 0, in examples
FEW = 10  # of right or of wrong examples: a scale fitted on fewer is a guess


class CalibrationError(ValueError):
    """A calibration file that cannot be read, or one that cannot be made; the message says what to do."""

    exit_code = 2


@dataclasses.dataclass(frozen=True)
class Scale:
    """P(right) = 1 / (1 + exp(-(bias + sum of weight * statistic))), and the examples that it was fitted on."""

    weights: Mapping[str, float]  # by the statistic's name, none below 0
    bias: float
    examples: int
    right: int

    def __call__(self, statistics: Mapping[str, float]) -> float:
        """Statistics that the scale has no weight for do not count."""
        logit = self.bias + sum(weight * statistics[name] for name, weight in self.weights.items())
        return 1.0 / (1.0 + math.exp(-logit)) if logit > -700 else 0.0

    @property
    def is_guess(self) -> bool:
        return min(self.right, self.examples - self.right) < FEW


@dataclasses.dataclass(frozen=True)
class Scales:
    """Of one decoder. `word` is None where no word was said on the split."""

    sentence: Scale
    word: Scale | None


@dataclasses.dataclass(frozen=True)
class Calibration:
    """What `calibration.json` says."""

    step: int  # of the checkpoint
    dataset: str
    split: str
    clips: int
    decoders: Mapping[str, Scales]


def fit_scale(statistics: Sequence[Mapping[str, float]], right: Sequence[bool]) -> Scale:
    """Logistic regression (Platt 1999) that a few dozen wrong examples suffice for.

    Every statistic is larger where a hypothesis is surer, so one whose weight would be below 0 is
    left out. Weights of the standardized statistics are pulled towards 0 (ridge), and the targets
    are Platt's, (n+ + 1) / (n+ + 2) and 1 / (n- + 2), so that no split makes a scale certain: with
    all examples right it says (n + 1) / (n + 2) at the mean. Raises CalibrationError without examples.
    """
    if not len(right):
        raise CalibrationError("there is no example to fit a scale on")
    hits, names = np.asarray(right, bool), list(statistics[0])
    values = np.asarray([[one[name] for name in names] for one in statistics], np.float64).reshape(len(hits), len(names))
    kept = [place for place in range(len(names)) if np.ptp(values[:, place]) > 0]
    while True:
        weights, bias = _logistic(values[:, kept], hits)
        if not (weights < 0).any():
            break
        kept = [place for place, weight in zip(kept, weights) if weight > weights.min()]
    chosen = {names[place]: float(weight) for place, weight in zip(kept, weights)}
    return Scale(chosen, float(bias), len(hits), int(hits.sum()))


def _logistic(values: Float[np.ndarray, "n k"], right: Bool[np.ndarray, "n"]) -> tuple[Float[np.ndarray, "k"], float]:
    """Weights and bias for the statistics as they are, by Newton's method on the standardized ones."""
    center, spread = values.mean(0), values.std(0)
    inputs = np.column_stack([(values - center) / spread, np.ones(len(values))])
    hits, misses = right.sum(), (~right).sum()
    targets = np.where(right, (hits + 1) / (hits + 2), 1 / (misses + 2))
    pull = np.diag([_RIDGE] * values.shape[1] + [0.0])
    found = np.zeros(inputs.shape[1])
    for _ in range(100):
        said = 1 / (1 + np.exp(-np.clip(inputs @ found, -500, 500)))
        gradient = inputs.T @ (said - targets) + pull @ found
        curvature = inputs.T @ (inputs * (said * (1 - said))[:, None]) + pull
        move = np.linalg.solve(curvature + 1e-9 * np.eye(len(found)), gradient)
        found = found - move * min(1.0, 2.0 / max(np.abs(move).max(), 1e-12))
        if np.abs(move).max() < 1e-9:
            break
    weights = found[:-1] / spread
    return weights, found[-1] - center @ weights


def to_json(calibration: Calibration) -> str:
    """`{"format", "version", "checkpoint_step", "dataset", "split", "clips", "decoders": {name: {"sentence": SCALE, "word": SCALE}}}`; a SCALE is
    `{"weights": {statistic: number}, "bias", "examples", "right", "note"}`.
    """

    def scale(one: Scale | None) -> dict[str, Any] | None:
        if one is None:
            return None
        wrong = one.examples - one.right
        note = f"a guess: of {one.examples:,} examples {one.right:,} are right and {wrong:,} wrong; at least {FEW} of both are wanted"
        return dataclasses.asdict(one) | {"note": note if one.is_guess else ""}

    values = {
        "format": _FORMAT,
        "version": _VERSION,
        "checkpoint_step": calibration.step,
        "dataset": calibration.dataset,
        "split": calibration.split,
        "clips": calibration.clips,
        "decoders": {name: {"sentence": scale(one.sentence), "word": scale(one.word)} for name, one in calibration.decoders.items()},
    }
    return json.dumps(values, ensure_ascii=False, indent=2, allow_nan=False) + "\n"


def from_json(text: str) -> Calibration:
    """Reads what `to_json` wrote. Raises CalibrationError."""
    try:
        values = json.loads(text)
        if values["format"] != _FORMAT or values["version"] != _VERSION:
            raise CalibrationError(f"format {values['format']!r}, version {values['version']!r}; this release reads {_FORMAT!r}, version {_VERSION}")
        decoders = {
            str(name): Scales(_scale(one["sentence"]), None if one["word"] is None else _scale(one["word"])) for name, one in values["decoders"].items()
        }
        return Calibration(int(values["checkpoint_step"]), str(values["dataset"]), str(values["split"]), int(values["clips"]), decoders)
    except CalibrationError:
        raise
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError) as error:
        raise CalibrationError(f"not a calibration file ({type(error).__name__}: {error})") from error


def _scale(values: Mapping[str, Any]) -> Scale:
    weights = {str(name): float(weight) for name, weight in values["weights"].items()}
    found = Scale(weights, float(values["bias"]), int(values["examples"]), int(values["right"]))
    if not all(map(math.isfinite, (*weights.values(), found.bias))):
        raise CalibrationError(f"a scale with weights {weights} and bias {found.bias}; all must be numbers")
    return found
