"""The preset `small` by path; `--config=small` is the same."""

from signvit_jax.presets.small import get_config as get_config
