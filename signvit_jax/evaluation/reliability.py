"""How well confidences tell right from wrong, and whether they are the shares of right that they claim to be.

A sentence is right where its text is the reference, letter for letter, after NFC and with runs of
white space as one space (case ignored where scores ignore it). A word is right where the alignment
of least edits with the reference matches it; a word that was left out has no confidence and
does not count.
"""

import dataclasses
import unicodedata
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int
from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from signvit_jax.evaluation.metrics import align
from signvit_jax.inference.predictor import Hypothesis
from signvit_jax.text.scripts import units

BINS = 10  # of equal count
RESAMPLES = (
    1000  # a tenth of them where there are very many examples, whose interval is narrow anyway
)
_MOST_DRAWN = 50_000_000
_INTERVAL = (2.5, 97.5)  # percentiles of the bootstrap


@dataclasses.dataclass(frozen=True)
class Bin:
    """Of the examples of one bin: how many, their mean confidence, and the share that is right."""

    count: int
    confidence: float
    right: float


@dataclasses.dataclass(frozen=True)
class Reliability:
    """What confidences are worth on a split; None where it cannot be said.

    `auc` is the probability that a right example has more confidence than a wrong one (ties count
    half); None where all are right or none is. `ece` is the expected calibration error over `bins`
    of equal count (Naeini et al. 2015; Nguyen and O'Connor 2015), from 0 to 1. The intervals hold
    95 % of `RESAMPLES` bootstrap samples of whole clips.
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
    """Of a decoder's sentences and of its words. `fitted_on` says what the scale was fitted on; empty where there is none."""

    fitted_on: str
    sentence: Reliability
    word: Reliability

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "DecoderConfidence":
        """Reads what `dataclasses.asdict` made. Raises KeyError, TypeError."""
        return cls(str(values["fitted_on"]), _read(values["sentence"]), _read(values["word"]))


def decoder_confidence(
    said: Sequence[tuple[str, Hypothesis]],
    fitted_on: str,
    *,
    lowercase: bool = False,
    glosses: bool = False,
) -> DecoderConfidence:
    """Of what a decoder said of each clip, beside the clip's reference: its text, or its `glosses`."""
    right = [
        is_right(reference, hypothesis.text, lowercase=lowercase) for reference, hypothesis in said
    ]
    words = [
        (word.confidence, is_one_right, clip)
        for clip, (reference, hypothesis) in enumerate(said)
        for word, is_one_right in zip(
            hypothesis.words,
            right_words(
                reference, [w.text for w in hypothesis.words], lowercase=lowercase, glosses=glosses
            ),
        )
    ]
    sentences = reliability([hypothesis.confidence for _, hypothesis in said], right)
    return DecoderConfidence(
        fitted_on, sentences, reliability(*zip(*words)) if words else reliability([], [])
    )


def is_right(reference: str, hypothesis: str, *, lowercase: bool = False) -> bool:
    """Whether a sentence is right."""
    return _tidied(reference, lowercase) == _tidied(hypothesis, lowercase)


def right_words(
    reference: str, words: Sequence[str], *, lowercase: bool = False, glosses: bool = False
) -> list[bool]:
    """Whether each word (of a script without spaces: character) of a hypothesis is right."""
    edits = align(
        units(_tidied(reference, lowercase), by_spaces=glosses),
        [_tidied(word, lowercase) for word in words],
    )
    return [edit.operation == "match" for edit in edits if edit.hypothesis is not None]


