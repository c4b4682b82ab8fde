"""The preset `overfit_small`, for commands that name this file; `--config=overfit_small` is the same."""

from signvit_jax.presets.overfit_small import get_config as get_config
