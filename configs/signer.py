"""The preset `signer` by path; `--config=signer` is the same."""

from signvit_jax.presets.signer import get_config as get_config
