"""The error for an invalid config value or argument."""

from signvit_jax.errors.base import SignVitError


class ConfigError(SignVitError, ValueError):
    """An invalid config value or argument; exit code 2."""
