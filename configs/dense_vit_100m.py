"""The preset `dense_vit_100m` by path; `--config=dense_vit_100m` is the same."""

from signvit_jax.presets.dense_vit_100m import get_config as get_config
