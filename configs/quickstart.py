"""The preset `quickstart`, for commands that name this file; `--config=quickstart` is the same."""

from signvit_jax.presets.quickstart import get_config as get_config
