"""From what is known of a hypothesis to the probability that it is right: statistics, logistic scales, and the file that keeps them.

A sentence's confidence is the probability that its text is the reference, letter for letter; a
word's, that the word stands in the reference where it should. Without a calibration both are means
of the tokens' probabilities, which say little: what a decoder leaves out costs it no probability.
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
from signvit_jax.text.scripts import units
from signvit_jax.text.words import Word

_FORMAT = "signvit_jax calibration"
_VERSION = 1
_RIDGE = 0.1  # pull of the weights of standardized statistics towards 0, in examples
_SMALLEST, _LOWEST_PATH = (
    1e-9,
    -1e4,
)  # probability of a token, log-probability of a CTC path: less counts as this
FEW = 10  # of right or of wrong examples: a scale fitted on fewer is a guess

# Statistics that compare the hypothesis with what the CTC head hears in the same clip.
_HEARD = ("explained", "own_explained", "agreement", "own_agreement")
_KNOWN = {"log_prob", "sentence_log_prob", "least_log_probs", "path", *_HEARD}
# A decoder without a scale of its own takes that of its next of kin: the statistics mean the same.
_KIN = {"beam": "greedy", "sample": "greedy", "ctc_beam": "ctc"}

Statistics = Mapping[str, float]  # by name; each is the larger, the surer the hypothesis is


class CalibrationError(SignVitError, ValueError):
    """A calibration file that cannot be read, or one that cannot be made; the message says what to do."""

    exit_code = 2


@dataclasses.dataclass(frozen=True)
class Scale:
    """P(right) = 1 / (1 + exp(-(bias + sum of weight * statistic))), and the examples that it was fitted on."""

    weights: Statistics  # none below 0
    bias: float
    examples: int
    right: int

    def __call__(self, statistics: Statistics) -> float:
        """Statistics that the scale has no weight for do not count; one that is not there is 0."""
        logit = self.bias + sum(
            weight * statistics.get(name, 0.0) for name, weight in self.weights.items()
        )
        return 1.0 / (1.0 + math.exp(-logit)) if logit > -700.0 else 0.0

    @property
    def note(self) -> str:
        """What is to be said of a scale that few examples speak for; empty where there were enough."""
        wrong = self.examples - self.right
        if min(self.right, wrong) >= FEW:
            return ""
        return f"a guess: of {self.examples:,} examples {self.right:,} are right and {wrong:,} wrong, and at least {FEW} of both are wanted"


@dataclasses.dataclass(frozen=True)
class Scales:
    """Of one decoder. `word` is None where no word was said."""

    sentence: Scale
    word: Scale | None

    @property
    def listens(self) -> bool:
        """Whether they need to know what CTC hears."""
        return any(
            name in _HEARD
            for scale in (self.sentence, self.word)
            if scale
            for name in scale.weights
        )


@dataclasses.dataclass(frozen=True)
class Calibration:
    """What `calibration.json` says. `lexicon` is there where CTC spells glosses."""

    step: int  # of the checkpoint
    dataset: str
    split: str
    clips: int
    decoders: Mapping[str, Scales]
    lexicon: Lexicon | None = None

    def fitted_on(self, decoder: str) -> str:
        """What the decoder's scales were fitted on, in words; empty where it has none."""
        scales = self.of(decoder)
        if scales is None:
            return ""
        note = f", {scales.sentence.note}" if scales.sentence.note else ""
        return f"{self.clips:,} clips of {self.dataset} {self.split}, step {self.step:,}{note}"

    def of(self, decoder: str) -> Scales | None:
        """The decoder's scales, or those of its next of kin."""
        return self.decoders.get(decoder) or self.decoders.get(_KIN.get(decoder, ""))


def statistics(
    decoder: str,
    score: float,
    probabilities: Sequence[float],
    words: Sequence[Word],
    heard: str | None,
    lexicon: Lexicon | None,
) -> tuple[Statistics, list[Statistics]]:
    """Of a sentence, and of each of its words.

    `probabilities` are those of the tokens that were said, the end of the sentence included; the
    words' confidences are means of them. `heard` is what CTC says of the clip (None: not known),
    glosses where there is a `lexicon`, else text.

    log_prob: of the whole sentence, or of the word (of its mean probability).
    least_log_probs: of the sentence's three least probable tokens together.
    path: of CTC decoders, the log-probability of the path or text.
    explained: 0 where every gloss that CTC heard has a word and every word a gloss, down to -1
      where one is explained worse by a factor of e than in nearly every training sentence.
    agreement: with CTC's text, the share of words in common (twice the matches by both lengths).
    Of words: own_explained and own_agreement of that word alone, and all those of the sentence.
    """
    logs = [_log(probability) for probability in probabilities]
    sentence = {"log_prob": math.fsum(logs), "least_log_probs": math.fsum(sorted(logs)[:3])}
    own: list[dict[str, float]] = [{"log_prob": _log(word.confidence)} for word in words]
    if decoder in CTC_DECODERS:
        sentence["path"] = score if score > _LOWEST_PATH else _LOWEST_PATH
    elif heard is not None:
        said, others = (
            _keys([word.text for word in words]),
            _keys(units(heard, by_spaces=lexicon is not None)),
        )
        if lexicon is not None:
            lacking, others = (
                lexicon.unexplained_words(others, said),
                lexicon.unexplained_glosses(others, said),
            )
            sentence["explained"] = -min(max([*lacking, *others], default=0.0), 1.0)
            each = {"own_explained": [-min(nats, 1.0) for nats in lacking]}
        else:
            matcher = difflib.SequenceMatcher(None, others, said, autojunk=False)
            sentence["agreement"] = matcher.ratio()
            common = {
                block.b + place
                for block in matcher.get_matching_blocks()
                for place in range(block.size)
            }
            each = {"own_agreement": [float(place in common) for place in range(len(said))]}
        for name, values in each.items():
            for one, value in zip(own, values):
                one[name] = value
    return sentence, [
        one
        | {f"sentence_{name}" if name in one else name: value for name, value in sentence.items()}
        for one in own
    ]


