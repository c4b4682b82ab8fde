"""The one place where a config file becomes typed, range-checked values.

Every default below is the reference system's value (faithful, every extra switched off); the recommended settings are spelled out in `configs/`.
A `config.json` written by an older release therefore keeps its meaning: a key that it lacks is an option that was off.

Raises `ConfigError` (exit code 2) with the key, the value, what is allowed and, for a misspelt key, the nearest one.
"""

import ast
import dataclasses
import difflib
import importlib.util
import json
import math
import types
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, get_args, get_origin


class ConfigError(ValueError):
    """A config that cannot be run; the message is for the user and complete."""

    exit_code = 2


def _value(default: Any, allowed: str, check) -> Any:
    return dataclasses.field(default=default, metadata={"allowed": allowed, "check": check})


def _whole(default: int, least: int = 1) -> Any:
    return _value(default, f"a whole number >= {least}", lambda x: x >= least)


def _real(default: float, least: float = 0.0, most: float = math.inf) -> Any:
    allowed = f"a number from {least:g} to {most:g}" if math.isfinite(most) else f"a number >= {least:g}"
    return _value(default, allowed, lambda x: math.isfinite(x) and least <= x <= most)


def _positive(default: float) -> Any:
    return _value(default, "a number > 0", lambda x: math.isfinite(x) and x > 0)


def _rate(default: float) -> Any:
    return _value(default, "a rate from 0 up to, but not including, 1", lambda x: 0.0 <= x < 1.0)


def _choice(default: str, *options: str) -> Any:
    return _value(default, "one of " + ", ".join(repr(o) for o in options), lambda x: x in options)


@dataclasses.dataclass(frozen=True)
class EncoderConfig:
    """The network that looks at one frame."""

    backbone: str = _choice("dense_vit", "dense_vit")
    pretrained: str = ""  # a weights file to start from; "" = random
    freeze_epochs: int = _whole(0, 0)
    output_dim: int = _whole(1024)  # width of a frame feature; equals vit_hidden_dim for dense_vit
    vit_hidden_dim: int = _whole(1024)
    vit_num_heads: int = _whole(16)
    vit_num_layers: int = _whole(24)
    vit_mlp_dim: int = _whole(4096)
    patch_size: int = _whole(16)
    dropout: float = _rate(0.2)  # after the embedding, attention and the MLP's two layers
    attention_dropout: float = _rate(0.2)  # on the attention weights; 0 lets fused attention run
    position_init: str = _choice("normal", "normal", "sincos2d")  # learned either way; sincos2d starts from 2-D sines and cosines at scale 1
    stem: str = _choice("patch", "patch", "conv")  # conv: stride-2 3x3 convolutions in front of the patch grid (Xiao et al. 2021)
    frame_pooling: str = _choice("mean", "mean", "attention")  # attention: learned query over the patches, keeps where the hands are
    drop_path: float = _rate(0.0)  # stochastic depth, linear from 0 to this rate over the blocks


@dataclasses.dataclass(frozen=True)
class TemporalConfig:
    """What turns frame features into pooled tokens."""

    num_queries: int = _whole(32)
    num_heads: int = _whole(16)
    num_temporal_conv: int = _whole(4, 0)
    kernel_size: int = _value(3, "an odd whole number >= 1", lambda x: x >= 1 and x % 2 == 1)
    dropout: float = _rate(0.2)
    time_positions: str = _choice("none", "none", "sincos")  # added to the frame features before the pooling
    num_attention_layers: int = _whole(0, 0)  # pre-norm self-attention blocks between the frames, after the convolutions


@dataclasses.dataclass(frozen=True)
class DecoderConfig:
    """The autoregressive text decoder."""

    hidden_dim: int = _whole(512)
    num_layers: int = _whole(4)
    num_heads: int = _whole(8)
    ff_dim: int = _whole(1024)
    dropout: float = _rate(0.1)
    max_len: int = _whole(100, 3)
    final_norm: bool = False  # a LayerNorm after the last layer; the reference has none
    memory: str = _choice("queries", "queries", "frames")  # what cross-attention reads


@dataclasses.dataclass(frozen=True)
class CTCConfig:
    """The CTC head: what it reads and what it spells."""

    source: str = _choice("queries", "queries", "frames")
    target: str = _choice("text", "text", "gloss")
    dropout: float = _rate(0.1)


