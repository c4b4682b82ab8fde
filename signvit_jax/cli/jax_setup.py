"""One-time settings of JAX and XLA for every command.

JAX is imported inside the function: `--help` and a wrong flag are answered without waiting for it.
"""

import contextlib
import os

from signvit_jax.runtime.exit_codes import private_folder

# Beyond XLA's defaults; docs/scale.md gives the reasons.
_XLA_GPU_FLAGS = ("--xla_gpu_enable_latency_hiding_scheduler=true",)
_MIN_COMPILE_SECONDS = 0.5  # programs that compile faster are not cached


def set_up_jax() -> None:
    """Set XLA's flags and the cache of compiled programs, before the first computation.

    Flags in `XLA_FLAGS` take precedence. `JAX_COMPILATION_CACHE_DIR` chooses the cache's folder;
    the default is in the user's cache folder.
    """
    import jax
    from absl import flags

    if os.environ.get("JAX_PLATFORMS") != "cpu":
        given = os.environ.get("XLA_FLAGS", "").split()
        given_names = {flag.partition("=")[0] for flag in given}
        added = [flag for flag in _XLA_GPU_FLAGS if flag.partition("=")[0] not in given_names]
        os.environ["XLA_FLAGS"] = " ".join([*added, *given])
    flags.FLAGS.mark_as_parsed()  # Grain's reading processes ask absl, which no command uses
    folder = os.environ.get("JAX_COMPILATION_CACHE_DIR") or _cache_folder()
    jax.config.update("jax_compilation_cache_dir", folder)
    jax.config.update("jax_persistent_cache_min_compile_time_secs", _MIN_COMPILE_SECONDS)


def _cache_folder() -> str | None:
    """A writable folder for compiled programs; None where there is none.

    In the user's cache folder; where that cannot be written, as for a user without a home, in the
    temporary folder.
    """
    caches = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    folder = os.path.join(caches, "signvit_jax", "jax")
    with contextlib.suppress(OSError):
        os.makedirs(folder, exist_ok=True)
        if os.access(folder, os.W_OK | os.X_OK):
            return folder
    try:
        return os.path.join(private_folder(), "jax")
    except OSError:
        return None
