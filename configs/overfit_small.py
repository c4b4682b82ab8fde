"""The preset `overfit_small` by path; `--config=overfit_small` is the same."""

from signvit_jax.presets.overfit_small import get_config as get_config
