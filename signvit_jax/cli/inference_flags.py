"""Flags of `eval` and `translate` that replace values of the run's `config.inference`: one a key, of the same name."""

import argparse
import dataclasses
import math

from signvit_jax.config.schema import InferenceConfig


def add_inference_flags(flags: argparse.ArgumentParser) -> None:
    group = flags.add_argument_group(
        "decoding", "each replaces the run's config.inference value of that name"
    )
    for field in dataclasses.fields(InferenceConfig):
        group.add_argument(
            f"--{field.name}",
            type=field.type,
            metavar=field.type.__name__.upper(),
            help=field.metadata["allowed"].replace("%", "%%"),
        )


def add_backend_flag(flags: argparse.ArgumentParser) -> None:
    flags.add_argument(
        "--backend",
        choices=("jax", "onnx"),
        help="what encodes clips; onnx: onnxruntime, of an export (what the folder is for)",
    )


def given_inference(arguments: argparse.Namespace) -> dict[str, object]:
    """The values that were given; they are checked with the config that they go into."""
    names = [field.name for field in dataclasses.fields(InferenceConfig)]
    return {name: value for name in names if (value := getattr(arguments, name)) is not None}


def positive_seconds(text: str) -> float:
    """The type of a flag that takes seconds."""
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not 0 < seconds < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r}; allowed: seconds > 0")
    return seconds
