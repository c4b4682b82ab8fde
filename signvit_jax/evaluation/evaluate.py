"""Scores a trained model on a split: predictions of every clip, scores of every decoder, pictures of the clips that the report shows."""

import logging
from collections.abc import Callable

import jax
import numpy as np
from jaxtyping import PyTree

from signvit_jax.config.schema import Config
from signvit_jax.data.augment import decode_clip
from signvit_jax.data.dataset import Split
from signvit_jax.data.pipeline import make_batches
from signvit_jax.data.sampling import sample_frames
from signvit_jax.data.token_table import padded_text_length
from signvit_jax.decoding.decoders import CTC_DECODERS
from signvit_jax.evaluation.diagnostics import AttentionMapFn
from signvit_jax.evaluation.metrics import MetricError, Scores, check_tokenization, gloss_wer, score
from signvit_jax.evaluation.reliability import DecoderConfidence, decoder_confidence
from signvit_jax.evaluation.results import Prediction, Results
from signvit_jax.evaluation.scored_clips import (
    ClipPictures,
    main_decoder,
    score_clips,
    worst_and_best,
)
from signvit_jax.inference.predictor import Hypothesis, Predictor
from signvit_jax.text.tokenizer import Tokenizer

log = logging.getLogger(__name__)


def evaluate(
    split: Split,
    predictor: Predictor,
    params: PyTree,
    config: Config,
    tokenizer: Tokenizer,
    *,
    checkpoint_step: int,
    tokenize: str | None = None,
    phoenix: bool = False,
    lowercase: bool = False,
    should_stop: Callable[[], bool] = lambda: False,
    on_batch: Callable[[int], None] = lambda clips: None,
) -> Results | None:
    """Predictions and scores of the whole split, each clip once and against its raw reference; None if `should_stop()` ended it early.

    `tokenize`: another than `evaluation.tokenize` of the config. A decoder that spells glosses (CTC with `ctc.target` 'gloss') is scored against
    the glosses of the clips that have them, and where `phoenix` by PHOENIX's rules too. Raises MetricError where nothing can be scored.
    """
    decoders = list(predictor.tokenizers)
    spells_glosses = (
        [name for name in decoders if name in CTC_DECODERS]
        if config.model.ctc.target == "gloss"
        else []
    )
    scored = (
        decoders
        if any(entry.gloss for entry in split.index)
        else [name for name in decoders if name not in spells_glosses]
    )
    if not scored:
        raise MetricError(
            f"no clip of {split.name!r} has a gloss, and {', '.join(decoders)} spells glosses: nothing to score; try greedy or beam"
        )
    if len(scored) < len(decoders):
        log.warning(
            "no clip of %r has a gloss: %s spells glosses and is not scored",
            split.name,
            ", ".join(spells_glosses),
        )
    tokenize = tokenize or config.evaluation.tokenize
    check_tokenization(tokenize)
    devices = predictor.mesh.size
    batches = make_batches(
        split,
        tokenizer,
        config,
        batch_size=-(-config.inference.batch_size // devices) * devices,
        training=False,
        text_length=padded_text_length(split, tokenizer, config.model.decoder.max_len),
        process_index=jax.process_index(),
        process_count=jax.process_count(),
    )
    found = predictor.predict_split(params, batches, should_stop, on_batch)
    if should_stop():
        return None
    entries = [split.index[position] for position in found]
    predictions = tuple(
        _prediction(entry.id, entry.text, entry.gloss, hypotheses, scored)
        for entry, hypotheses in zip(entries, found.values())
    )
    scores: dict[str, Scores] = {}
    sure: dict[str, DecoderConfidence] = {}
    phoenix_rates: dict[str, float] = {}
    for decoder in scored:
        spells = decoder in spells_glosses
        pairs = [
            (entry.gloss if spells else entry.text, p.hypotheses[decoder])
            for entry, p in zip(entries, predictions)
            if entry.gloss or not spells
        ]
        references, hypotheses = zip(*pairs)
        scores[decoder] = score(
            references, hypotheses, tokenize=tokenize, lowercase=lowercase, glosses=spells
        )
        said = [
            (entry.gloss if spells else entry.text, its[decoder])
            for entry, its in zip(entries, found.values())
            if entry.gloss or not spells
        ]
        sure[decoder] = decoder_confidence(
            said, predictor.fitted_on.get(decoder, ""), lowercase=lowercase, glosses=spells
        )
        if phoenix and spells:
            phoenix_rates[decoder] = gloss_wer(references, hypotheses).rate
    unknown = dict(tokenizer.unknown([entry.text for entry in entries]).most_common())
    return Results(
        split.name,
        config.data.name,
        checkpoint_step,
        scores,
        predictions,
        tuple(spells_glosses),
        unknown,
        phoenix_rates,
        sure,
    )


def pictures(
    results: Results,
    split: Split,
    config: Config,
    tokenizer: Tokenizer,
    look: AttentionMapFn,
    count: int,
) -> dict[str, ClipPictures]:
    """The sampled frames of the clips that the report of `results` shows and what the model sees in them, by clip id.

    Cross-attention is drawn for what the report's main decoder said; where that is CTC, which has none, only CTC's alignment is.
    """
    decoder = main_decoder(results)
    worst, best = worst_and_best(score_clips(results), decoder, count)
    positions = {entry.id: position for position, entry in enumerate(split.index)}
    drawn = {}
    for clip in [*worst, *best]:
        frames = _frames(split, positions[clip.prediction.id], config)
        said = (
            None
            if decoder in CTC_DECODERS
            else tokenizer.encode(clip.prediction.hypotheses[decoder])
        )
        drawn[clip.prediction.id] = ClipPictures(frames, look(frames, said))
    return drawn


def _frames(split: Split, position: int, config: Config) -> np.ndarray:
    record = split[position]
    picked = sample_frames(len(record["video"]), record["fps"], config.data, config.data.num_frames)
    return decode_clip(
        [record["video"][frame] for frame in picked],
        config.data.image_size,
        config.data.resize_mode,
    )


def _prediction(
    clip: str, text: str, gloss: str, hypotheses: dict[str, Hypothesis], scored: list[str]
) -> Prediction:
    """Score and confidence are those of the first decoder that is scored, which is the report's main one."""
    main = hypotheses[scored[0]]
    details: dict[str, object] = {"confidence": main.confidence} | (
        {"gloss": gloss} if gloss else {}
    )
    details |= {
        name: hypothesis.text for name, hypothesis in hypotheses.items() if name not in scored
    }
    return Prediction(
        clip, text, {name: hypotheses[name].text for name in scored}, main.score, details
    )
