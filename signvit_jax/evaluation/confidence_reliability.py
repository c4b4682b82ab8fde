"""Reliability of confidences: do they separate right from wrong, and are they calibrated?

A sentence is right if its text equals the reference, letter by letter, after NFC and with every
run of white space as one space; case is ignored where the scores ignore it. A word is right if the
alignment with the fewest edits matches it to a word of the reference. A missing word has no
confidence and does not count.
"""

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Bool, Float, Int
from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from signvit_jax.evaluation.metrics import align, normalize_text
from signvit_jax.files.parsed_json import ParsedJson
from signvit_jax.inference.predictor import Hypothesis
from signvit_jax.text.writing_systems import units

BINS = 10  # of equal count
# Bootstrap samples; fewer, at least a tenth, for many examples, whose intervals are narrow anyway.
RESAMPLES = 1000
_MAX_DRAWN_EXAMPLES = 50_000_000
_INTERVAL = (2.5, 97.5)  # percentiles of the bootstrap


@dataclasses.dataclass(frozen=True)
class Bin:
    """The examples of one bin: their number, mean confidence, and the share that is right."""

    count: int
    confidence: float
    right: float


@dataclasses.dataclass(frozen=True)
class Reliability:
    """Reliability of the confidences of a split; None for figures that are not defined.

    `auc` is the probability that a right example has more confidence than a wrong one (ties count
    half); None if all examples are right or none is. `ece` is the expected calibration error over
    `bins` of equal count (Naeini et al. 2015; Nguyen and O'Connor 2015), from 0 to 1. The intervals
    hold 95 % of up to `RESAMPLES` bootstrap samples of complete clips.
    """

    examples: int
    right: int
    auc: float | None
    auc_interval: tuple[float, float] | None
    ece: float | None
    ece_interval: tuple[float, float] | None
    bins: tuple[Bin, ...]


@dataclasses.dataclass(frozen=True)
class DecoderConfidence:
    """Reliability of a decoder's sentences and words.

    `fitted_on` describes what the scale was fitted on; empty if there is none.
    """

    fitted_on: str
    sentence: Reliability
    word: Reliability

    @classmethod
    def from_dict(cls, values: ParsedJson) -> "DecoderConfidence":
        """Read the output of `dataclasses.asdict`. Raises KeyError, TypeError."""
        return cls(
            fitted_on=str(values["fitted_on"]),
            sentence=_reliability(values["sentence"]),
            word=_reliability(values["word"]),
        )


def decoder_confidence(
    pairs: Sequence[tuple[str, Hypothesis]],
    fitted_on: str,
    *,
    lowercase: bool = False,
    glosses: bool = False,
) -> DecoderConfidence:
    """Return the reliability of a decoder, of pairs (reference, hypothesis), one per clip.

    With `glosses`, spaces separate the units of a reference in every script.
    """
    sentences_right = [
        is_right(reference, hypothesis.text, lowercase=lowercase) for reference, hypothesis in pairs
    ]
    word_confidences: list[float] = []
    words_right: list[bool] = []
    word_clips: list[int] = []
    for clip, (reference, hypothesis) in enumerate(pairs):
        words = hypothesis.words
        word_confidences += [word.confidence for word in words]
        words_right += right_words(
            reference, [word.text for word in words], lowercase=lowercase, glosses=glosses
        )
        word_clips += [clip] * len(words)
    return DecoderConfidence(
        fitted_on=fitted_on,
        sentence=reliability([hypothesis.confidence for _, hypothesis in pairs], sentences_right),
        word=reliability(word_confidences, words_right, word_clips),
    )


def is_right(reference: str, hypothesis: str, *, lowercase: bool = False) -> bool:
    """Return True if a sentence is right."""
    return normalize_text(reference, lowercase) == normalize_text(hypothesis, lowercase)


def right_words(
    reference: str, words: Sequence[str], *, lowercase: bool = False, glosses: bool = False
) -> list[bool]:
    """Return, for each word of a hypothesis, whether it is right.

    In a script without spaces a word is a character, unless these are `glosses`.
    """
    edits = align(
        units(normalize_text(reference, lowercase), by_spaces=glosses),
        [normalize_text(word, lowercase) for word in words],
    )
    return [edit.operation == "match" for edit in edits if edit.hypothesis is not None]


