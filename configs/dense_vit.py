"""The preset `dense_vit` as a config file, for `--config=configs/dense_vit.py`."""

from signvit_jax.presets.dense_vit import get_config as get_config
