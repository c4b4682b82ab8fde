"""Sign-language translation in JAX/Flax: a signed video goes in, text comes out."""

import importlib

_PUBLIC = {
    "load_translator": "signvit_jax.inference.translator",
    "Translator": "signvit_jax.inference.translator",
    "Translation": "signvit_jax.inference.translator",
    "SignVitError": "signvit_jax.errors.base",
}


def __getattr__(name: str):
    # Imported on first use, so that `import signvit_jax` and the data tools do not wait for JAX.
    if name in _PUBLIC:
        return getattr(importlib.import_module(_PUBLIC[name]), name)
    raise AttributeError(f"module 'signvit_jax' has no attribute {name!r}")
