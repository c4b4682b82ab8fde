"""The ViT under timm's names (`blocks.0.attn.qkv.weight`; also DeiT's, DINO's and MAE's) to the parameters of our backbone and back."""

import re
from collections.abc import Iterable, Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from signvit_jax.weights import mapping
from signvit_jax.weights.mapping import Layout, Source, WeightsError

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
    """What the tensors tell of a ViT; not among it is the number of heads."""

    width: int
    layers: int
    hidden: int
    patch_size: int
    side: int  # of the grid of patches that its positions are for


def is_theirs(names: Iterable[str]) -> bool:
    names = set(names)
    return "patch_embed.proj.weight" in names and "blocks.0.attn.qkv.weight" in names


def sizes_of(tensors: Mapping[str, np.ndarray]) -> ViTSizes:
    """Raises WeightsError for tensors that no square ViT has."""
    try:
        width, _, patch_size, _ = tensors["patch_embed.proj.weight"].shape
        layers = 1 + max(
            int(match[1]) for name in tensors if (match := re.match(r"blocks\.(\d+)\.", name))
        )
        hidden = tensors["blocks.0.mlp.fc1.weight"].shape[0]
        positions = tensors["pos_embed"].shape[1]
    except (KeyError, ValueError, IndexError) as error:
        raise WeightsError(
            f"not a ViT of timm's layout: {type(error).__name__} at {error}"
        ) from error
    return ViTSizes(width, layers, hidden, patch_size, _side(positions))


def to_ours(
    tensors: Mapping[str, np.ndarray], shapes: Mapping[str, tuple[int, ...]]
) -> dict[str, np.ndarray]:
    """Parameters of the backbone; `shapes` names all that it has, the classifier is left out. Raises WeightsError.

    Position embeddings of another picture size are resized (cubic, antialiased, as timm does); those without an entry for the class token, which timm
    then adds nothing to, get one of zeros.
    """
    tensors = dict(tensors)
    if "pos_embed" in tensors and "positions" in shapes:
        tensors["pos_embed"] = resized_positions(
            np.asarray(tensors["pos_embed"], np.float32), shapes["positions"][1] - 1
        )
    return mapping.to_ours(_LAYOUT, tensors, shapes)


def from_ours(parameters: Mapping[str, np.ndarray | jax.Array]) -> dict[str, np.ndarray]:
    """The backbone's flat parameters as timm's state dict. Raises WeightsError for options that timm's ViT lacks."""
    return mapping.from_ours(_LAYOUT, parameters)


def resized_positions(positions: np.ndarray, patches: int) -> np.ndarray:
    """(1, s, d), s = a square number, or that and one for the class token, to (1, 1 + patches, d). Raises WeightsError for any other s."""
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
    """Tensors of the classifier, and of training by masking."""
    return name.startswith(_CLASSIFIER)


def _side(positions: int) -> int:
    for patches in (positions, positions - 1):
        if patches > 0 and round(patches**0.5) ** 2 == patches:
            return round(patches**0.5)
    raise WeightsError(
        f"pos_embed has {positions} positions; allowed: those of a square grid of patches, with one for a class token or without"
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


_LAYOUT = Layout("timm's ViT", _source, stacked="blocks/", ignored=holds_no_feature)
