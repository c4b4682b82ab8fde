"""The one place where a config file becomes typed, range-checked values.

Every default below is the reference system's value (faithful, every extra switched off); the recommended settings are spelled out in `configs/`.
A `config.json` written by an older release therefore keeps its meaning: a key that it lacks is an option that was off.

Raises `ConfigError` (exit code 2) with the key, the value, what is allowed and, for a misspelt key, the nearest one.
"""

import dataclasses
import difflib
import json
import math
import types
from collections.abc import Mapping
from typing import Any, get_args, get_origin

from signvit_jax.config.checks import check_together
from signvit_jax.config.errors import ConfigError
from signvit_jax.files.local_paths import ALLOWED, is_address

__all__ = [
    "TOKENIZATIONS",
    "Config",
    "ConfigError",
    "DistillationConfig",
    "from_json",
    "from_mapping",
    "key_differences",
    "to_json",
    "with_ctc_target",
    "with_norm_epsilon",
    "with_teacher",
]


def _value(default: Any, allowed: str, check) -> Any:
    return dataclasses.field(default=default, metadata={"allowed": allowed, "check": check})


def _whole(default: int, least: int = 1) -> Any:
    return _value(default, f"a whole number >= {least} and < 2^31", lambda x: least <= x < 2**31)


def _real(default: float, least: float = 0.0, most: float = math.inf) -> Any:
    allowed = (
        f"a number from {least:g} to {most:g}" if math.isfinite(most) else f"a number >= {least:g}"
    )
    return _value(default, allowed, lambda x: math.isfinite(x) and least <= x <= most)


def _positive(default: float) -> Any:
    return _value(default, "a number > 0", lambda x: math.isfinite(x) and x > 0)


def _rate(default: float) -> Any:
    return _value(default, "a rate from 0 up to, but not including, 1", lambda x: 0.0 <= x < 1.0)


def _choice(default: str, *options: str) -> Any:
    return _value(default, "one of " + ", ".join(repr(o) for o in options), lambda x: x in options)


def _path(default: str) -> Any:
    return _value(default, ALLOWED, lambda x: not is_address(x))


@dataclasses.dataclass(frozen=True)
class EncoderConfig:
    """The network that looks at one frame."""

    backbone: str = _choice("dense_vit", "dense_vit", "mobilenet_v3_large")
    pretrained: str = _path("")  # a weights file to start from; "" = random
    freeze_epochs: int = _whole(0, 0)
    output_dim: int = _whole(
        1024
    )  # width of a frame feature; equals vit_hidden_dim for dense_vit, 960 for mobilenet_v3_large
    mobilenet_width: float = _positive(1.0)  # mobilenet_v3_large: all channels times this
    # mobilenet_v3_large: what a batch moves BatchNorm's running statistics by. 0.01 is torchvision's, for thousands of steps; short runs need 0.1.
    batch_norm_momentum: float = _value(0.01, "a number > 0 and <= 1", lambda x: 0 < x <= 1)
    norm_epsilon: float = _real(
        0.0
    )  # of the backbone's norms; 0 = that of `pretrained`, else 1e-5 (dense_vit) or 1e-3 (mobilenet_v3_large)
    vit_hidden_dim: int = _whole(1024)
    vit_num_heads: int = _whole(16)
    vit_num_layers: int = _whole(24)
    vit_mlp_dim: int = _whole(4096)
    patch_size: int = _whole(16)
    dropout: float = _rate(0.2)  # after the embedding, attention and the MLP's two layers
    attention_dropout: float = _rate(0.2)  # on the attention weights; 0 lets fused attention run
    position_init: str = _choice(
        "normal", "normal", "sincos2d"
    )  # learned either way; sincos2d starts from 2-D sines and cosines at scale 1
    stem: str = _choice(
        "patch", "patch", "conv"
    )  # conv: 4x4 patches, then 3x3 convolutions down to the grid
    frame_pooling: str = _choice(
        "mean", "mean", "attention", "concat"
    )  # attention: a learned query; concat: narrowed patches side by side
    zoom: str = _choice(
        "none", "none", "motion"
    )  # motion: pictures are cut to the square in which the clip moves, and enlarged
    motion: str = _choice(
        "none", "none", "clip_mean", "difference"
    )  # three more channels: the frame less the clip's mean, or less the one before
    drop_path: float = _rate(0.0)  # stochastic depth, linear from 0 to this rate over the blocks
    attention: str = _choice(
        "auto", "auto", "xla", "recompute", "cudnn"
    )  # how it is computed; auto: by device, dtype and dropout
    frames_per_chunk: int = _whole(
        0, 0
    )  # that many frames at a time, over all devices together; 0 = all at once
    patch_drop: float = _rate(0.0)  # share of each frame's patches left out in training
    token_merge: int = _whole(
        0, 0
    )  # evaluation and translation: that many tokens of each frame fewer after every block
    dropout_random: str = _choice(
        "threefry", "threefry", "rbg"
    )  # rbg: the device's own generator, cheap, with other numbers on every kind of device