def reliability(
    confidences: Sequence[float], right: Sequence[bool], clips: Sequence[int] | None = None
) -> Reliability:
    """`clips` says which clip each example is of, in any numbers (None: one example a clip)."""
    given, hits = np.asarray(confidences, np.float64), np.asarray(right, bool)
    if not len(given):
        return Reliability(0, 0, None, None, None, None, ())
    order = np.argsort(given, kind="stable")
    given, hits = given[order], hits[order]
    members = (
        np.arange(len(given))
        if clips is None
        else np.unique(np.asarray(clips)[order], return_inverse=True)[1]
    )
    once = np.ones(len(given))
    ties = np.unique(given, return_inverse=True)[1]
    rng, drawn = np.random.default_rng(0), []
    for _ in range(min(RESAMPLES, max(RESAMPLES // 10, _MOST_DRAWN // len(given)))):
        times = np.bincount(
            rng.integers(0, members.max() + 1, members.max() + 1), minlength=members.max() + 1
        )
        weights = times[members].astype(np.float64)
        if weights.any():
            drawn.append((_auc(ties, hits, weights), _ece(given, hits, weights)))
    aucs, eces = ([value for value in values if value is not None] for values in zip(*drawn))
    auc = _auc(ties, hits, once)
    return Reliability(
        examples=len(given),
        right=int(hits.sum()),
        auc=auc,
        auc_interval=None if auc is None else _interval(aucs),
        ece=_ece(given, hits, once),
        ece_interval=_interval(eces),
        bins=_bins(given, hits),
    )


def _interval(values: Sequence[float]) -> tuple[float, float]:
    low, high = np.percentile(values, _INTERVAL)
    return float(low), float(high)


def _auc(
    ties: Int[np.ndarray, "n"], right: Bool[np.ndarray, "n"], weights: Float[np.ndarray, "n"]
) -> float | None:
    """`ties` numbers the examples by their confidence: equal ones have equal numbers."""
    hits = np.bincount(ties, weights * right)
    misses = np.bincount(ties, weights * ~right)
    pairs = hits.sum() * misses.sum()
    below = np.cumsum(misses) - misses / 2
    return float((hits * below).sum() / pairs) if pairs else None


def _ece(
    confidences: Float[np.ndarray, "n"],
    right: Bool[np.ndarray, "n"],
    weights: Float[np.ndarray, "n"],
) -> float:
    """Of examples in order of their confidence."""
    gaps = np.bincount(_places(weights), weights * (confidences - right), minlength=BINS)
    return float(np.abs(gaps).sum() / weights.sum())


def _bins(confidences: Float[np.ndarray, "n"], right: Bool[np.ndarray, "n"]) -> tuple[Bin, ...]:
    places = _places(np.ones(len(confidences)))
    chosen = [places == place for place in range(BINS) if (places == place).any()]
    return tuple(
        Bin(int(c.sum()), float(confidences[c].mean()), float(right[c].mean())) for c in chosen
    )


def _places(weights: Float[np.ndarray, "n"]) -> Int[np.ndarray, "n"]:
    """The bin of each example; each bin has a tenth of the weight."""
    middles = np.cumsum(weights) - weights / 2
    return np.minimum((BINS * middles / weights.sum()).astype(int), BINS - 1)


def _tidied(text: str, lowercase: bool) -> str:
    return " ".join(unicodedata.normalize("NFC", text.lower() if lowercase else text).split())


def table_cells(decoders: Mapping[str, DecoderConfidence]) -> tuple[list[str], list[list[str]]]:
    """Header and rows, two a decoder, as text: what the screen and the report show."""
    header, rows = ["confidence of", "right", "AUC", "95 %", "error", "95 %"], []
    for name, found in decoders.items():
        for kind, one in (("sentences", found.sentence), ("words", found.word)):
            title = f"{name}, {kind}" + ("" if found.fitted_on else " (no scale)")
            share = f"{one.right / one.examples:.1%}" if one.examples else "-"
            rows.append(
                [
                    title,
                    share,
                    *_shown(one.auc, one.auc_interval),
                    *_shown(one.ece, one.ece_interval),
                ]
            )
    return header, rows


def format_table(decoders: Mapping[str, DecoderConfidence]) -> Table:
    """A rich table, decoders down; below it what the scales were fitted on."""
    header, rows = table_cells(decoders)
    notes = ["AUC tells right from wrong; error is the expected calibration error"]
    notes += [
        f"scale: {fitted_on}"
        for fitted_on in dict.fromkeys(found.fitted_on for found in decoders.values())
        if fitted_on
    ]
    table = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0), caption=Text("\n".join(notes)))
    for column in header:
        table.add_column(column, justify="left" if column == header[0] else "right", no_wrap=True)
    for row in rows:
        table.add_row(*row)
    return table


def _shown(value: float | None, interval: tuple[float, float] | None) -> tuple[str, str]:
    return (
        ("-", "-")
        if value is None or interval is None
        else (f"{value:.3f}", f"{interval[0]:.3f}–{interval[1]:.3f}")
    )


def _read(values: Mapping[str, Any]) -> Reliability:
    fields = dict(values)
    for name in ("auc_interval", "ece_interval"):
        fields[name] = None if fields[name] is None else tuple(fields[name])
    return Reliability(**fields | {"bins": tuple(Bin(**one) for one in fields["bins"])})