def reliability(
    confidences: Sequence[float], right: Sequence[bool], clips: Sequence[int] | None = None
) -> Reliability:
    """Return the reliability of examples.

    `clips` holds the number of each example's clip, in any numbering; None: one example per clip.
    """
    values, correct = np.asarray(confidences, np.float64), np.asarray(right, bool)
    if not len(values):
        return Reliability(0, 0, None, None, None, None, ())
    order = np.argsort(values, kind="stable")
    values, correct = values[order], correct[order]
    if clips is None:
        clip = np.arange(len(values))
    else:
        clip = np.unique(np.asarray(clips)[order], return_inverse=True)[1]
    num_clips = clip.max() + 1
    ties = np.unique(values, return_inverse=True)[1]

    rng, samples = np.random.default_rng(0), []
    for _ in range(min(RESAMPLES, max(RESAMPLES // 10, _MAX_DRAWN_EXAMPLES // len(values)))):
        draws = np.bincount(rng.integers(0, num_clips, num_clips), minlength=num_clips)
        weights = draws[clip].astype(np.float64)
        if weights.any():
            samples.append((_auc(ties, correct, weights), _ece(values, correct, weights)))
    aucs, eces = ([value for value in column if value is not None] for column in zip(*samples))
    ones = np.ones(len(values))
    auc = _auc(ties, correct, ones)
    return Reliability(
        examples=len(values),
        right=int(correct.sum()),
        auc=auc,
        auc_interval=None if auc is None else _interval(aucs),
        ece=_ece(values, correct, ones),
        ece_interval=_interval(eces),
        bins=_bins(values, correct),
    )


def _interval(values: Sequence[float]) -> tuple[float, float]:
    low, high = np.percentile(values, _INTERVAL)
    return float(low), float(high)


def _auc(
    ties: Int[np.ndarray, "n"], right: Bool[np.ndarray, "n"], weights: Float[np.ndarray, "n"]
) -> float | None:
    """Return the AUC; `ties` numbers the examples by confidence, equal ones equally."""
    right_weights = np.bincount(ties, weights * right)
    wrong_weights = np.bincount(ties, weights * ~right)
    pairs = right_weights.sum() * wrong_weights.sum()
    wrong_below = np.cumsum(wrong_weights) - wrong_weights / 2
    return float((right_weights * wrong_below).sum() / pairs) if pairs else None


def _ece(
    confidences: Float[np.ndarray, "n"],
    right: Bool[np.ndarray, "n"],
    weights: Float[np.ndarray, "n"],
) -> float:
    """Return the calibration error of examples sorted by confidence."""
    gaps = np.bincount(_bin_numbers(weights), weights * (confidences - right), minlength=BINS)
    return float(np.abs(gaps).sum() / weights.sum())


def _bins(confidences: Float[np.ndarray, "n"], right: Bool[np.ndarray, "n"]) -> tuple[Bin, ...]:
    numbers = _bin_numbers(np.ones(len(confidences)))
    masks = [numbers == number for number in range(BINS) if (numbers == number).any()]
    return tuple(
        Bin(int(mask.sum()), float(confidences[mask].mean()), float(right[mask].mean()))
        for mask in masks
    )


def _bin_numbers(weights: Float[np.ndarray, "n"]) -> Int[np.ndarray, "n"]:
    """Return the bin of each example; each bin has a tenth of the weight."""
    middles = np.cumsum(weights) - weights / 2
    return np.minimum((BINS * middles / weights.sum()).astype(int), BINS - 1)


def table_cells(decoders: Mapping[str, DecoderConfidence]) -> tuple[list[str], list[list[str]]]:
    """Return header and rows as text, two rows per decoder, for the terminal and the report."""
    header, rows = ["confidence of", "right", "AUC", "95 %", "error", "95 %"], []
    for decoder, confidence in decoders.items():
        for kind, figures in (("sentences", confidence.sentence), ("words", confidence.word)):
            title = f"{decoder}, {kind}" + ("" if confidence.fitted_on else " (no scale)")
            share = f"{figures.right / figures.examples:.1%}" if figures.examples else "-"
            auc = _figure_cells(figures.auc, figures.auc_interval)
            ece = _figure_cells(figures.ece, figures.ece_interval)
            rows.append([title, share, *auc, *ece])
    return header, rows


def format_table(decoders: Mapping[str, DecoderConfidence]) -> Table:
    """Return a rich table, one decoder below the other; its caption names the scales' examples."""
    header, rows = table_cells(decoders)
    notes = ["AUC: separation of right and wrong; error: expected calibration error"]
    fitted_on = dict.fromkeys(confidence.fitted_on for confidence in decoders.values())
    notes += [f"scale: {text}" for text in fitted_on if text]
    table = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0), caption=Text("\n".join(notes)))
    for column in header:
        table.add_column(column, justify="left" if column == header[0] else "right", no_wrap=True)
    for row in rows:
        table.add_row(*row)
    return table


def _figure_cells(value: float | None, interval: tuple[float, float] | None) -> tuple[str, str]:
    if value is None or interval is None:
        return "-", "-"
    return f"{value:.3f}", f"{interval[0]:.3f}–{interval[1]:.3f}"


def _reliability(values: ParsedJson) -> Reliability:
    fields = dict(values)
    for name in ("auc_interval", "ece_interval"):
        fields[name] = None if fields[name] is None else tuple(fields[name])
    fields["bins"] = tuple(Bin(**one) for one in fields["bins"])
    return Reliability(**fields)
