"""The preset `dense_vit_server` as a config file, for `--config=configs/dense_vit_server.py`."""

from signvit_jax.presets.dense_vit_server import get_config as get_config
