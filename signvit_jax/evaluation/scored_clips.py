"""Clips with aligned words, and the selection of clips that a report shows."""

import dataclasses
from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Float, UInt8

from signvit_jax.evaluation.metrics import Edit, WordErrors, align, counted_words
from signvit_jax.evaluation.results import Prediction, Results, ResultsError


@dataclasses.dataclass(frozen=True)
class HeatMap:
    """An image with one named row per token and one column per time step.

    Values are from 0 (nothing) to 1; larger ones are clipped.
    """

    title: str
    tokens: Sequence[str]
    values: Float[np.ndarray, "l s"]


@dataclasses.dataclass(frozen=True)
class ClipImages:
    """Images of a clip for the report."""

    frames: UInt8[np.ndarray, "t h w 3"] | None = None
    heat_maps: Sequence[HeatMap] = ()  # such as the CTC alignment and the cross-attention over time


@dataclasses.dataclass(frozen=True)
class ScoredClip:
    """A prediction with aligned words, by decoder.

    A decoder that spells glosses is missing if the clip has none.
    """

    prediction: Prediction
    alignments: Mapping[str, list[Edit]]

    def errors(self, decoder: str) -> WordErrors:
        """Return the word errors of one decoder; all 0 if the decoder is missing."""
        edits = self.alignments.get(decoder, [])
        counts = Counter(edit.operation for edit in edits)
        words = sum(edit.reference is not None for edit in edits)
        return WordErrors(counts["substitute"], counts["insert"], counts["delete"], words)


def main_decoder(results: Results) -> str:
    """Return the decoder that was requested first.

    The score and the confidence of a prediction are those of this decoder. Raises ResultsError if
    there is no decoder.
    """
    if not results.decoders:
        raise ResultsError("the results contain no decoder, so there is nothing to report")
    return next(iter(results.decoders))


def score_clips(results: Results) -> list[ScoredClip]:
    """Align the words that WER counted, for each clip in the order of the predictions."""
    alignments: list[dict[str, list[Edit]]] = [{} for _ in results.predictions]
    for decoder, scores in results.decoders.items():
        annotated = [
            (i, reference, prediction.hypotheses[decoder])
            for i, (reference, prediction) in enumerate(
                zip(results.references(decoder), results.predictions)
            )
            if reference is not None
        ]
        references = counted_words((reference for _, reference, _ in annotated), scores)
        hypotheses = counted_words((hypothesis for _, _, hypothesis in annotated), scores)
        for (i, _, _), reference, hypothesis in zip(annotated, references, hypotheses):
            alignments[i][decoder] = align(reference, hypothesis)
    return [ScoredClip(*pair) for pair in zip(results.predictions, alignments)]


def first_clips(clips: Sequence[ScoredClip], decoder: str, count: int = 3) -> list[ScoredClip]:
    """Return the first clips of the split that `decoder` was scored on: not selected by score."""
    return [clip for clip in clips if decoder in clip.alignments][:count]


def worst_and_best(
    clips: Sequence[ScoredClip], decoder: str, count: int = 8
) -> tuple[list[ScoredClip], list[ScoredClip]]:
    """Return the `count` worst and the `count` best clips, by error rate; no clip is in both lists.

    Of equal error rates, longer sentences come first.
    """

    def rank(clip: ScoredClip, sign: int) -> tuple[float, int, str]:
        errors = clip.errors(decoder)
        return sign * errors.rate, -errors.reference_words, clip.prediction.id

    clips = [clip for clip in clips if decoder in clip.alignments]
    wrong = [clip for clip in clips if clip.errors(decoder).errors]
    worst = sorted(wrong, key=lambda clip: rank(clip, -1))[:count]
    worst_ids = {id(clip) for clip in worst}
    others = [clip for clip in clips if id(clip) not in worst_ids]
    best = sorted(others, key=lambda clip: rank(clip, 1))[:count]
    return worst, best
