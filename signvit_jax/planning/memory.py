"""What a training step needs of one device's memory, and what to do where there is not enough."""

import dataclasses
import logging
import math
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from jaxtyping import PyTree

from signvit_jax.config.schema import Config
from signvit_jax.errors.base import SignVitError
from signvit_jax.optimization.train_state import TrainState
from signvit_jax.parallel.sharding import batch_sharding
from signvit_jax.runtime.exit_codes import OUT_OF_MEMORY

log = logging.getLogger(__name__)

GIB = 2**30
BATCHES_ON_DEVICE = 2  # the one that a step works on, and the next (`StepWatch.add`)


class DeviceMemoryError(SignVitError, RuntimeError):
    """A step that does not fit; the message has the estimate and the advice."""

    exit_code = OUT_OF_MEMORY


@dataclasses.dataclass(frozen=True)
class StepMemory:
    """Bytes on one device while a step runs. The state is exact; `temporaries` (gradients, activations) is XLA's plan, None before it is compiled."""

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

    def table(self) -> str:
        """A line for each part, in GiB, and what is there where the device says so."""
        names = {
            "parameters": "parameters",
            "optimizer": "optimizer",
            "average": "averaged parameters",
            "batch": f"{BATCHES_ON_DEVICE} batches",
            "temporaries": "gradients and activations",
        }
        rows = [(name, getattr(self, field)) for field, name in names.items()]
        lines = [
            f"  {name:26} {'not compiled' if size is None else f'{size / GIB:9.3f} GiB'}"
            for name, size in rows
            if size != 0
        ]
        lines.append(
            f"  {'together' if self.temporaries is not None else 'together, without those':26} {self.total / GIB:9.3f} GiB"
        )
        limit = memory_limit()
        return "\n".join(
            lines if limit is None else [*lines, f"  {'the device has':26} {limit / GIB:9.3f} GiB"]
        )


def batch_shapes(
    config: Config, mesh: Mesh, frames: int, text_length: int, gloss_length: int = 0
) -> dict[str, jax.ShapeDtypeStruct]:
    """A global batch of training as the step takes it: clips of `frames` frames, texts of `text_length` tokens, and glosses where there are any."""
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
    return {
        name: jax.ShapeDtypeStruct(shape, dtype, sharding=batch_sharding(mesh))
        for name, (shape, dtype) in shapes.items()
    }


def step_memory(
    state: TrainState, batch: dict[str, jax.ShapeDtypeStruct], compiled: Any = None
) -> StepMemory:
    """For shapes that carry their shardings, and the step that was compiled for them (`jax.stages.Compiled`), if it was."""
    temporaries = None
    if compiled is not None:
        plan = compiled.memory_analysis()
        temporaries = (
            plan.temp_size_in_bytes
            + plan.output_size_in_bytes
            - plan.alias_size_in_bytes
            + plan.generated_code_size_in_bytes
        )
    return StepMemory(
        bytes_per_device(state.params),
        bytes_per_device(state.opt_state),
        bytes_per_device(state.ema),
        BATCHES_ON_DEVICE * bytes_per_device(batch),
        temporaries,
    )


def bytes_per_device(tree: PyTree) -> int:
    """Of arrays, or shapes, that carry their shardings."""
    return sum(
        math.prod(leaf.sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize
        for leaf in jax.tree.leaves(tree)
    )


def memory_limit() -> int | None:
    """Bytes that the first device lets a program use; None where it does not say (a CPU)."""
    return (jax.local_devices()[0].memory_stats() or {}).get("bytes_limit")


def peak_memory() -> int | None:
    """The most bytes that were in use on any of this process's devices since the start; None where they do not say (a CPU)."""
    peaks = [
        (device.memory_stats() or {}).get("peak_bytes_in_use") for device in jax.local_devices()
    ]
    return max((peak for peak in peaks if peak is not None), default=None)


def check_fits(config: Config, mesh: Mesh, memory: StepMemory) -> None:
    """Raises DeviceMemoryError, before the first step, for one that needs more than there is."""
    limit = memory_limit()
    if limit is not None and memory.total > limit:
        needed = f"a step needs {memory.total / GIB:.2f} GiB of each device"
        raise DeviceMemoryError(_explanation(needed, config, mesh, memory))


def describe_oom(
    error: Exception,
    config: Config,
    mesh: Mesh,
    state: TrainState,
    batch: dict[str, jax.ShapeDtypeStruct],
    step: Any,
) -> DeviceMemoryError:
    """XLA's error with what the jitted `step` needs and what to change. Compiles it for these shapes: from the cache, if it had been compiled."""
    log.warning("out of memory; working out what a step needs")
    try:
        compiled = step.lower(state, batch).compile()
    except jax.errors.JaxRuntimeError:  # too large even for that
        compiled = None
    cause = str(error).strip().splitlines()[0]
    return DeviceMemoryError(_explanation(cause, config, mesh, step_memory(state, batch, compiled)))


def _explanation(cause: str, config: Config, mesh: Mesh, memory: StepMemory) -> str:
    return f"out of memory: {cause}\nWhat one training step needs of each device:\n{memory.table()}\n{memory_advice(config, mesh)}"


def memory_advice(config: Config, mesh: Mesh) -> str:
    """What to change, first what leaves the result as it is; only what this config still has to give."""
    training, encoder, ways = (
        config.training,
        config.model.encoder,
        mesh.shape["data"] * mesh.shape["fsdp"],
    )
    advice = []
    parts = _next_divisor(training.batch_size // ways, training.gradient_accumulation)
    if parts is not None:
        advice.append(
            f"--config.training.gradient_accumulation={parts}: the batch of {training.batch_size} is run as {parts} x {training.batch_size // parts} "
            "(the same result)"
        )
    if training.remat != "full":
        following = "full" if training.remat == "dots" else "dots, then full"
        advice.append(
            f"--config.training.remat={following}: keeps less for the backward pass and computes it again (the same result, slower)"
        )
    if encoder.backbone == "dense_vit" and not encoder.frames_per_chunk:
        frames = training.batch_size // training.gradient_accumulation * config.data.num_frames
        if (chunk := max(ways, frames // 4 // ways * ways)) < frames:
            advice.append(
                f"--config.model.encoder.frames_per_chunk={chunk}: the backbone sees so many frames at a time (the same result, slower)"
            )
    if training.adam_moments == "float32":
        advice.append(
            "--config.training.adam_moments=bfloat16: two thirds of the state (for a run from its start; nearly the same result)"
        )
    if mesh.shape["data"] > 1:
        advice.append(
            f"--config.mesh.data=1 --config.mesh.fsdp={ways}: spreads parameters and optimizer state over the devices (the same result)"
        )
    elif mesh.size == 1:
        advice.append(
            "more devices with --config.mesh.fsdp: parameters and optimizer state are spread over them (the same result)"
        )
    if training.batch_size >= 2 * ways:
        advice.append(
            f"--config.training.batch_size={training.batch_size // 2 // ways * ways}: another result"
        )
    advice.append(
        f"fewer frames (config.data.num_frames, now {config.data.num_frames}) or smaller pictures "
        f"(config.data.image_size, now {config.data.image_size}; a multiple of {encoder.patch_size})"
    )
    return "What to do, in this order:\n" + "\n".join(
        f"  {number}. {line}" for number, line in enumerate(advice, 1)
    )


def _next_divisor(total: int, after: int) -> int | None:
    return next((divisor for divisor in range(after + 1, total + 1) if total % divisor == 0), None)
