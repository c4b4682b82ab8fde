"""Flags of `eval` and `translate`: the model, and values that replace its `config.inference`."""

import argparse
import dataclasses
from typing import get_type_hints

from signvit_jax.config.schema import InferenceConfig
from signvit_jax.files.local_paths import model_path_or_address
from signvit_jax.inference.options import InferenceOptions

# The keys of `decoding.decoders.DECODERS`, repeated here because --help imports no JAX.
DECODER_NAMES = ("greedy", "beam", "ctc", "ctc_beam", "sample")


def add_model_flags(flags: argparse.ArgumentParser) -> None:
    """Add the flags that say which trained model is used."""
    flags.add_argument(
        "--workdir",
        required=True,
        type=model_path_or_address,
        help="folder of a training run or an export, or an export on a hub "
        "(hf://ORGANIZATION/NAME); several runs, separated by commas, form an ensemble",
    )
    add_checkpoint_flag(flags)
    flags.add_argument(
        "--backend",
        choices=("jax", "onnx"),
        help="what encodes clips: JAX, or onnxruntime for an ONNX export (default: onnx for an "
        "ONNX export, else jax)",
    )


def add_checkpoint_flag(flags: argparse.ArgumentParser) -> None:
    """Add the flag that says which checkpoint of a training run is used."""
    flags.add_argument(
        "--checkpoint",
        choices=("best", "last"),
        default="best",
        help="checkpoint of a training run: the best in validation, or the last (best)",
    )


def add_inference_flags(flags: argparse.ArgumentParser) -> None:
    """Add one flag per key of `config.inference`, with the key's name."""
    group = flags.add_argument_group(
        "decoding", "each flag replaces the run's config.inference value of that name"
    )
    types = get_type_hints(InferenceConfig)
    for field in dataclasses.fields(InferenceConfig):
        meaning, allowed = field.metadata["description"], field.metadata["allowed"]
        group.add_argument(
            f"--{field.name}",
            type=types[field.name],
            metavar=types[field.name].__name__.upper(),
            help=f"{meaning} Allowed: {allowed}.".replace("%", "%%"),
        )


def inference_overrides(arguments: argparse.Namespace) -> InferenceOptions:
    """Return the flags that the command line sets.

    Their ranges are checked later, with the config.
    """
    names = [field.name for field in dataclasses.fields(InferenceConfig)]
    values = {name: getattr(arguments, name) for name in names}
    options = {name: value for name, value in values.items() if value is not None}
    return InferenceOptions(**options)
