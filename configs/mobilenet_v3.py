"""The preset `mobilenet_v3` as a config file, for `--config=configs/mobilenet_v3.py`."""

from signvit_jax.presets.mobilenet_v3 import get_config as get_config
