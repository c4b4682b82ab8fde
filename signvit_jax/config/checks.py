"""Checks of config values that must fit together."""

from typing import TYPE_CHECKING

from signvit_jax.config.errors import ConfigError
from signvit_jax.config.mobilenet_sizes import mobilenet_feature_channels

if TYPE_CHECKING:
    from signvit_jax.config.schema import (
        Config,
        DataConfig,
        EncoderConfig,
        TokenizerConfig,
        TrainingConfig,
    )

# Options that only the ViT has, with the values that switch them off.
_VIT_OPTIONS = {
    "stem": "patch",
    "frame_pooling": "mean",
    "position_init": "normal",
    "attention": "auto",
    "drop_path": 0.0,
    "patch_drop": 0.0,
    "token_merge": 0,
    "frames_per_chunk": 0,
}


def check_together(config: "Config") -> None:
    """Check values that depend on each other.

    Raises ConfigError with the keys that do not fit together, their values and the allowed ones.
    """
    _check_widths(config)
    _check_view(config.model.encoder, config.data.image_size)
    if config.model.encoder.backbone == "dense_vit":
        _check_vit(config.model.encoder, config.data.image_size, use_amp=config.training.use_amp)
    else:
        _check_mobilenet(config.model.encoder)
    _check_data(config.data)
    _check_training(config.training)
    if config.training.ctc_flat_start_frames == "moving" and config.model.ctc.source != "frames":
        raise ConfigError(
            "config.training.ctc_flat_start_frames is 'moving', but config.model.ctc.source is "
            f"{config.model.ctc.source!r}, whose steps are no frames; set it to 'frames', or "
            "ctc_flat_start_frames to 'all'"
        )
    if config.model.decoder.gloss_memory and config.model.ctc.target == "text":
        raise ConfigError(
            "config.model.decoder.gloss_memory is True, but model.ctc.target is 'text', so there "
            "are no glosses to read; set gloss_memory=False, or model.ctc.target to 'gloss' or "
            "'auto'"
        )
    _check_tokenizer(config.tokenizer)
    if config.model.init_from and config.model.encoder.pretrained:
        raise ConfigError(
            f"config.model.init_from is {config.model.init_from!r} and model.encoder.pretrained "
            f"{config.model.encoder.pretrained!r}, but a model starts from one of them; set the "
            "other to ''"
        )


def _check_widths(config: "Config") -> None:
    encoder = config.model.encoder
    width_key = "model.decoder.hidden_dim"
    width = config.model.decoder.hidden_dim
    _check_heads(width_key, width, "model.temporal.num_heads", config.model.temporal.num_heads)
    _check_heads(width_key, width, "model.decoder.num_heads", config.model.decoder.num_heads)
    if encoder.backbone == "dense_vit":
        _check_heads(
            "model.encoder.vit_hidden_dim",
            encoder.vit_hidden_dim,
            "model.encoder.vit_num_heads",
            encoder.vit_num_heads,
        )
    if width % 2:
        raise ConfigError(
            f"config.{width_key} is {width}; "
            "allowed: an even number (sines and cosines come in pairs)"
        )


def _check_heads(width_key: str, width: int, heads_key: str, heads: int) -> None:
    """Check that attention can divide its width among its heads."""
    if width % heads == 0:
        return
    divisors = [number for number in range(1, width + 1) if width % number == 0]
    nearest = sorted(divisors, key=lambda divisor: abs(divisor - heads))[:3]
    raise ConfigError(
        f"config.{heads_key} is {heads}, which does not divide config.{width_key} = {width}; "
        f"allowed: a divisor, such as {sorted(nearest)}"
    )


def _check_data(data: "DataConfig") -> None:
    buckets = data.frame_buckets
    if buckets and (
        min(buckets) < 1 or list(buckets) != sorted(set(buckets)) or buckets[-1] != data.num_frames
    ):
        raise ConfigError(
            f"config.data.frame_buckets is {buckets}; "
            f"allowed: rising lengths that end with data.num_frames = {data.num_frames}"
        )
    if buckets[:-1] and data.sampling == "even":
        raise ConfigError(
            f"config.data.frame_buckets is {buckets}, but data.sampling 'even' gives every clip "
            f"{data.num_frames} frames; set data.sampling='rate' or leave the buckets out"
        )
    if len(data.mean) != 3 or len(data.std) != 3 or min(data.std) <= 0:
        raise ConfigError(
            f"config.data.mean is {data.mean} and data.std {data.std}; "
            "allowed: three numbers each (red, green, blue), std > 0"
        )


def _check_training(training: "TrainingConfig") -> None:
    if training.batch_size % training.gradient_accumulation:
        raise ConfigError(
            f"config.training.gradient_accumulation is {training.gradient_accumulation}; "
            f"allowed: a divisor of training.batch_size = {training.batch_size}"
        )
    if training.ctc_weight == 0 and training.ce_weight == 0:
        raise ConfigError(
            "config.training.ctc_weight and training.ce_weight are both 0: nothing would be "
            "trained; set one of them above 0"
        )


