"""`model.encoder.pretrained`: a backbone from a file of weights, whose layout is known by its keys."""

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
    """The tensors of a file, and what they are of."""

    path: Path
    layout: str  # for people
    backbone: str  # as in model.encoder.backbone
    epsilon: float  # of its norms; 0 = the file does not say
    tensors: Mapping[str, np.ndarray]
    heads: int | None = None  # where the file tells

    def parameters(
        self, config: EncoderConfig, shapes: Mapping[str, tuple[int, ...]]
    ) -> dict[str, np.ndarray]:
        """Flat parameters of the backbone; `shapes` names all that it has. Raises WeightsError with all that does not fit."""
        if config.backbone != self.backbone:
            raise WeightsError(
                f"{self.path} holds {self.layout}, but config.model.encoder.backbone is {config.backbone!r}; allowed: {self.backbone!r}"
            )
        if self.heads not in (None, config.vit_num_heads):
            raise WeightsError(
                f"{self.path} has {self.heads} heads, but config.model.encoder.vit_num_heads is {config.vit_num_heads}; set it to that"
            )
        try:
            return self._convert(shapes)
        except WeightsError as error:
            raise WeightsError(f"{self.path}, {self.layout}: {error}") from error

    def _convert(self, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, np.ndarray]:
        if not any(name.startswith((_OURS, _THEIRS)) for name in self.tensors):
            return (mobilenet_v3 if self.backbone == "mobilenet_v3_large" else timm_vit).to_ours(
                self.tensors, shapes
            )
        # A whole translator: its backbone alone counts.
        wanted = {_OURS + path: shape for path, shape in shapes.items()}
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
        layout = mapping.OURS if next(iter(tensors)).startswith(_OURS) else reference.layout(wanted)
        converted = mapping.to_ours(layout, tensors, wanted)
        return {path.removeprefix(_OURS): value for path, value in converted.items()}


def read_pretrained(path: str | Path) -> PretrainedBackbone:
    """Raises WeightsError for a file that cannot be read or is of no known layout."""
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
        epsilon, whose = (
            (mobilenet_v3.TIMM_EPSILON, "timm")
            if mobilenet_v3.is_timm(tensors)
            else (mobilenet.EPSILON, "torchvision")
        )
        return PretrainedBackbone(
            path, f"a MobileNetV3 of {whose}", "mobilenet_v3_large", epsilon, tensors
        )
    if any(name.startswith(_THEIRS) for name in tensors):
        is_vit = _THEIRS + "cls_token" in tensors
        backbone, epsilon = (
            ("dense_vit", LAYER_NORM_EPSILON)
            if is_vit
            else ("mobilenet_v3_large", mobilenet.EPSILON)
        )
        return PretrainedBackbone(path, "a translator of the reference", backbone, epsilon, tensors)
    if any(name.startswith(_OURS) for name in tensors):
        backbone = "dense_vit" if _OURS + "class_token" in tensors else "mobilenet_v3_large"
        return PretrainedBackbone(path, "a translator of ours", backbone, 0.0, tensors)
    raise WeightsError(
        f"{path}: no known layout of weights (its keys begin with {', '.join(sorted(tensors)[:4]) or 'nothing'}); known: ViTs of timm and "
        "big_vision, MobileNetV3-Large of torchvision and timm, the reference's translator, and ours"
    )
