"""Memory that a training step needs on one device, and what to change if there is not enough."""

import dataclasses
import logging
import math
from collections.abc import Mapping
from typing import Protocol

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from jaxtyping import PyTree

from signvit_jax.config.schema import Config
from signvit_jax.data.keypoints import PARTS
from signvit_jax.errors.base import SignVitError
from signvit_jax.errors.memory_advice import memory_advice
from signvit_jax.optimization.compiling_ahead import JittedStep
from signvit_jax.optimization.train_state import TrainState
from signvit_jax.parallel.sharding import batch_sharding
from signvit_jax.runtime.exit_codes import OUT_OF_MEMORY

log = logging.getLogger(__name__)

GIB = 2**30
BATCHES_ON_DEVICE = 2  # the one that a step works on, and the next (`StepWatch.add`)


class DeviceMemoryError(SignVitError, RuntimeError):
    """A training step that does not fit; the message has the estimate and the advice."""

    exit_code = OUT_OF_MEMORY


@dataclasses.dataclass(frozen=True)
class StepMemory:
    """Bytes on one device while a training step runs.

    The state is exact. `temporaries` (gradients, activations) is XLA's plan; None if the step was
    not compiled.
    """

    parameters: int
    optimizer: int
    average: int
    batch: int
    temporaries: int | None

    @property
    def total(self) -> int:
        return (
            self.parameters + self.optimizer + self.average + self.batch + (self.temporaries or 0)
        )

    def table(self, mesh: Mesh) -> str:
        """Return a line in GiB for each part, the total, and the limit of the mesh's devices."""
        parts = {
            "parameters": self.parameters,
            "optimizer": self.optimizer,
            "averaged parameters": self.average,
            f"{BATCHES_ON_DEVICE} batches": self.batch,
            "gradients and activations": self.temporaries,
        }
        lines = []
        for name, size in parts.items():
            if size is None:
                lines.append(f"  {name:26} not compiled")
            elif size != 0:
                lines.append(_table_line(name, size))
        compiled = self.temporaries is not None
        lines.append(_table_line("total" if compiled else "total without those", self.total))
        limit = memory_limit(mesh)
        if limit is not None:
            lines.append(_table_line("the device has", limit))
        return "\n".join(lines)


def _table_line(name: str, size: int) -> str:
    return f"  {name:26} {size / GIB:9.3f} GiB"


def batch_shapes(
    config: Config,
    mesh: Mesh,
    frames: int,
    text_length: int,
    gloss_length: int = 0,
    num_keypoints: int = 0,
) -> dict[str, jax.ShapeDtypeStruct]:
    """Return the shapes of a global training batch as the step takes it.

    Clips have `frames` frames, texts `text_length` tokens, glosses `gloss_length` tokens, and
    frames `num_keypoints` keypoints; 0 means no glosses and no keypoints. With glosses and a gloss
    memory there are sentences too (`data.sentences`).
    """
    b, size = config.training.batch_size, config.data.image_size
    shapes = {
        "video": ((b, frames, size, size, 3), jnp.uint8),
        "frame_lengths": ((b,), jnp.int32),
        "tokens": ((b, text_length), jnp.int32),
        "token_lengths": ((b,), jnp.int32),
        "weights": ((b,), jnp.float32),
    }
    if gloss_length:
        shapes |= {
            "gloss_tokens": ((b, gloss_length), jnp.int32),
            "gloss_lengths": ((b,), jnp.int32),
        }
    if gloss_length and config.model.decoder.gloss_memory:
        n = config.training.gloss_sentences
        shapes |= {
            "sentence_tokens": ((b, n, text_length), jnp.int32),
            "sentence_glosses": ((b, n, gloss_length), jnp.int32),
            "sentence_gloss_lengths": ((b, n), jnp.int32),
        }
    if num_keypoints:
        shapes["keypoints"] = ((b, frames, num_keypoints, 3), jnp.float32)
        shapes["part_points"] = ((b, frames, len(PARTS), 3), jnp.float32)
    return {
        name: jax.ShapeDtypeStruct(shape, dtype, sharding=batch_sharding(mesh))
        for name, (shape, dtype) in shapes.items()
    }


class CompiledMemory(Protocol):
    """What `jax.stages.Compiled.memory_analysis` returns, in bytes of each device."""

    temp_size_in_bytes: int
    output_size_in_bytes: int
    alias_size_in_bytes: int
    generated_code_size_in_bytes: int


def bytes_beside_arguments(plan: CompiledMemory) -> int:
    """Return the bytes that a compiled program needs besides its arguments.

    Outputs that take the place of an argument count once.
    """
    return (
        plan.temp_size_in_bytes
        + plan.output_size_in_bytes
        - plan.alias_size_in_bytes
        + plan.generated_code_size_in_bytes
    )


