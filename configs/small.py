"""The preset `small`, for commands that name this file; `--config=small` is the same."""

from signvit_jax.presets.small import get_config as get_config