@dataclasses.dataclass(frozen=True)
class TemporalConfig:
    """What turns frame features into pooled tokens."""

    num_queries: int = _whole(32)
    num_heads: int = _whole(16)
    num_temporal_conv: int = _whole(4, 0)
    kernel_size: int = _value(3, "an odd whole number >= 1", lambda x: x >= 1 and x % 2 == 1)
    dropout: float = _rate(0.2)
    time_positions: str = _choice(
        "none", "none", "sincos"
    )  # added to the frame features before the pooling
    num_attention_layers: int = _whole(
        0, 0
    )  # pre-norm self-attention blocks between the frames, after the convolutions


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
    target: str = _choice(
        "text", "text", "gloss", "auto"
    )  # auto: glosses where the training split has them, else text
    dropout: float = _rate(0.1)
    tied: bool = False  # where the head spells text, its output matrix is the decoder's embedding


@dataclasses.dataclass(frozen=True)
class ModelConfig:
    encoder: EncoderConfig = dataclasses.field(default_factory=EncoderConfig)
    temporal: TemporalConfig = dataclasses.field(default_factory=TemporalConfig)
    decoder: DecoderConfig = dataclasses.field(default_factory=DecoderConfig)
    ctc: CTCConfig = dataclasses.field(default_factory=CTCConfig)


@dataclasses.dataclass(frozen=True)
class DistillationConfig:
    """What a teacher adds to the loss; `python -m signvit_jax.distill --teacher=...` names it."""

    teacher: str = _path("")  # a workdir; "" = no teacher
    temperature: float = _positive(2.0)  # of both models' distributions
    decoder_weight: float = _real(1.0)
    ctc_weight: float = _real(1.0)
    feature_weight: float = _real(1.0)  # of what the decoder reads: pooled tokens, or frames


