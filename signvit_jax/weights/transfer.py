"""The parameters of a trained model as the start of another (`model.init_from`).

The other model may have another vocabulary: tokens that both know keep their rows, found by their
text. A layer is taken whole or not at all, because a bias is worth nothing without its matrix.
"""

import dataclasses
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from signvit_jax.config.errors import ConfigError
from signvit_jax.config.schema import Config, key_differences
from signvit_jax.parallel.vocabulary_padding import vocabulary_axis
from signvit_jax.text.model_vocabularies import Vocabularies
from signvit_jax.text.tokenizer import Tokenizer
from signvit_jax.weights.mapping import WeightsError
from signvit_jax.weights.timm_vit import resized_positions

_BACKBONE = "encoder/backbone/"
_POSITIONS = _BACKBONE + "positions"
_EMBEDDING, _LABELS = "decoder/embedding", "ctc_head/out/"
_GLOSSES = "gloss_encoder/embedding"  # has a row for each label of CTC
# Last parts of the paths of parameters that are taken together, because they form one layer.
_LAYER_PARAMETERS = ("kernel", "bias", "scale", "mean", "var")
_MIN_SHARE = 0.5  # share of the backbone's numbers that must fit; with fewer, nothing is taken
_SHOWN = 8  # the most names in a message
# Keys that must agree although the shapes do not show it, each with the width that it divides.
_HEADS = {
    "model.encoder.vit_num_heads": "model.encoder.vit_hidden_dim",
    "model.temporal.num_heads": "model.decoder.hidden_dim",
    "model.decoder.num_heads": "model.decoder.hidden_dim",
}
# Keys of config.data whose differences are reported, and keys of config.model whose are not.
_READS = ("image_size", "num_frames", "frame_rate", "sampling", "resize_mode", "mean", "std")
_NOT_REPORTED = (
    "dropout",
    "attention_dropout",
    "drop_path",
    "freeze_epochs",
    "gloss_corruption",
    "pretrained",
    "init_from",
)


class SourceModel(NamedTuple):
    """A trained model that another one starts from."""

    path: str
    kind: str  # for messages: "averaged weights of step 600"
    config: Config
    vocabularies: Vocabularies
    params: Mapping[str, np.ndarray]  # float32, by slash-joined path


class Rows(NamedTuple):
    """A parameter with one entry per token; only the entries of known tokens are taken.

    `rows` has, for each token of the new model, its place along `axis` of `values`, or -1 for a
    token that the source lacks.
    """

    values: np.ndarray
    axis: int
    rows: np.ndarray


@dataclasses.dataclass(frozen=True)
class Transfer:
    """Parameters that a model takes from another, by path: whole ones, and rows of vocabularies.

    `taken` and `left` are sentences for the log: what is taken, and what is not. `left` is empty if
    everything fits.
    """

    whole: Mapping[str, np.ndarray]
    rows: Mapping[str, Rows]
    taken: Sequence[str]
    left: Sequence[str]


def plan_transfer(
    source: SourceModel,
    config: Config,
    vocabularies: Vocabularies,
    shapes: Mapping[str, tuple[int, ...]],
) -> Transfer:
    """Find what a model of `config` can start with; `shapes` has all of its parameters.

    Raises ConfigError if the two models are of different kinds: another backbone, other attention
    heads, or a backbone less than half of whose numbers would be taken.
    """
    _check_heads(source, config)
    params = dict(source.params)
    _resize_positions(params, shapes)
    pairs = {"tokens": (source.vocabularies.text, vocabularies.text)}
    pairs["CTC labels"] = (source.vocabularies.ctc, vocabularies.ctc)
    shared = {kind: _shared_rows(*pair) for kind, pair in pairs.items()}
    whole: dict[str, np.ndarray] = {}
    rows: dict[str, Rows] = {}
    wrong: list[str] = []
    for paths in _layers(shapes).values():
        problems = [_problem(path, params, shapes[path]) for path in paths]
        if any(problems):
            wrong += [problem for problem in problems if problem]
            continue
        for path in paths:
            axis = vocabulary_axis(path)
            if axis is None:
                whole[path] = np.asarray(params[path], np.float32)
            else:
                kind = "CTC labels" if path.startswith((_LABELS, _GLOSSES)) else "tokens"
                rows[path] = Rows(np.asarray(params[path], np.float32), axis, shared[kind])
    _check_backbone(source, config, whole, shapes)
    taken = _size_note(whole, rows, shapes)
    taken += [
        _vocabulary_note(kind, *pairs[kind], shared[kind])
        for kind, path in (("tokens", _EMBEDDING), ("CTC labels", _LABELS + "bias"))
        if path in rows
    ]
    left = []
    if wrong:
        left.append(_listed(f"{len(wrong)} parameters start from random values", wrong))
    if unused := sorted(params.keys() - shapes.keys()):
        left.append(_listed(f"{len(unused)} parameters have no place in this model", unused))
    if differing := _differing_keys(source.config, config):
        left.append(_listed("the models differ", differing))
    return Transfer(whole, rows, taken, left)


def _layers(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, list[str]]:
    """Paths by the layer that they are part of; any other parameter counts as a layer."""
    found: dict[str, list[str]] = defaultdict(list)
    for path in shapes:
        parent, _, name = path.rpartition("/")
        found[parent if name in _LAYER_PARAMETERS else path].append(path)
    return found


