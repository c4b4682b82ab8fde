"""The preset `mobilenet_v3` by path; `--config=mobilenet_v3` is the same."""

from signvit_jax.presets.mobilenet_v3 import get_config as get_config
