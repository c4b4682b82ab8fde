"""The preset `small_gpu`, for commands that name this file; `--config=small_gpu` is the same."""

from signvit_jax.presets.small_gpu import get_config as get_config
