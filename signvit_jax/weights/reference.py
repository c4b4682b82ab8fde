"""The reference system's state dict (PyTorch names and layouts) to our parameters and back.

PyTorch keeps a Linear as (out, in), a Conv1d as (out, in / groups, kernel), the patch kernel as (width, 3, size, size) and attention's projections as
one (3 width, width) matrix in the order query, key, value. The ViT's blocks, which we keep stacked, carry a leading layer axis here.
"""

import json
import re
from collections.abc import Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx, traverse_util

from signvit_jax import config as configuration
from signvit_jax.models.translator import SignTranslator

# Our module path -> the reference's; the first that matches the whole path counts. {0} is a layer's number, left open for stacked blocks.
_TRANSFORMER = {"qkv": "self_attn.in_proj", "out": "self_attn.out_proj", "expand": "linear1", "contract": "linear2"}
_MODULES = [
    (r"encoder/backbone/embed/project", "encoder.backbone.patch_embed"),
    (r"encoder/backbone/norm", "encoder.backbone.norm"),
    (r"encoder/backbone/blocks/attention_norm", "encoder.backbone.transformer.layers.{0}.norm1"),
    (r"encoder/backbone/blocks/feed_forward_norm", "encoder.backbone.transformer.layers.{0}.norm2"),
    *(
        (rf"encoder/backbone/blocks/(?:attention|feed_forward)/{ours}", f"encoder.backbone.transformer.layers.{{0}}.{theirs}")
        for ours, theirs in _TRANSFORMER.items()
    ),
    (r"encoder/temporal/project", "encoder.temporal_attn.input_proj.0"),
    (r"encoder/temporal/norm", "encoder.temporal_attn.input_proj.1"),
    (r"encoder/temporal/convs/(\d+)/norm", "encoder.temporal_attn.temporal_convs.{0}.norm"),
    (r"encoder/temporal/convs/(\d+)/(depthwise|pointwise)", "encoder.temporal_attn.temporal_convs.{0}.conv_{1}"),
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
    (r"decoder/layers/(\d+)/cross_attention/(?:query|key_value)", "decoder.decoder.layers.{0}.multihead_attn.in_proj"),
    (r"decoder/layers/(\d+)/cross_attention/out", "decoder.decoder.layers.{0}.multihead_attn.out_proj"),
    *(
        (rf"decoder/layers/(\d+)/(?:self_attention|feed_forward)/{ours}", f"decoder.decoder.layers.{{0}}.{theirs}")
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
_NOT_PARAMETERS = {"decoder.pos_encoder.pe", "decoder.output_proj.weight"}  # a constant, and the embedding a second time
_STACKED = "encoder/backbone/blocks/"
_THIRDS = {"query": (0, 1), "key_value": (1, 3)}  # rows of a fused projection that one of our matrices holds


class WeightsError(ValueError):
    """Weights that do not fit the model; the message lists what is missing, left over or of another shape."""

    exit_code = 2


class _Source(NamedTuple):
    name: str  # of the reference's tensor; {0} stands for the layer of a stacked block
    kind: str  # matrix, depthwise, patch, or plain
    thirds: tuple[int, int] | None


def load_reference(vectors: Mapping[str, np.ndarray], prefix: str = "params/") -> tuple[configuration.Config, SignTranslator, dict]:
    """Config, model and the file's own sizes from a reference file; `prefix` picks the state dict ("params/" or "trained_params/")."""
    sizes = json.loads(str(vectors["config"]))
    config = config_from_reference(sizes)
    model = SignTranslator(config, sizes["vocab_size"], rngs=nnx.Rngs(params=jax.random.key(0)))
    assign(model, {name.removeprefix(prefix): vectors[name] for name in vectors if name.startswith(prefix)})
    return config, model, sizes


def config_from_reference(sizes: Mapping) -> configuration.Config:
    """The typed config of an instance whose sizes are those of a reference file's key `config`; computed in float32."""
    encoder = {key: sizes[key] for key in ("vit_hidden_dim", "vit_num_heads", "vit_num_layers", "vit_mlp_dim", "patch_size")}
    temporal = {"num_heads": sizes["pool_num_heads"], **{key: sizes[key] for key in ("num_queries", "num_temporal_conv", "kernel_size")}}
    decoder = {"max_len": sizes["max_len"], **{key: sizes[f"decoder_{key}"] for key in ("hidden_dim", "num_layers", "num_heads", "ff_dim")}}
    return configuration.from_mapping(
        {
            "model": {"encoder": {"output_dim": sizes["vit_hidden_dim"], **encoder}, "temporal": temporal, "decoder": decoder},
            "training": {
                "use_amp": False,
                "ctc_weight": sizes["ctc_weight"],
                "ce_weight": 1.0 - sizes["ctc_weight"],
                "label_smoothing": sizes["label_smoothing"],
            },
            "data": {"image_size": sizes["image_size"], "num_frames": sizes["num_frames"]},
            "tokenizer": {key: sizes[key] for key in ("pad_id", "bos_id", "eos_id")},
        }
    )


def assign(model: SignTranslator, tensors: Mapping[str, np.ndarray]) -> None:
    """Overwrites every parameter of `model` with a reference state dict. Raises WeightsError unless names and shapes match exactly."""
    ours = flat_parameters(model)
    converted = to_ours(tensors, {path: value.shape for path, value in ours.items()})
    state = nnx.state(model, nnx.Param)
    nnx.replace_by_pure_dict(state, traverse_util.unflatten_dict({_keys(path): jnp.asarray(value) for path, value in converted.items()}))
    nnx.update(model, state)


def flat_parameters(model: SignTranslator) -> dict[str, jax.Array]:
    """Parameters by slash-joined path."""
    pure = nnx.to_pure_dict(nnx.state(model, nnx.Param))
    return {"/".join(map(str, path)): value for path, value in traverse_util.flatten_dict(pure).items()}


def to_ours(tensors: Mapping[str, np.ndarray], shapes: Mapping[str, tuple[int, ...]]) -> dict[str, np.ndarray]:
    """The state dict as our flat float32 parameters; `shapes` names all that the model has. Raises WeightsError."""
    converted, used, problems = {}, set(_NOT_PARAMETERS), []
    for path, shape in shapes.items():
        source = _source(path)
        if source is None:
            problems.append(f"the reference has nothing for our {path}")
            continue
        names = [source.name.format(layer) for layer in range(shape[0])] if path.startswith(_STACKED) else [source.name]
        used.update(names)
        if missing := [name for name in names if name not in tensors]:
            problems.append(f"missing: {', '.join(missing)}")
            continue
        values = [_to_our_layout(np.asarray(tensors[name], np.float32), source) for name in names]
        value = np.stack(values) if path.startswith(_STACKED) and len({v.shape for v in values}) == 1 else values[0]
        if value.shape != tuple(shape):
            problems.append(f"{names[0]}: shape {value.shape} in our layout, but the model's {path} has {tuple(shape)}")
        converted[path] = value
    problems += [f"left over: {name}" for name in tensors if name not in used]
    if problems:
        raise WeightsError(f"the weights do not fit the model ({len(problems)} problems):\n  " + "\n  ".join(problems[:10]))
    return converted


def from_ours(parameters: Mapping[str, np.ndarray | jax.Array]) -> dict[str, np.ndarray]:
    """Our flat parameters as the reference's state dict, the inverse of `to_ours`. Raises WeightsError for options that the reference lacks."""
    parts: dict[str, dict[tuple[int, int] | None, np.ndarray]] = {}
    for path, value in parameters.items():
        source = _source(path)
        if source is None:
            raise WeightsError(f"the reference has nothing for our {path}: this model uses options that it lacks")
        layers = enumerate(np.asarray(value)) if path.startswith(_STACKED) else [(0, np.asarray(value))]
        for layer, array in layers:
            parts.setdefault(source.name.format(layer), {})[source.thirds] = _to_their_layout(array, source)
    return {
        name: np.concatenate([piece[thirds] for thirds in sorted(piece)]) if len(piece) > 1 else next(iter(piece.values()))
        for name, piece in parts.items()
    }


def _keys(path: str) -> tuple[str | int, ...]:
    return tuple(int(part) if part.isdigit() else part for part in path.split("/"))


def _source(path: str) -> _Source | None:
    if path in _PARAMETERS:
        return _Source(_PARAMETERS[path], "plain", None)
    module, _, leaf = path.rpartition("/")
    for pattern, theirs in _MODULES:
        if match := re.fullmatch(pattern, module):
            name = theirs if module.startswith(_STACKED.rstrip("/")) else theirs.format(*match.groups())
            suffix = "bias" if leaf == "bias" else "weight"
            kind = "plain" if leaf in ("bias", "scale") else _kind(name)
            return _Source(name + ("_" if name.endswith("in_proj") else ".") + suffix, kind, _THIRDS.get(module.rpartition("/")[2]))
    return None


def _kind(name: str) -> str:
    return {"patch_embed": "patch", "conv_depthwise": "depthwise", "conv_pointwise": "pointwise"}.get(name.rpartition(".")[2], "matrix")


def _to_our_layout(tensor: np.ndarray, source: _Source) -> np.ndarray:
    if source.thirds:
        third = tensor.shape[0] // 3
        tensor = tensor[source.thirds[0] * third : source.thirds[1] * third]
    match source.kind:
        case "matrix":
            return tensor.T
        case "pointwise":
            return tensor[..., 0].T
        case "depthwise":
            return tensor[:, 0].T
        case "patch":
            return tensor.transpose(2, 3, 1, 0).reshape(-1, tensor.shape[0])
    return tensor


def _to_their_layout(array: np.ndarray, source: _Source) -> np.ndarray:
    match source.kind:
        case "matrix":
            return array.T
        case "pointwise":
            return array.T[..., None]
        case "depthwise":
            return array.T[:, None]
        case "patch":
            size = round((array.shape[0] // 3) ** 0.5)
            return array.reshape(size, size, 3, -1).transpose(3, 2, 0, 1)
    return array
