"""The preset `dense_vit` by path; `--config=dense_vit` is the same."""

from signvit_jax.presets.dense_vit import get_config as get_config
