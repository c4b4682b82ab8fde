"""One-time settings of JAX and XLA for every command.

JAX is imported inside the function: `--help` and a wrong flag are answered without waiting for it.
"""

import os

from signvit_jax.runtime.accelerators import (
    has_accelerator,
    has_planning_packages_only,
    set_gpu_memory_share,
)
from signvit_jax.runtime.compilation_cache import use_compilation_cache

# Beyond XLA's defaults; docs/scale.md gives the reasons.
_XLA_GPU_FLAGS = ("--xla_gpu_enable_latency_hiding_scheduler=true",)


def set_up_jax() -> None:
    """Set XLA's flags, memory and the cache of compiled programs, before the first computation.

    Flags in `XLA_FLAGS` take precedence, and so do the user's own settings of memory and the cache.
    """
    from absl import flags

    if (
        not os.environ.get("JAX_PLATFORMS")
        and has_planning_packages_only()
        and not has_accelerator()
    ):
        # Else JAX would try the packages of the extra `plan` as devices, and report failures.
        import jax

        os.environ["JAX_PLATFORMS"] = "cpu"
        jax.config.update("jax_platforms", "cpu")
    if os.environ.get("JAX_PLATFORMS") != "cpu":
        set_gpu_memory_share()
        user_flags = os.environ.get("XLA_FLAGS", "").split()
        names = {flag.partition("=")[0] for flag in user_flags}
        added = [flag for flag in _XLA_GPU_FLAGS if flag.partition("=")[0] not in names]
        os.environ["XLA_FLAGS"] = " ".join([*added, *user_flags])
    flags.FLAGS.mark_as_parsed()  # for Grain's reading processes; no command parses absl's flags
    use_compilation_cache()
