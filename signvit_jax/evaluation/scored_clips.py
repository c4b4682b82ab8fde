"""Clips with their words aligned, and which of them a report shows."""

import dataclasses
from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Float, UInt8

from signvit_jax.evaluation.metrics import Edit, WordErrors, align, counted_words
from signvit_jax.evaluation.results import Prediction, Results, ResultsError


@dataclasses.dataclass(frozen=True)
class HeatMap:
    """A picture with a named row per token and a column per step of time; values from 0 (nothing) to 1, larger ones are cut off."""

    title: str
    tokens: Sequence[str]
    values: Float[np.ndarray, "l s"]


@dataclasses.dataclass(frozen=True)
class ClipPictures:
    """What can be shown of a clip beside its texts."""

    frames: UInt8[np.ndarray, "t h w 3"] | None = None
    heat_maps: Sequence[HeatMap] = ()  # such as the CTC alignment and the cross-attention over time


@dataclasses.dataclass(frozen=True)
class ScoredClip:
    """A prediction with its words aligned, per decoder; a decoder that spells glosses is missing where the clip has none."""

    prediction: Prediction
    alignments: Mapping[str, list[Edit]]

    def errors(self, decoder: str) -> WordErrors:
        edits = self.alignments.get(decoder, [])
        counts = Counter(edit.operation for edit in edits)
        words = sum(edit.reference is not None for edit in edits)
        return WordErrors(counts["substitute"], counts["insert"], counts["delete"], words)


def main_decoder(results: Results) -> str:
    """The decoder that was asked for first: score and confidence of a prediction are its own. Raises ResultsError where there is none."""
    if not results.decoders:
        raise ResultsError("the results hold no decoder, so there is nothing to report")
    return next(iter(results.decoders))


def score_clips(results: Results) -> list[ScoredClip]:
    """Each clip's words as WER counted them, aligned, in the order of the predictions."""
    alignments: list[dict[str, list[Edit]]] = [{} for _ in results.predictions]
    for name, scores in results.decoders.items():
        references = results.references(name)
        annotated = [i for i, reference in enumerate(references) if reference is not None]
        expected = counted_words((references[i] for i in annotated), scores)
        said = counted_words((results.predictions[i].hypotheses[name] for i in annotated), scores)
        for i, reference, hypothesis in zip(annotated, expected, said):
            alignments[i][name] = align(reference, hypothesis)
    return [ScoredClip(prediction, own) for prediction, own in zip(results.predictions, alignments)]


def worst_and_best(
    clips: Sequence[ScoredClip], decoder: str, count: int = 8
) -> tuple[list[ScoredClip], list[ScoredClip]]:
    """The clips that a report shows, `count` of either kind and none twice; of equal error rates longer sentences come first."""

    def rank(clip: ScoredClip, sign: int) -> tuple[float, int, str]:
        errors = clip.errors(decoder)
        return sign * errors.rate, -errors.reference_words, clip.prediction.id

    clips = [clip for clip in clips if decoder in clip.alignments]
    worst = sorted(
        (clip for clip in clips if clip.errors(decoder).errors), key=lambda clip: rank(clip, -1)
    )[:count]
    shown = {id(clip) for clip in worst}
    best = sorted(
        (clip for clip in clips if id(clip) not in shown), key=lambda clip: rank(clip, 1)
    )[:count]
    return worst, best