@dataclasses.dataclass(frozen=True)
class ModelConfig:
    encoder: EncoderConfig = dataclasses.field(default_factory=EncoderConfig)
    temporal: TemporalConfig = dataclasses.field(default_factory=TemporalConfig)
    decoder: DecoderConfig = dataclasses.field(default_factory=DecoderConfig)
    ctc: CTCConfig = dataclasses.field(default_factory=CTCConfig)


@dataclasses.dataclass(frozen=True)
class TrainingConfig:
    batch_size: int = _whole(16)  # clips per update over all devices and processes, accumulation included
    gradient_accumulation: int = _whole(1)  # a batch is run in this many parts
    num_epochs: int = _whole(200)
    encoder_lr: float = _real(5e-5)
    decoder_lr: float = _real(1.5e-4)
    weight_decay: float = _real(0.001)
    weight_decay_on: str = _choice("all", "all", "matrices")  # matrices: not on biases, norms, embeddings and positions
    warmup_ratio: float = _value(0.05, "a number > 0 and < 1", lambda x: 0.0 < x < 1.0)
    ctc_weight: float = _real(0.3)
    ce_weight: float = _real(0.7)
    label_smoothing: float = _rate(0.05)
    max_grad_norm: float = _positive(0.5)
    patience: int = _whole(30, 0)  # epochs without a better validation loss; 0 = never stop early
    save_every_n_epochs: int = _whole(1)
    save_every_n_minutes: float = _real(0.0)  # besides the epochs; 0 = only at epochs' ends
    keep_last_n_checkpoints: int = _whole(3)
    eval_every_n_epochs: int = _whole(1)
    best_metric: str = _choice("loss", "loss", "wer", "bleu4")  # what "best" and patience look at; wer and bleu4 decode greedily
    num_sample_predictions: int = _whole(4, 0)
    use_amp: bool = True  # bf16 compute, fp32 parameters
    ema_decay: float = _rate(0.0)  # 0 = off; else evaluation and translation use the averaged weights
    remat: str = _choice("none", "none", "dots", "full")
    scan_layers: bool = True  # False unrolls the ViT's blocks: slower to compile, sometimes faster to run
    max_nonfinite_steps: int = _whole(20)  # that many skipped updates in a row end the run
    log_every_n_steps: int = _whole(10)
    seed: int = _whole(0, 0)


@dataclasses.dataclass(frozen=True)
class AugmentConfig:
    """One draw per clip, training only. Strengths are the largest deviation drawn; 0 switches a transformation off."""

    rotate: float = _real(0.0, 0.0, 45.0)  # degrees
    translate: float = _real(0.0, 0.0, 0.5)  # share of the picture
    scale: float = _real(0.0, 0.0, 0.9)  # picture scaled by 1 +- this
    brightness: float = _real(0.0, 0.0, 1.0)
    contrast: float = _real(0.0, 0.0, 1.0)
    saturation: float = _real(0.0, 0.0, 1.0)
    hue: float = _real(0.0, 0.0, 0.5)  # turns of the colour circle
    speed: float = _real(0.0, 0.0, 0.9)  # clip played 1 +- this times as fast
    frame_jitter: float = _real(0.0, 0.0, 1.0)  # share of the gap between two sampled frames by which each may move
    frame_drop: float = _rate(0.0)  # share of the sampled frames left out
    mirror: bool = False  # swaps the dominant hand: off unless asked for


@dataclasses.dataclass(frozen=True)
class DataConfig:
    name: str = "video_folder"  # a data set built under data_dir
    data_dir: str = "data"
    num_frames: int = _whole(16)  # the most frames a clip is given
    image_size: int = _whole(224)
    train_split: str = "train"
    val_split: str = "validation"
    test_split: str = "test"
    sampling: str = _choice("even", "even", "rate")  # even: always num_frames; rate: frame_rate a second, at most num_frames, clips stay of variable length
    frame_rate: float = _positive(12.5)
    frame_buckets: tuple[int, ...] = ()  # clip lengths that are compiled for; () = num_frames alone
    fit: str = _choice("squash", "squash", "pad", "crop")  # how a picture that is not square becomes image_size x image_size
    mean: tuple[float, ...] = (0.485, 0.456, 0.406)
    std: tuple[float, ...] = (0.229, 0.224, 0.225)
    augment: AugmentConfig = dataclasses.field(default_factory=AugmentConfig)
    num_workers: int = _whole(0, 0)  # reading processes; 0 = threads of the training process
    num_threads: int = _whole(4)  # reading threads
    prefetch_batches: int = _whole(4)


