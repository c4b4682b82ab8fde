"""What a process asks of accelerators: which are here, and how much of their memory it takes."""

import importlib.util
import os
from collections.abc import MutableMapping
from pathlib import Path

GPU_MEMORY_SHARE = 0.92  # JAX's own default, 0.75, leaves a quarter of each card unused

_SHARE_VARIABLES = ("XLA_CLIENT_MEM_FRACTION", "XLA_PYTHON_CLIENT_MEM_FRACTION")
# Files that NVIDIA's and Google's drivers make; /dev/dxg is that of the Windows subsystem.
_DEVICE_FILES = (
    "dev/nvidia0",
    "dev/nvidiactl",
    "dev/dxg",
    "dev/accel*",
    "dev/accel/accel*",
    "dev/vfio/[0-9]*",
)
_TPU_VENDOR = "0x1ae0"
# JAX plugins that the extra `plan` installs; any other plugin is there for a device.
_PLANNING_PLUGINS = {"xla_cuda12", "xla_cuda13"}


def gpu_memory_share(environment: MutableMapping[str, str] | None = None) -> float:
    """Return the share of a GPU's memory that a command takes at its start.

    What the user has set in the environment takes precedence.
    """
    environment = os.environ if environment is None else environment
    for name in _SHARE_VARIABLES:
        try:
            return float(environment.get(name, ""))
        except ValueError:
            continue
    return GPU_MEMORY_SHARE


def set_gpu_memory_share(environment: MutableMapping[str, str] | None = None) -> None:
    """Let JAX take `GPU_MEMORY_SHARE` of each GPU, unless the user has set another share."""
    environment = os.environ if environment is None else environment
    if not any(environment.get(name) for name in _SHARE_VARIABLES):
        # The older of the two names: every release of JAX that we support reads it.
        environment["XLA_PYTHON_CLIENT_MEM_FRACTION"] = str(GPU_MEMORY_SHARE)


def has_accelerator(root: Path = Path("/")) -> bool:
    """Return True if this machine has a GPU of NVIDIA or a TPU, by the files of their drivers."""
    if any(any(root.glob(pattern)) for pattern in _DEVICE_FILES):
        return True
    for vendor in root.glob("sys/bus/pci/devices/*/vendor"):
        try:
            if vendor.read_text().strip() == _TPU_VENDOR:
                return True
        except OSError:
            continue  # a device that has gone, or that may not be read
    return False


def has_planning_packages_only() -> bool:
    """Return True if packages for planning are here, and no plugin for other devices."""
    spec = importlib.util.find_spec("jax_plugins")
    plugins = {
        entry.name
        for folder in (spec.submodule_search_locations if spec else None) or ()
        for entry in Path(folder).iterdir()
        if entry.is_dir() and not entry.name.startswith("_")
    }
    has_libtpu = importlib.util.find_spec("libtpu") is not None
    return plugins <= _PLANNING_PLUGINS and (bool(plugins) or has_libtpu)
