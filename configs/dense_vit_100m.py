"""The preset `dense_vit_100m` as a config file, for `--config=configs/dense_vit_100m.py`."""

from signvit_jax.presets.dense_vit_100m import get_config as get_config