@dataclasses.dataclass(frozen=True)
class TokenizerConfig:
    name: str = _choice("bpe", "bpe", "word", "bert")  # bpe and word are learned from the training text; bert needs vocab_file
    vocab_file: str = ""  # a BERT vocab.txt
    vocab_size: int = _whole(8000, 8)  # the most entries that are learned
    min_frequency: int = _whole(1)
    lowercase: bool = True
    bos_id: int = _whole(-1, -1)  # -1 = the tokenizer's own; a number must agree with the tokenizer
    eos_id: int = _whole(-1, -1)
    pad_id: int = _whole(-1, -1)


@dataclasses.dataclass(frozen=True)
class InferenceConfig:
    temperature: float = _positive(1.0)
    top_k: int = _whole(0, 0)
    top_p: float = _value(1.0, "a number > 0 and <= 1", lambda x: 0.0 < x <= 1.0)
    beam_size: int = _whole(4)
    length_penalty: float = _real(1.0)
    no_repeat_ngram_size: int = _whole(0, 0)
    batch_size: int = _whole(16)


@dataclasses.dataclass(frozen=True)
class MeshConfig:
    """Devices per axis; data = -1 takes what the others leave."""

    data: int = _value(-1, "-1 or a whole number >= 1", lambda x: x == -1 or x >= 1)
    fsdp: int = _whole(1)
    tensor: int = _whole(1)


@dataclasses.dataclass(frozen=True)
class Config:
    model: ModelConfig = dataclasses.field(default_factory=ModelConfig)
    training: TrainingConfig = dataclasses.field(default_factory=TrainingConfig)
    data: DataConfig = dataclasses.field(default_factory=DataConfig)
    tokenizer: TokenizerConfig = dataclasses.field(default_factory=TokenizerConfig)
    inference: InferenceConfig = dataclasses.field(default_factory=InferenceConfig)
    mesh: MeshConfig = dataclasses.field(default_factory=MeshConfig)

    @property
    def frame_buckets(self) -> tuple[int, ...]:
        """Clip lengths, in frames, that batches are padded to; the last is `data.num_frames`."""
        return self.data.frame_buckets or (self.data.num_frames,)


def from_mapping(values: Mapping[str, Any]) -> Config:
    """Builds the typed config from nested mappings (a ConfigDict or parsed JSON); keys left out take the defaults. Raises ConfigError."""
    config = _build(Config, values, "")
    _check_together(config)
    return config


def to_json(config: Config) -> str:
    return json.dumps(dataclasses.asdict(config), indent=2, sort_keys=True) + "\n"


def from_json(text: str) -> Config:
    """Reads what `to_json` wrote. Raises ConfigError."""
    try:
        values = json.loads(text)
    except ValueError as error:
        raise ConfigError(f"config.json is not valid JSON: {error}") from error
    return from_mapping(values)


def load_config(spec: str, overrides: Sequence[tuple[str, str]] = ()) -> Config:
    """Runs the config file `path.py` or `path.py:argument`, applies overrides such as ("training.batch_size", "8") and checks the result.

    Raises ConfigError for a file that cannot be run as well as for its values.
    """
    values = _plain(_run_config_file(spec))
    for key, text in overrides:
        _override(values, key, text)
    return from_mapping(values)


def key_differences(old: Config, new: Config) -> list[tuple[str, Any, Any]]:
    """(dotted key, old value, new value) for every key whose value differs."""
    flat_old, flat_new = _flatten(dataclasses.asdict(old)), _flatten(dataclasses.asdict(new))
    return [(key, flat_old[key], flat_new[key]) for key in flat_new if flat_old[key] != flat_new[key]]


def _run_config_file(spec: str) -> Mapping[str, Any]:
    path_text, _, argument = spec.partition(".py:")
    path = Path(path_text + ".py" if argument else spec)
    if not path.is_file():
        known = sorted(str(p) for p in Path("configs").glob("*.py") if p.stem != "__init__")
        raise ConfigError(f"no config file {str(path)!r}" + (f"; there are {', '.join(known)}" if known else ""))
    module_spec = importlib.util.spec_from_file_location("signvit_config_file", path)
    module = importlib.util.module_from_spec(module_spec)
    try:
        module_spec.loader.exec_module(module)
        values = module.get_config(argument) if argument else module.get_config()
    except Exception as error:
        raise ConfigError(f"{path} cannot be run as a config (a file that defines get_config()): {type(error).__name__}: {error}") from error
    if not isinstance(values, Mapping) and not hasattr(values, "to_dict"):
        raise ConfigError(f"get_config() of {path} returned a {type(values).__name__}; it must return an ml_collections.ConfigDict")
    return values


