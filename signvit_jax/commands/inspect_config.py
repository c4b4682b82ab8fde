"""Describe what a config would train, without training: parameters by module, operations per clip,
the memory of a step on each device, shardings on the mesh, and the shapes of a batch. Needs no
data set and allocates no weights.

--devices=N plans for N devices that this machine lacks (with virtual CPU devices; the memory plan
is then that of XLA's CPU compiler, which keeps other temporaries than a GPU's).
Exit codes: 0 done, 1 failed, 2 wrong config.
"""

from collections.abc import Sequence

from signvit_jax.cli.config_flags import parse_with_config
from signvit_jax.cli.jax_setup import set_up_jax
from signvit_jax.runtime.command_line import integer, parser
from signvit_jax.runtime.exit_codes import DONE


def main(argv: Sequence[str] | None = None) -> int:
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
        help="plan for this many devices (default: those of this machine)",
    )
    flags.add_argument(
        "--no_compile",
        action="store_true",
        help="skip the slowest part: compiling the step to measure its temporaries",
    )
    arguments, config = parse_with_config(flags, argv)

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
