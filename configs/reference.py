"""The preset `reference` as a config file, for `--config=configs/reference.py`."""

from signvit_jax.presets.reference import get_config as get_config
