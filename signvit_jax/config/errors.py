"""The error for a config that cannot be run."""

from signvit_jax.errors.base import SignVitError


class ConfigError(SignVitError, ValueError):
    """A config that cannot be run."""
