"""The base class of the errors that this package and `tfds_builders` raise."""


class SignVitError(Exception):
    """An error with a complete message: commands print it without a traceback.

    A command then ends with `exit_code`. The default, 2, means that the same call would fail again;
    subclasses for other faults have their own code of `signvit_jax.runtime.exit_codes`.
    """

    exit_code = 2
