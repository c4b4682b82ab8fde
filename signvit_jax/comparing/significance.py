"""Scores of several systems on the same clips: are their differences more than chance?

BLEU and chrF by sacreBLEU's paired bootstrap; word error rate and exact match by the same test over
the same resamples of clips. The first system is the baseline.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence

import numpy as np
from jaxtyping import Float
from sacrebleu.metrics.base import Metric
from sacrebleu.significance import PairedTest, Result, estimate_ci

from signvit_jax.comparing.sides import Side
from signvit_jax.evaluation.metrics import (
    WordErrors,
    count_errors,
    counted_words,
    normalize_text,
    same_metrics,
)

_SEED = 12345  # sacreBLEU's
_RESAMPLES_AT_ONCE = 64


@dataclasses.dataclass(frozen=True)
class Compared:
    """A score of one system, in percent.

    `interval` is half the width of the 95 % confidence interval. `p_value` is the probability of a
    difference as large as that to the baseline if the systems were equal: 1 where there is no
    difference, None for the baseline.
    """

    score: float
    interval: float
    p_value: float | None


@dataclasses.dataclass(frozen=True)
class Comparison:
    """The systems of one decoder.

    `scores`: metric -> a score per system, in the order of the systems. `clip_errors`: word errors
    of each system in each clip; `references` and `hypotheses` per system likewise. `clips` are the
    numbers of the clips in the results: those with a gloss, where the decoder spells glosses.
    """

    decoder: str
    unit: str  # of the error rate: "word", "character" or "gloss"
    signature: str  # sacreBLEU's, of BLEU
    scores: Mapping[str, Sequence[Compared]]
    clips: Sequence[int]
    references: Sequence[str]
    hypotheses: Sequence[Sequence[str]]
    clip_errors: Sequence[Sequence[WordErrors]]


def compare(
    sides: Sequence[Side], decoder: str, samples: int, on_metric: Callable[[], None] = lambda: None
) -> Comparison:
    """Compare the systems with the tokenization and case of the first one.

    `on_metric` is called four times: after BLEU-4 and chrF, WER, and exact match. Raises
    MetricError.
    """
    scores = sides[0].results.decoders[decoder]
    all_references = sides[0].results.references(decoder)
    clips = [number for number, reference in enumerate(all_references) if reference is not None]
    lowercase = "case:lc" in scores.signature.split("|")
    references = [normalize_text(all_references[number] or "", lowercase) for number in clips]
    hypotheses = [
        [
            normalize_text(side.results.predictions[number].hypotheses[decoder], lowercase)
            for number in clips
        ]
        for side in sides
    ]
    bleu, chrf = same_metrics(scores)
    scores_by_metric: dict[str, list[Compared]] = {}
    metrics: dict[str, Metric] = {"BLEU-4": bleu, "chrF": chrf}
    signature = ""
    for name, metric in metrics.items():
        # sacreBLEU needs a different name for each system: its number.
        systems: list[tuple[str, Sequence[str]]] = [
            (str(number), texts) for number, texts in enumerate(hypotheses)
        ]
        test = PairedTest(systems, {name: metric}, [references], "bs", n_samples=samples)
        signatures, compared = test()
        (key,) = signatures
        results = [one for one in compared[key] if isinstance(one, Result)]
        scores_by_metric[name] = [_from_sacrebleu(one, results[0]) for one in results]
        signature = signature or str(signatures[key])
        on_metric()
    words = counted_words(references, scores)
    errors = [
        [
            count_errors([reference], [hypothesis])
            for reference, hypothesis in zip(words, counted_words(texts, scores))
        ]
        for texts in hypotheses
    ]
    counts = np.array(
        [[(clip.errors, clip.reference_words) for clip in system] for system in errors], float
    )
    scores_by_metric["WER"] = paired_bootstrap(counts, samples)
    on_metric()
    exact = [[(float(a == b), 1.0) for a, b in zip(references, texts)] for texts in hypotheses]
    scores_by_metric["exact match"] = paired_bootstrap(np.array(exact), samples)
    on_metric()
    return Comparison(
        decoder,
        scores.unit,
        signature,
        scores_by_metric,
        clips,
        references,
        hypotheses,
        errors,
    )


def paired_bootstrap(counts: Float[np.ndarray, "systems clips 2"], samples: int) -> list[Compared]:
    """Compare rates: the sum over clips of the first count, divided by that of the second.

    The resamples and the p-value are sacreBLEU's: the share of resamples in which the difference to
    the first system is further above its mean than the difference measured.
    """
    num_clips = counts.shape[1]
    rng = np.random.default_rng(_SEED)
    rates = np.empty((samples, len(counts)))
    for first in range(0, samples, _RESAMPLES_AT_ONCE):
        rows = rates[first : first + _RESAMPLES_AT_ONCE]
        chosen = rng.choice(num_clips, size=(len(rows), num_clips), replace=True)
        for system, clip_counts in enumerate(counts):
            rows[:, system] = _rate(clip_counts[chosen].sum(1))
    measured = _rate(counts.sum(1))
    compared = []
    for system, rate in enumerate(measured):
        p_value = None
        if system:
            differences = np.abs(rates[:, system] - rates[:, 0])
            above = differences - differences.mean() > abs(rate - measured[0])
            p_value = float((above.sum() + 1) / (samples + 1)) if rate != measured[0] else 1.0
        interval = float(estimate_ci(rates[:, system])[1])
        compared.append(Compared(100.0 * float(rate), 100.0 * interval, p_value))
    return compared


def most_different(comparison: Comparison, count: int) -> list[int]:
    """The places of the clips on which the systems' errors differ most, at most `count`.

    Errors are counted per word of the reference. Clips on which all systems have the same rate are
    left out.
    """
    spread = []
    for place in range(len(comparison.references)):
        rates = [errors[place].rate for errors in comparison.clip_errors]
        spread.append((max(rates) - min(rates), -place))
    return [-place for difference, place in sorted(spread, reverse=True)[:count] if difference > 0]


def _rate(counts: Float[np.ndarray, "n 2"]) -> Float[np.ndarray, " n"]:
    return counts[:, 0] / np.maximum(counts[:, 1], 1.0)


def _from_sacrebleu(result: Result, baseline: Result) -> Compared:
    p_value = result.p_value
    if p_value is not None and result.score == baseline.score:
        p_value = 1.0  # sacreBLEU's is 1 / (samples + 1), the smallest there is
    return Compared(float(result.score), float(result.ci or 0.0), p_value)
