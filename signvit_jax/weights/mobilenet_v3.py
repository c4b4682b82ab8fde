"""Convert MobileNetV3 features with torchvision's or timm's names to our backbone, and back."""

import re
from collections.abc import Iterable, Mapping

import jax
import numpy as np

from signvit_jax.backbones.mobilenet_v3 import MobileNetSpec, mobilenet_v3_large_spec
from signvit_jax.weights import mapping
from signvit_jax.weights.mapping import NameTable, Source, WeightsError

TIMM_EPSILON = 1e-5  # of BatchNorm in timm's mobilenetv3_large_100; torchvision's is 1e-3
_NORM = {"scale": "weight", "bias": "bias", "mean": "running_mean", "var": "running_var"}
# Order of the modules of a block; torchvision numbers only those that the block has.
_ORDER = ("expansion", "depthwise", "squeeze", "projection")
_SQUEEZE = {"reduce": "fc1", "expand": "fc2"}
_CLASSIFIER = ("classifier.", "conv_head.", "norm_head.")


def is_ours(paths: Iterable[str]) -> bool:
    """Return True if these are parameters of our MobileNetV3 (and not of the ViT)."""
    return "stem/conv/kernel" in set(paths)


def name_table(paths: Iterable[str]) -> NameTable:
    """torchvision's names for a backbone with parameters at `paths`."""
    modules = {tuple(path.split("/")[1:3]) for path in paths if path.startswith("blocks/")}
    count = len({number for number, _ in modules})

    def index(number: str, module: str) -> int:
        """torchvision's number of a module among those that its block has."""
        return [name for name in _ORDER if (number, name) in modules].index(module)

    def prefix(module: str) -> str | None:
        if module in ("stem", "head"):
            return f"features.{0 if module == 'stem' else count + 1}"
        if match := re.fullmatch(r"blocks/(\d+)/(expansion|depthwise|squeeze|projection)", module):
            return f"features.{int(match[1]) + 1}.block.{index(*match.groups())}"
        return None

    def source(path: str) -> Source | None:
        module, layer, leaf = path.rsplit("/", 2) if path.count("/") >= 2 else ("", "", "")
        name = prefix(module)
        if name is None:
            return None
        if layer == "conv":
            return Source(f"{name}.0.weight", "convolution")
        if layer == "norm":
            return Source(f"{name}.1.{_NORM[leaf]}")
        return Source(
            f"{name}.{_SQUEEZE[layer]}.{'weight' if leaf == 'kernel' else 'bias'}",
            "conv1x1" if leaf == "kernel" else "plain",
        )

    return NameTable("torchvision's MobileNetV3", source, is_ignored=holds_no_feature)


def to_ours(
    tensors: Mapping[str, np.ndarray], shapes: Mapping[str, tuple[int, ...]]
) -> dict[str, np.ndarray]:
    """Convert to the parameters and statistics of the backbone, without the classifier.

    `shapes` has all of them. Raises WeightsError.
    """
    return mapping.to_ours(name_table(shapes), torchvision_names(tensors), shapes)


def from_ours(parameters: Mapping[str, np.ndarray | jax.Array]) -> dict[str, np.ndarray]:
    """Convert the backbone's flat parameters to torchvision's state dict.

    It lacks the counters of batches, which PyTorch adds by itself.
    """
    return mapping.from_ours(name_table(parameters), parameters)


