"""Confidences of hypotheses: statistics, logistic scales, and the file that stores the scales.

A sentence's confidence is the probability that its text equals the reference, letter by letter. A
word's is the probability that the reference has this word at this place. Without a calibration both
are means of token probabilities, which tell little: words that a decoder leaves out do not lower
them.
"""

import dataclasses
import difflib
import json
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool, Float

from signvit_jax.decoding.decoders import CTC_DECODERS
from signvit_jax.decoding.lexicon import Entry, Lexicon
from signvit_jax.errors.base import SignVitError
from signvit_jax.files.parsed_json import UNREADABLE_JSON, ParsedJson
from signvit_jax.text.words import Word
from signvit_jax.text.writing_systems import units

_FORMAT = "signvit_jax calibration"
_VERSION = 1
# The sum of the examples' losses has _RIDGE / 2 * weight**2 added for each standardized statistic.
_RIDGE = 0.1
_MIN_PROBABILITY = 1e-9  # smaller probabilities of tokens count as this
_MIN_PATH = -1e4  # smaller log-probabilities of CTC paths count as this
FEW = 10  # with fewer right or fewer wrong examples than this, a scale is a guess

# Statistics that compare the hypothesis with the CTC output of the same clip.
_CTC_STATISTICS = ("explained", "own_explained", "agreement", "own_agreement")
_ALL_STATISTICS = {
    "log_prob",
    "sentence_log_prob",
    "least_log_probs",
    "path",
    *_CTC_STATISTICS,
}
# A decoder for which no scales were fitted uses those of this one: their statistics mean the same.
_RELATED_DECODER = {"beam": "greedy", "sample": "greedy", "ctc_beam": "ctc"}

Statistics = Mapping[str, float]  # by name; a larger value is a sign of a right hypothesis


class CalibrationError(SignVitError, ValueError):
    """A calibration file that cannot be read or written; the message says what to do."""


@dataclasses.dataclass(frozen=True)
class Scale:
    """P(right) = 1 / (1 + exp(-(bias + sum of weight * statistic))), and its number of examples."""

    weights: Mapping[str, float]  # by statistic, >= 0
    bias: float
    examples: int
    right: int

    def __call__(self, statistics: Statistics) -> float:
        """Return P(right); statistics without a weight are ignored, and missing ones count as 0."""
        logit = self.bias + sum(
            weight * statistics.get(name, 0.0) for name, weight in self.weights.items()
        )
        return 1.0 / (1.0 + math.exp(-logit)) if logit > -700.0 else 0.0

    @property
    def note(self) -> str:
        """A warning that the scale was fitted on few examples; empty if there were enough."""
        wrong = self.examples - self.right
        if min(self.right, wrong) >= FEW:
            return ""
        return (
            f"a guess: of {self.examples:,} examples {self.right:,} are right and {wrong:,} wrong, "
            f"and at least {FEW} of both are needed"
        )


@dataclasses.dataclass(frozen=True)
class Scales:
    """The scales of one decoder; `word` is None if there was no word to fit it on."""

    sentence: Scale
    word: Scale | None

    @property
    def needs_ctc(self) -> bool:
        """Return True if the scales use statistics that compare with the CTC output."""
        scales = [scale for scale in (self.sentence, self.word) if scale]
        return any(name in _CTC_STATISTICS for scale in scales for name in scale.weights)


@dataclasses.dataclass(frozen=True)
class Calibration:
    """The content of `calibration.json`; with a `lexicon` where CTC spells glosses."""

    step: int  # of the checkpoint
    dataset: str
    split: str
    clips: int
    decoders: Mapping[str, Scales]
    lexicon: Lexicon | None = None

    def fitted_on(self, decoder: str) -> str:
        """Describe what the decoder's scales were fitted on; empty if it has none."""
        scales = self.of(decoder)
        if scales is None:
            return ""
        note = f", {scales.sentence.note}" if scales.sentence.note else ""
        return f"{self.clips:,} clips of {self.dataset} {self.split}, step {self.step:,}{note}"

    def of(self, decoder: str) -> Scales | None:
        """Return the decoder's scales, or those of a related decoder."""
        return self.decoders.get(decoder) or self.decoders.get(_RELATED_DECODER.get(decoder, ""))


