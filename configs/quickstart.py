"""The preset `quickstart` by path; `--config=quickstart` is the same."""

from signvit_jax.presets.quickstart import get_config as get_config
