"""Convert the state dict of the reference to our parameters, and back.

The reference is the PyTorch system that this project reimplements. Its state dict has PyTorch's
names and axis orders, which `mapping` describes. Our ViT's blocks are stacked, with a leading axis
over layers.
"""

import json
import re
from collections.abc import Iterable, Mapping

import jax
import numpy as np
from flax import nnx

from signvit_jax.config import schema as configuration
from signvit_jax.models.translator import SignTranslator
from signvit_jax.weights import mapping, mobilenet_v3
from signvit_jax.weights.mapping import NameTable, Source, WeightsError, fill, flat_parameters

__all__ = [
    "WeightsError",
    "assign",
    "config_from_reference",
    "flat_parameters",
    "from_ours",
    "load_reference",
    "name_table",
    "to_ours",
]

# Our module path -> the reference's, by the first pattern that matches the complete path. {0} and
# {1} are the pattern's groups, except that for stacked blocks `mapping` replaces {0} by the number
# of each layer.
_TRANSFORMER = {
    "qkv": "self_attn.in_proj",
    "out": "self_attn.out_proj",
    "expand": "linear1",
    "contract": "linear2",
}
_MODULES = [
    (r"encoder/backbone/embed/project", "encoder.backbone.patch_embed"),
    (r"encoder/backbone/norm", "encoder.backbone.norm"),
    (r"encoder/backbone/blocks/attention_norm", "encoder.backbone.transformer.layers.{0}.norm1"),
    (r"encoder/backbone/blocks/feed_forward_norm", "encoder.backbone.transformer.layers.{0}.norm2"),
    *(
        (
            rf"encoder/backbone/blocks/(?:attention|feed_forward)/{ours}",
            f"encoder.backbone.transformer.layers.{{0}}.{theirs}",
        )
        for ours, theirs in _TRANSFORMER.items()
    ),
    (r"encoder/temporal/project", "encoder.temporal_attn.input_proj.0"),
    (r"encoder/temporal/norm", "encoder.temporal_attn.input_proj.1"),
    (r"encoder/temporal/convs/(\d+)/norm", "encoder.temporal_attn.temporal_convs.{0}.norm"),
    (
        r"encoder/temporal/convs/(\d+)/(depthwise|pointwise)",
        "encoder.temporal_attn.temporal_convs.{0}.conv_{1}",
    ),
    (r"encoder/pooling/attention/(?:query|key_value)", "encoder.temporal_attn.cross_attn.in_proj"),
    (r"encoder/pooling/attention/out", "encoder.temporal_attn.cross_attn.out_proj"),
    (r"encoder/pooling/attention_norm", "encoder.temporal_attn.attn_norm"),
    (r"encoder/pooling/feed_forward/expand", "encoder.temporal_attn.ffn.0"),
    (r"encoder/pooling/feed_forward/contract", "encoder.temporal_attn.ffn.3"),
    (r"encoder/pooling/feed_forward_norm", "encoder.temporal_attn.ffn_norm"),
    (r"encoder/pooling/refinement/expand", "encoder.temporal_attn.refinement.0"),
    (r"encoder/pooling/refinement/contract", "encoder.temporal_attn.refinement.3"),
    (r"encoder/pooling/refinement_norm", "encoder.temporal_attn.refinement.4"),
    (r"decoder/layers/(\d+)/self_norm", "decoder.decoder.layers.{0}.norm1"),
    (r"decoder/layers/(\d+)/cross_norm", "decoder.decoder.layers.{0}.norm2"),
    (r"decoder/layers/(\d+)/feed_forward_norm", "decoder.decoder.layers.{0}.norm3"),
    (
        r"decoder/layers/(\d+)/cross_attention/(?:query|key_value)",
        "decoder.decoder.layers.{0}.multihead_attn.in_proj",
    ),
    (
        r"decoder/layers/(\d+)/cross_attention/out",
        "decoder.decoder.layers.{0}.multihead_attn.out_proj",
    ),
    *(
        (
            rf"decoder/layers/(\d+)/(?:self_attention|feed_forward)/{ours}",
            f"decoder.decoder.layers.{{0}}.{theirs}",
        )
        for ours, theirs in _TRANSFORMER.items()
    ),
    (r"ctc_head/hidden", "ctc_head.0"),
    (r"ctc_head/out", "ctc_head.3"),
]
_PARAMETERS = {
    "encoder/backbone/class_token": "encoder.backbone.cls_token",
    "encoder/backbone/positions": "encoder.backbone.pos_embed",
    "encoder/pooling/queries": "encoder.temporal_attn.queries",
    "decoder/embedding": "decoder.embed.weight",
}
# Tensors of the reference that we do not need: a constant, and a second copy of the embedding.
_NOT_PARAMETERS = {"decoder.pos_encoder.pe", "decoder.output_proj.weight"}
_BACKBONE = "encoder/backbone/"
_STACKED = _BACKBONE + "blocks/"
_QKV_SLICES = {"query": (0, 1), "key_value": (1, 3)}  # thirds of the fused projection


