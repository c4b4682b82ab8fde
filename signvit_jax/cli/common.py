"""What the commands share: flags, `--config.group.key=value` overrides, and one-time settings of JAX.

JAX is imported where it is used: `--help` and a wrong flag are answered without waiting for it.
"""

import argparse
import contextlib
import logging
import multiprocessing
import os
import sys
from collections.abc import Sequence
from typing import NoReturn

from signvit_jax.config.errors import ConfigError
from signvit_jax.config.files import load_config
from signvit_jax.config.schema import Config
from signvit_jax.runtime.exit_codes import DONE, HUNG_UP, INTERRUPTED, TERMINATED, private_folder
from signvit_jax.runtime.streams import clean

# What XLA is asked for beyond its defaults; XLA_FLAGS of the environment has the last word. docs/scale.md says what each is for.
_XLA_GPU_FLAGS = ("--xla_gpu_enable_latency_hiding_scheduler=true",)
_CONFIG_HELP = "a config file; --config.training.batch_size=8 overrides one of its values"
_PEER_TIMEOUT_S = 30  # a process that has said nothing for so long is taken for dead


def parser(description: str, example: str) -> argparse.ArgumentParser:
    """An argument parser that shows the docstring as it stands and an example at its end; wrong usage ends with exit code 2."""
    return _Parser(
        description=description,
        epilog=f"example:\n  {example}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        super().error(clean(message, keep="\n"))


def parse_with_config(
    flag_parser: argparse.ArgumentParser, argv: Sequence[str] | None = None
) -> tuple[argparse.Namespace, Config]:
    """Flags and the config of `--config=FILE.py` with its overrides applied. Raises ConfigError for a config that cannot be run."""
    flag_parser.add_argument("--config", required=True, metavar="FILE.py", help=_CONFIG_HELP)
    arguments, rest = flag_parser.parse_known_args(argv)
    overrides = _overrides(rest, flag_parser)
    return arguments, load_config(arguments.config, overrides)


def parse_with_optional_config(
    flag_parser: argparse.ArgumentParser, argv: Sequence[str] | None = None
) -> tuple[argparse.Namespace, Config | None]:
    """The same for a command that can do without a config: None if none is given."""
    flag_parser.add_argument("--config", metavar="FILE.py", help=_CONFIG_HELP)
    arguments, rest = flag_parser.parse_known_args(argv)
    overrides = _overrides(rest, flag_parser)
    if overrides and not arguments.config:
        raise ConfigError(
            f"--config.{overrides[0][0]} overrides a value of a config file; give one with --config=FILE.py"
        )
    return arguments, load_config(arguments.config, overrides) if arguments.config else None


def _overrides(rest: Sequence[str], flag_parser: argparse.ArgumentParser) -> list[tuple[str, str]]:
    pairs, pending = [], list(rest)
    while pending:
        flag, has_value, value = pending.pop(0).partition("=")
        if not flag.startswith("--config."):
            flag_parser.error(
                f"unknown argument {flag!r}; values of the config are set as --config.group.key=value"
            )
        if not has_value:
            if not pending:
                raise ConfigError(f"{flag} needs a value, as in {flag}=VALUE")
            value = pending.pop(0)
        pairs.append((flag.removeprefix("--config."), value))
    return pairs


def set_up_jax() -> None:
    """Settings that every command wants before the first computation: flags of XLA, and compiled programs that are kept from run to run.

    `XLA_FLAGS` overrides the flags. `JAX_COMPILATION_CACHE_DIR` chooses where programs are kept; the default is the user's cache folder.
    """
    import jax
    from absl import flags

    if os.environ.get("JAX_PLATFORMS") != "cpu":
        given = os.environ.get("XLA_FLAGS", "").split()
        names = {flag.partition("=")[0] for flag in given}
        os.environ["XLA_FLAGS"] = " ".join(
            [*(flag for flag in _XLA_GPU_FLAGS if flag.partition("=")[0] not in names), *given]
        )
    flags.FLAGS.mark_as_parsed()  # Grain's reading processes ask absl, although no absl flag is used here
    jax.config.update(
        "jax_compilation_cache_dir", os.environ.get("JAX_COMPILATION_CACHE_DIR") or _cache_folder()
    )
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)


def _cache_folder() -> str | None:
    """For compiled programs, in the user's cache folder; where that cannot be written, as for a user without a home, in a
    temporary one; None where there is no such folder either.
    """
    folder = os.path.join(
        os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache"), "signvit_jax", "jax"
    )
    with contextlib.suppress(OSError):
        os.makedirs(folder, exist_ok=True)
        if os.access(folder, os.W_OK | os.X_OK):
            return folder
    try:
        return os.path.join(private_folder(), "jax")
    except OSError:
        return None


def add_process_flags(flag_parser: argparse.ArgumentParser) -> None:
    flag_parser.add_argument(
        "--coordinator",
        metavar="HOST:PORT",
        help="several processes: where process 0 can be reached; the same for all",
    )
    flag_parser.add_argument(
        "--num_processes", type=int, metavar="N", help="several processes: how many"
    )
    flag_parser.add_argument(
        "--process_id",
        type=int,
        metavar="I",
        help="several processes: which one this is, from 0 (JOB_COMPLETION_INDEX)",
    )


def join_processes(arguments: argparse.Namespace) -> None:
    """Connects the processes of one run; a run of one is left alone. To be called before the first use of a device.

    Under `srun` with several tasks JAX finds all it needs; elsewhere the three flags say it, --process_id being found in the environment of an
    indexed Kubernetes job. Raises ConfigError for flags that do not fit together.
    """
    import jax

    given = {
        name: getattr(arguments, name) for name in ("coordinator", "num_processes", "process_id")
    }
    timeouts = {
        "heartbeat_timeout_seconds": _PEER_TIMEOUT_S,
        "shutdown_timeout_seconds": _PEER_TIMEOUT_S,
    }
    if all(value is None for value in given.values()):
        if int(os.environ.get("SLURM_STEP_NUM_TASKS", "1")) > 1:
            jax.distributed.initialize(**timeouts)
        return
    if given["process_id"] is None and os.environ.get("JOB_COMPLETION_INDEX", "").isdecimal():
        given["process_id"] = int(os.environ["JOB_COMPLETION_INDEX"])
    missing = [f"--{name}" for name, value in given.items() if value is None]
    if missing:
        raise ConfigError(
            f"{' and '.join(missing)} missing; several processes need --coordinator=HOST:PORT, --num_processes and --process_id"
        )
    if not 0 <= given["process_id"] < given["num_processes"]:
        raise ConfigError(
            f"--process_id is {given['process_id']}; allowed: 0 to {given['num_processes'] - 1}, below --num_processes"
        )
    if not given["coordinator"].rpartition(":")[2].isdecimal():
        raise ConfigError(
            f"--coordinator is {given['coordinator']!r}; allowed: HOST:PORT, such as node01:12345"
        )
    jax.distributed.initialize(
        given["coordinator"], given["num_processes"], given["process_id"], **timeouts
    )


def leave(code: int) -> NoReturn:
    """Ends the process with its exit code. One of several that failed ends at once: in parting it would wait for the others, and they for it."""
    jax = sys.modules.get("jax")  # not there after --help
    if (
        jax is not None
        and jax.distributed.is_initialized()
        and code not in (DONE, HUNG_UP, INTERRUPTED, TERMINATED)
    ):
        logging.shutdown()
        sys.stdout.flush()
        sys.stderr.flush()
        for child in multiprocessing.active_children():
            child.kill()
        os._exit(code)
    sys.exit(code)
