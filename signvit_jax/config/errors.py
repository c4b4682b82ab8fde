"""The error of a config that cannot be run."""

from signvit_jax.errors.base import SignVitError


class ConfigError(SignVitError, ValueError):
    """A config that cannot be run; the message is for the user and complete."""

    exit_code = 2
