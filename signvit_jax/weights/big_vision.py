"""The ViT in Flax's names and layouts, as big_vision and the original vision_transformer save it (npz), under timm's and back.

Their attention keeps query, key and value apart, (width, heads, head width) each; kernels are (in, out). The two programs number the parts of a block
differently, and big_vision may stack its blocks.
"""

import re
from collections.abc import Iterable, Mapping

import numpy as np

from signvit_jax.weights.mapping import WeightsError

_NAMES = {
    "embedding/kernel": "patch_embed.proj.weight",
    "embedding/bias": "patch_embed.proj.bias",
    "cls": "cls_token",
}
_NAMES |= {
    f"Transformer/encoder_norm/{theirs}": f"norm.{ours}"
    for theirs, ours in (("scale", "weight"), ("bias", "bias"))
}
_POSITIONS = ("pos_embedding", "Transformer/posembed_input/pos_embedding")
_IN_BLOCK = {"LayerNorm_0": "norm1", "LayerNorm_1": "norm2", "LayerNorm_2": "norm2"}
_BLOCK = re.compile(r"Transformer/encoderblock_(\d+)/(.+)")
_MLP = re.compile(r"MlpBlock_[03]/Dense_([01])/(kernel|bias)")
_ATTENTION = re.compile(r"MultiHeadDotProductAttention_[01]/(query|key|value|out)/(kernel|bias)")


def is_theirs(names: Iterable[str]) -> bool:
    names = set(names)
    return "embedding/kernel" in names and any(
        name.startswith("Transformer/encoderblock") for name in names
    )


def heads_of(tensors: Mapping[str, np.ndarray]) -> int:
    """How many heads its attention has, which no other layout tells. Raises WeightsError."""
    for name, tensor in _unstacked(tensors).items():
        if name.endswith("/query/kernel") and tensor.ndim == 3:
            return tensor.shape[1]
    raise WeightsError("not a ViT of big_vision's layout: no query kernel of three axes")


def to_timm(tensors: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """timm's state dict. Tensors of another use (the classifier) keep their names. Raises WeightsError for attention of another shape."""
    converted: dict[str, np.ndarray] = {}
    thirds: dict[str, dict[str, np.ndarray]] = {}
    for name, tensor in _unstacked(tensors).items():
        if name in _NAMES:
            converted[_NAMES[name]] = (
                tensor.transpose(3, 2, 0, 1) if name == "embedding/kernel" else tensor
            )
        elif name in _POSITIONS:
            converted["pos_embed"] = tensor
        elif match := _BLOCK.fullmatch(name):
            _convert_in_block(f"blocks.{match[1]}", match[2], tensor, converted, thirds)
        else:
            converted[name] = tensor
    for name, parts in thirds.items():
        if set(parts) != {"query", "key", "value"}:
            raise WeightsError(
                f"{name}: of query, key and value there is only {', '.join(sorted(parts))}"
            )
        converted[name] = np.concatenate([parts[part] for part in ("query", "key", "value")])
    return converted


def from_timm(tensors: Mapping[str, np.ndarray], heads: int) -> dict[str, np.ndarray]:
    """big_vision's tensors of a timm state dict, the inverse of `to_timm`; blocks are not stacked."""
    names = {theirs: ours for ours, theirs in _NAMES.items()} | {"pos_embed": "pos_embedding"}
    parts = {
        "norm1": "LayerNorm_0",
        "norm2": "LayerNorm_1",
        "mlp.fc1": "MlpBlock_0/Dense_0",
        "mlp.fc2": "MlpBlock_0/Dense_1",
    }
    converted = {}
    for name, tensor in tensors.items():
        if name in names:
            converted[names[name]] = (
                tensor.transpose(2, 3, 1, 0) if name == "patch_embed.proj.weight" else tensor
            )
            continue
        _, layer, inner = name.split(".", 2)
        module, _, leaf = inner.rpartition(".")
        block = f"Transformer/encoderblock_{layer}"
        if module == "attn.qkv":
            for part, third in zip(("query", "key", "value"), np.split(tensor, 3)):
                shaped = (
                    third.T.reshape(third.shape[1], heads, -1)
                    if leaf == "weight"
                    else third.reshape(heads, -1)
                )
                converted[
                    f"{block}/MultiHeadDotProductAttention_0/{part}/{'kernel' if leaf == 'weight' else 'bias'}"
                ] = shaped
        elif module == "attn.proj":
            shaped = tensor.T.reshape(heads, -1, tensor.shape[0]) if leaf == "weight" else tensor
            converted[
                f"{block}/MultiHeadDotProductAttention_0/out/{'kernel' if leaf == 'weight' else 'bias'}"
            ] = shaped
        elif module.startswith("mlp"):
            converted[f"{block}/{parts[module]}/{'kernel' if leaf == 'weight' else 'bias'}"] = (
                tensor.T
            )
        else:
            converted[f"{block}/{parts[module]}/{'scale' if leaf == 'weight' else 'bias'}"] = tensor
    return {name: np.ascontiguousarray(tensor) for name, tensor in converted.items()}


def _convert_in_block(
    block: str,
    name: str,
    tensor: np.ndarray,
    converted: dict[str, np.ndarray],
    thirds: dict[str, dict[str, np.ndarray]],
) -> None:
    module, _, leaf = name.rpartition("/")
    if module in _IN_BLOCK:
        converted[f"{block}.{_IN_BLOCK[module]}.{'weight' if leaf == 'scale' else leaf}"] = tensor
    elif match := _MLP.fullmatch(name):
        converted[f"{block}.mlp.fc{int(match[1]) + 1}.{'weight' if leaf == 'kernel' else leaf}"] = (
            tensor.T
        )
    elif match := _ATTENTION.fullmatch(name):
        if leaf == "kernel" and tensor.ndim != 3:
            raise WeightsError(
                f"{block}: {name} has shape {tensor.shape}; needed are three axes, heads among them"
            )
        if match[1] == "out":
            converted[f"{block}.attn.proj.{'weight' if leaf == 'kernel' else leaf}"] = (
                tensor.reshape(-1, tensor.shape[-1]).T if leaf == "kernel" else tensor
            )
        else:
            joined = (
                tensor.reshape(tensor.shape[0], -1).T if leaf == "kernel" else tensor.reshape(-1)
            )
            thirds.setdefault(f"{block}.attn.qkv.{'weight' if leaf == 'kernel' else leaf}", {})[
                match[1]
            ] = joined
    else:
        converted[f"{block}.{name}"] = tensor


def _unstacked(tensors: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """One name a block also where big_vision scanned over them."""
    separate = {}
    for name, tensor in tensors.items():
        if name.startswith("Transformer/encoderblock/"):
            inner = name.removeprefix("Transformer/encoderblock/")
            separate |= {
                f"Transformer/encoderblock_{layer}/{inner}": part
                for layer, part in enumerate(tensor)
            }
        else:
            separate[name] = tensor
    return separate
