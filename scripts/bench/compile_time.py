"""Seconds until the training step of a config is compiled, without its weights or its data: from shapes alone.

    python scripts/bench/compile_time.py --config=reference --config.training.scan_layers=False

The compilation cache is left out. Times are those of one run: tracing to the program's text (lowering), and XLA's work on it.
"""

import os
import time
from functools import partial

import jax
import jax.numpy as jnp

from signvit_jax.cli.config_flags import parse_with_config
from signvit_jax.cli.flag_parser import FlagParser
from signvit_jax.models.definition import ModelDefinition
from signvit_jax.optimization.optimizer import make_optimizer
from signvit_jax.optimization.train_state import abstract_on_mesh, new_state
from signvit_jax.optimization.train_step import make_train_step
from signvit_jax.parallel.mesh import make_mesh
from signvit_jax.parallel.sharding import batch_sharding


def main() -> None:
    flags = FlagParser(description=__doc__.splitlines()[0])
    flags.add_argument("--vocabulary", type=int, default=30_522)
    flags.add_argument("--text", type=int, default=48, help="tokens that texts are padded to")
    args, config = parse_with_config(flags)
    jax.config.update("jax_enable_compilation_cache", False)

    start = time.perf_counter()
    mesh, optimizer = make_mesh(config.mesh), make_optimizer(config.training, 1000)
    definition = ModelDefinition(config, args.vocabulary)
    state, shardings = abstract_on_mesh(partial(new_state, definition, optimizer, 0), mesh)
    clips, size = config.training.batch_size, config.data.image_size
    shapes = {
        "video": ((clips, config.data.num_frames, size, size, 3), jnp.uint8),
        "frame_lengths": ((clips,), jnp.int32),
        "tokens": ((clips, args.text), jnp.int32),
        "token_lengths": ((clips,), jnp.int32),
        "weights": ((clips,), jnp.float32),
    }
    batch = {
        name: jax.ShapeDtypeStruct(shape, dtype, sharding=batch_sharding(mesh))
        for name, (shape, dtype) in shapes.items()
    }
    step = make_train_step(
        definition, optimizer, config.training, mesh, shardings, frozen_backbone=False
    )
    shaped = time.perf_counter()
    lowered = step.lower(state, batch)
    traced = time.perf_counter()
    plan = lowered.compile().memory_analysis()
    done = time.perf_counter()

    parameters = sum(leaf.size for leaf in jax.tree.leaves(state.params))
    memory = (
        plan.temp_size_in_bytes
        + plan.argument_size_in_bytes
        + plan.output_size_in_bytes
        - plan.alias_size_in_bytes
    )
    print(
        f"{jax.devices()[0].device_kind}, {parameters:,} parameters, {clips} clips of {config.data.num_frames} frames; load {os.getloadavg()[0]:.1f}"
    )
    print(
        f"shapes {shaped - start:.1f} s, lowering {traced - shaped:.1f} s, compiling {done - traced:.1f} s; CPU {time.process_time():.1f} s in all"
    )
    print(
        f"planned memory {memory / 2**30:.2f} GiB, of which temporaries {plan.temp_size_in_bytes / 2**30:.2f} GiB"
    )


if __name__ == "__main__":
    main()