def sizes_of(tensors: Mapping[str, np.ndarray]) -> MobileNetSpec:
    """Sizes of a MobileNetV3-Large with these tensors, and its standard strides and activations.

    Raises WeightsError for another model.
    """
    tensors = torchvision_names(tensors)
    blocks = []
    for number, block in enumerate(mobilenet_v3_large_spec().blocks, start=1):
        convolutions = [
            tensors.get(f"features.{number}.block.{place}.0.weight") for place in range(4)
        ]
        kernels = [kernel for kernel in convolutions if kernel is not None]
        if len(kernels) < 2 or any(kernel.ndim != 4 for kernel in kernels[-2:]):
            raise WeightsError(
                f"not a MobileNetV3-Large: features.{number} is not one of its blocks"
            )
        depthwise, projection = kernels[-2:]
        squeezes = [f"features.{number}.block.{place}.fc1.weight" for place in (1, 2)]
        blocks.append(
            block._replace(
                kernel=depthwise.shape[2],
                expanded=depthwise.shape[0],
                outputs=projection.shape[0],
                squeeze=next((tensors[name].shape[0] for name in squeezes if name in tensors), 0),
            )
        )
    last = f"features.{len(blocks) + 1}.0.weight"
    if last not in tensors or "features.0.0.weight" not in tensors:
        raise WeightsError(
            f"not a MobileNetV3-Large: it needs {len(blocks)} blocks between features.0 and {last}"
        )
    return MobileNetSpec(
        tensors["features.0.0.weight"].shape[0], tuple(blocks), tensors[last].shape[0]
    )


def is_theirs(names: Iterable[str]) -> bool:
    """Return True if a state dict is that of a MobileNetV3 of torchvision or timm."""
    names = set(names)
    return "features.0.0.weight" in names or "conv_stem.weight" in names


def is_timm(names: Iterable[str]) -> bool:
    """Return True if a MobileNetV3 has timm's names."""
    return "conv_stem.weight" in set(names)


def torchvision_names(tensors: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Rename timm's state dict to torchvision's names; another one is returned unchanged."""
    if not is_timm(tensors):
        return dict(tensors)
    modules = _torchvision_modules({name.rpartition(".")[0] for name in tensors})
    renamed = {}
    for name, tensor in tensors.items():
        module, dot, leaf = name.rpartition(".")
        renamed[modules.get(module, module) + dot + leaf] = tensor
    return renamed


def _torchvision_modules(theirs: set[str]) -> dict[str, str]:
    """timm's modules -> torchvision's.

    timm numbers blocks per stage, torchvision all of them in one sequence. timm's last block is
    torchvision's last convolution.
    """
    places = sorted(
        {
            (int(m[1]), int(m[2]))
            for name in theirs
            if (m := re.match(r"blocks\.(\d+)\.(\d+)\.", name))
        }
    )
    names = {"conv_stem": "features.0.0", "bn1": "features.0.1"}
    for number, (stage, block) in enumerate(places, start=1):
        prefix = f"blocks.{stage}.{block}"
        if f"{prefix}.conv" in theirs:
            names |= {
                f"{prefix}.conv": f"features.{number}.0",
                f"{prefix}.bn1": f"features.{number}.1",
            }
            continue
        convolutions = (
            ["conv_pw", "conv_dw", "conv_pwl"]
            if f"{prefix}.conv_pwl" in theirs
            else ["conv_dw", "conv_pw"]
        )
        squeezes = f"{prefix}.se.conv_reduce" in theirs
        for place, convolution in enumerate(convolutions):
            # The squeeze comes before the last convolution, and moves it by one place.
            is_after_squeeze = squeezes and convolution == convolutions[-1]
            their_block = f"features.{number}.block.{place + is_after_squeeze}"
            names |= {
                f"{prefix}.{convolution}": f"{their_block}.0",
                f"{prefix}.bn{place + 1}": f"{their_block}.1",
            }
        squeeze = f"features.{number}.block.{len(convolutions) - 1}"
        names |= {
            f"{prefix}.se.conv_reduce": f"{squeeze}.fc1",
            f"{prefix}.se.conv_expand": f"{squeeze}.fc2",
        }
    return names


def holds_no_feature(name: str) -> bool:
    """Return True if a tensor belongs to the classifier, or is a counter of batches."""
    return name.startswith(_CLASSIFIER) or name.endswith("num_batches_tracked")
