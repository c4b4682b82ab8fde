"""The base class of the errors that this package and `tfds_builders` raise."""


class SignVitError(Exception):
    """An error whose message is complete: commands print it without a traceback.

    `exit_code` is what a command then ends with. The default, 2, says that the same call would fail
    again; subclasses for faults of the machine use another (`signvit_jax.runtime.exit_codes`).
    """

    exit_code = 2
