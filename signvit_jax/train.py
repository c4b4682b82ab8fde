"""Trains a translator, or goes on with a run that was stopped.

The workdir gets config.json, tokenizer.json, checkpoints/, metrics.csv, metrics.png, TensorBoard events, samples/ and run.log.
The same command on the same workdir resumes from the newest good checkpoint.
Exit codes: 0 done, 1 failed, 2 wrong config or data set, 5 out of memory, 130 and 143 on signals.
"""

import logging
import sys
from collections.abc import Sequence
from pathlib import Path

from signvit_jax.command_line import parse_with_config, parser, set_up_jax
from signvit_jax.exit_codes import run_command


def main(argv: Sequence[str] | None = None) -> int:
    flags = parser(__doc__, "python -m signvit_jax.train --config=configs/quickstart.py --workdir=runs/quickstart --config.training.batch_size=8")
    flags.add_argument("--workdir", required=True, type=Path, help="folder of the run; made if it is not there")
    flags.add_argument("--strict_restore", action="store_true", help="end with an error where a damaged checkpoint would be left out")
    arguments, config = parse_with_config(flags, argv)
    set_up_jax()

    from signvit_jax.training.run import train  # after the config has been checked: it takes seconds to load

    return train(config, arguments.workdir, strict_restore=arguments.strict_restore)


def run_log() -> Path | None:
    """The run's log file, once there is one."""
    files = [Path(handler.baseFilename) for handler in logging.getLogger().handlers if isinstance(handler, logging.FileHandler)]
    return files[0] if files else None


if __name__ == "__main__":
    sys.exit(run_command(main, run_log))
