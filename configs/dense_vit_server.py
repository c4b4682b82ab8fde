"""The preset `dense_vit_server` by path; `--config=dense_vit_server` is the same."""

from signvit_jax.presets.dense_vit_server import get_config as get_config
