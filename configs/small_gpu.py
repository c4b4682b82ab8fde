"""The preset `small_gpu` by path; `--config=small_gpu` is the same."""

from signvit_jax.presets.small_gpu import get_config as get_config
