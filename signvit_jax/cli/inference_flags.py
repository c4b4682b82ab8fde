"""Flags of `eval` and `translate`: the model, and values that replace its `config.inference`."""

import argparse
import dataclasses
from typing import get_type_hints

from signvit_jax.config.schema import InferenceConfig
from signvit_jax.files.local_paths import model_text
from signvit_jax.inference.options import InferenceOptions

DECODER_NAMES = ("greedy", "beam", "ctc", "ctc_beam", "sample")


def add_model_flags(flags: argparse.ArgumentParser) -> None:
    """Add the flags that say which trained model is used."""
    flags.add_argument(
        "--workdir",
        required=True,
        type=model_text,
        help="folder of a training run or an export, or an export on a hub "
        "(hf://ORGANIZATION/NAME); several runs, separated by commas, form an ensemble",
    )
    flags.add_argument("--checkpoint", choices=("best", "last"), default="best")
    flags.add_argument(
        "--backend",
        choices=("jax", "onnx"),
        help="what encodes clips: JAX, or onnxruntime for an export made for it (default: as made)",
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
    """The values that were given. They are checked together with the config they go into."""
    names = [field.name for field in dataclasses.fields(InferenceConfig)]
    values = {name: getattr(arguments, name) for name in names}
    given = {name: value for name, value in values.items() if value is not None}
    return InferenceOptions(**given)
