"""Presets by path, as earlier releases named them. They live in `signvit_jax/presets/`."""