def _log(probability: float) -> float:
    """A number also for 0 and for what is none, as a model with broken weights gives."""
    return math.log(probability if probability > _SMALLEST else _SMALLEST)


def word_key(word: str) -> str:
    """What a lexicon knows a word by: case and punctuation do not count."""
    return re.sub(r"\W", "", word).casefold() or word


def _keys(words: Sequence[str]) -> list[str]:
    return [word_key(word) for word in words]


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
    values = np.asarray([[one[name] for name in names] for one in statistics], np.float64).reshape(
        len(hits), len(names)
    )
    kept = [place for place in range(len(names)) if np.ptp(values[:, place]) > 0]
    while True:
        weights, bias = _logistic(values[:, kept], hits)
        if not (weights < 0).any():
            break
        kept = [place for place, weight in zip(kept, weights) if weight > weights.min()]
    chosen = {names[place]: float(weight) for place, weight in zip(kept, weights)}
    return Scale(chosen, float(bias), len(hits), int(hits.sum()))


def _logistic(
    values: Float[np.ndarray, "n k"], right: Bool[np.ndarray, "n"]
) -> tuple[Float[np.ndarray, "k"], float]:
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
    """JSON of one object: "format", "version", "checkpoint_step", "dataset", "split", "clips";
    "decoders": {name: {"sentence": SCALE, "word": SCALE or null}};
    "lexicon": null or {"glosses": {name: ENTRY}, "words": {name: ENTRY}}.

    SCALE is {"weights": {statistic: number}, "bias", "examples", "right", "note"}, ENTRY {"usual", "by": {name: probability}}.
    """

    def scale(one: Scale | None) -> dict[str, Any] | None:
        return None if one is None else dataclasses.asdict(one) | {"note": one.note}

    values = {
        "format": _FORMAT,
        "version": _VERSION,
        "checkpoint_step": calibration.step,
        "dataset": calibration.dataset,
        "split": calibration.split,
        "clips": calibration.clips,
        "decoders": {
            name: {"sentence": scale(one.sentence), "word": scale(one.word)}
            for name, one in calibration.decoders.items()
        },
        "lexicon": None if calibration.lexicon is None else dataclasses.asdict(calibration.lexicon),
    }
    return json.dumps(values, ensure_ascii=False, indent=1, allow_nan=False) + "\n"


def from_json(text: str) -> Calibration:
    """Reads what `to_json` wrote. Raises CalibrationError."""
    try:
        values = json.loads(text)
        if values["format"] != _FORMAT or values["version"] != _VERSION:
            raise CalibrationError(
                f"format {values['format']!r}, version {values['version']!r}; this release reads {_FORMAT!r}, version {_VERSION}"
            )
        scales = {
            str(name): (_scale(scales["sentence"]), scales["word"] and _scale(scales["word"]))
            for name, scales in values["decoders"].items()
        }
        lexicon = values["lexicon"]
        return Calibration(
            int(values["checkpoint_step"]),
            str(values["dataset"]),
            str(values["split"]),
            int(values["clips"]),
            {name: Scales(*pair) for name, pair in scales.items()},
            None
            if lexicon is None
            else Lexicon(_entries(lexicon["glosses"]), _entries(lexicon["words"])),
        )
    except CalibrationError:
        raise
    except (
        ValueError,
        KeyError,
        TypeError,
        AttributeError,
        OverflowError,
        RecursionError,
    ) as error:
        raise CalibrationError(
            f"not a calibration file ({type(error).__name__}: {error})"
        ) from error


def _scale(values: Mapping[str, Any]) -> Scale:
    weights = {str(name): _number(weight) for name, weight in values["weights"].items()}
    if unknown := weights.keys() - _KNOWN:
        raise CalibrationError(
            f"weights of unknown statistics: {', '.join(sorted(unknown))}; allowed: {', '.join(sorted(_KNOWN))}"
        )
    return Scale(weights, _number(values["bias"]), int(values["examples"]), int(values["right"]))


def _entries(values: Mapping[str, Any]) -> dict[str, Entry]:
    entries = {
        str(name): Entry(
            _number(entry["usual"]),
            {str(other): _number(share) for other, share in entry["by"].items()},
        )
        for name, entry in values.items()
    }
    for name, entry in entries.items():
        if not all(0.0 < share <= 1.0 for share in entry.by.values()):
            raise CalibrationError(
                f"the lexicon's entry {name!r} has {dict(entry.by)}; allowed: probabilities above 0"
            )
    return entries


def _number(value: Any) -> float:
    number = float(value)
    if not math.isfinite(number):
        raise CalibrationError(f"{value!r} where a number is wanted")
    return number
