"""What a config would train, in words and numbers, for people who plan a run: no data set is needed and no weights are allocated."""

import collections
import dataclasses
import math
import re
from pathlib import Path

import jax
from jax.sharding import Mesh

from signvit_jax.config.schema import Config, with_ctc_target
from signvit_jax.models.definition import ModelDefinition
from signvit_jax.optimization.optimizer import make_optimizer
from signvit_jax.optimization.train_state import TrainState, abstract_on_mesh, new_state
from signvit_jax.optimization.train_step import make_train_step
from signvit_jax.parallel.mesh import make_mesh
from signvit_jax.parallel.sharding import parameter_path
from signvit_jax.planning.flops import ClipFlops, clip_flops, peak_flops
from signvit_jax.planning.memory import batch_shapes, step_memory

_BERT_VOCABULARY = 30_522  # of bert-base-uncased, where its vocabulary file is not here
_DEPTH = 3  # of the tree of modules that is shown
_ARRAYS = ("kernel", "bias", "scale")  # of a single layer: not shown one by one


def describe(
    config: Config,
    vocab_size: int | None = None,
    gloss_vocab_size: int | None = None,
    text_length: int | None = None,
    *,
    compiling: bool = True,
) -> str:
    """The whole account as text. Raises ConfigError for a mesh that the devices or the batch do not fit."""
    if config.model.ctc.target == "auto":
        config = with_ctc_target(config, "gloss" if gloss_vocab_size else "text")
    vocab_size = vocab_size or _largest_vocabulary(config)
    gloss_vocab_size = (gloss_vocab_size or vocab_size) if config.model.ctc.target == "gloss" else 0
    text_length = text_length or config.model.decoder.max_len
    training = config.training

    mesh = make_mesh(config.mesh, training.batch_size // training.gradient_accumulation)
    definition = ModelDefinition(config, vocab_size, gloss_vocab_size)
    optimizer = make_optimizer(
        training, training.num_epochs
    )  # of how many steps its schedule is changes neither shapes nor work
    state, shardings = abstract_on_mesh(
        lambda: new_state(definition, optimizer, training.seed, mesh), mesh
    )
    batch = batch_shapes(
        config, mesh, config.data.num_frames, text_length, text_length if gloss_vocab_size else 0
    )
    step = make_train_step(definition, optimizer, training, mesh, shardings, frozen_backbone=False)
    compiled = step.lower(state, batch).compile() if compiling else None
    return "\n\n".join(
        [
            _parameters(definition),
            _operations(
                config, clip_flops(definition, config.data.num_frames, text_length), text_length
            ),
            f"memory of each device in a step of training\n{step_memory(state, batch, compiled).table()}",
            _shardings(state, mesh),
            _batch(config, batch),
        ]
    )


def _parameters(definition: ModelDefinition) -> str:
    modules: dict[tuple[str, ...], int] = {}
    for path, leaf in jax.tree_util.tree_leaves_with_path(definition.abstract_params()):
        parts = tuple(parameter_path(path).split("/"))
        for depth in range(min(_DEPTH, len(parts) - (parts[-1] in _ARRAYS)) + 1):
            modules[parts[:depth]] = modules.get(parts[:depth], 0) + math.prod(leaf.shape)
    total = modules.pop(())
    lines = [
        f"  {'  ' * (len(parts) - 1) + parts[-1]:32} {count:13,} {count / total:7.1%}"
        for parts, count in modules.items()
    ]
    vocabularies = f"{definition.vocab_size:,} tokens" + (
        f", {definition.gloss_vocab_size:,} glosses" if definition.gloss_vocab_size else ""
    )
    return "\n".join(
        [
            f"parameters, with a vocabulary of {vocabularies}",
            *lines,
            f"  {'together':32} {total:13,} {4 * total / 2**30:6.2f} GiB in float32",
        ]
    )


def _operations(config: Config, flops: ClipFlops, text_length: int) -> str:
    frames, device = config.data.num_frames, jax.devices()[0].device_kind
    step = flops.training() * config.training.batch_size
    lines = [
        f"  {field.name:20} {getattr(flops, field.name) / 1e9:12,.2f}"
        for field in dataclasses.fields(flops)
    ]
    lines += [
        f"  {'forward':20} {flops.forward / 1e9:12,.2f}   ({flops.backbone / frames / 1e9:,.2f} a frame in the backbone)",
        f"  {'training':20} {flops.training() / 1e9:12,.2f}   (forward and backward)",
    ]
    if config.model.encoder.freeze_epochs:
        frozen = flops.training(frozen_backbone=True)
        lines.append(
            f"  {'backbone frozen':20} {frozen / 1e9:12,.2f}   (the first {config.model.encoder.freeze_epochs} epochs)"
        )
    lines.append(f"  {'a step':20} {step / 1e9:12,.2f}   ({config.training.batch_size} clips)")
    if (peak := peak_flops(device)) is not None:
        lines.append(
            f"  {device} at its peak would take {1e3 * step / peak / jax.device_count():,.1f} ms for a step"
        )
    return "\n".join(
        [f"GFLOP a clip of {frames} frames and {text_length} tokens, matrix products alone", *lines]
    )


def _shardings(state: TrainState, mesh: Mesh) -> str:
    axes = ", ".join(f"{name}={size}" for name, size in mesh.shape.items())
    whole, cut = 0, collections.Counter()
    for path, leaf in jax.tree_util.tree_leaves_with_path(state.params):
        here = leaf.sharding.shard_shape(leaf.shape)
        if here == leaf.shape:
            whole += 1
            continue
        of_which = ", ".join(str(axis) if axis else "-" for axis in leaf.sharding.spec)
        layers_as_one = re.sub(r"/\d+/", "/*/", parameter_path(path))
        cut[
            f"{layers_as_one:56} {_shape(leaf.shape):14} ({of_which})".ljust(96) + _shape(here)
        ] += 1
    lines = [
        f"mesh {axes}: {mesh.size} x {jax.devices()[0].device_kind}",
        f"  {whole} parameters lie whole on every device",
    ]
    if cut:
        lines.append(f"  {sum(cut.values())} are cut, and the optimizer's moments with them:")
        lines += [f"  {count:3} x {line}" for line, count in cut.items()]
    return "\n".join(lines)


def _batch(config: Config, batch: dict[str, jax.ShapeDtypeStruct]) -> str:
    lines = [
        f"  {name:16} {leaf.dtype.name:8} {_shape(leaf.shape):28} on one device {_shape(leaf.sharding.shard_shape(leaf.shape))}"
        for name, leaf in batch.items()
    ]
    shorter = (
        f"; there are batches of {', '.join(map(str, config.frame_buckets[:-1]))} frames too"
        if config.frame_buckets[:-1]
        else ""
    )
    return "\n".join([f"a batch of training, over all processes{shorter}", *lines])


def _shape(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape)) or "one number"


def _largest_vocabulary(config: Config) -> int:
    if config.tokenizer.name != "bert":
        return config.tokenizer.vocab_size
    path = Path(config.tokenizer.vocab_file)
    return (
        len(path.read_text(encoding="utf-8").splitlines()) if path.is_file() else _BERT_VOCABULARY
    )
