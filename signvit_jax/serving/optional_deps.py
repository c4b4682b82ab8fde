"""Packages that only an export needs: found, or named with the line that installs them."""

import importlib
from types import ModuleType

from signvit_jax.serving.export_dir import ExportError

_EXPORT = "pip install 'signvit-jax[export]'"
_ONNX = "pip install 'signvit-jax[onnx]'"
_INSTALL = {
    "qwix": _EXPORT,
    "flatbuffers": _EXPORT,  # jax.export writes and reads with it, and does without until then
    "onnx": _ONNX,
    "onnxruntime": _ONNX,
    # What it says that it needs would hold back Orbax, which it does not use here.
    "jax2onnx": f"{_ONNX} && pip install --no-deps jax2onnx==0.17.1",
}


def import_optional(module: str, purpose: str) -> ModuleType:
    """The module of that name. Raises ExportError, with the line that installs it, where it is not there."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ExportError(
            f"{purpose} needs {module} ({error}); install it with: {_INSTALL[module.partition('.')[0]]}"
        ) from error
