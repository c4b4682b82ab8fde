r"""Measure the compile time of a config's training step, without weights or data.

    python scripts/bench/compile_time.py --config=reference \
        --config.training.scan_layers=False

The compilation cache is not used. The times are of one run and have three parts: computing the
shapes, tracing and lowering, and XLA's compilation.
"""

import os
import time
from functools import partial

import jax

from signvit_jax.cli.config_flags import parse_with_config
from signvit_jax.models.definition import ModelDefinition
from signvit_jax.optimization.optimizer import make_optimizer
from signvit_jax.optimization.train_state import abstract_on_mesh, new_state
from signvit_jax.optimization.train_step import make_train_step
from signvit_jax.parallel.mesh import make_mesh
from signvit_jax.planning.memory import GIB, batch_shapes, bytes_beside_arguments
from signvit_jax.runtime.command_line import FlagParser


def main() -> None:
    flags = FlagParser(description=(__doc__ or "").partition("\n")[0])
    flags.add_argument("--vocabulary", type=int, default=30_522)
    flags.add_argument("--text", type=int, default=48, help="padded length of texts in tokens")
    args, config = parse_with_config(flags)
    jax.config.update("jax_enable_compilation_cache", False)

    start = time.perf_counter()
    mesh = make_mesh(config.mesh)
    # Any number of steps and any seed: they change neither shapes nor operations.
    optimizer = make_optimizer(config.training, total_steps=1000)
    definition = ModelDefinition(config, args.vocabulary)
    state, shardings = abstract_on_mesh(partial(new_state, definition, optimizer, seed=0), mesh)
    batch = batch_shapes(config, mesh, config.data.num_frames, args.text)
    step = make_train_step(
        definition, optimizer, config.training, mesh, shardings, frozen_backbone=False
    )
    shapes_done = time.perf_counter()
    lowered = step.lower(state, batch)
    lowering_done = time.perf_counter()
    plan = lowered.compile().memory_analysis()
    assert plan is not None
    compiling_done = time.perf_counter()

    parameters = sum(leaf.size for leaf in jax.tree.leaves(state.params))
    memory = plan.argument_size_in_bytes + bytes_beside_arguments(plan)
    print(
        f"{jax.devices()[0].device_kind}, {parameters:,} parameters, "
        f"{config.training.batch_size} clips of {config.data.num_frames} frames; "
        f"load {os.getloadavg()[0]:.1f}"
    )
    print(
        f"shapes {shapes_done - start:.1f} s, "
        f"tracing and lowering {lowering_done - shapes_done:.1f} s, "
        f"compiling {compiling_done - lowering_done:.1f} s; CPU {time.process_time():.1f} s in all"
    )
    print(
        f"planned memory {memory / GIB:.2f} GiB, "
        f"of which temporaries {plan.temp_size_in_bytes / GIB:.2f} GiB"
    )


if __name__ == "__main__":
    main()
