"""Convert a ViT with Flax's names and axis orders to timm's.

The npz files of big_vision and of the original vision_transformer have them. Query, key and value
are separate there, (width, heads, head width) each, and kernels are (in, out). The two programs
number the modules of a block differently, and big_vision may stack its blocks.
"""

import re
from collections.abc import Iterable, Mapping

import numpy as np

from signvit_jax.weights.mapping import WeightsError

_NAMES = {
    "embedding/kernel": "patch_embed.proj.weight",
    "embedding/bias": "patch_embed.proj.bias",
    "cls": "cls_token",
    "Transformer/encoder_norm/scale": "norm.weight",
    "Transformer/encoder_norm/bias": "norm.bias",
}
_POSITIONS = ("pos_embedding", "Transformer/posembed_input/pos_embedding")
_BLOCK = re.compile(r"Transformer/encoderblock_(\d+)/(.+)")
_NORMS = {"LayerNorm_0": "norm1", "LayerNorm_1": "norm2", "LayerNorm_2": "norm2"}
_LEAVES = {"kernel": "weight", "scale": "weight", "bias": "bias"}
_MLP = re.compile(r"MlpBlock_[03]/Dense_([01])/(kernel|bias)")
_ATTENTION = re.compile(r"MultiHeadDotProductAttention_[01]/(query|key|value|out)/(kernel|bias)")


def is_theirs(names: Iterable[str]) -> bool:
    """Return True if a state dict is that of a ViT of big_vision or vision_transformer."""
    names = set(names)
    return "embedding/kernel" in names and any(
        name.startswith("Transformer/encoderblock") for name in names
    )


def heads_of(tensors: Mapping[str, np.ndarray]) -> int:
    """Number of heads of the attention, which no other kind of file shows. Raises WeightsError."""
    for name, tensor in _unstack(tensors).items():
        if name.endswith("/query/kernel") and tensor.ndim == 3:
            return tensor.shape[1]
    raise WeightsError("not a ViT with big_vision's names: no query kernel of three axes")


def to_timm(tensors: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Convert to timm's state dict; tensors for other uses (the classifier) keep their names.

    Raises WeightsError for attention of another shape.
    """
    converted: dict[str, np.ndarray] = {}
    qkv: dict[str, dict[str, np.ndarray]] = {}
    for name, tensor in _unstack(tensors).items():
        if name in _NAMES:
            is_patches = name == "embedding/kernel" and tensor.ndim == 4
            converted[_NAMES[name]] = tensor.transpose(3, 2, 0, 1) if is_patches else tensor
        elif name in _POSITIONS:
            converted["pos_embed"] = tensor
        elif match := _BLOCK.fullmatch(name):
            _convert_in_block(f"blocks.{match[1]}", match[2], tensor, converted, qkv)
        else:
            converted[name] = tensor
    for name, parts in qkv.items():
        if set(parts) != {"query", "key", "value"}:
            raise WeightsError(
                f"{name}: of query, key and value there is only {', '.join(sorted(parts))}"
            )
        converted[name] = np.concatenate([parts[part] for part in ("query", "key", "value")])
    return converted


def _convert_in_block(
    block: str,
    name: str,
    tensor: np.ndarray,
    converted: dict[str, np.ndarray],
    qkv: dict[str, dict[str, np.ndarray]],
) -> None:
    """Add a block's tensor to `converted`, or for query, key and value to `qkv`."""
    module, _, leaf = name.rpartition("/")
    if module in _NORMS:
        converted[f"{block}.{_NORMS[module]}.{_LEAVES.get(leaf, leaf)}"] = tensor
    elif match := _MLP.fullmatch(name):
        converted[f"{block}.mlp.fc{int(match[1]) + 1}.{_LEAVES[leaf]}"] = tensor.T
    elif match := _ATTENTION.fullmatch(name):
        if leaf == "kernel" and tensor.ndim != 3:
            raise WeightsError(
                f"{block}: {name} has shape {tensor.shape}; needed are three axes, heads among them"
            )
        if match[1] == "out":
            projection = tensor.reshape(-1, tensor.shape[-1]).T if leaf == "kernel" else tensor
            converted[f"{block}.attn.proj.{_LEAVES[leaf]}"] = projection
        else:
            is_kernel = leaf == "kernel"
            matrix = tensor.reshape(tensor.shape[0], -1).T if is_kernel else tensor.reshape(-1)
            qkv.setdefault(f"{block}.attn.qkv.{_LEAVES[leaf]}", {})[match[1]] = matrix
    else:
        converted[f"{block}.{name}"] = tensor


def _unstack(tensors: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Split stacked blocks (big_vision's scan) into one tensor per block."""
    prefix = "Transformer/encoderblock/"
    separate = {}
    for name, tensor in tensors.items():
        if name.startswith(prefix):
            inner = name.removeprefix(prefix)
            for layer, part in enumerate(tensor):
                separate[f"Transformer/encoderblock_{layer}/{inner}"] = part
        else:
            separate[name] = tensor
    return separate
