"""The preset `quickstart` as a config file, for `--config=configs/quickstart.py`."""

from signvit_jax.presets.quickstart import get_config as get_config
