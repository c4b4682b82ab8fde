r"""Measure the compile time of a config's training step, without weights or data.

    python scripts/bench/compile_time.py --config=reference \
        --config.training.scan_layers=False

The compilation cache is not used. Times are those of one run: tracing and lowering, and XLA's
compilation.
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
from signvit_jax.planning.memory import GIB, batch_shapes
from signvit_jax.runtime.command_line import FlagParser


def main() -> None:
    flags = FlagParser(description=(__doc__ or "").partition("\n")[0])
    flags.add_argument("--vocabulary", type=int, default=30_522)
    flags.add_argument("--text", type=int, default=48, help="padded length of texts in tokens")
    args, config = parse_with_config(flags)
    jax.config.update("jax_enable_compilation_cache", False)

    start = time.perf_counter()
    mesh = make_mesh(config.mesh)
    optimizer = make_optimizer(config.training, 1000)
    definition = ModelDefinition(config, args.vocabulary)
    state, shardings = abstract_on_mesh(partial(new_state, definition, optimizer, 0), mesh)
    batch = batch_shapes(config, mesh, config.data.num_frames, args.text)
    step = make_train_step(
        definition, optimizer, config.training, mesh, shardings, frozen_backbone=False
    )
    shaped = time.perf_counter()
    lowered = step.lower(state, batch)
    traced = time.perf_counter()
    plan = lowered.compile().memory_analysis()
    assert plan is not None
    done = time.perf_counter()

    parameters = sum(leaf.size for leaf in jax.tree.leaves(state.params))
    memory = (
        plan.temp_size_in_bytes
        + plan.argument_size_in_bytes
        + plan.output_size_in_bytes
        - plan.alias_size_in_bytes
    )
    print(
        f"{jax.devices()[0].device_kind}, {parameters:,} parameters, "
        f"{config.training.batch_size} clips of {config.data.num_frames} frames; "
        f"load {os.getloadavg()[0]:.1f}"
    )
    print(
        f"shapes {shaped - start:.1f} s, lowering {traced - shaped:.1f} s, "
        f"compiling {done - traced:.1f} s; CPU {time.process_time():.1f} s in all"
    )
    print(
        f"planned memory {memory / GIB:.2f} GiB, "
        f"of which temporaries {plan.temp_size_in_bytes / GIB:.2f} GiB"
    )


if __name__ == "__main__":
    main()
