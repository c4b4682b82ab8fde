"""Says what a config would train, without training: parameters by module, operations a clip, what a step needs of each device's memory, how
everything lies on the mesh, and the shapes of a batch. Needs no data set and allocates no weights.

--devices=N plans for N devices that are not here (with virtual ones on the CPU; the plan of memory is then that of XLA's CPU compiler, which keeps
other temporaries than a GPU's).
Exit codes: 0 done, 1 failed, 2 wrong config.
"""

import argparse
from collections.abc import Sequence

from signvit_jax.cli.common import parse_with_config, parser, set_up_jax
from signvit_jax.runtime.exit_codes import DONE


def main(argv: Sequence[str] | None = None) -> int:
    flags = parser(
        __doc__,
        "python -m signvit_jax.inspect_config --config=reference --devices=8 --config.mesh.fsdp=8",
    )
    flags.add_argument(
        "--vocab_size",
        type=_count,
        help="entries of the vocabulary (default: the most that config.tokenizer allows)",
    )
    flags.add_argument(
        "--gloss_vocab_size",
        type=_count,
        help="of the glosses, with config.model.ctc.target=gloss (default: as --vocab_size)",
    )
    flags.add_argument(
        "--text_length",
        type=_count,
        help="tokens that a text is padded to (default: config.model.decoder.max_len)",
    )
    flags.add_argument(
        "--devices", type=_count, help="plan for so many devices (default: those of this machine)"
    )
    flags.add_argument(
        "--no_compile",
        action="store_true",
        help="leave out what takes longest: compiling the step, for its temporaries",
    )
    arguments, config = parse_with_config(flags, argv)

    import jax

    if arguments.devices:
        jax.config.update("jax_platforms", "cpu")
        jax.config.update("jax_num_cpu_devices", arguments.devices)
    set_up_jax()

    from signvit_jax.planning.account import describe

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


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r}; allowed: a whole number >= 1")
    return int(text)
