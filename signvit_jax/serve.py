"""`python -m signvit_jax.serve`: see `signvit_jax.web.command`."""

import sys

from signvit_jax.runtime.exit_codes import run_command
from signvit_jax.web.command import main

if __name__ == "__main__":
    sys.exit(run_command(main))
