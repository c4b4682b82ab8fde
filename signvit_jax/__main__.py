"""`python -m signvit_jax COMMAND`: the same as `signvit COMMAND`."""

import sys

from signvit_jax.commands.dispatch import main

if __name__ == "__main__":
    sys.exit(main())