@dataclasses.dataclass(frozen=True)
class TrainingConfig:
    batch_size: int = _whole(
        16
    )  # clips per update over all devices and processes, accumulation included
    gradient_accumulation: int = _whole(1)  # a batch is run in this many parts
    num_epochs: int = _whole(200)
    min_steps: int = _whole(
        0, 0
    )  # a small data set is gone through more often than num_epochs, until there are at least this many updates
    encoder_lr: float = _real(5e-5)
    decoder_lr: float = _real(1.5e-4)
    weight_decay: float = _real(0.001)
    weight_decay_on: str = _choice(
        "all", "all", "matrices"
    )  # matrices: not on biases, norms, embeddings and positions
    warmup_ratio: float = _value(0.05, "a number > 0 and < 1", lambda x: 0.0 < x < 1.0)
    # Epochs of the rates' one cycle, after which they stay; 0 = all. Set to the epochs made so far it goes on with a
    # finished run without raising its rates again.
    schedule_epochs: int = _whole(0, 0)
    final_lr_ratio: float = _real(
        0.0, 0.0, 1.0
    )  # where the cycle ends, as a share of the peaks; 0 = 1 / 250,000
    ctc_weight: float = _real(0.3)
    ce_weight: float = _real(0.7)
    ctc_flat_start_steps: int = _whole(
        0, 0
    )  # at most so long labels spread evenly over the clip help CTC off the ground; 0 = never
    ctc_flat_start_ratio: float = _real(
        0.0, 0.0, 1.0
    )  # a flat start lasts at least this share of the rates' cycle
    label_smoothing: float = _rate(0.05)
    max_grad_norm: float = _positive(0.5)
    adam_moments: str = _choice(
        "float32", "float32", "bfloat16"
    )  # what Adam keeps between steps; bfloat16 saves 4 of 12 bytes a parameter
    patience: int = _whole(30, 0)  # epochs without a better best_metric; 0 = never stop early
    save_every_n_epochs: int = _whole(1)
    save_every_n_minutes: float = _real(0.0)  # besides the epochs; 0 = only at epochs' ends
    keep_last_n_checkpoints: int = _whole(3)
    eval_every_n_epochs: int = _whole(1)
    best_metric: str = _choice(
        "loss", "loss", "wer", "bleu4", "chrf"
    )  # what "best" and patience look at; all but loss decode greedily
    num_sample_predictions: int = _whole(4, 0)
    use_amp: bool = True  # bf16 compute, fp32 parameters
    ema_decay: float = _rate(
        0.0
    )  # 0 = off; else evaluation and translation use the averaged weights
    remat: str = _choice("none", "none", "dots", "full")
    scan_layers: bool = (
        True  # False unrolls the ViT's blocks: slower to compile, sometimes faster to run
    )
    distillation: DistillationConfig = dataclasses.field(default_factory=DistillationConfig)
    max_nonfinite_steps: int = _whole(20)  # that many skipped updates in a row end the run
    log_every_n_steps: int = _whole(10)
    seed: int = _value(0, "a whole number from 0 to 2^63 - 1", lambda x: 0 <= x < 2**63)


@dataclasses.dataclass(frozen=True)
class AugmentConfig:
    """One draw per clip, training only. Strengths are the largest deviation drawn; 0 switches a transformation off."""

    rotate: float = _real(0.0, 0.0, 45.0)  # degrees
    translate: float = _real(0.0, 0.0, 0.5)  # share of the picture
    scale: float = _real(0.0, 0.0, 0.9)  # picture scaled by 1 +- this
    brightness: float = _real(0.0, 0.0, 1.0)
    contrast: float = _real(0.0, 0.0, 1.0)
    saturation: float = _real(0.0, 0.0, 1.0)
    hue: float = _real(0.0, 0.0, 0.5)  # turns of the color circle
    speed: float = _real(0.0, 0.0, 0.9)  # clip played 1 +- this times as fast
    frame_jitter: float = _real(
        0.0, 0.0, 1.0
    )  # share of the gap between two sampled frames by which each may move
    frame_drop: float = _rate(0.0)  # share of the sampled frames left out
    mirror: bool = False  # swaps the dominant hand: off unless asked for