def _plain(values: Any) -> Any:
    """Nested ConfigDicts and dicts as plain dicts, so that nothing shares state with the config file."""
    if hasattr(values, "to_dict"):
        values = values.to_dict()
    return {k: _plain(v) if isinstance(v, Mapping) or hasattr(v, "to_dict") else v for k, v in values.items()}


def _override(values: dict[str, Any], key: str, text: str) -> None:
    *rooms, name = key.split(".")
    section, field_type = Config, None
    node = values
    for depth, part in enumerate([*rooms, name]):
        fields = {f.name: f for f in dataclasses.fields(section)} if dataclasses.is_dataclass(section) else {}
        if part not in fields:
            raise _unknown(".".join([*rooms, name][: depth + 1]), text, fields)
        field_type = fields[part].type
        if depth < len(rooms):
            node = node.setdefault(part, {})
        section = field_type
    if dataclasses.is_dataclass(field_type):
        raise ConfigError(f"config.{key} is a group of keys ({_names(field_type)}); set one of them, as in --config.{key}.{_names(field_type).split(', ')[0]}=...")
    node[name] = text if field_type is str else _literal(text)


def _literal(text: str) -> Any:
    if text.lower() in ("true", "false"):
        return text.lower() == "true"
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text


def _names(section: type) -> str:
    return ", ".join(f.name for f in dataclasses.fields(section))


def _unknown(key: str, value: Any, fields: Mapping[str, Any]) -> ConfigError:
    *rooms, name = key.split(".")
    prefix = "".join(room + "." for room in rooms)
    near = difflib.get_close_matches(name, fields, n=1, cutoff=0.5)
    elsewhere = [k for k in _flatten(dataclasses.asdict(Config())) if k.split(".")[-1] == name]
    if near:
        hint = f"nearest key: {prefix}{near[0]}"
    elif elsewhere:
        hint = f"did you mean {elsewhere[0]}?"
    else:
        hint = "no key is near"
    allowed = ", ".join(fields) or "none (it is a value, not a group)"
    return ConfigError(f"unknown key config.{key} (value {value!r}); {hint}; keys allowed here: {allowed}")


def _build(section: type, values: Any, path: str) -> Any:
    if hasattr(values, "to_dict"):
        values = values.to_dict()
    if not isinstance(values, Mapping):
        raise ConfigError(f"config.{path or '<root>'} is {values!r}; it must be a group with keys among: {_names(section)}")
    fields = {f.name: f for f in dataclasses.fields(section)}
    built = {}
    for name, value in values.items():
        key = f"{path}.{name}" if path else str(name)
        if name not in fields:
            raise _unknown(key, value, fields)
        field = fields[name]
        built[name] = _build(field.type, value, key) if dataclasses.is_dataclass(field.type) else _typed(field, value, key)
    return section(**built)


_TYPE_NAMES = {int: "a whole number", float: "a number", bool: "True or False", str: "a string"}


def _typed(field: dataclasses.Field, value: Any, key: str) -> Any:
    allowed = field.metadata.get("allowed")
    converted = _convert(field.type, value)
    if converted is None:
        wanted = allowed or (_TYPE_NAMES.get(field.type) or f"a list of {_TYPE_NAMES[get_args(field.type)[0]].removeprefix('a ')}s")
        raise ConfigError(f"config.{key} is {value!r} ({type(value).__name__}); allowed: {wanted}")
    if allowed and not field.metadata["check"](converted):
        options = difflib.get_close_matches(converted, [p for p in allowed.split("'") if p.strip(" ,")], n=1) if field.type is str else []
        hint = f"; nearest: {options[0]!r}" if options else ""
        raise ConfigError(f"config.{key} is {value!r}; allowed: {allowed}{hint}")
    return converted


def _convert(wanted: type | types.GenericAlias, value: Any) -> Any:
    """`value` as the wanted type, or None where that would lose or invent something."""
    if get_origin(wanted) is tuple:
        if not isinstance(value, list | tuple):
            return None
        items = tuple(_convert(get_args(wanted)[0], item) for item in value)
        return None if None in items else items
    if wanted is float and isinstance(value, int | float) and not isinstance(value, bool):
        return float(value)
    if wanted is int and isinstance(value, float) and value.is_integer():
        return int(value)
    if type(value) is wanted:
        return value
    return None


