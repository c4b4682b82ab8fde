"""Fitting of confidence scales on a split that was not trained on."""

import logging
from collections.abc import Iterable, Mapping, Sequence

from signvit_jax.data.schema import IndexEntry
from signvit_jax.decoding.confidence import (
    Calibration,
    CalibrationError,
    Scales,
    Statistics,
    fit_scale,
    word_key,
)
from signvit_jax.decoding.decoders import CTC_DECODERS
from signvit_jax.decoding.lexicon import Lexicon, learn_lexicon
from signvit_jax.evaluation.confidence_reliability import is_right, right_words
from signvit_jax.inference.predictor import Hypothesis
from signvit_jax.text.writing_systems import units

log = logging.getLogger(__name__)

MOST_CLIPS = 2000  # of the split that scales are fitted on: more of them change little
_MAX_LEXICON_SENTENCES = 20_000

Decoded = Sequence[tuple[IndexEntry, Mapping[str, Hypothesis]]]  # clip, decoder -> hypothesis


def lexicon_of(index: Sequence[IndexEntry]) -> Lexicon | None:
    """Learn a lexicon from a training split; from evenly spaced sentences of a large one."""
    step = -(-len(index) // _MAX_LEXICON_SENTENCES) or 1
    return learn_lexicon(
        (_keys(entry.gloss, by_spaces=True), _keys(entry.text))
        for entry in index[::step]
        if entry.gloss and entry.text
    )


def fit(
    decoded: Decoded,
    decoders: Iterable[str],
    *,
    spells_glosses: bool,
    lexicon: Lexicon | None,
    step: int,
    dataset: str,
    split: str,
    lowercase: bool,
) -> Calibration:
    """Fit the scales of each of the decoders.

    The hypotheses must be raw: not calibrated, and none left out for its confidence. If "ctc" is
    among them, the other decoders are compared with it. Where CTC spells glosses, CTC decoders are
    scored against the glosses of the clips that have some, and the others are compared with CTC
    through the `lexicon`. Raises CalibrationError if no clip was decoded.
    """
    scales = {}
    for decoder in decoders:
        is_gloss = spells_glosses and decoder in CTC_DECODERS
        clips = [(entry, texts) for entry, texts in decoded if entry.gloss or not is_gloss]
        if not clips:
            raise CalibrationError(
                f"{split!r} of {dataset!r} has no clip to fit confidence of {decoder!r} on; "
                "give another split"
            )
        compare_ctc = lexicon is not None or not spells_glosses
        scales[decoder] = _fit_decoder(
            clips, decoder, is_gloss, compare_ctc, lexicon, lowercase=lowercase
        )
    return Calibration(step, dataset, split, len(decoded), scales, lexicon)


def _fit_decoder(
    clips: Decoded,
    decoder: str,
    is_gloss: bool,
    compare_ctc: bool,
    lexicon: Lexicon | None,
    *,
    lowercase: bool,
) -> Scales:
    sentences: list[Statistics] = []
    sentences_right: list[bool] = []
    words: list[Statistics] = []
    words_right: list[bool] = []
    for entry, hypotheses in clips:
        hypothesis = hypotheses[decoder]
        reference = entry.gloss if is_gloss else entry.text
        ctc_text = hypotheses["ctc"].text if compare_ctc and "ctc" in hypotheses else None
        of_sentence, of_words = hypothesis.statistics(decoder, ctc_text, lexicon)
        sentences.append(of_sentence)
        sentences_right.append(is_right(reference, hypothesis.text, lowercase=lowercase))
        words += of_words
        words_right += right_words(
            reference,
            [word.text for word in hypothesis.words],
            lowercase=lowercase,
            glosses=is_gloss,
        )
    return Scales(
        sentence=fit_scale(sentences, sentences_right),
        word=fit_scale(words, words_right) if words else None,
    )


def describe(calibration: Calibration) -> list[str]:
    """Return one line for the log per decoder."""
    lines = []
    for decoder, scales in calibration.decoders.items():
        scale = scales.sentence
        note = f"; {scale.note}" if scale.note else ""
        lines.append(
            f"confidence of {decoder} fitted on {scale.examples:,} clips of "
            f"{calibration.split!r}, of which {scale.right:,} are right{note}"
        )
    return lines


def _keys(text: str, by_spaces: bool = False) -> list[str]:
    return [word_key(word) for word in units(text, by_spaces)]
