"""`python -m signvit_jax.eval`: see `signvit_jax.commands.eval`."""

import sys

from signvit_jax.commands.eval import main
from signvit_jax.runtime.exit_codes import run_command

if __name__ == "__main__":
    sys.exit(run_command(main))
