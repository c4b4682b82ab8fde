"""Convert a ViT with timm's names to the parameters of our backbone, and back.

The names (`blocks.0.attn.qkv.weight`) are also those of DeiT, DINO and MAE.
"""

import re
from collections.abc import Iterable, Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from signvit_jax.weights import mapping
from signvit_jax.weights.mapping import NameTable, Source, WeightsError

EPSILON = 1e-6  # of its LayerNorms
_MODULES = {
    "embed/project": "patch_embed.proj",
    "norm": "norm",
    "blocks/attention_norm": "blocks.{0}.norm1",
    "blocks/attention/qkv": "blocks.{0}.attn.qkv",
    "blocks/attention/out": "blocks.{0}.attn.proj",
    "blocks/feed_forward_norm": "blocks.{0}.norm2",
    "blocks/feed_forward/expand": "blocks.{0}.mlp.fc1",
    "blocks/feed_forward/contract": "blocks.{0}.mlp.fc2",
}
_PARAMETERS = {"class_token": "cls_token", "positions": "pos_embed"}
_CLASSIFIER = ("head.", "head_dist.", "pre_logits.", "mask_token")


class ViTSizes(NamedTuple):
    """The sizes of a ViT that its tensors show; the number of heads is not among them."""

    width: int
    layers: int
    hidden: int
    patch_size: int
    side: int  # patches per side of the image


def is_theirs(names: Iterable[str]) -> bool:
    """Return True if a state dict is that of a ViT of timm."""
    names = set(names)
    return "patch_embed.proj.weight" in names and "blocks.0.attn.qkv.weight" in names


def sizes_of(tensors: Mapping[str, np.ndarray]) -> ViTSizes:
    """Sizes of a ViT.

    Raises WeightsError for tensors that are not those of a ViT for square images.
    """
    try:
        width, _, patch_size, _ = tensors["patch_embed.proj.weight"].shape
        layers = 1 + max(
            int(match[1]) for name in tensors if (match := re.match(r"blocks\.(\d+)\.", name))
        )
        hidden = tensors["blocks.0.mlp.fc1.weight"].shape[0]
        positions = tensors["pos_embed"].shape[1]
    except (KeyError, ValueError, IndexError) as error:
        raise WeightsError(
            f"not a ViT with timm's names: {type(error).__name__} at {error}"
        ) from error
    return ViTSizes(width, layers, hidden, patch_size, _side(positions))


def to_ours(
    tensors: Mapping[str, np.ndarray], shapes: Mapping[str, tuple[int, ...]]
) -> dict[str, np.ndarray]:
    """Convert to the parameters of the backbone, without the classifier. Raises WeightsError.

    `shapes` has all parameters of the backbone. Position embeddings of another image size are
    resized (cubic, antialiased, as in timm). If they have none for the class token, it gets zeros,
    which is what timm computes then.
    """
    tensors = dict(tensors)
    if "pos_embed" in tensors and "positions" in shapes:
        tensors["pos_embed"] = resized_positions(
            np.asarray(tensors["pos_embed"], np.float32), shapes["positions"][1] - 1
        )
    return mapping.to_ours(_NAMES, tensors, shapes)


def from_ours(parameters: Mapping[str, np.ndarray | jax.Array]) -> dict[str, np.ndarray]:
    """Convert the backbone's flat parameters to timm's state dict.

    Raises WeightsError for options that timm's ViT lacks.
    """
    return mapping.from_ours(_NAMES, parameters)


def resized_positions(positions: np.ndarray, patches: int) -> np.ndarray:
    """Resize position embeddings (1, s, d) to (1, 1 + patches, d).

    s is the number of patches of a square image, or one more with a class token. Raises
    WeightsError for another s.
    """
    old, new = _side(positions.shape[1]), _side(patches)
    class_token = positions[:, : positions.shape[1] - old * old]
    if class_token.shape[1] == 0:
        class_token = np.zeros_like(positions[:, :1])
    grid = positions[:, positions.shape[1] - old * old :]
    if new != old:
        square = jnp.asarray(grid.reshape(old, old, -1))
        grid = np.asarray(
            jax.image.resize(square, (new, new, square.shape[-1]), "cubic", antialias=True)
        ).reshape(1, new * new, -1)
    return np.concatenate([class_token, grid], axis=1)


def holds_no_feature(name: str) -> bool:
    """Return True if a tensor belongs to the classifier, or to masked training."""
    return name.startswith(_CLASSIFIER)


def _side(positions: int) -> int:
    for patches in (positions, positions - 1):
        if patches > 0 and round(patches**0.5) ** 2 == patches:
            return round(patches**0.5)
    raise WeightsError(
        f"pos_embed has {positions} positions; allowed: those of a square grid of patches, "
        "with one for a class token or without"
    )


def _source(path: str) -> Source | None:
    if path in _PARAMETERS:
        return Source(_PARAMETERS[path])
    module, _, leaf = path.rpartition("/")
    if module not in _MODULES:
        return None
    if leaf == "kernel":
        return Source(
            f"{_MODULES[module]}.weight", "patch" if module == "embed/project" else "matrix"
        )
    return Source(f"{_MODULES[module]}.{'bias' if leaf == 'bias' else 'weight'}")


_NAMES = NameTable("timm's ViT", _source, stacked="blocks/", is_ignored=holds_no_feature)
