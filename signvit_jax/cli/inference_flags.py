"""Flags of `eval` and `translate` that replace values of the run's `config.inference`."""

import argparse
import dataclasses

from signvit_jax.config.schema import InferenceConfig


def add_inference_flags(flags: argparse.ArgumentParser) -> None:
    """Add one flag per key of `config.inference`, with the key's name."""
    group = flags.add_argument_group(
        "decoding", "each flag replaces the run's config.inference value of that name"
    )
    for field in dataclasses.fields(InferenceConfig):
        meaning, allowed = field.metadata["description"], field.metadata["allowed"]
        group.add_argument(
            f"--{field.name}",
            type=field.type,
            metavar=field.type.__name__.upper(),
            help=f"{meaning} Allowed: {allowed}.".replace("%", "%%"),
        )


def add_backend_flag(flags: argparse.ArgumentParser) -> None:
    flags.add_argument(
        "--backend",
        choices=("jax", "onnx"),
        help="what encodes clips: JAX, or onnxruntime for an export made for it (default: as made)",
    )


def inference_overrides(arguments: argparse.Namespace) -> dict[str, object]:
    """The values that were given. They are checked together with the config they go into."""
    names = [field.name for field in dataclasses.fields(InferenceConfig)]
    return {name: value for name in names if (value := getattr(arguments, name)) is not None}
