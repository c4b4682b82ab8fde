"""Packages that only some features need, and the commands that install them."""

import importlib
from importlib import metadata
from types import ModuleType
from typing import NamedTuple

# Module -> the extra of this package that lists what the module needs, and the module's own
# package.
_PACKAGES = {
    "ai_edge_litert": ("keypoints", "ai-edge-litert"),
    "argcomplete": ("completion", "argcomplete"),
    "apache_beam": ("beam", "apache-beam"),
    "cv2": ("camera", "opencv-python-headless"),
    "flatbuffers": ("export", "flatbuffers"),  # jax.export imports it when it first writes or reads
    "huggingface_hub": ("hub", "huggingface_hub"),
    "libtpu": ("plan", "'jax[cuda12-local,tpu]'"),
    "jax2onnx": ("onnx", "jax2onnx"),
    "onnx": ("onnx", "onnx"),
    "onnxruntime": ("onnx", "onnxruntime"),
    "optuna": ("sweep", "optuna"),
    "python_multipart": ("serve", "python-multipart"),
    "starlette": ("serve", "starlette"),
    # There is no extra "tracking", so each of these is installed by itself.
    "mlflow": ("tracking", "mlflow-skinny"),
    "trackio": ("tracking", "trackio"),
    "wandb": ("tracking", "wandb"),
    "torch": ("torch", "torch"),
    "uvicorn": ("serve", "uvicorn"),
    "websockets": ("serve", "websockets"),
}
# Packages that no extra can list, because pip would install their requirements too: jax2onnx would
# downgrade Orbax, which it does not use here; cuDNN would bring another gigabyte, which compiling
# for absent GPUs does not need.
_WITHOUT_REQUIREMENTS = {
    "jax2onnx": "pip install --no-deps jax2onnx==0.17.1",
    "libtpu": "pip install --no-deps 'nvidia-cudnn-cu12>=9.10,<10'",
}


# Extra -> what its packages are for.
_PURPOSES = {
    "beam": "building a data set on many machines",
    "camera": "cameras by OpenCV (PyAV reads them too)",
    "completion": "completion in a shell",
    "export": "exports in StableHLO",
    "hub": "models on a hub",
    "keypoints": "poses by MediaPipe's models",
    "onnx": "exports in ONNX, and running them",
    "plan": "plans for devices that are not here",
    "serve": "the local page and its API",
    "sweep": "searching for config values",
    "torch": "weights of PyTorch programs",
    "tracking": "experiment trackers",
}


class OptionalPackage(NamedTuple):
    """What an optional module is for, and the command that installs it."""

    purpose: str
    install: str


def optional_packages() -> dict[str, OptionalPackage]:
    """The modules that only some features need, by name."""
    return {
        module: OptionalPackage(_PURPOSES[extra], install_command(module))
        for module, (extra, _) in sorted(_PACKAGES.items())
    }


def install_command(module: str) -> str:
    """Return the command that installs `module` and everything else that its extra lists.

    It names the packages and not `signvit-jax[extra]`, because signvit-jax is on no package index:
    the command works from a checkout and from a wheel.
    """
    extra, package = _PACKAGES[module]
    packages = _requirements(extra)
    if module == "jax2onnx" and not packages:
        return _WITHOUT_REQUIREMENTS[module]  # which installs the package itself
    command = f"pip install {' '.join(packages or [package])}"
    return " && ".join(filter(None, (command, _WITHOUT_REQUIREMENTS.get(module))))


def import_optional(module: str, purpose: str, error: type[Exception]) -> ModuleType:
    """Import `module`.

    Raises `error`, with the purpose and the install command, if it is missing.
    """
    try:
        return importlib.import_module(module)
    except ImportError as missing:
        command = install_command(module.partition(".")[0])
        raise error(
            f"{purpose} needs {module} ({missing}); install it with: {command}"
        ) from missing


def _requirements(extra: str) -> list[str]:
    """Quoted requirements of an extra; empty where this package's metadata is not installed."""
    try:
        listed = metadata.requires("signvit-jax") or []
    except metadata.PackageNotFoundError:  # run from a source tree that was never installed
        return []
    requirements = (requirement.partition(";") for requirement in listed)
    return [
        f"'{requirement.strip()}'"
        for requirement, _, marker in requirements
        if marker.strip().replace("'", '"') == f'extra == "{extra}"'
    ]
