"""`python -m signvit_jax.distill`: see `signvit_jax.commands.distill`."""

from signvit_jax.cli.processes import leave
from signvit_jax.commands.distill import main
from signvit_jax.commands.train import run_log
from signvit_jax.runtime.exit_codes import run_command

if __name__ == "__main__":
    leave(run_command(main, run_log))
