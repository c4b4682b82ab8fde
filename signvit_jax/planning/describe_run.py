"""Describe the run that a config would start, as text.

It lists parameters, operations, memory, shardings and batches. It needs no data set and allocates
no weights.
"""

import collections
import math
import re

import jax
from jax.sharding import Mesh

from signvit_jax.config.schema import Config
from signvit_jax.models.definition import ModelDefinition
from signvit_jax.optimization.train_state import TrainState
from signvit_jax.parallel.sharding import parameter_path
from signvit_jax.planning.abstract_step import TextSizes, abstract_step
from signvit_jax.planning.flops import ClipFlops, clip_flops, peak_flops
from signvit_jax.planning.memory import GIB, step_memory

_DEPTH = 3  # levels of the tree of modules that are shown
_ARRAYS = ("kernel", "bias", "scale")  # of a single layer: not shown one by one


def describe(
    config: Config,
    vocab_size: int | None = None,
    gloss_vocab_size: int | None = None,
    text_length: int | None = None,
    *,
    compiling: bool = True,
) -> str:
    """Return the complete description of a config.

    Args:
        vocab_size: Tokens of the decoder; None: the most that the tokenizer may learn, or the size
            of a BERT vocabulary.
        gloss_vocab_size: Glosses of the CTC head; None: as many as `vocab_size`, if CTC spells
            glosses.
        text_length: Tokens per text; None: `config.model.decoder.max_len`.
        compiling: Compile the training step, to include XLA's estimate of memory for gradients and
            activations.

    Raises ConfigError for a mesh that does not fit the devices or the batch.
    """
    sizes = TextSizes(vocab_size, gloss_vocab_size, text_length)
    planned = abstract_step(config, sizes)
    config, definition, state, batch = (
        planned.config,
        planned.definition,
        planned.state,
        planned.batch,
    )
    compiled = planned.step.lower(state, batch).compile() if compiling else None
    flops = clip_flops(definition, config.data.num_frames, planned.text_length)
    memory = step_memory(state, batch, compiled).table(planned.mesh)
    return "\n\n".join(
        [
            _parameters(definition),
            _operations(config, flops, planned.text_length, planned.mesh),
            f"memory of each device in a training step\n{memory}",
            _shardings(state, planned.mesh),
            _batch(config, batch),
        ]
    )


def _parameters(definition: ModelDefinition) -> str:
    # Parameters by module, as the parts of its path; () is the complete model.
    counts: dict[tuple[str, ...], int] = {}
    for path, leaf in jax.tree_util.tree_leaves_with_path(definition.abstract_params()):
        names = tuple(parameter_path(path).split("/"))
        is_array = names[-1] in _ARRAYS
        deepest = min(_DEPTH, len(names) - is_array)
        for depth in range(deepest + 1):
            counts[names[:depth]] = counts.get(names[:depth], 0) + math.prod(leaf.shape)
    total = counts.pop(())
    vocabularies = f"{definition.vocab_size:,} tokens"
    if definition.gloss_vocab_size:
        vocabularies += f", {definition.gloss_vocab_size:,} glosses"
    lines = [f"parameters, with a vocabulary of {vocabularies}"]
    for names, count in counts.items():
        indented = "  " * (len(names) - 1) + names[-1]
        lines.append(f"  {indented:32} {count:13,} {count / total:7.1%}")
    lines.append(f"  {'total':32} {total:13,} {4 * total / GIB:6.2f} GiB in float32")
    return "\n".join(lines)


def _operations(config: Config, flops: ClipFlops, text_length: int, mesh: Mesh) -> str:
    frames, device = config.data.num_frames, mesh.devices.flat[0].device_kind

    def line(name: str, operations: float, note: str = "") -> str:
        return f"  {name:20} {operations / 1e9:12,.2f}" + (f"   ({note})" if note else "")

    lines = [
        f"GFLOP of matrix products, per clip of {frames} frames and {text_length} tokens "
        "unless stated",
        line("backbone", flops.backbone),
        line("temporal", flops.temporal),
        line("decoder", flops.decoder),
        line("ctc_head", flops.ctc_head),
        line(
            "forward",
            flops.forward,
            f"{flops.backbone / frames / 1e9:,.2f} per frame in the backbone",
        ),
        line("training", flops.training, "forward and backward"),
    ]
    if epochs := config.model.encoder.freeze_epochs:
        frozen = flops.training_frozen
        lines.append(line("backbone frozen", frozen, f"the first {epochs} epochs"))
    step = flops.training * config.training.batch_size
    lines.append(line("one step", step, f"{config.training.batch_size} clips"))
    if (peak := peak_flops(device)) is not None:
        milliseconds = 1e3 * step / peak / mesh.size
        lines.append(f"  {device} at its peak would take {milliseconds:,.1f} ms for a step")
    return "\n".join(lines)


def _shardings(state: TrainState, mesh: Mesh) -> str:
    axes = ", ".join(f"{name}={size}" for name, size in mesh.shape.items())
    replicated = 0
    sharded: collections.Counter[str] = collections.Counter()
    for path, leaf in jax.tree_util.tree_leaves_with_path(state.params):
        shard = leaf.sharding.shard_shape(leaf.shape)
        if shard == leaf.shape:
            replicated += 1
            continue
        spec = ", ".join(str(axis) if axis else "-" for axis in leaf.sharding.spec)
        name = re.sub(r"/\d+/", "/*/", parameter_path(path))  # equal layers share a line
        line = f"{name:56} {_shape(leaf.shape):14} ({spec})".ljust(96)
        sharded[line + _shape(shard)] += 1
    lines = [
        f"mesh {axes}: {mesh.size} x {mesh.devices.flat[0].device_kind}",
        f"  {replicated} arrays of parameters are replicated on every device",
    ]
    if sharded:
        lines.append(
            f"  {sharded.total()} arrays are sharded, and the optimizer's moments with them:"
        )
        lines += [f"  {count:3} x {line}" for line, count in sharded.items()]
    return "\n".join(lines)


def _batch(config: Config, batch: dict[str, jax.ShapeDtypeStruct]) -> str:
    title = "a training batch, over all processes"
    if shorter := config.frame_buckets[:-1]:
        title += f"; also of {', '.join(map(str, shorter))} frames"
    lines = [title]
    for name, leaf in batch.items():
        shard = _shape(leaf.sharding.shard_shape(leaf.shape))
        lines.append(
            f"  {name:16} {leaf.dtype.name:8} {_shape(leaf.shape):28} on one device {shard}"
        )
    return "\n".join(lines)


def _shape(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape)) or "scalar"
