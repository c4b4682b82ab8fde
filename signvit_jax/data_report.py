"""`python -m signvit_jax.data_report`: see `signvit_jax.commands.data_report`."""

import sys

from signvit_jax.commands.data_report import main
from signvit_jax.runtime.exit_codes import run_command

if __name__ == "__main__":
    sys.exit(run_command(main))