def statistics(
    decoder: str,
    score: float,
    probabilities: Sequence[float],
    words: Sequence[Word],
    ctc_text: str | None,
    lexicon: Lexicon | None,
) -> tuple[Statistics, list[Statistics]]:
    """Return the statistics of a sentence and those of each of its words.

    `score` is the log-probability of a CTC decoder's path or text; other decoders' is not used.
    `probabilities` are those of the output tokens, EOS included; the confidences of the words are
    means of them. `ctc_text` is the CTC output of the clip (None: unknown): glosses if there is a
    `lexicon`, otherwise text.

    log_prob: log-probability of the sentence; of a word: the log of its mean probability.
    least_log_probs: sum of the three smallest log-probabilities of the sentence's tokens.
    path: of CTC decoders, the log-probability of the path or text.
    explained: with glosses. 0 if every CTC gloss is explained by a word and vice versa. Otherwise
      minus the worst shortfall, at most 1; a shortfall of 1 means e times less likely than in
      nearly all training sentences.
    agreement: with text. Share of words in common: twice the matches / the sum of both lengths.

    A word has own_explained or own_agreement, of that word alone, and all statistics of its
    sentence; the log_prob of the sentence is then named sentence_log_prob.
    """
    logs = [_log(probability) for probability in probabilities]
    sentence = {"log_prob": math.fsum(logs), "least_log_probs": math.fsum(sorted(logs)[:3])}
    of_words: list[dict[str, float]] = [{"log_prob": _log(word.confidence)} for word in words]
    if decoder in CTC_DECODERS:
        sentence["path"] = score if score > _MIN_PATH else _MIN_PATH
    elif ctc_text is not None:
        keys = word_keys([word.text for word in words])
        ctc_keys = word_keys(units(ctc_text, by_spaces=lexicon is not None))
        if lexicon is not None:
            name = "own_explained"
            word_shortfalls = lexicon.unexplained_words(ctc_keys, keys)
            gloss_shortfalls = lexicon.unexplained_glosses(ctc_keys, keys)
            worst = max([*word_shortfalls, *gloss_shortfalls], default=0.0)
            sentence["explained"] = -min(worst, 1.0)
            values = [-min(shortfall, 1.0) for shortfall in word_shortfalls]
        else:
            name = "own_agreement"
            matcher = difflib.SequenceMatcher(None, ctc_keys, keys, autojunk=False)
            sentence["agreement"] = matcher.ratio()
            matched = _matched_places(matcher)
            values = [float(place in matched) for place in range(len(keys))]
        for word_statistics, value in zip(of_words, values):
            word_statistics[name] = value
    complete = []
    for word_statistics in of_words:
        of_sentence = {
            f"sentence_{name}" if name in word_statistics else name: value
            for name, value in sentence.items()
        }
        complete.append(word_statistics | of_sentence)
    return sentence, complete


def _matched_places(matcher: difflib.SequenceMatcher) -> set[int]:
    """Return the places in the second sequence that match a place in the first."""
    return {
        block.b + offset for block in matcher.get_matching_blocks() for offset in range(block.size)
    }


def _log(probability: float) -> float:
    """Return the logarithm, finite also for 0 and NaN (from a model with broken weights)."""
    return math.log(probability if probability > _MIN_PROBABILITY else _MIN_PROBABILITY)


def word_key(word: str) -> str:
    """Return the form of a word that a lexicon stores: lowercase, without punctuation."""
    return re.sub(r"\W", "", word).casefold() or word


def word_keys(words: Sequence[str]) -> list[str]:
    """Return the `word_key` of each word."""
    return [word_key(word) for word in words]


def fit_scale(statistics: Sequence[Mapping[str, float]], right: Sequence[bool]) -> Scale:
    """Fit a logistic regression (Platt 1999) for which a few dozen wrong examples are enough.

    Every statistic is larger for hypotheses that are more likely right, so one whose weight would
    be negative is left out. The weights of the standardized statistics have a ridge penalty, and
    the targets are Platt's, (n+ + 1) / (n+ + 2) and 1 / (n- + 2) with n+ right and n- wrong
    examples. So even if all n are right, P(right) at the mean statistics is only (n + 1) / (n + 2).
    Raises CalibrationError without examples.
    """
    if not len(right):
        raise CalibrationError("there is no example to fit a scale on")
    is_right, names = np.asarray(right, bool), list(statistics[0])
    values = np.asarray([[one[name] for name in names] for one in statistics], np.float64)
    values = values.reshape(len(is_right), len(names))
    # A constant statistic has no information, and cannot be standardized.
    columns = [column for column in range(len(names)) if np.ptp(values[:, column]) > 0]
    while True:
        weights, bias = _logistic(values[:, columns], is_right)
        if not (weights < 0).any():
            break
        columns = [column for column, weight in zip(columns, weights) if weight > weights.min()]
    by_name = {names[column]: float(weight) for column, weight in zip(columns, weights)}
    return Scale(by_name, float(bias), len(is_right), int(is_right.sum()))