def _problem(path: str, params: Mapping[str, np.ndarray], shape: tuple[int, ...]) -> str:
    """Why a parameter cannot be taken; "" if it can."""
    if path not in params:
        return f"{path} (missing there)"
    expected = list(shape)
    actual = list(params[path].shape)
    axis = vocabulary_axis(path)
    if axis is not None and len(actual) == len(expected):
        expected[axis] = actual[axis]  # the vocabularies may have different sizes
    if actual == expected:
        return ""
    return f"{path} {tuple(shape)} (there {tuple(params[path].shape)})"


def _resize_positions(params: dict[str, np.ndarray], shapes: Mapping[str, tuple[int, ...]]) -> None:
    """Resize the backbone's position embeddings to those of another image size, in place."""
    shape = shapes.get(_POSITIONS)
    positions = params.get(_POSITIONS)
    if shape is None or positions is None or shape == positions.shape:
        return
    if shape[-1] != positions.shape[-1]:
        return  # another width, reported as a shape that does not fit
    try:
        params[_POSITIONS] = resized_positions(np.asarray(positions, np.float32), shape[1] - 1)
    except WeightsError:
        return  # reported as a shape that does not fit


def _shared_rows(source: Tokenizer, target: Tokenizer) -> np.ndarray:
    """The place in `source` of each token of `target`, -1 for a new one."""
    places = {token: place for place, token in enumerate(source.tokens)}
    rows = np.array([places.get(token, -1) for token in target.tokens], np.int32)
    # PAD, BOS, EOS and UNK have other names in BERT's vocabularies.
    for name in ("pad_id", "bos_id", "eos_id", "unk_id"):
        rows[getattr(target, name)] = getattr(source, name)
    return rows


def _check_heads(source: SourceModel, config: Config) -> None:
    source_backbone = source.config.model.encoder.backbone
    backbone = config.model.encoder.backbone
    if source_backbone != backbone:
        raise ConfigError(
            f"config.model.init_from is {source.path}, whose backbone is {source_backbone!r}, but "
            f"config.model.encoder.backbone is {backbone!r}; set it to {source_backbone!r}, or "
            "start from a model with this backbone"
        )
    differences = {key: values for key, *values in key_differences(source.config, config)}
    for key, width in _HEADS.items():
        is_of_vit = key.startswith("model.encoder.")
        if (
            key not in differences
            or width in differences
            or (is_of_vit and backbone != "dense_vit")
        ):
            continue
        source_heads, heads = differences[key]
        raise ConfigError(
            f"config.{key} is {heads}, but {source.path} was trained with {source_heads}, and its "
            f"weights mean nothing with another number of heads; set it to {source_heads}"
        )


def _check_backbone(
    source: SourceModel,
    config: Config,
    whole: Mapping[str, np.ndarray],
    shapes: Mapping[str, tuple[int, ...]],
) -> None:
    sizes = {path: int(np.prod(shape)) for path, shape in shapes.items()}
    complete = sum(size for path, size in sizes.items() if path.startswith(_BACKBONE))
    taken = sum(
        size for path, size in sizes.items() if path.startswith(_BACKBONE) and path in whole
    )
    if taken >= _MIN_SHARE * complete:
        return
    keys = _differing_keys(source.config, config)
    raise ConfigError(
        f"config.model.init_from is {source.path}, but only {taken:,} of the {complete:,} numbers "
        "of this backbone fit it; give the model the same sizes, or start from another:\n  "
        + "\n  ".join(keys)
    )


def _size_note(
    whole: Mapping[str, np.ndarray],
    rows: Mapping[str, Rows],
    shapes: Mapping[str, tuple[int, ...]],
) -> list[str]:
    numbers = sum(value.size for value in whole.values())
    for path, part in rows.items():
        shape = shapes[path]
        numbers += int(np.prod(shape)) // len(part.rows) * int(np.sum(part.rows >= 0))
    total = sum(int(np.prod(shape)) for shape in shapes.values())
    count = len(whole) + len(rows)
    return [f"{count:,} of {len(shapes):,} parameters, {numbers:,} of {total:,} numbers"]


def _vocabulary_note(kind: str, source: Tokenizer, target: Tokenizer, rows: np.ndarray) -> str:
    known = int(np.sum(rows >= 0))
    new = [token for token, row in zip(target.tokens, rows) if row < 0]
    gone = [source.tokens[i] for i in sorted(set(range(source.vocab_size)) - set(rows.tolist()))]
    note = f"{known:,} of {target.vocab_size:,} {kind} are known there and keep their rows"
    if new:
        note += f"; new: {_names(new)}"
    if gone:
        note += f"; not used here: {_names(gone)}"
    return note


def _names(tokens: Sequence[str]) -> str:
    more = ", ..." if len(tokens) > _SHOWN else ""
    return f"{len(tokens):,} ({', '.join(map(repr, tokens[:_SHOWN]))}{more})"


def _listed(title: str, names: Sequence[str]) -> str:
    more = f" and {len(names) - _SHOWN:,} more" if len(names) > _SHOWN else ""
    return f"{title}: {', '.join(names[:_SHOWN])}{more}"


def _differing_keys(source: Config, target: Config) -> list[str]:
    """Keys of the model, and of how it reads clips, that the two do not share."""

    def matters(key: str) -> bool:
        group, _, name = key.rpartition(".")
        if group == "data":
            return name in _READS
        return group.startswith("model") and name not in _NOT_REPORTED

    differences: list[tuple[str, Any, Any]] = key_differences(source, target)
    return [
        f"config.{key} is {value!r}, there {source_value!r}"
        for key, source_value, value in differences
        if matters(key)
    ]
