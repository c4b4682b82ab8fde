"""Scores a trained model on a split: predictions of every clip, scores of every decoder, pictures of the clips that the report shows."""

from collections.abc import Callable

import jax
import numpy as np
from jaxtyping import PyTree

from signvit_jax.config import Config
from signvit_jax.data.augment import decode_clip
from signvit_jax.data.dataset import Split
from signvit_jax.data.pipeline import make_batches
from signvit_jax.data.sampling import sample_frames
from signvit_jax.data.token_table import padded_text_length
from signvit_jax.data.tokenizer import Tokenizer
from signvit_jax.decoding.decoders import CTC_DECODERS
from signvit_jax.evaluation.diagnostics import Look
from signvit_jax.evaluation.evaluator import Hypothesis, Predictor
from signvit_jax.evaluation.metrics import Scores, score
from signvit_jax.evaluation.reliability import DecoderConfidence, decoder_confidence
from signvit_jax.evaluation.report import ClipPictures, main_decoder, score_clips, worst_and_best
from signvit_jax.evaluation.results import Prediction, Results


def evaluate(
    split: Split,
    predictor: Predictor,
    params: PyTree,
    config: Config,
    tokenizer: Tokenizer,
    *,
    checkpoint_step: int,
    tokenize: str = "13a",
    lowercase: bool = False,
    should_stop: Callable[[], bool] = lambda: False,
    on_batch: Callable[[int], None] = lambda clips: None,
) -> Results | None:
    """Predictions and scores of the whole split, each clip once and against its raw reference; None if `should_stop()` ended it early.

    A decoder that spells glosses (CTC with `ctc.target` 'gloss') is scored against the glosses.
    """
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
    decoders = list(predictor.tokenizers)
    entries = [split.index[position] for position in found]
    predictions = tuple(_prediction(entry.id, entry.text, entry.gloss, hypotheses) for entry, hypotheses in zip(entries, found.values()))
    spells_glosses = [name for name in decoders if name in CTC_DECODERS] if config.model.ctc.target == "gloss" else []
    scores: dict[str, Scores] = {}
    sure: dict[str, DecoderConfidence] = {}
    for decoder in decoders:
        references = [entry.gloss if decoder in spells_glosses else entry.text for entry in entries]
        scores[decoder] = score(references, [p.hypotheses[decoder] for p in predictions], tokenize=tokenize, lowercase=lowercase)
        of_glosses = decoder in spells_glosses
        said = [
            (entry.gloss if of_glosses else entry.text, hypotheses[decoder])
            for entry, hypotheses in zip(entries, found.values())
            if entry.gloss or not of_glosses
        ]
        sure[decoder] = decoder_confidence(said, predictor.fitted_on.get(decoder, ""), lowercase=lowercase)
    return Results(split.name, config.data.name, checkpoint_step, scores, predictions, tuple(spells_glosses), confidence=sure)


def pictures(results: Results, split: Split, config: Config, tokenizer: Tokenizer, look: Look, count: int) -> dict[str, ClipPictures]:
    """The sampled frames of the clips that the report of `results` shows and what the model sees in them, by clip id."""
    decoder = main_decoder(results)
    worst, best = worst_and_best(score_clips(results), decoder, count)
    positions = {entry.id: position for position, entry in enumerate(split.index)}
    drawn = {}
    for clip in [*worst, *best]:
        frames = _frames(split, positions[clip.prediction.id], config)
        drawn[clip.prediction.id] = ClipPictures(frames, look(frames, tokenizer.encode(clip.prediction.hypotheses[decoder])))
    return drawn


def _frames(split: Split, position: int, config: Config) -> np.ndarray:
    record = split[position]
    picked = sample_frames(len(record["video"]), record["fps"], config.data, config.data.num_frames)
    return decode_clip([record["video"][frame] for frame in picked], config.data.image_size, config.data.fit)


def _prediction(clip: str, text: str, gloss: str, hypotheses: dict[str, Hypothesis]) -> Prediction:
    main = next(iter(hypotheses.values()))
    details: dict[str, object] = {"confidence": main.confidence} | ({"gloss": gloss} if gloss else {})
    return Prediction(clip, text, {name: hypothesis.text for name, hypothesis in hypotheses.items()}, main.score, details)