def _logistic(
    values: Float[np.ndarray, "n k"], right: Bool[np.ndarray, "n"]
) -> tuple[Float[np.ndarray, "k"], float]:
    """Return weights and bias for unscaled statistics; Newton's method on the standardized ones."""
    mean, spread = values.mean(0), values.std(0)
    inputs = np.column_stack([(values - mean) / spread, np.ones(len(values))])
    num_right, num_wrong = right.sum(), (~right).sum()
    targets = np.where(right, (num_right + 1) / (num_right + 2), 1 / (num_wrong + 2))
    ridge = np.diag([_RIDGE] * values.shape[1] + [0.0])
    params = np.zeros(inputs.shape[1])
    for _ in range(100):
        outputs = 1 / (1 + np.exp(-np.clip(inputs @ params, -500, 500)))
        gradient = inputs.T @ (outputs - targets) + ridge @ params
        hessian = inputs.T @ (inputs * (outputs * (1 - outputs))[:, None]) + ridge
        update = np.linalg.solve(hessian + 1e-9 * np.eye(len(params)), gradient)
        # Steps of at most 2 keep Newton's method from overshooting where outputs are near 0 or 1.
        params = params - update * min(1.0, 2.0 / max(np.abs(update).max(), 1e-12))
        if np.abs(update).max() < 1e-9:
            break
    weights = params[:-1] / spread
    return weights, params[-1] - mean @ weights


def to_json(calibration: Calibration) -> str:
    """Return one JSON object:

    "format", "version", "checkpoint_step", "dataset", "split", "clips";
    "decoders": {name: {"sentence": SCALE, "word": SCALE or null}};
    "lexicon": null or {"glosses": {name: ENTRY}, "words": {name: ENTRY}}.

    SCALE is {"weights": {statistic: number}, "bias", "examples", "right", "note"}, and ENTRY is
    {"usual", "by": {name: probability}, "usual_again"}; without "usual_again" in earlier releases.
    """

    def scale_values(scale: Scale | None) -> Mapping[str, object] | None:
        return None if scale is None else dataclasses.asdict(scale) | {"note": scale.note}

    lexicon = calibration.lexicon
    values = {
        "format": _FORMAT,
        "version": _VERSION,
        "checkpoint_step": calibration.step,
        "dataset": calibration.dataset,
        "split": calibration.split,
        "clips": calibration.clips,
        "decoders": {
            name: {"sentence": scale_values(scales.sentence), "word": scale_values(scales.word)}
            for name, scales in calibration.decoders.items()
        },
        "lexicon": None if lexicon is None else dataclasses.asdict(lexicon),
    }
    return json.dumps(values, ensure_ascii=False, indent=1, allow_nan=False) + "\n"


def from_json(text: str) -> Calibration:
    """Read the output of `to_json`. Raises CalibrationError."""
    try:
        return _calibration(json.loads(text))
    except CalibrationError:
        raise
    except UNREADABLE_JSON as error:
        raise CalibrationError(
            f"not a calibration file ({type(error).__name__}: {error})"
        ) from error


def _calibration(values: ParsedJson) -> Calibration:
    if values["format"] != _FORMAT or values["version"] != _VERSION:
        raise CalibrationError(
            f"format {values['format']!r}, version {values['version']!r}; "
            f"this release reads {_FORMAT!r}, version {_VERSION}"
        )
    decoders = {
        str(name): Scales(_scale(scales["sentence"]), scales["word"] and _scale(scales["word"]))
        for name, scales in values["decoders"].items()
    }
    lexicon = values["lexicon"]
    if lexicon is not None:
        lexicon = Lexicon(_entries(lexicon["glosses"]), _entries(lexicon["words"]))
    return Calibration(
        step=int(values["checkpoint_step"]),
        dataset=str(values["dataset"]),
        split=str(values["split"]),
        clips=int(values["clips"]),
        decoders=decoders,
        lexicon=lexicon,
    )


def _scale(values: ParsedJson) -> Scale:
    weights = {str(name): _number(weight) for name, weight in values["weights"].items()}
    if unknown := weights.keys() - _ALL_STATISTICS:
        raise CalibrationError(
            f"weights of unknown statistics: {', '.join(sorted(unknown))}; "
            f"allowed: {', '.join(sorted(_ALL_STATISTICS))}"
        )
    return Scale(weights, _number(values["bias"]), int(values["examples"]), int(values["right"]))


def _entries(values: ParsedJson) -> dict[str, Entry]:
    entries = {
        str(name): Entry(
            _number(entry["usual"]),
            {str(other): _number(share) for other, share in entry["by"].items()},
            None if (again := entry.get("usual_again")) is None else _number(again),
        )
        for name, entry in values.items()
    }
    for name, entry in entries.items():
        if not all(0.0 < share <= 1.0 for share in entry.by.values()):
            raise CalibrationError(
                f"the lexicon's entry {name!r} has {dict(entry.by)}; "
                "allowed: probabilities above 0, at most 1"
            )
    return entries


def _number(value: Any) -> float:
    number = float(value)
    if not math.isfinite(number):
        raise CalibrationError(f"{value!r} is not a finite number")
    return number
