"""`python -m signvit_jax.inspect_config`: see `signvit_jax.commands.inspect_config`."""

import sys

from signvit_jax.commands.inspect_config import main
from signvit_jax.runtime.exit_codes import run_command

if __name__ == "__main__":
    sys.exit(run_command(main))
