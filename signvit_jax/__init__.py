"""Sign-language translation in JAX/Flax: a signed video goes in, text comes out."""


def __getattr__(name: str):
    # Loaded on first use, so that `import signvit_jax` and the data tools do not wait for JAX.
    if name in ("load_translator", "Translator", "Translation"):
        from signvit_jax.inference import translator

        return getattr(translator, name)
    raise AttributeError(f"module 'signvit_jax' has no attribute {name!r}")
