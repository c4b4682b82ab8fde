"""Fits the scales of confidence on a split that was not trained on."""

import logging
from collections.abc import Iterable, Mapping, Sequence

from signvit_jax.data.schema import IndexEntry
from signvit_jax.decoding.confidence import (
    Calibration,
    CalibrationError,
    Scales,
    fit_scale,
    statistics,
    word_key,
)
from signvit_jax.decoding.decoders import CTC_DECODERS
from signvit_jax.decoding.lexicon import Lexicon, learn_lexicon
from signvit_jax.evaluation.reliability import is_right, right_words
from signvit_jax.inference.predictor import Hypothesis
from signvit_jax.text.scripts import units

log = logging.getLogger(__name__)

MOST_CLIPS = 2000  # of the split that scales are fitted on: more of them change little
_MOST_SENTENCES = 20_000  # that a lexicon is learned from


def lexicon_of(index: Sequence[IndexEntry]) -> Lexicon | None:
    """Learned from a training split's annotations, evenly over it where it is large."""
    step = -(-len(index) // _MOST_SENTENCES) or 1
    return learn_lexicon(
        (_keys(entry.gloss, by_spaces=True), _keys(entry.text))
        for entry in index[::step]
        if entry.gloss and entry.text
    )


def fit(
    found: Sequence[tuple[IndexEntry, Mapping[str, Hypothesis]]],
    decoders: Iterable[str],
    *,
    spells_glosses: bool,
    lexicon: Lexicon | None,
    step: int,
    dataset: str,
    split: str,
    lowercase: bool,
) -> Calibration:
    """Scales for each of the decoders, of (clip, decoder -> hypothesis).

    The hypotheses are raw: not calibrated, none left out for its confidence; where there is `ctc`
    among them, the others are compared with it. Where CTC spells glosses these are what CTC decoders
    are right about, in clips that have some, and the others are compared with it through the
    `lexicon`. Raises CalibrationError where nothing was decoded.
    """
    scales = {}
    for name in decoders:
        of_glosses = spells_glosses and name in CTC_DECODERS
        sentences, sentences_right, words, words_right = [], [], [], []
        for entry, hypotheses in found:
            if of_glosses and not entry.gloss:
                continue
            said, reference = hypotheses[name], entry.gloss if of_glosses else entry.text
            heard = (
                hypotheses["ctc"].text
                if "ctc" in hypotheses and (lexicon or not spells_glosses)
                else None
            )
            of_sentence, of_words = statistics(
                name, said.score, said.probabilities, said.words, heard, lexicon
            )
            sentences.append(of_sentence)
            sentences_right.append(is_right(reference, said.text, lowercase=lowercase))
            words += of_words
            words_right += right_words(
                reference,
                [word.text for word in said.words],
                lowercase=lowercase,
                glosses=of_glosses,
            )
        if not sentences:
            raise CalibrationError(
                f"{split!r} of {dataset!r} has no clip to fit confidence of {name!r} on; give another split"
            )
        scales[name] = Scales(
            fit_scale(sentences, sentences_right), fit_scale(words, words_right) if words else None
        )
    return Calibration(step, dataset, split, len(found), scales, lexicon)


def describe(calibration: Calibration) -> list[str]:
    """A line for each decoder, for the log."""
    lines = []
    for name, scales in calibration.decoders.items():
        one = scales.sentence
        note = f"; {one.note}" if one.note else ""
        lines.append(
            f"confidence of {name} fitted on {one.examples:,} clips of {calibration.split!r}, of which {one.right:,} are right{note}"
        )
    return lines


def _keys(text: str, by_spaces: bool = False) -> list[str]:
    return [word_key(word) for word in units(text, by_spaces)]
