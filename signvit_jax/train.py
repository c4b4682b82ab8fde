"""`python -m signvit_jax.train`: see `signvit_jax.commands.train`."""

from signvit_jax.cli.processes import leave
from signvit_jax.commands.train import main, run_log
from signvit_jax.runtime.exit_codes import run_command

if __name__ == "__main__":
    leave(run_command(main, run_log))