def load_reference(
    arrays: Mapping[str, np.ndarray], prefix: str = "params/"
) -> tuple[configuration.Config, SignTranslator, dict]:
    """Return the config, the model and the settings that the arrays of a reference .npz file give.

    `arrays` are those that `scripts/check_reference.py` compares with. `prefix` selects their state
    dict: "params/" or "trained_params/".
    """
    settings = json.loads(str(arrays["config"]))
    config = config_from_reference(settings)
    rngs = nnx.Rngs(params=jax.random.key(0))
    model = SignTranslator.from_config(config, settings["vocab_size"], rngs=rngs)
    assign(
        model,
        {name.removeprefix(prefix): arrays[name] for name in arrays if name.startswith(prefix)},
    )
    return config, model, settings


def config_from_reference(settings: Mapping) -> configuration.Config:
    """Return the config of a float32 model with the settings of a reference file's key `config`."""
    encoder = {
        key: settings[key]
        for key in (
            "vit_hidden_dim",
            "vit_num_heads",
            "vit_num_layers",
            "vit_mlp_dim",
            "patch_size",
        )
    }
    temporal = {
        "num_heads": settings["pool_num_heads"],
        **{key: settings[key] for key in ("num_queries", "num_temporal_conv", "kernel_size")},
    }
    decoder = {
        "max_len": settings["max_len"],
        **{
            key: settings[f"decoder_{key}"]
            for key in ("hidden_dim", "num_layers", "num_heads", "ff_dim")
        },
    }
    return configuration.from_mapping(
        {
            "model": {
                "encoder": {"output_dim": settings["vit_hidden_dim"], **encoder},
                "temporal": temporal,
                "decoder": decoder,
            },
            "training": {
                "use_amp": False,
                "ctc_weight": settings["ctc_weight"],
                "ce_weight": 1.0 - settings["ctc_weight"],
                "label_smoothing": settings["label_smoothing"],
            },
            "data": {"image_size": settings["image_size"], "num_frames": settings["num_frames"]},
            "tokenizer": {key: settings[key] for key in ("pad_id", "bos_id", "eos_id")},
        }
    )


def assign(model: SignTranslator, tensors: Mapping[str, np.ndarray]) -> None:
    """Overwrite every parameter of `model` with a reference state dict, in place.

    Raises WeightsError unless names and shapes match exactly.
    """
    fill(
        model,
        to_ours(tensors, {path: value.shape for path, value in flat_parameters(model).items()}),
    )


def to_ours(
    tensors: Mapping[str, np.ndarray], shapes: Mapping[str, tuple[int, ...]]
) -> dict[str, np.ndarray]:
    """Convert the state dict to our flat float32 parameters. Raises WeightsError.

    `shapes` has all parameters of the model.
    """
    return mapping.to_ours(name_table(shapes), tensors, shapes)


def from_ours(parameters: Mapping[str, np.ndarray | jax.Array]) -> dict[str, np.ndarray]:
    """The inverse of `to_ours`. Raises WeightsError for options that the reference lacks."""
    return mapping.from_ours(name_table(parameters), parameters)


def name_table(paths: Iterable[str]) -> NameTable:
    """The reference's names for a model with parameters at `paths`.

    A MobileNetV3 has torchvision's names, under `encoder.backbone`.
    """
    backbone = [path.removeprefix(_BACKBONE) for path in paths if path.startswith(_BACKBONE)]
    if not mobilenet_v3.is_ours(backbone):
        return NameTable(
            "the reference", _source, stacked=_STACKED, is_ignored=_NOT_PARAMETERS.__contains__
        )
    features = mobilenet_v3.name_table(backbone)

    def source(path: str) -> Source | None:
        if not path.startswith(_BACKBONE):
            return _source(path)
        found = features.source(path.removeprefix(_BACKBONE))
        return None if found is None else found._replace(name=f"encoder.backbone.{found.name}")

    def is_ignored(name: str) -> bool:
        return name in _NOT_PARAMETERS or features.is_ignored(
            name.removeprefix("encoder.backbone.")
        )

    return NameTable("the reference", source, is_ignored=is_ignored)


def _source(path: str) -> Source | None:
    if path in _PARAMETERS:
        return Source(_PARAMETERS[path])
    module, _, leaf = path.rpartition("/")
    for pattern, theirs in _MODULES:
        if match := re.fullmatch(pattern, module):
            is_stacked = module.startswith(_STACKED.rstrip("/"))
            name = theirs if is_stacked else theirs.format(*match.groups())
            suffix = "bias" if leaf == "bias" else "weight"
            kind = "plain" if leaf in ("bias", "scale") else _kind(name)
            return Source(
                name + ("_" if name.endswith("in_proj") else ".") + suffix,
                kind,
                _QKV_SLICES.get(module.rpartition("/")[2]),
            )
    return None


def _kind(name: str) -> str:
    return {
        "patch_embed": "patch",
        "conv_depthwise": "depthwise",
        "conv_pointwise": "pointwise",
    }.get(name.rpartition(".")[2], "matrix")
