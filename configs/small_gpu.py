"""The preset `small_gpu` as a config file, for `--config=configs/small_gpu.py`."""

from signvit_jax.presets.small_gpu import get_config as get_config