@dataclasses.dataclass(frozen=True)
class DataConfig:
    name: str = "video_folder"  # a data set built under data_dir
    data_dir: str = _path("data")
    num_frames: int = _whole(16)  # the most frames a clip is given
    image_size: int = _whole(224)
    train_split: str = "train"
    val_split: str = "validation"
    test_split: str = "test"
    # even: always num_frames; rate: frame_rate a second, at most num_frames, clips stay of variable length; segment: the same, but of a longer
    # clip a piece at the full rate (training: anywhere in it; evaluation: its middle) instead of the whole clip more thinly
    sampling: str = _choice("even", "even", "rate", "segment")
    frame_rate: float = _positive(12.5)
    frame_buckets: tuple[int, ...] = ()  # clip lengths that are compiled for; () = num_frames alone
    fit: str = _choice(
        "squash", "squash", "pad", "crop"
    )  # how a picture that is not square becomes image_size x image_size
    mean: tuple[float, ...] = (0.485, 0.456, 0.406)
    std: tuple[float, ...] = (0.229, 0.224, 0.225)
    augment: AugmentConfig = dataclasses.field(default_factory=AugmentConfig)
    num_workers: int = _whole(0, 0)  # reading processes; 0 = threads of the training process
    short_first_epochs: int = _whole(
        0, 0
    )  # in that many first epochs the clips come from the shortest to the longest
    num_threads: int = _whole(4)  # reading threads
    prefetch_batches: int = _whole(4)


@dataclasses.dataclass(frozen=True)
class TokenizerConfig:
    name: str = _choice(
        "bpe", "bpe", "word", "bert"
    )  # bpe and word are learned from the training text; bert needs vocab_file
    vocab_file: str = _path("")  # a BERT vocab.txt
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
    n_best: int = _whole(1)  # hypotheses of beam and ctc_beam that are reported; at most beam_size
    length_penalty: float = _real(1.0)
    length_formula: str = _choice(
        "power", "power", "gnmt"
    )  # n^penalty, or ((5 + n) / 6)^penalty (Wu et al. 2016)
    ctc_weight: float = _real(
        0.0, 0.0, 1.0
    )  # share of CTC in the beam's score; needs a CTC head that spells text
    no_repeat_ngram_size: int = _whole(0, 0)
    min_confidence: float = _real(0.0, 0.0, 1.0)  # a text of less confidence is left out
    batch_size: int = _whole(16)
    # A longer video is a recording, cut where nobody signs. 0 = as long as a clip may be that the model sees as densely as in training.
    max_clip_seconds: float = _real(0.0)
    window_seconds: float = _real(
        0.0
    )  # the longest piece of a recording; 0 = as long as a clip may be
    window_overlap: float = _rate(
        0.5
    )  # share of a window that the next one sees again where signing lasts longer than that
    # A recording is cut where CTC hears no sign for so long; seconds in which nothing moves count seven times.
    rest_seconds: float = _positive(2.0)
    # Where CTC's evidence of signing is below this, nobody signs and the text is empty; 0 = whatever the decoder says. decoding.rest.evidence
    rest_evidence: float = _real(0.7)


# How BLEU cuts words: sacreBLEU's names; auto is `char` where the references are mostly of scripts
# without spaces, else `13a`. ja-mecab and ko-mecab are installed as sacrebleu[ja] and sacrebleu[ko].
TOKENIZATIONS = ("auto", "13a", "none", "char", "zh", "ja-mecab", "ko-mecab")


@dataclasses.dataclass(frozen=True)
class EvaluationConfig:
    """How texts are scored: in validation, by `eval` and in its report."""

    tokenize: str = _choice("auto", *TOKENIZATIONS)


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
    evaluation: EvaluationConfig = dataclasses.field(default_factory=EvaluationConfig)
    mesh: MeshConfig = dataclasses.field(default_factory=MeshConfig)

    @property
    def frame_buckets(self) -> tuple[int, ...]:
        """Clip lengths, in frames, that batches are padded to; the last is `data.num_frames`."""
        return self.data.frame_buckets or (self.data.num_frames,)


def from_mapping(values: Mapping[str, Any]) -> Config:
    """Builds the typed config from nested mappings (a ConfigDict or parsed JSON); keys left out take the defaults. Raises ConfigError."""
    config = _build(Config, values, "")
    check_together(config)
    return config


def to_json(config: Config) -> str:
    return json.dumps(dataclasses.asdict(config), indent=2, sort_keys=True) + "\n"


