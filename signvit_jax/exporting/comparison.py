"""Compare an export with the model that it was made from: size, outputs, scores and latency."""

import dataclasses
import statistics
import time
from collections.abc import Callable

import jax
import numpy as np
from jaxtyping import ArrayLike, Float, Int, Int32, UInt8

from signvit_jax.config.schema import Config
from signvit_jax.data.dataset import Split
from signvit_jax.data.pipeline import make_batches
from signvit_jax.evaluation.evaluate import evaluate
from signvit_jax.exporting.report import Comparison, Difference, Latency, ScoreValues, Sizes
from signvit_jax.inference.loading import load_model, open_programs
from signvit_jax.inference.predictor import Clips
from signvit_jax.inference.trained_model import TrainedModel
from signvit_jax.serving.export_dir import ExportFolder
from signvit_jax.serving.programs import (
    EXPORT_POLICY,
    ModelPrograms,
    Programs,
    ctc_steps,
    encode,
    memory_lengths_name,
)

_DECODER = "greedy"
_TOKENS = 8  # steps of the decoder whose logits are compared
_GLOSSES = 3  # of the gloss memory whose logits are compared
_RUNS = 5  # runs whose median latency is reported


def compare(
    model: TrainedModel,
    folder: ExportFolder,
    split: Split | None,
    clips: int,
    on_clips: Callable[[int], None] = lambda clips: None,
) -> Comparison:
    """Return the report of an export, with scores on `clips` of the split's clips if there are any.

    Differences are from the same model in float32, on a clip of the split, or on noise
    without one. Raises ExportError.
    """
    exported = load_model(folder.path)
    subset = split.spread(clips) if split is not None and len(split) else None
    batch = _noise(model.config) if subset is None else _first_clip(subset, model)
    report: Comparison = {
        "size": _sizes(model, folder),
        "difference": _differences(model, folder, batch),
        "latency": _latency(model, exported, batch),
    }
    if subset is not None:
        report["scores"] = {
            "split": subset.name,
            "clips": len(subset),
            "decoder": _DECODER,
            "before": _scores(model, subset, on_clips),
            "after": _scores(exported, subset, on_clips),
        }
    return report


def _sizes(model: TrainedModel, folder: ExportFolder) -> Sizes:
    parameters = sum(leaf.size for leaf in jax.tree.leaves(model.params))
    return {
        "parameters": parameters,
        "float32_bytes": 4 * parameters,
        "export_bytes": folder.size(),
    }


class _Clip(Clips):
    tokens: Int32[np.ndarray, "1 l"]


def _first_clip(split: Split, model: TrainedModel) -> _Clip:
    batches = make_batches(
        split,
        model.tokenizer,
        model.config,
        batch_size=1,
        training=False,
        text_length=model.config.model.decoder.max_len,
    )
    batch = next(iter(batches))
    return _Clip(video=batch["video"], frame_lengths=batch["frame_lengths"], tokens=batch["tokens"])


def _noise(config: Config) -> _Clip:
    rng, frames, size = np.random.default_rng(0), config.frame_buckets[-1], config.data.image_size
    tokens = np.full((1, config.model.decoder.max_len), 1, np.int32)
    return _Clip(
        video=rng.integers(0, 256, (1, frames, size, size, 3), np.uint8),
        frame_lengths=np.asarray([frames], np.int32),
        tokens=tokens,
    )


def _differences(model: TrainedModel, folder: ExportFolder, batch: _Clip) -> dict[str, Difference]:
    """The largest difference of each output, and the largest value of the original model's output.

    Errors accumulate as in use: the export computes each output from its own earlier outputs.
    """
    config = model.config
    inputs = (
        config,
        batch["video"],
        batch["frame_lengths"].astype(np.int32),
        batch["tokens"][:, :_TOKENS].astype(np.int32),
    )
    before = outputs(ModelPrograms(model.define(EXPORT_POLICY), model.params, config), *inputs)
    after = outputs(open_programs(folder), *inputs)
    return {
        name: {
            "largest": float(np.abs(after[name] - value).max()),
            "of": float(np.abs(value).max()),
        }
        for name, value in before.items()
    }


