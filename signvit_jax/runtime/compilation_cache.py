"""The folder in which JAX keeps compiled programs from one process to the next.

JAX is imported inside the function: `--help` and a wrong flag are answered without waiting for it.
"""

import contextlib
import os

from signvit_jax.runtime.exit_codes import private_folder

_FOLDER = "jax_compilation_cache_dir"
_SECONDS = "jax_persistent_cache_min_compile_time_secs"
_JAX_DEFAULT_SECONDS = 1.0


def use_compilation_cache() -> None:
    """Let JAX keep every program that this process compiles, unless the user has chosen otherwise.

    Two settings are changed, if neither `jax.config` nor the environment has set them. The folder
    becomes one in the user's cache folder. The shortest compile time of a program that is kept
    becomes 0 s: training or translating has some 20 programs, and a second start then compiles
    none. JAX's switch `jax_enable_compilation_cache` is not touched.
    """
    import jax

    settings = jax.config.values
    if not settings[_FOLDER]:  # JAX read the environment at its import, perhaps too early
        jax.config.update(_FOLDER, os.environ.get(_FOLDER.upper()) or cache_folder())
    if _SECONDS.upper() not in os.environ and settings[_SECONDS] == _JAX_DEFAULT_SECONDS:
        jax.config.update(_SECONDS, 0.0)


def cache_folder() -> str | None:
    """Return a writable folder for compiled programs; None where there is none.

    In the user's cache folder; where that cannot be written, as for a user without a home, in the
    temporary folder.
    """
    caches = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    folder = os.path.join(caches, "signvit_jax", "jax")
    if not folder.startswith("~"):  # without a home, "~" would be created in the working directory
        with contextlib.suppress(OSError):
            os.makedirs(folder, exist_ok=True)
            if os.access(folder, os.W_OK | os.X_OK):
                return folder
    try:
        return os.path.join(private_folder(), "jax")
    except OSError:
        return None
