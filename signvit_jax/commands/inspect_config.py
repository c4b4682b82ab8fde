"""Describe what a config would train, without training: parameters by module, operations per clip,
the memory of a step on each device, shardings on the mesh, and the shapes of a batch. Needs no
data set and allocates no weights.

--device=KIND plans the step for accelerators that this machine lacks: memory, the arrays that are
kept, collectives, a roofline of the time, and what to change if it does not fit. XLA's compiler for
that kind of device runs here, for one to several minutes (needs the extra `plan`).

--devices=N alone plans for N devices with virtual CPU devices; the memory plan is then that of
XLA's CPU compiler, which keeps other temporaries than a GPU's.
Exit codes: 0 done, 1 failed, 2 wrong config, 5 the step does not fit the device.
"""

import argparse
import sys
from collections.abc import Sequence

from signvit_jax.cli.config_flags import parse_with_config
from signvit_jax.cli.jax_setup import set_up_jax
from signvit_jax.config.schema import Config
from signvit_jax.runtime.command_line import FlagParser, integer, parser, positive
from signvit_jax.runtime.completion import offer
from signvit_jax.runtime.exit_codes import DONE, OUT_OF_MEMORY, UsageError

_DEVICES = ("h100", "a100_40", "a100_80", "v5e", "v5p", "v6e", "all")


def main(argv: Sequence[str] | None = None) -> int:
    arguments, config = parse_with_config(_flags(), argv)
    if arguments.device:
        return _plan(config, arguments)
    for name in ("memory", "no_advice", "json"):
        if getattr(arguments, name):
            raise UsageError(f"--{name} is for plans: give the kind of device, --device=h100")

    import jax

    if arguments.devices:
        jax.config.update("jax_platforms", "cpu")
        jax.config.update("jax_num_cpu_devices", arguments.devices)
    set_up_jax()

    from signvit_jax.planning.describe_run import describe

    print(
        describe(
            config,
            arguments.vocab_size,
            arguments.gloss_vocab_size,
            arguments.text_length,
            compiling=not arguments.no_compile,
        )
    )
    return DONE


def _flags() -> FlagParser:
    flags = parser(
        __doc__,
        "signvit inspect --config=reference --devices=8 --config.mesh.fsdp=8",
    )
    flags.add_argument(
        "--vocab_size",
        type=integer(1),
        help="size of the vocabulary (default: the largest that config.tokenizer allows)",
    )
    flags.add_argument(
        "--gloss_vocab_size",
        type=integer(1),
        help="size of the gloss vocabulary, with config.model.ctc.target=gloss "
        "(default: as --vocab_size)",
    )
    flags.add_argument(
        "--text_length",
        type=integer(1),
        help="tokens that texts are padded to (default: config.model.decoder.max_len)",
    )
    flags.add_argument(
        "--devices",
        type=integer(1),
        help="plan for this many devices (default: those of this machine; with --device: as many "
        "as config.mesh asks for)",
    )
    device = flags.add_argument(
        "--device",
        choices=_DEVICES,
        help="plan for devices of this kind, which need not be here; all: a table of all kinds",
    )
    offer(device, lambda: _DEVICES)
    flags.add_argument(
        "--memory",
        type=positive(),
        metavar="GIB",
        help="memory of a device (default: that of --device)",
    )
    flags.add_argument(
        "--no_advice",
        action="store_true",
        help="with --device: do not compile other settings if the step does not fit",
    )
    flags.add_argument(
        "--json",
        action="store_true",
        help="with --device: print each plan as a line of JSON",
    )
    flags.add_argument(
        "--no_compile",
        action="store_true",
        help="skip the slowest part: compiling the step to measure its temporaries",
    )
    return flags


def _plan(config: Config, arguments: argparse.Namespace) -> int:
    """Print plans for absent devices; each is compiled in a separate process."""
    if arguments.no_compile:
        raise UsageError("--device compiles the step; leave --no_compile out")

    from signvit_jax.planning.abstract_step import TextSizes
    from signvit_jax.planning.alternatives import alternatives
    from signvit_jax.planning.compile_elsewhere import check_packages, plan_elsewhere
    from signvit_jax.planning.device_kinds import KINDS, check_count
    from signvit_jax.planning.memory import step_advice
    from signvit_jax.planning.plan_report import (
        alternatives_text,
        report,
        table_head,
        table_row,
    )
    from signvit_jax.planning.step_plan import PlanRequest, StepPlan

    mesh = config.mesh
    count = arguments.devices or max(mesh.data, 1) * mesh.fsdp * mesh.tensor
    sizes = TextSizes(arguments.vocab_size, arguments.gloss_vocab_size, arguments.text_length)

    def plan_for(device: str, config: Config) -> StepPlan:
        training = config.training
        print(
            f"compiling for {count} x {KINDS[device].title}, remat={training.remat}, "
            f"gradient_accumulation={training.gradient_accumulation} ...",
            file=sys.stderr,
            flush=True,
        )
        return plan_elsewhere(config, PlanRequest(device, count, arguments.memory, sizes))

    if arguments.device == "all":
        for device, kind in KINDS.items():
            check_packages(device)
            check_count(kind, count)
        if not arguments.json:
            print(table_head(config, count), flush=True)
        for device in KINDS:
            plan = plan_for(device, config)
            print(plan.to_json() if arguments.json else table_row(plan), flush=True)
        return DONE

    plan = plan_for(arguments.device, config)
    print(plan.to_json() if arguments.json else report(plan), flush=True)
    if plan.fits:
        return DONE
    if not arguments.no_advice:
        results = list(alternatives(config, plan, lambda other: plan_for(arguments.device, other)))
        if arguments.json:
            for other in results:
                print(other.to_json(), flush=True)
        else:
            print()
            print(alternatives_text(results, plan) if results else step_advice(config, plan.mesh))
    return OUT_OF_MEMORY
