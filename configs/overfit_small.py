"""The preset `overfit_small` as a config file, for `--config=configs/overfit_small.py`."""

from signvit_jax.presets.overfit_small import get_config as get_config