def _flatten(values: Mapping[str, Any], path: str = "") -> dict[str, Any]:
    flat = {}
    for name, value in values.items():
        key = f"{path}.{name}" if path else name
        flat.update(_flatten(value, key) if isinstance(value, Mapping) else {key: value})
    return flat


def _check_together(config: Config) -> None:
    """What no single value shows. Every message names both keys and what to do."""
    encoder, temporal, decoder, data, training = config.model.encoder, config.model.temporal, config.model.decoder, config.data, config.training

    def heads_divide(width_key: str, width: int, heads_key: str, heads: int) -> None:
        if width % heads:
            near = [h for h in range(1, width + 1) if width % h == 0]
            near = sorted(near, key=lambda h: abs(h - heads))[:3]
            raise ConfigError(f"config.{heads_key} is {heads}, which does not divide config.{width_key} = {width}; allowed: a divisor, such as {sorted(near)}")

    heads_divide("model.encoder.vit_hidden_dim", encoder.vit_hidden_dim, "model.encoder.vit_num_heads", encoder.vit_num_heads)
    heads_divide("model.decoder.hidden_dim", decoder.hidden_dim, "model.temporal.num_heads", temporal.num_heads)
    heads_divide("model.decoder.hidden_dim", decoder.hidden_dim, "model.decoder.num_heads", decoder.num_heads)
    if encoder.backbone == "dense_vit" and encoder.output_dim != encoder.vit_hidden_dim:
        raise ConfigError(
            f"config.model.encoder.output_dim is {encoder.output_dim}; with backbone 'dense_vit' it must equal model.encoder.vit_hidden_dim = {encoder.vit_hidden_dim}"
        )
    if data.image_size % encoder.patch_size:
        size = max(1, round(data.image_size / encoder.patch_size)) * encoder.patch_size
        raise ConfigError(f"config.data.image_size is {data.image_size}; allowed: a multiple of model.encoder.patch_size = {encoder.patch_size}, such as {size}")
    if encoder.stem == "conv" and (encoder.patch_size & (encoder.patch_size - 1) or encoder.patch_size < 2):
        raise ConfigError(f"config.model.encoder.patch_size is {encoder.patch_size}; with stem 'conv' it must be a power of two >= 2, such as 8 or 16")
    if encoder.position_init == "sincos2d" and encoder.vit_hidden_dim % 4:
        raise ConfigError(f"config.model.encoder.vit_hidden_dim is {encoder.vit_hidden_dim}; with position_init 'sincos2d' it must be a multiple of 4")
    if decoder.hidden_dim % 2:
        raise ConfigError(f"config.model.decoder.hidden_dim is {decoder.hidden_dim}; allowed: an even number (sines and cosines come in pairs)")
    buckets = data.frame_buckets
    if buckets and (any(b < 1 for b in buckets) or list(buckets) != sorted(set(buckets)) or buckets[-1] != data.num_frames):
        raise ConfigError(f"config.data.frame_buckets is {buckets}; allowed: rising lengths that end with data.num_frames = {data.num_frames}")
    if buckets[:-1] and data.sampling == "even":
        raise ConfigError(f"config.data.frame_buckets is {buckets}, but data.sampling 'even' gives every clip {data.num_frames} frames; set sampling='rate' or leave the buckets out")
    if len(data.mean) != 3 or len(data.std) != 3 or min(data.std) <= 0:
        raise ConfigError(f"config.data.mean is {data.mean} and data.std {data.std}; allowed: three numbers each (red, green, blue), std > 0")
    if training.batch_size % training.gradient_accumulation:
        raise ConfigError(
            f"config.training.gradient_accumulation is {training.gradient_accumulation}, which does not divide training.batch_size = {training.batch_size}"
        )
    if training.ctc_weight == 0 and training.ce_weight == 0:
        raise ConfigError("config.training.ctc_weight and training.ce_weight are both 0: nothing would be trained; set one of them above 0")
    if config.tokenizer.name == "bert" and not config.tokenizer.vocab_file:
        raise ConfigError("config.tokenizer.name is 'bert' but tokenizer.vocab_file is empty; give the path of a BERT vocab.txt, or set tokenizer.name='bpe'")
    if config.tokenizer.name != "bert" and config.tokenizer.vocab_file:
        raise ConfigError(
            f"config.tokenizer.vocab_file is {config.tokenizer.vocab_file!r}, which only tokenizer.name='bert' reads; the name is {config.tokenizer.name!r}"
        )
