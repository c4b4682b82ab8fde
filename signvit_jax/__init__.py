"""Sign-language translation in JAX/Flax: a signed video goes in, text comes out.

import signvit_jax
translator = signvit_jax.load_translator("runs/mine")
translator.translate("clip.mp4").text
"""

import importlib
import sys
from typing import TYPE_CHECKING

if sys.platform != "linux":
    raise ImportError(
        f"signvit_jax runs on Linux, and this is {sys.platform}: it decodes videos in processes "
        "with limits of their own and shares batches through /dev/shm. "
        "Use a container, or WSL 2 on Windows."
    )
if TYPE_CHECKING:
    from signvit_jax.errors.base import SignVitError
    from signvit_jax.inference.translator import Translation, Translator, load_translator

__version__ = "0.2.0.dev0"
__all__ = ["SignVitError", "Translation", "Translator", "__version__", "load_translator"]
_MODULES = {
    "SignVitError": "signvit_jax.errors.base",
    "Translation": "signvit_jax.inference.translator",
    "Translator": "signvit_jax.inference.translator",
    "load_translator": "signvit_jax.inference.translator",
}


def __getattr__(name: str) -> object:
    # Imported on first use, so that `import signvit_jax` and the data tools do not wait for JAX.
    if name in _MODULES:
        return getattr(importlib.import_module(_MODULES[name]), name)
    raise AttributeError(f"module 'signvit_jax' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