def _check_tokenizer(tokenizer: "TokenizerConfig") -> None:
    if tokenizer.name == "bert" and not tokenizer.vocab_file:
        raise ConfigError(
            "config.tokenizer.name is 'bert' but tokenizer.vocab_file is empty; give the path of "
            "a BERT vocab.txt, or set tokenizer.name='bpe'"
        )
    if tokenizer.name != "bert" and tokenizer.vocab_file:
        raise ConfigError(
            f"config.tokenizer.vocab_file is {tokenizer.vocab_file!r}, which only "
            f"tokenizer.name='bert' reads; the name is {tokenizer.name!r}"
        )


def _check_view(encoder: "EncoderConfig", image_size: int) -> None:
    if encoder.view_size > image_size:
        raise ConfigError(
            f"config.model.encoder.view_size is {encoder.view_size}, larger than "
            f"config.data.image_size = {image_size}; allowed: at most {image_size}, or 0 for as "
            "large"
        )
    if not encoder.colors:
        _check_without_colors(encoder)
    if encoder.crops == "none":
        return
    for key, unit in (("crop_size", 16), ("crop_width", 4)):
        if (value := getattr(encoder, key)) % unit:
            raise ConfigError(
                f"config.model.encoder.{key} is {value}; allowed: a multiple of {unit}, such as "
                f"{max(1, round(value / unit)) * unit}"
            )


def _check_without_colors(encoder: "EncoderConfig") -> None:
    if encoder.motion == "none":
        raise ConfigError(
            "config.model.encoder.colors is False and motion is 'none': images would have no "
            "channel; allowed: motion='clip_mean', 'difference' or 'magnitude', or colors=True"
        )
    if encoder.pretrained:
        raise ConfigError(
            f"config.model.encoder.pretrained is {encoder.pretrained!r}, weights for images with "
            "colors; allowed: colors=True, or no pretrained weights"
        )


def _check_vit(encoder: "EncoderConfig", image_size: int, *, use_amp: bool) -> None:
    if encoder.output_dim != encoder.vit_hidden_dim:
        raise ConfigError(
            f"config.model.encoder.output_dim is {encoder.output_dim}; allowed with backbone "
            f"'dense_vit': model.encoder.vit_hidden_dim = {encoder.vit_hidden_dim}"
        )
    key = "model.encoder.view_size" if encoder.view_size else "data.image_size"
    size = encoder.view_size or image_size
    if size % encoder.patch_size:
        nearest = max(1, round(size / encoder.patch_size)) * encoder.patch_size
        raise ConfigError(
            f"config.{key} is {size}; allowed: a multiple of "
            f"model.encoder.patch_size = {encoder.patch_size}, such as {nearest}"
        )
    if encoder.mobilenet_width != 1.0:
        raise ConfigError(
            f"config.model.encoder.mobilenet_width is {encoder.mobilenet_width:g}, which backbone "
            "'dense_vit' does not have; allowed: 1, or backbone='mobilenet_v3_large'"
        )
    is_power_of_two = encoder.patch_size & (encoder.patch_size - 1) == 0
    if encoder.stem == "conv" and (encoder.patch_size < 4 or not is_power_of_two):
        raise ConfigError(
            f"config.model.encoder.patch_size is {encoder.patch_size}; "
            "with stem 'conv' it must be a power of two >= 4, such as 8 or 16"
        )
    if encoder.position_init == "sincos2d" and encoder.vit_hidden_dim % 4:
        raise ConfigError(
            f"config.model.encoder.vit_hidden_dim is {encoder.vit_hidden_dim}; "
            "with position_init 'sincos2d' it must be a multiple of 4"
        )
    if encoder.frame_pooling == "concat" and (encoder.patch_drop or encoder.token_merge):
        raise ConfigError(
            "config.model.encoder.frame_pooling is 'concat', which needs every token in its place, "
            f"but patch_drop is {encoder.patch_drop:g} and token_merge {encoder.token_merge}; "
            "allowed: both 0, or frame_pooling 'mean' or 'attention'"
        )
    if encoder.attention == "cudnn" and (encoder.attention_dropout or not use_amp):
        raise ConfigError(
            "config.model.encoder.attention is 'cudnn', which has no dropout and no float32, but "
            f"attention_dropout is {encoder.attention_dropout:g} and training.use_amp {use_amp}; "
            "set attention_dropout=0 and use_amp=True, or attention='auto'"
        )


def _check_mobilenet(encoder: "EncoderConfig") -> None:
    for key, off in _VIT_OPTIONS.items():
        if (value := getattr(encoder, key)) != off:
            raise ConfigError(
                f"config.model.encoder.{key} is {value!r}, which backbone 'mobilenet_v3_large' "
                f"does not have; allowed with it: {off!r}"
            )
    channels = mobilenet_feature_channels(encoder.mobilenet_width)
    if encoder.output_dim != channels:
        raise ConfigError(
            f"config.model.encoder.output_dim is {encoder.output_dim}; allowed with backbone "
            "'mobilenet_v3_large' and mobilenet_width "
            f"{encoder.mobilenet_width:g}: {channels}"
        )
