"""The preset `reference` by path; `--config=reference` is the same."""

from signvit_jax.presets.reference import get_config as get_config
