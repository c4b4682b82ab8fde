r"""Measure the size on disk of the INT8 export of full-size configs, with random weights.

    python scripts/bench/int8_size.py --words=30522,16000 \
        --configs=configs/reference.py,configs/dense_vit_100m.py
"""

import argparse
import tempfile
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np
from jaxtyping import PyTree

from signvit_jax.config.files import load_config
from signvit_jax.config.schema import Config
from signvit_jax.exporting.int8 import int8_tensors
from signvit_jax.layers.compute_policy import ComputePolicy
from signvit_jax.models.definition import ModelDefinition
from signvit_jax.weights.tensor_files import write_safetensors


class RandomModel(NamedTuple):
    """What an export of parameters needs of a model: see `exporting.exportable`."""

    config: Config
    params: PyTree
    vocab_size: int

    def define(self, policy: ComputePolicy) -> ModelDefinition:
        """Return the model's definition under another compute policy."""
        return ModelDefinition(self.config, self.vocab_size, policy=policy)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--configs", default="configs/reference.py,configs/dense_vit_100m.py")
    parser.add_argument(
        "--words", default="30522,16000", help="size of the vocabulary for each config"
    )
    args = parser.parse_args()
    print(
        "| config | vocabulary | parameters | float32 | INT8 weights | INT8 weights and inputs "
        "| weights and inputs, % of float32 |\n|---|---|---|---|---|---|---|"
    )
    configs, vocabularies = args.configs.split(","), args.words.split(",")
    if len(configs) != len(vocabularies):
        parser.error(f"{len(configs)} configs and {len(vocabularies)} --words; allowed: one each")
    for name, words in zip(configs, map(int, vocabularies), strict=True):
        config = load_config(name)
        params = _random(ModelDefinition(config, words).abstract_params())
        model = RandomModel(config, params, words)
        leaves = jax.tree_util.tree_leaves_with_path(model.params)
        sizes = [_size(int8_tensors(model)), _size(int8_tensors(model, _ranges(leaves)))]
        parameters = sum(leaf.size for leaf in jax.tree.leaves(model.params))
        shown = " | ".join(f"{size / 1e6:.1f} MB" for size in (4 * parameters, *sizes))
        print(
            f"| `{name}` | {words:,} | {parameters:,} | {shown} "
            f"| {100 * sizes[1] / (4 * parameters):.1f} % |",
            flush=True,
        )


def _random(shapes: PyTree) -> PyTree:
    """Return float32 arrays of these shapes, with a standard deviation of 0.02."""
    rng = np.random.default_rng(0)
    return jax.tree.map(lambda leaf: rng.normal(0, 0.02, leaf.shape).astype(np.float32), shapes)


def _ranges(leaves: list) -> dict[str, np.ndarray]:
    """Return -1 to 1 as the input range of every layer of the encoder."""
    limits_by_layer = {}
    for path, leaf in leaves:
        *layer, name = (key.key for key in path)
        if layer[0] == "encoder" and name == "kernel":
            limits = np.asarray([-1.0, 1.0], np.float32)
            if leaf.ndim < 4:  # not a convolution's kernel; stacked layers have a range each
                limits = np.broadcast_to(limits, (*leaf.shape[:-2], 2))
            limits_by_layer["/".join(layer)] = limits
    return limits_by_layer


def _size(tensors: dict[str, np.ndarray]) -> int:
    with tempfile.TemporaryDirectory() as folder:
        write_safetensors(Path(folder) / "weights.safetensors", tensors)
        return (Path(folder) / "weights.safetensors").stat().st_size


if __name__ == "__main__":
    main()
