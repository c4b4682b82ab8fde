"""The error of a config that cannot be run."""


class ConfigError(ValueError):
    """A config that cannot be run; the message is for the user and complete."""

    exit_code = 2
