"""Read files of tensors: safetensors, NumPy's npz and PyTorch's checkpoints.

The last need torch. No file is ever unpickled.
"""

import zipfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from jaxtyping import PyTree
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from signvit_jax.files.atomic import write_atomically
from signvit_jax.runtime.optional_deps import install_command
from signvit_jax.weights.mapping import WeightsError

SUFFIXES = (".safetensors", ".npz", ".pt", ".pth", ".bin", ".ckpt")
# Keys under which training programs save a state dict, and prefixes that wrappers add to its names.
_STATE_DICTS = ("model_state_dict", "state_dict", "model_ema", "model", "module", "params")
_WRAPPERS = ("module.", "_orig_mod.", "model.")


def read_tensors(path: Path) -> dict[str, np.ndarray]:
    """Return the tensors of a file by name, with their stored dtypes.

    Raises WeightsError for a file that cannot be read, and for a suffix not in `SUFFIXES`.
    """
    path = Path(path)
    if path.suffix not in SUFFIXES:
        raise WeightsError(f"{path}: unknown kind of weights file; allowed: {', '.join(SUFFIXES)}")
    try:
        if path.suffix == ".safetensors":
            with safe_open(path, framework="flax") as file:  # NumPy alone has no bfloat16
                names = file.keys()  # `file` itself is no mapping
                return unwrapped({name: np.asarray(file.get_tensor(name)) for name in names})
        if path.suffix == ".npz":
            # NumPy would leave a damaged file open.
            with path.open("rb") as opened, np.load(opened, allow_pickle=False) as file:
                return unwrapped({name: file[name] for name in file.files})
        return _read_torch(path)
    except (
        OSError,
        ValueError,
        KeyError,
        EOFError,
        MemoryError,
        zipfile.BadZipFile,
        SafetensorError,
    ) as error:
        if isinstance(error, WeightsError):
            raise
        raise WeightsError(
            f"{path} cannot be read as a weights file: {error or type(error).__name__}"
        ) from error


def read_description(path: Path) -> dict[str, str]:
    """Return the metadata of a safetensors file; {} for another kind of file.

    Raises WeightsError.
    """
    if Path(path).suffix != ".safetensors":
        return {}
    try:
        with safe_open(path, framework="numpy") as file:
            return dict(file.metadata() or {})
    except (OSError, SafetensorError) as error:
        raise WeightsError(f"{path} cannot be read as a weights file: {error}") from error


def read_text(path: Path, name: str) -> str | None:
    """Return a string that is stored in an npz file, or None. Raises WeightsError."""
    try:
        with path.open("rb") as opened, np.load(opened, allow_pickle=False) as file:
            return str(file[name]) if name in file.files else None
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise WeightsError(f"{path} cannot be read as a weights file: {error}") from error


def write_safetensors(
    path: Path, tensors: Mapping[str, np.ndarray], metadata: Mapping[str, str] | None = None
) -> None:
    """Write a file atomically, with the permissions of the umask. Raises OSError."""

    def save(file: Path) -> None:
        file.unlink(missing_ok=True)
        file.touch()
        mode = file.stat().st_mode  # safetensors replaces the file by one of 0600
        save_file(
            {name: np.asarray(tensor, order="C") for name, tensor in tensors.items()},
            file,
            metadata=dict(metadata or {}),
        )
        file.chmod(mode)

    write_atomically(path, save)


def unwrapped(tensors: Mapping[str, PyTree]) -> dict[str, PyTree]:
    """Return the state dict that a training program saved, without the prefixes of wrappers.

    In the npz of a reference file the parameters are under `params/`, beside its inputs and
    outputs.
    """
    for inner in _STATE_DICTS:
        if isinstance(tensors.get(inner), Mapping):
            return unwrapped(tensors[inner])
    if any(name.startswith("params/") for name in tensors):
        return unwrapped(
            {
                name.removeprefix("params/"): value
                for name, value in tensors.items()
                if name.startswith("params/")
            }
        )
    for prefix in _WRAPPERS:
        if tensors and all(name.startswith(prefix) for name in tensors):
            return unwrapped({name.removeprefix(prefix): value for name, value in tensors.items()})
    return dict(tensors)


def _read_torch(path: Path) -> dict[str, np.ndarray]:
    try:
        import torch
    except ImportError as error:
        raise WeightsError(
            f"{path} is a PyTorch file, and torch is not installed: {install_command('torch')}, "
            "or save the weights as .safetensors"
        ) from error
    try:
        loaded = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises errors of pickle, of zipfile and its own
        raise WeightsError(
            f"{path} cannot be read as weights alone "
            f"(nothing else of a PyTorch file is ever loaded): {error}"
        ) from error
    if not isinstance(loaded, Mapping):
        raise WeightsError(
            f"{path} has a {type(loaded).__name__}; a state dict is needed: names and tensors"
        )
    tensors = {
        name: value for name, value in unwrapped(loaded).items() if isinstance(value, torch.Tensor)
    }
    return {
        name: (value.float() if value.is_floating_point() else value).numpy()
        for name, value in tensors.items()
    }
