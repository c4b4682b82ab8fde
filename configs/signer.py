"""The preset `signer` as a config file, for `--config=configs/signer.py`."""

from signvit_jax.presets.signer import get_config as get_config
