"""Pretrained backbones (`model.encoder.pretrained`) from files, whose keys show their kind."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from signvit_jax.backbones import mobilenet_v3 as mobilenet
from signvit_jax.config.schema import EncoderConfig
from signvit_jax.layers.transformer import LAYER_NORM_EPSILON
from signvit_jax.weights import big_vision, mapping, mobilenet_v3, reference, timm_vit
from signvit_jax.weights.mapping import WeightsError
from signvit_jax.weights.tensor_files import read_tensors

_OURS, _THEIRS = "encoder/backbone/", "encoder.backbone."
_POSITIONS = (_OURS + "positions", _THEIRS + "pos_embed")


@dataclasses.dataclass(frozen=True)
class PretrainedBackbone:
    """The tensors of a file, and the kind of backbone that they are."""

    path: Path
    kind: str  # for messages
    backbone: str  # as in model.encoder.backbone
    epsilon: float  # of its norms; 0 = not known
    tensors: Mapping[str, np.ndarray]
    heads: int | None = None  # if the file shows them

    def parameters(
        self, config: EncoderConfig, shapes: Mapping[str, tuple[int, ...]]
    ) -> dict[str, np.ndarray]:
        """Return the flat parameters of the backbone; `shapes` has all of them.

        Raises WeightsError for tensors that do not fit.
        """
        if config.backbone != self.backbone:
            raise WeightsError(
                f"{self.path} has {self.kind}, but config.model.encoder.backbone is "
                f"{config.backbone!r}; allowed: {self.backbone!r}"
            )
        if self.heads not in (None, config.vit_num_heads):
            raise WeightsError(
                f"{self.path} has {self.heads} heads, but config.model.encoder.vit_num_heads is "
                f"{config.vit_num_heads}; set it to {self.heads}"
            )
        try:
            return self._convert(shapes)
        except WeightsError as error:
            raise WeightsError(f"{self.path}, {self.kind}: {error}") from error

    def _convert(self, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, np.ndarray]:
        if not any(name.startswith((_OURS, _THEIRS)) for name in self.tensors):
            names = mobilenet_v3 if self.backbone == "mobilenet_v3_large" else timm_vit
            return names.to_ours(self.tensors, shapes)
        # A complete translator, of which only the backbone is used.
        expected = {_OURS + path: shape for path, shape in shapes.items()}
        tensors = {
            name: tensor
            for name, tensor in self.tensors.items()
            if name.startswith((_OURS, _THEIRS))
        }
        for name in _POSITIONS:
            if name in tensors and "positions" in shapes:
                tensors[name] = timm_vit.resized_positions(
                    np.asarray(tensors[name], np.float32), shapes["positions"][1] - 1
                )
        table = (
            mapping.OURS
            if next(iter(tensors)).startswith(_OURS)
            else reference.name_table(expected)
        )
        converted = mapping.to_ours(table, tensors, expected)
        return {path.removeprefix(_OURS): value for path, value in converted.items()}


def read_pretrained(path: str | Path) -> PretrainedBackbone:
    """Read a file. Raises WeightsError if it cannot be read or is of an unknown kind."""
    path = Path(path)
    tensors = read_tensors(path)
    if big_vision.is_theirs(tensors):
        heads = big_vision.heads_of(tensors)
        return PretrainedBackbone(
            path,
            "a ViT of big_vision",
            "dense_vit",
            timm_vit.EPSILON,
            big_vision.to_timm(tensors),
            heads,
        )
    if timm_vit.is_theirs(tensors):
        return PretrainedBackbone(path, "a ViT of timm", "dense_vit", timm_vit.EPSILON, tensors)
    if mobilenet_v3.is_theirs(tensors):
        epsilon, source = mobilenet.EPSILON, "torchvision"
        if mobilenet_v3.is_timm(tensors):
            epsilon, source = mobilenet_v3.TIMM_EPSILON, "timm"
        return PretrainedBackbone(
            path, f"a MobileNetV3 of {source}", "mobilenet_v3_large", epsilon, tensors
        )
    if any(name.startswith(_THEIRS) for name in tensors):
        backbone, epsilon = "mobilenet_v3_large", mobilenet.EPSILON
        if _THEIRS + "cls_token" in tensors:
            backbone, epsilon = "dense_vit", LAYER_NORM_EPSILON
        return PretrainedBackbone(path, "a translator of the reference", backbone, epsilon, tensors)
    if any(name.startswith(_OURS) for name in tensors):
        backbone = "dense_vit" if _OURS + "class_token" in tensors else "mobilenet_v3_large"
        return PretrainedBackbone(path, "a translator of ours", backbone, 0.0, tensors)
    raise WeightsError(
        f"{path}: unknown kind of weights (its first keys: "
        f"{', '.join(sorted(tensors)[:4]) or 'none'}); known: ViTs of timm and big_vision, "
        "MobileNetV3-Large of torchvision and timm, the reference's translator, and ours"
    )