def outputs(
    run: Programs,
    config: Config,
    video: UInt8[np.ndarray, "b t h w 3"],
    frame_lengths: Int[np.ndarray, "b"],
    tokens: Int[np.ndarray, "b l"],
) -> dict[str, np.ndarray]:
    """Return all outputs of the programs for some clips.

    That is: pooled tokens, frames, CTC's logits, and the decoder's logits after each of `tokens`.
    Where the decoder reads glosses too, its logits given a few glosses, from id 1 on, are added.
    """
    decoder, reads_frames = config.model.decoder, config.model.decoder.memory == "frames"
    pooled, frames = encode(run, video, frame_lengths)
    (ctc_logits,) = run("label", frames if config.model.ctc.source == "frames" else pooled)
    memory_lengths = frame_lengths
    if not reads_frames:
        memory_lengths = np.full(len(video), np.shape(pooled)[1], np.int32)
    found = {
        "pooled": pooled,
        "frames": frames,
        "ctc_logits": ctc_logits,
        "logits": _logits(run, config, frames if reads_frames else pooled, memory_lengths, tokens),
    }
    if decoder.gloss_memory:
        glosses = np.zeros((len(video), ctc_steps(config)), np.int32)
        glosses[:, :_GLOSSES] = np.arange(1, 1 + _GLOSSES)[: glosses.shape[1]]
        lengths = np.full(len(video), min(_GLOSSES, glosses.shape[1]), np.int32)
        (memory,) = run("gloss_memory", glosses, lengths)
        found["gloss_logits"] = _logits(run, config, memory, lengths + 1, tokens)
    return jax.tree.map(np.asarray, found)


def _logits(
    run: Programs,
    config: Config,
    memory: ArrayLike,
    memory_lengths: Int[np.ndarray, "b"],
    tokens: Int[np.ndarray, "b l"],
) -> Float[np.ndarray, "l b 1 v"]:
    """Return the decoder's logits after each of `tokens`, given a memory."""
    decoder, clips = config.model.decoder, len(tokens)
    length = decoder.max_len
    projected = run("start", memory)
    shape = (clips, 1, length, decoder.num_heads, decoder.hidden_dim // decoder.num_heads)
    cache = [np.zeros(shape, np.float32)] * (2 * decoder.num_layers)
    lineage = np.zeros((clips, 1, length), np.int32)
    lengths = (memory_lengths,) if memory_lengths_name(config) else ()
    logits = []
    for position in range(tokens.shape[1]):
        next_logits, *cache = run(
            "step",
            tokens[:, position, None],
            np.int32(position),
            lineage,
            *lengths,
            *cache,
            *projected,
        )
        logits.append(next_logits)
    return np.stack(logits)


def _latency(model: TrainedModel, exported: TrainedModel, batch: Clips) -> Latency:
    """The median seconds from the frames of one clip to its text; the two models run in turns.

    With several devices there is one clip for each of them.
    """
    sides = {"before": model, "after": exported}
    seconds = {"before": [], "after": []}
    predictors = {side: trained.predictor([_DECODER]) for side, trained in sides.items()}
    batches = {
        side: Clips(
            video=np.repeat(batch["video"], trained.mesh.size, axis=0),
            frame_lengths=np.repeat(batch["frame_lengths"], trained.mesh.size, axis=0),
        )
        for side, trained in sides.items()
    }
    for run in range(_RUNS + 1):
        for side, trained in sides.items():
            start = time.perf_counter()
            predictors[side](trained.weights, batches[side])
            if run:  # the first run compiles
                seconds[side].append(time.perf_counter() - start)
    device = jax.devices()[0].device_kind
    return Latency(
        frames=batch["video"].shape[1],
        decoder=_DECODER,
        device=device,
        before=statistics.median(seconds["before"]),
        after=statistics.median(seconds["after"]),
    )


def _scores(model: TrainedModel, split: Split, on_clips: Callable[[int], None]) -> ScoreValues:
    results = evaluate(
        split,
        model.predictor([_DECODER]),
        model.weights,
        model.config,
        model.tokenizer,
        checkpoint_step=model.step,
        lowercase=model.config.tokenizer.lowercase,
        on_batch=on_clips,
    )
    assert results is not None  # nothing stops it
    return dataclasses.asdict(results.decoders[_DECODER])
