"""Evaluation of a trained model on a split: predictions, scores, and images for the report."""

import logging
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType

import jax
import numpy as np
from jaxtyping import PyTree, UInt8

from signvit_jax.config.schema import Config
from signvit_jax.data.augment import decode_clip
from signvit_jax.data.dataset import Split
from signvit_jax.data.frame_sampling import sample_frames
from signvit_jax.data.pipeline import make_batches
from signvit_jax.data.schema import IndexEntry
from signvit_jax.data.token_table import padded_text_length
from signvit_jax.decoding.decoders import CTC_DECODERS
from signvit_jax.evaluation.confidence_reliability import DecoderConfidence, decoder_confidence
from signvit_jax.evaluation.diagnostics import AttentionMapFn
from signvit_jax.evaluation.metrics import MetricError, Scores, check_tokenization, gloss_wer, score
from signvit_jax.evaluation.results import Prediction, Results
from signvit_jax.evaluation.score_groups import GROUPS, Columns
from signvit_jax.evaluation.scored_clips import (
    ClipImages,
    first_clips,
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
    columns: Columns = MappingProxyType({}),
    should_stop: Callable[[], bool] = lambda: False,
    on_batch: Callable[[int], None] = lambda clips: None,
) -> Results | None:
    """Predict and score all clips of a split, each against its raw reference.

    A decoder that spells glosses (CTC with `ctc.target` "gloss") is scored against the glosses of
    the clips that have them.

    Args:
        tokenize: Replaces `evaluation.tokenize` of the config.
        phoenix: Whether decoders that spell glosses are scored by the rules of PHOENIX too.
        lowercase: Whether case is ignored.
        columns: By what the report groups clips; each prediction keeps its values.
        should_stop: Called before every batch; True ends the evaluation early.
        on_batch: Called with the number of clips of each batch.

    Returns:
        The results, or None if the evaluation ended early.

    Raises:
        MetricError: If nothing can be scored.
    """
    decoders = list(predictor.tokenizers)
    gloss_decoders = []
    if config.model.ctc.target == "gloss":
        gloss_decoders = [decoder for decoder in decoders if decoder in CTC_DECODERS]
    scored = _scored_decoders(split, decoders, gloss_decoders)
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
    by_position = predictor.predict_split(params, batches, should_stop, on_batch)
    if should_stop():
        return None

    clips = [(split.index[position], hypotheses) for position, hypotheses in by_position.items()]
    scores: dict[str, Scores] = {}
    confidence: dict[str, DecoderConfidence] = {}
    phoenix_rates: dict[str, float] = {}
    for decoder in scored:
        is_gloss = decoder in gloss_decoders
        pairs = [
            (entry.gloss if is_gloss else entry.text, hypotheses[decoder])
            for entry, hypotheses in clips
            if entry.gloss or not is_gloss
        ]
        references = [reference for reference, _ in pairs]
        texts = [hypothesis.text for _, hypothesis in pairs]
        scores[decoder] = score(
            references, texts, tokenize=tokenize, lowercase=lowercase, glosses=is_gloss
        )
        confidence[decoder] = decoder_confidence(
            pairs, predictor.fitted_on.get(decoder, ""), lowercase=lowercase, glosses=is_gloss
        )
        if phoenix and is_gloss:
            phoenix_rates[decoder] = gloss_wer(references, texts).rate
    return Results(
        split=split.name,
        dataset=config.data.name,
        checkpoint_step=checkpoint_step,
        decoders=scores,
        predictions=tuple(
            _prediction(entry, hypotheses, scored, columns) for entry, hypotheses in clips
        ),
        gloss_decoders=tuple(gloss_decoders),
        unknown=dict(tokenizer.unknown([entry.text for entry, _ in clips]).most_common()),
        phoenix_gloss_wer=phoenix_rates,
        confidence=confidence,
    )


def _scored_decoders(
    split: Split, decoders: Sequence[str], gloss_decoders: Sequence[str]
) -> list[str]:
    """Return the decoders with references in the split. Raises MetricError if there are none."""
    if any(entry.gloss for entry in split.index):
        return list(decoders)
    scored = [decoder for decoder in decoders if decoder not in gloss_decoders]
    if not scored:
        raise MetricError(
            f"no clip of {split.name!r} has a gloss, and {', '.join(decoders)} spells glosses: "
            "nothing to score; try greedy or beam"
        )
    if gloss_decoders:
        log.warning(
            "no clip of %r has a gloss: %s spells glosses and is not scored",
            split.name,
            ", ".join(gloss_decoders),
        )
    return scored


def clip_images(
    results: Results,
    split: Split,
    config: Config,
    tokenizer: Tokenizer,
    attention_maps: AttentionMapFn,
    count: int,
) -> dict[str, ClipImages]:
    """Return the images of the clips that the report shows, by clip id.

    The `count` worst and the `count` best clips have their sampled frames and heat maps, the first
    clips their frames.

    Cross-attention is that of the main decoder's text. If the main decoder is CTC, which has no
    cross-attention, the only heat map is the alignment of CTC.
    """
    decoder = main_decoder(results)
    clips = score_clips(results)
    worst, best = worst_and_best(clips, decoder, count)
    positions = {entry.id: position for position, entry in enumerate(split.index)}
    images = {
        clip.prediction.id: ClipImages(_frames(split, positions[clip.prediction.id], config))
        for clip in first_clips(clips, decoder)
    }
    for clip in [*worst, *best]:
        frames = _frames(split, positions[clip.prediction.id], config)
        ids = None
        if decoder not in CTC_DECODERS:
            ids = tokenizer.encode(clip.prediction.hypotheses[decoder])
        images[clip.prediction.id] = ClipImages(frames, attention_maps(frames, ids))
    return images


def _frames(split: Split, position: int, config: Config) -> UInt8[np.ndarray, "t h w 3"]:
    record, data = split[position], config.data
    sampled = sample_frames(len(record["video"]), record["fps"], data, data.num_frames)
    return decode_clip(
        [record["video"][frame] for frame in sampled], data.image_size, data.resize_mode
    )


def _prediction(
    entry: IndexEntry,
    hypotheses: Mapping[str, Hypothesis],
    scored: Sequence[str],
    columns: Columns,
) -> Prediction:
    """Score and confidence are those of the first scored decoder, the main one of the report."""
    main = hypotheses[scored[0]]
    details: dict[str, object] = {"confidence": main.confidence}
    if entry.gloss:
        details["gloss"] = entry.gloss
    if columns:
        details[GROUPS] = {name: values.get(entry.id, "") for name, values in columns.items()}
    details |= {
        decoder: hypothesis.text
        for decoder, hypothesis in hypotheses.items()
        if decoder not in scored
    }
    return Prediction(
        id=entry.id,
        reference=entry.text,
        hypotheses={decoder: hypotheses[decoder].text for decoder in scored},
        score=main.score,
        details=details,
    )