def step_memory(
    state: TrainState,
    batch: dict[str, jax.ShapeDtypeStruct],
    compiled: jax.stages.Compiled | None = None,
) -> StepMemory:
    """Return the memory of a step.

    `state`, `batch`: shapes with shardings. `compiled`: the step compiled for them, or None.
    """
    temporaries = None
    plan = None if compiled is None else compiled.memory_analysis()
    if plan is not None:
        temporaries = bytes_beside_arguments(plan)
    return StepMemory(
        parameters=bytes_per_device(state.params),
        optimizer=bytes_per_device(state.opt_state),
        average=bytes_per_device(state.ema),
        batch=BATCHES_ON_DEVICE * bytes_per_device(batch),
        temporaries=temporaries,
    )


def bytes_per_device(tree: PyTree) -> int:
    """Return the bytes on one device of arrays, or of shapes with shardings."""
    return sum(
        math.prod(leaf.sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize
        for leaf in jax.tree.leaves(tree)
    )


def memory_limit(mesh: Mesh) -> int | None:
    """Return the bytes that a program may use on each device of a mesh: those of the smallest.

    Only the devices of this process can tell. None if none of them does (CPUs).
    """
    limits = [(device.memory_stats() or {}).get("bytes_limit") for device in mesh.local_devices]
    return min((limit for limit in limits if limit is not None), default=None)


def peak_memory() -> int | None:
    """Return the peak bytes in use since the start, on the fullest of this process's devices.

    None if the devices do not report it (CPUs).
    """
    peaks = [
        (device.memory_stats() or {}).get("peak_bytes_in_use") for device in jax.local_devices()
    ]
    return max((peak for peak in peaks if peak is not None), default=None)


def check_fits(config: Config, mesh: Mesh, memory: StepMemory) -> None:
    """Raise DeviceMemoryError, before the first step, if a step needs more than the device has."""
    limit = memory_limit(mesh)
    if limit is not None and memory.total > limit:
        cause = f"a step needs {memory.total / GIB:.2f} GiB of each device"
        raise DeviceMemoryError(_message(cause, config, mesh, memory))


def describe_oom(
    error: Exception,
    config: Config,
    mesh: Mesh,
    state: TrainState,
    batch: dict[str, jax.ShapeDtypeStruct],
    step: JittedStep[TrainState, object],
) -> DeviceMemoryError:
    """Return XLA's error with the memory that the jitted `step` needs and what to change.

    The step is compiled for these shapes, or taken from the cache if it was compiled before.
    """
    log.warning("out of memory; working out what a step needs")
    try:
        compiled = step.lower(state, batch).compile()
    except jax.errors.JaxRuntimeError:  # too large to compile
        compiled = None
    cause = str(error).strip().splitlines()[0]
    return DeviceMemoryError(_message(cause, config, mesh, step_memory(state, batch, compiled)))


def _message(cause: str, config: Config, mesh: Mesh, memory: StepMemory) -> str:
    return "\n".join(
        [
            f"out of memory: {cause}",
            "What one training step needs of each device:",
            memory.table(mesh),
            step_advice(config, mesh.shape),
        ]
    )


def step_advice(config: Config, mesh: Mapping[str, int]) -> str:
    """Return advice on a step that needs less memory, from the options that can still be changed.

    `mesh`: the sizes of its axes.
    """
    training = config.training
    encoder = config.model.encoder
    data = config.data
    size_note = f"; a multiple of {encoder.patch_size}" if encoder.backbone == "dense_vit" else ""
    if encoder.view_size:
        size_note = f"; at least model.encoder.view_size, {encoder.view_size}"
    ways = mesh["data"] * mesh["fsdp"]  # the batch is sharded this many ways
    values = {
        "data.num_frames": f" (now {data.num_frames})",
        "data.image_size": f" (now {data.image_size}{size_note})",
    }
    microbatches = _next_divisor(training.batch_size // ways, training.gradient_accumulation)
    if microbatches is not None:
        size = training.batch_size // microbatches
        values["training.gradient_accumulation"] = f"={microbatches} ({microbatches} x {size})"
    if training.remat != "full":
        values["training.remat"] = "=dots, then =full" if training.remat == "none" else "=full"
    if encoder.backbone == "dense_vit" and not encoder.frames_per_chunk:
        frames = training.batch_size // training.gradient_accumulation * data.num_frames
        chunk = max(ways, frames // 4 // ways * ways)
        if chunk < frames:
            values["model.encoder.frames_per_chunk"] = f"={chunk}"
    if training.adam_moments == "float32":
        values["training.adam_moments"] = "=bfloat16"
    if mesh["data"] > 1:
        values["mesh.fsdp"] = f"={ways} --config.mesh.data=1"
    elif math.prod(mesh.values()) == 1:
        values["mesh.fsdp"] = "=2 or more, with as many devices"
    if training.batch_size >= 2 * ways:
        values["training.batch_size"] = f"={training.batch_size // 2 // ways * ways}"
    return memory_advice(values)


def _next_divisor(total: int, after: int) -> int | None:
    return next((divisor for divisor in range(after + 1, total + 1) if total % divisor == 0), None)
