"""The preset `small` as a config file, for `--config=configs/small.py`."""

from signvit_jax.presets.small import get_config as get_config
