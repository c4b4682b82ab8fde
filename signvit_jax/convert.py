"""`python -m signvit_jax.convert`: see `signvit_jax.commands.convert`."""

import sys

from signvit_jax.commands.convert import main
from signvit_jax.runtime.exit_codes import run_command

if __name__ == "__main__":
    sys.exit(run_command(main))