def from_json(text: str) -> Config:
    """Reads what `to_json` wrote. Raises ConfigError."""
    try:
        values = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"config.json is not valid JSON: {error}") from error
    return from_mapping(_without_old_limits(values))


def _without_old_limits(values: Any) -> Any:
    """Until `rest_seconds` came every config.json said 30 s a clip and 6 s a window, whatever the model was trained on; nobody had asked for it."""
    inference = values.get("inference") if isinstance(values, dict) else None
    if not isinstance(inference, dict) or "rest_seconds" in inference:
        return values
    old = {"max_clip_seconds": 30.0, "window_seconds": 6.0}
    return values | {
        "inference": {key: value for key, value in inference.items() if old.get(key) != value}
    }


def with_ctc_target(config: Config, target: str) -> Config:
    """The config with another `model.ctc.target`."""
    ctc = dataclasses.replace(config.model.ctc, target=target)
    return dataclasses.replace(config, model=dataclasses.replace(config.model, ctc=ctc))


def with_norm_epsilon(config: Config, epsilon: float) -> Config:
    """The config with another `model.encoder.norm_epsilon`."""
    encoder = dataclasses.replace(config.model.encoder, norm_epsilon=epsilon)
    return dataclasses.replace(config, model=dataclasses.replace(config.model, encoder=encoder))


def with_teacher(config: Config, workdir: str) -> Config:
    """The config with another `training.distillation.teacher`."""
    distillation = dataclasses.replace(config.training.distillation, teacher=workdir)
    return dataclasses.replace(
        config, training=dataclasses.replace(config.training, distillation=distillation)
    )


def key_differences(old: Config, new: Config) -> list[tuple[str, Any, Any]]:
    """(dotted key, old value, new value) for every key whose value differs."""
    flat_old, flat_new = _flatten(dataclasses.asdict(old)), _flatten(dataclasses.asdict(new))
    return [
        (key, flat_old[key], flat_new[key]) for key in flat_new if flat_old[key] != flat_new[key]
    ]


def key_names(section: type) -> str:
    """The keys of a group, for messages."""
    return ", ".join(f.name for f in dataclasses.fields(section))


def unknown_key(key: str, value: Any, fields: Mapping[str, Any]) -> ConfigError:
    """The error for a key that does not exist, with the nearest that does."""
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
    return ConfigError(
        f"unknown key config.{key} (value {value!r}); {hint}; keys allowed here: {allowed}"
    )


def _build(section: type, values: Any, path: str) -> Any:
    if hasattr(values, "to_dict"):
        values = values.to_dict()
    if not isinstance(values, Mapping):
        raise ConfigError(
            f"config.{path or '<root>'} is {values!r}; it must be a group with keys among: {key_names(section)}"
        )
    fields = {f.name: f for f in dataclasses.fields(section)}
    built = {}
    for name, value in values.items():
        key = f"{path}.{name}" if path else str(name)
        if name not in fields:
            raise unknown_key(key, value, fields)
        field = fields[name]
        built[name] = (
            _build(field.type, value, key)
            if dataclasses.is_dataclass(field.type)
            else _typed(field, value, key)
        )
    return section(**built)


_TYPE_NAMES = {int: "a whole number", float: "a number", bool: "True or False", str: "a string"}


def _typed(field: dataclasses.Field, value: Any, key: str) -> Any:
    allowed = field.metadata.get("allowed")
    converted = _convert(field.type, value)
    if converted is None:
        wanted = allowed or (
            _TYPE_NAMES.get(field.type)
            or f"a list of {_TYPE_NAMES[get_args(field.type)[0]].removeprefix('a ')}s"
        )
        raise ConfigError(f"config.{key} is {value!r} ({type(value).__name__}); allowed: {wanted}")
    if allowed and not field.metadata["check"](converted):
        options = (
            difflib.get_close_matches(
                converted, [p for p in allowed.split("'") if p.strip(" ,")], n=1
            )
            if field.type is str
            else []
        )
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
