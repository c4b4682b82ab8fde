"""`python -m signvit_jax.serve`: see `signvit_jax.commands.serve`."""

import sys

from signvit_jax.commands.serve import main
from signvit_jax.runtime.exit_codes import run_command

if __name__ == "__main__":
    sys.exit(run_command(main))
