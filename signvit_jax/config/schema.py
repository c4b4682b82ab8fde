"""Every config key with its type, default, range and meaning.

Each default is the reference system's value, with every extension switched off. So a config.json of
an older release keeps its meaning: a key that it lacks is an option that was off. The recommended
settings are in `presets/`.
"""

import dataclasses
import json
from pathlib import Path
from typing import TYPE_CHECKING

from signvit_jax.config.checks import check_together
from signvit_jax.config.errors import ConfigError
from signvit_jax.config.fields import (
    checked,
    choice,
    integer,
    model,
    number,
    path,
    plain,
    positive,
    rate,
)
from signvit_jax.config.legacy import with_current_names, without_old_limits
from signvit_jax.config.typed_sections import as_plain, build, flatten
from signvit_jax.files.local_paths import is_hub_address

if TYPE_CHECKING:
    from _typeshed import DataclassInstance


@dataclasses.dataclass(frozen=True)
class EncoderConfig:
    """The backbone, which turns each frame into a feature vector."""

    backbone: str = choice(("dense_vit", "mobilenet_v3_large"), "Network applied to every frame.")
    pretrained: str = path("", "Weights file that the backbone starts from; empty = random.")
    freeze_epochs: int = integer(
        0, "Epochs at the start of training in which the backbone is not updated.", least=0
    )
    output_dim: int = integer(
        1024,
        "Width of a frame feature: vit_hidden_dim for dense_vit, 960 for mobilenet_v3_large of "
        "width 1.",
    )
    mobilenet_width: float = positive(
        1.0, "Multiplier of all channel counts of mobilenet_v3_large."
    )
    batch_norm_momentum: float = checked(
        0.01,
        "Share of a batch's statistics in BatchNorm's running statistics (mobilenet_v3_large): "
        "0.01 is torchvision's, for thousands of steps; short runs need 0.1.",
        "a number > 0 and <= 1",
        lambda x: 0 < x <= 1,
    )
    norm_epsilon: float = number(
        0.0,
        "Epsilon of the backbone's norms; 0 = that of the pretrained weights, else 1e-5 "
        "(dense_vit) or 1e-3 (mobilenet_v3_large).",
    )
    vit_hidden_dim: int = integer(1024, "Width of the ViT.")
    vit_num_heads: int = integer(16, "Attention heads of the ViT.")
    vit_num_layers: int = integer(24, "Transformer blocks of the ViT.")
    vit_mlp_dim: int = integer(4096, "Hidden width of the MLP in each ViT block.")
    patch_size: int = integer(16, "Side of a ViT patch, in pixels.")
    dropout: float = rate(
        0.2, "Dropout of the ViT after the embedding, attention and both MLP layers."
    )
    attention_dropout: float = rate(
        0.2, "Dropout on the ViT's attention weights; 0 allows fused attention."
    )
    position_init: str = choice(
        ("normal", "sincos2d"),
        "Start values of the learned positions: normal draws, or 2-D sines and cosines at scale 1.",
    )
    stem: str = choice(
        ("patch", "conv"),
        "Patch embedding: one linear map of each patch, or 4x4 patches followed by 3x3 "
        "convolutions down to the patch grid.",
    )
    frame_pooling: str = choice(
        ("mean", "attention", "concat"),
        "Pooling of a frame's patches: their mean, a learned attention query, or narrowed patches "
        "side by side.",
    )
    zoom: str = choice(
        ("none", "motion"),
        "Cropping; motion = crop every clip to the square in which it moves, and enlarge that.",
    )
    motion: str = choice(
        ("none", "clip_mean", "difference", "magnitude"),
        "Three more input channels: the frame minus the clip's mean, or minus the frame before; "
        "magnitude = how much a pixel differs from the clip's mean, the frame before and the frame "
        "after, as shares of the clip's motion.",
    )
    colors: bool = plain(
        True,
        "Red, green and blue as input channels. False, which needs motion: the channels of motion "
        "alone, so that a model of few clips cannot learn clothes and rooms by heart.",
    )
    view_size: int = integer(
        0,
        "Side in pixels of the image, or of the square that zoom cuts out of it, as the backbone "
        "sees it; 0 = data.image_size. Crops are cut out of the image itself.",
        least=0,
    )
    crops: str = choice(
        ("none", "hands", "hands_face"),
        "Additional input images, cut out of each frame; hands = a localizer, which learns from "
        "keypoints or from what moves, finds both hands in every frame, and a small ViT sees them "
        "at the frame's resolution; hands_face = the face as well, which the localizer learns from "
        "keypoints alone.",
    )
    crop_share: float = checked(
        0.6,
        "Side of a crop as a share of the view's side: large enough for a hand that is not quite "
        "where it was found.",
        "a share above 0, at most 1",
        lambda x: 0.0 < x <= 1.0,
    )
    crop_size: int = integer(48, "Side of a crop as its ViT sees it, in pixels.")
    crop_width: int = integer(128, "Width of the crops' ViT, and of a hand's feature.")
    crop_dropout: float = rate(
        0.1, "Rate at which training leaves out all crops of a hand, or of the face, in a clip."
    )
    drop_path: float = rate(
        0.0, "Stochastic depth of the last ViT block; the rate rises linearly from 0."
    )
    attention: str = choice(
        ("auto", "xla", "recompute", "cudnn"),
        "Implementation of attention; auto chooses by device, dtype and dropout.",
    )
    frames_per_chunk: int = integer(
        0,
        "Frames per chunk of the ViT, over all devices together; 0 = all frames at once.",
        least=0,
    )
    patch_drop: float = rate(0.0, "Share of each frame's patches that training leaves out.")
    token_merge: int = integer(
        0, "Tokens merged per block at inference (ToMe, Bolya et al. 2023); 0 = off.", least=0
    )
    dropout_rng_impl: str = choice(
        ("threefry", "rbg", "hash"),
        "Random number generator of the ViT's dropout; rbg is the device's own, which draws other "
        "numbers on every kind of device; hash hashes positions, which moves no memory and draws "
        "the same numbers everywhere.",
    )


@dataclasses.dataclass(frozen=True)
class TemporalConfig:
    """The temporal network, which turns frame features into pooled tokens."""

    num_queries: int = integer(32, "Learned queries, each of which pools the frames to one token.")
    num_heads: int = integer(16, "Attention heads of the pooling and of the attention blocks.")
    num_temporal_conv: int = integer(
        4, "Blocks with a depthwise convolution over time before the pooling.", least=0
    )
    kernel_size: int = checked(
        3,
        "Width of the convolutions over time, in frames.",
        "an odd integer >= 1",
        lambda x: x >= 1 and x % 2 == 1,
    )
    dropout: float = rate(0.2, "Dropout of the temporal network.")
    time_positions: str = choice(
        ("none", "sincos"), "Positions added to the frame features before the pooling."
    )
    num_attention_layers: int = integer(
        0,
        "Pre-norm self-attention blocks between the frames, after the convolutions.",
        least=0,
    )


@dataclasses.dataclass(frozen=True)
class DecoderConfig:
    """The autoregressive text decoder."""

    hidden_dim: int = integer(
        512, "Width of the decoder, of the pooled tokens and of the temporal network."
    )
    num_layers: int = integer(4, "Transformer layers of the decoder.")
    num_heads: int = integer(8, "Attention heads of each decoder layer.")
    ff_dim: int = integer(1024, "Hidden width of each decoder layer's feed-forward network.")
    dropout: float = rate(0.1, "Dropout of the decoder.")
    max_len: int = integer(100, "Longest text in tokens, BOS and EOS included.", least=3)
    final_norm: bool = plain(
        False, "Adds a LayerNorm after the last layer, which the reference system lacks."
    )
    memory: str = choice(
        ("queries", "frames"), "Input of the decoder's cross-attention: pooled tokens or frames."
    )
    gloss_memory: bool = plain(
        False,
        "The decoder also learns to translate glosses, and searches read those that CTC spells; "
        "for `ctc.target` gloss. With the target auto it is off where the data has no glosses.",
    )
    gloss_corruption: float = rate(
        0.1,
        "Rate at which training leaves out, replaces or inserts glosses of the gloss memory, as "
        "CTC may.",
    )


@dataclasses.dataclass(frozen=True)
class CTCConfig:
    """The CTC head."""

    source: str = choice(("queries", "frames"), "Input of the CTC head: pooled tokens or frames.")
    target: str = choice(
        ("text", "gloss", "auto"),
        "Label sequence of CTC; auto = glosses where the training split has them, else text.",
    )
    dropout: float = rate(0.1, "Dropout of the CTC head.")
    tied: bool = plain(
        False,
        "Where CTC spells text, the head's output matrix is the decoder's embedding.",
    )


@dataclasses.dataclass(frozen=True)
class ModelConfig:
    """The model, from frames to tokens."""

    encoder: EncoderConfig = dataclasses.field(default_factory=EncoderConfig)
    temporal: TemporalConfig = dataclasses.field(default_factory=TemporalConfig)
    decoder: DecoderConfig = dataclasses.field(default_factory=DecoderConfig)
    ctc: CTCConfig = dataclasses.field(default_factory=CTCConfig)
    init_from: str = model(
        "",
        "A trained model that the complete model starts from: a workdir, an export or "
        "hf://ORGANIZATION/NAME, of another data set too; empty = none.",
    )


@dataclasses.dataclass(frozen=True)
class DistillationConfig:
    """A teacher's terms of the loss; `signvit distill --teacher=...` sets `teacher`."""

    teacher: str = path("", "Workdir of the teacher; empty = no teacher.")
    temperature: float = positive(
        2.0, "Temperature of both models' distributions in the distillation losses."
    )
    decoder_weight: float = number(1.0, "Weight of the loss on the decoder's distributions.")
    ctc_weight: float = number(1.0, "Weight of the loss on the CTC head's distributions.")
    feature_weight: float = number(
        1.0, "Weight of the loss on the decoder's input: pooled tokens, or frames."
    )


@dataclasses.dataclass(frozen=True)
class TrainingConfig:
    """Optimization, checkpoints and validation."""

    batch_size: int = integer(
        16, "Clips per update over all devices and processes, accumulation included."
    )
    gradient_accumulation: int = integer(
        1, "Microbatches per update: the batch is split into this many, with the same result."
    )
    num_epochs: int = integer(200, "Passes over the training split.")
    min_steps: int = integer(
        0, "Least number of updates: a small data set gets more epochs than num_epochs.", least=0
    )
    encoder_lr: float = number(5e-5, "Peak learning rate of the backbone.")
    decoder_lr: float = number(1.5e-4, "Peak learning rate of all other parameters.")
    weight_decay: float = number(0.001, "Weight decay of AdamW.")
    weight_decay_on: str = choice(
        ("all", "matrices"),
        "Parameters that decay; matrices leaves out biases, norms, embeddings and positions.",
    )
    warmup_ratio: float = checked(
        0.05,
        "Share of the learning rates' cycle in which they rise.",
        "a number > 0 and < 1",
        lambda x: 0.0 < x < 1.0,
    )
    schedule_epochs: int = integer(
        0,
        "Length of the learning rates' one cycle, after which they stay constant; 0 = all epochs. "
        "Set to the epochs done so far, it resumes a finished run without raising its rates again.",
        least=0,
    )
    final_lr_ratio: float = number(
        0.0,
        "Learning rates at the end of the cycle, as a share of their peaks; 0 = 1 / 250,000.",
        most=1.0,
    )
    ctc_weight: float = number(0.3, "Weight of the CTC loss.")
    ce_weight: float = number(0.7, "Weight of the decoder's cross-entropy loss.")
    gloss_ce_weight: float = positive(
        0.5,
        "Weight of the cross-entropy of the text given the glosses; with "
        "`model.decoder.gloss_memory` alone.",
    )
    gloss_sentences: int = integer(
        1,
        "Sentences that the decoder learns to translate from glosses, for each clip of a batch, "
        "drawn from all clips with glosses; with `model.decoder.gloss_memory` alone.",
    )
    ctc_flat_start_steps: int = integer(
        0,
        "Steps of flat-start warm-up for CTC, with labels spread evenly over the clip; 0 = off.",
        least=0,
    )
    ctc_flat_start_ratio: float = number(
        0.0,
        "Least length of a flat start, as a share of the learning rates' cycle.",
        most=1.0,
    )
    ctc_flat_start_frames: str = choice(
        ("all", "moving"),
        "Frames over which a flat start spreads the labels: all of a clip, or from the first that "
        "moves to the last, for clips of single signs between rests. `moving` needs `ctc.source` "
        "to be frames.",
    )
    keypoint_weight: float = number(
        0.0,
        "Weight of the loss on keypoints, which a linear head predicts from the backbone's feature "
        "of each frame; needs data.keypoints. 0 = no such head.",
    )
    keypoint_steps: int = integer(
        0,
        "Steps after which the weight of the loss on keypoints has fallen, linearly, to 0; 0 = it "
        "does not fall.",
        least=0,
    )
    label_smoothing: float = rate(0.05, "Label smoothing of the decoder's cross-entropy.")
    max_grad_norm: float = positive(0.5, "Global norm to which gradients are clipped.")
    adam_moments: str = choice(
        ("float32", "bfloat16"),
        "Type of Adam's moments between steps; bfloat16 saves 4 of 12 bytes per parameter.",
    )
    patience: int = integer(
        30, "Epochs without a better best_metric until training stops; 0 = never.", least=0
    )
    save_every_n_epochs: int = integer(1, "Epochs between two checkpoints.")
    save_every_n_minutes: float = number(
        0.0, "Minutes between checkpoints within an epoch; 0 = only at the ends of epochs."
    )
    keep_last_n_checkpoints: int = integer(
        3, "Newest checkpoints that are kept, besides the best one."
    )
    eval_every_n_epochs: int = integer(1, "Epochs between two validations.")
    best_metric: str = choice(
        ("loss", "wer", "bleu4", "chrf"),
        "Validation metric of the best checkpoint and of patience; all but loss need greedy "
        "decoding.",
    )
    num_sample_predictions: int = integer(
        4, "Predictions that each validation writes to samples/.", least=0
    )
    use_amp: bool = plain(True, "Computes in bfloat16; parameters stay in float32.")
    ema_decay: float = rate(
        0.0, "Decay of averaged weights, which evaluation and translation then use; 0 = off."
    )
    remat: str = choice(
        ("none", "names", "dots", "full"),
        "What the backward pass computes again to save memory: none = nothing; names = what takes "
        "neither a matrix product nor attention; dots = all but the results of matrix products; "
        "full = everything.",
    )
    scan_layers: bool = plain(
        True,
        "Compiles the ViT's blocks as one loop; False unrolls them, which compiles more slowly "
        "and sometimes runs faster.",
    )
    distillation: DistillationConfig = dataclasses.field(default_factory=DistillationConfig)
    max_nonfinite_steps: int = integer(
        20, "Consecutive skipped updates (loss or gradient not finite) that end the run."
    )
    log_every_n_steps: int = integer(10, "Steps between two rows of metrics.")
    seed: int = checked(
        0,
        "Seed of the start values, of dropout, of augmentation and of the order of the clips.",
        "an integer from 0 to 2^63 - 1",
        lambda x: 0 <= x < 2**63,
    )


@dataclasses.dataclass(frozen=True)
class AugmentConfig:
    """Augmentation of training clips, drawn once per clip; strengths are largest deviations."""

    rotate: float = number(0.0, "Largest rotation, in degrees.", most=45.0)
    translate: float = number(0.0, "Largest shift, as a share of the image.", most=0.5)
    scale: float = number(0.0, "The image is scaled by 1 +- this.", most=0.9)
    brightness: float = number(0.0, "Brightness is multiplied by 1 +- this.", most=1.0)
    contrast: float = number(0.0, "Contrast is multiplied by 1 +- this.", most=1.0)
    saturation: float = number(0.0, "Saturation is multiplied by 1 +- this.", most=1.0)
    hue: float = number(0.0, "Largest change of hue, in turns of the color circle.", most=0.5)
    speed: float = number(0.0, "The clip is played 1 +- this times as fast.", most=0.9)
    frame_jitter: float = number(
        0.0,
        "Share of the gap between two sampled frames by which each of them may move.",
        most=1.0,
    )
    frame_drop: float = rate(0.0, "Largest share of the sampled frames that is left out.")
    mirror: bool = plain(
        False, "Mirrors half of the clips, which swaps the dominant hand: off unless asked for."
    )


@dataclasses.dataclass(frozen=True)
class DataConfig:
    """The data set and how clips are read from it."""

    name: str = plain("video_folder", "Name of a data set built under data_dir.")
    data_dir: str = path("data", "Folder of the built data sets.")
    num_frames: int = integer(16, "Largest number of frames that is taken of a clip.")
    image_size: int = integer(224, "Height and width of the model's input frames, in pixels.")
    train_split: str = plain("train", "Split that is trained on.")
    val_split: str = plain("validation", "Split that training validates on.")
    test_split: str = plain("test", "Split that eval scores by default.")
    sampling: str = choice(
        ("even", "rate", "segment"),
        "Frames taken of a clip: num_frames evenly spaced; or frame_rate per second and at most "
        "num_frames, where a longer clip is sampled more thinly (rate) or gives a piece at the "
        "full rate, in training at a random place and in evaluation its middle (segment).",
    )
    frame_rate: float = positive(12.5, "Frames per second of the samplings rate and segment.")
    frame_buckets: tuple[int, ...] = plain(
        (), "Clip lengths in frames that programs are compiled for; () = num_frames alone."
    )
    resize_mode: str = choice(
        ("squash", "pad", "crop"),
        "How a frame that is not square becomes image_size x image_size.",
    )
    mean: tuple[float, ...] = plain(
        (0.485, 0.456, 0.406), "Mean of red, green and blue that inputs are normalized with."
    )
    std: tuple[float, ...] = plain(
        (0.229, 0.224, 0.225),
        "Standard deviation of red, green and blue that inputs are normalized with.",
    )
    keypoints: str = choice(
        ("none", "auto", "required"),
        "Keypoints beside the frames of a batch: none; auto = if the data set was built with them; "
        "required = as auto, and an error for a data set without them.",
    )
    augment: AugmentConfig = dataclasses.field(default_factory=AugmentConfig)
    num_workers: int = integer(
        0, "Reading processes; 0 = threads of the training process.", least=0
    )
    sortagrad_epochs: int = integer(
        0,
        "First epochs in which clips come from the shortest to the longest (SortaGrad, Amodei et "
        "al. 2016).",
        least=0,
    )
    num_threads: int = integer(4, "Reading threads, without reading processes.")
    prefetch_batches: int = integer(4, "Batches that are read ahead.")


@dataclasses.dataclass(frozen=True)
class TokenizerConfig:
    """The vocabulary of the texts."""

    name: str = choice(
        ("bpe", "word", "bert"),
        "Kind of tokenizer: bpe and word are learned from the training text; bert reads "
        "vocab_file.",
    )
    vocab_file: str = path("", "A BERT vocab.txt, for the tokenizer bert.")
    vocab_size: int = integer(8000, "Largest size of a learned vocabulary.", least=8)
    min_frequency: int = integer(1, "Least frequency of a learned entry in the training text.")
    lowercase: bool = plain(True, "Lowercases texts before they are tokenized.")
    bos_id: int = integer(
        -1, "Expected id of BOS, checked against the tokenizer; -1 = not checked.", least=-1
    )
    eos_id: int = integer(
        -1, "Expected id of EOS, checked against the tokenizer; -1 = not checked.", least=-1
    )
    pad_id: int = integer(
        -1, "Expected id of PAD, checked against the tokenizer; -1 = not checked.", least=-1
    )


@dataclasses.dataclass(frozen=True)
class InferenceConfig:
    """Decoding, in translation and evaluation."""

    temperature: float = positive(1.0, "Temperature of the decoder sample.")
    top_k: int = integer(
        0, "The decoder sample draws from the k likeliest tokens; 0 = all.", least=0
    )
    top_p: float = checked(
        1.0,
        "The decoder sample draws from the likeliest tokens whose probabilities sum to this.",
        "a number > 0 and <= 1",
        lambda x: 0.0 < x <= 1.0,
    )
    beam_size: int = integer(4, "Width of the decoders beam and ctc_beam.")
    n_best: int = integer(
        1, "Hypotheses of beam and ctc_beam that are reported; at most beam_size."
    )
    length_penalty: float = number(1.0, "Exponent of the length in a hypothesis's score.")
    length_formula: str = choice(
        ("power", "gnmt"),
        "Length normalizer of n tokens: n^penalty, or ((5 + n) / 6)^penalty (Wu et al. 2016).",
    )
    ctc_weight: float = number(
        0.0, "Share of CTC in the score of beam; needs a CTC head that spells text.", most=1.0
    )
    gloss_weight: float = number(
        0.5,
        "Share of the glosses that CTC spells in the probability of each token, for models with "
        "`model.decoder.gloss_memory`; 0 = the decoder reads frames alone.",
        most=1.0,
    )
    lexicon_weight: float = number(
        0.0,
        "Weight of the word-gloss lexicon in the score of beam, which prefers words for the signs "
        "that CTC detects. The lexicon is learned from clips with glosses.",
    )
    no_repeat_ngram_size: int = integer(
        0, "No run of this many tokens occurs twice in a text; 0 = off.", least=0
    )
    min_confidence: float = number(
        0.0, "A text with less confidence than this is left out.", most=1.0
    )
    batch_size: int = integer(16, "Clips or windows that are decoded together.")
    max_clip_seconds: float = number(
        0.0,
        "A longer video is a recording, which is split where nobody signs; 0 = the longest clip "
        "that the model sees as densely as in training.",
    )
    window_seconds: float = number(
        0.0, "Longest window of a recording; 0 = as long as a clip may be."
    )
    window_overlap: float = rate(
        0.5, "Share of a window that the next one repeats where signing lasts longer than a window."
    )
    rest_seconds: float = positive(
        2.0,
        "A recording is split where CTC finds no sign for this long; seconds in which nothing "
        "moves count seven times.",
    )
    rest_detection: str = choice(
        ("auto", "motion"),
        "What shows rests: auto = CTC, or motion alone where CTC has not learned when signs are "
        "made; motion = motion alone, for models of a few takes of single signs.",
    )
    rest_evidence: float = number(
        0.7,
        "Where CTC's evidence of signing is lower, nobody signs and the text is empty; 0 = keep "
        "every text. The default is used only if validation measured the evidence of signed clips.",
    )


# sacreBLEU's names; auto is `char` where the references are mostly of scripts without spaces, else
# `13a`. ja-mecab and ko-mecab need sacrebleu[ja] and sacrebleu[ko].
TOKENIZATIONS = ("auto", "13a", "none", "char", "zh", "ja-mecab", "ko-mecab")


@dataclasses.dataclass(frozen=True)
class EvaluationConfig:
    """Scoring of texts: in validation, by `eval` and in its report."""

    tokenize: str = choice(
        TOKENIZATIONS,
        "How BLEU splits words, by sacreBLEU's names; auto = char where the references are mostly "
        "of scripts without spaces, else 13a.",
    )


@dataclasses.dataclass(frozen=True)
class MeshConfig:
    """Devices per axis of the mesh."""

    data: int = checked(
        -1,
        "Devices that split the batch; -1 = all that the other axes leave.",
        "-1 or an integer >= 1",
        lambda x: x == -1 or x >= 1,
    )
    fsdp: int = integer(1, "Devices that split the batch and shard the parameters.")
    tensor: int = integer(1, "Devices that shard the width of the layers and the vocabulary.")


@dataclasses.dataclass(frozen=True)
class Config:
    """The complete config of a run."""

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


def from_mapping(values: object) -> Config:
    """The typed config of nested mappings: a ConfigDict or parsed JSON.

    Keys left out take their defaults; earlier names of keys are accepted. Raises ConfigError.
    """
    config = build(Config, with_current_names(as_plain(values)), Config)
    check_together(config)
    return config


def to_json(config: Config) -> str:
    """The text of config.json: every key, under its current name."""
    return json.dumps(dataclasses.asdict(config), indent=2, sort_keys=True) + "\n"


def from_json(text: str) -> Config:
    """The config of a config.json, also one of an earlier release. Raises ConfigError."""
    try:
        values = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"config.json is not valid JSON: {error}") from error
    return from_mapping(without_old_limits(values))


def with_ctc_target(config: Config, target: str) -> Config:
    """The config with another `model.ctc.target`; with "text" the decoder has no gloss memory."""
    ctc = dataclasses.replace(config.model.ctc, target=target)
    decoder = config.model.decoder
    if target == "text":
        decoder = dataclasses.replace(decoder, gloss_memory=False)
    return dataclasses.replace(
        config, model=dataclasses.replace(config.model, ctc=ctc, decoder=decoder)
    )


def with_norm_epsilon(config: Config, epsilon: float) -> Config:
    """The config with another `model.encoder.norm_epsilon`."""
    encoder = dataclasses.replace(config.model.encoder, norm_epsilon=epsilon)
    return dataclasses.replace(config, model=dataclasses.replace(config.model, encoder=encoder))


def with_init_from(config: Config, path: str) -> Config:
    """The config with another `model.init_from`."""
    return dataclasses.replace(config, model=dataclasses.replace(config.model, init_from=path))


def with_teacher(config: Config, workdir: str) -> Config:
    """The config with another `training.distillation.teacher`."""
    distillation = dataclasses.replace(config.training.distillation, teacher=workdir)
    training = dataclasses.replace(config.training, distillation=distillation)
    return dataclasses.replace(config, training=training)


def without_local_paths(config: Config) -> Config:
    """The config as it may be shared: without folders and files of this machine.

    A key that holds one takes its default. Addresses on a model hub stay, and so does the name of
    `tokenizer.vocab_file` without its folder, for the tokenizer bert must have one.
    """
    shared = _with_default_paths(config)
    name = Path(config.tokenizer.vocab_file).name
    tokenizer = dataclasses.replace(shared.tokenizer, vocab_file=name)
    return dataclasses.replace(shared, tokenizer=tokenizer)


def _with_default_paths[Section: "DataclassInstance"](section: Section) -> Section:
    values: dict[str, object] = {}
    for field in dataclasses.fields(section):
        value = getattr(section, field.name)
        if dataclasses.is_dataclass(value) and not isinstance(value, type):
            values[field.name] = _with_default_paths(value)
        elif field.metadata.get("is_path") and not is_hub_address(str(value)):
            values[field.name] = field.default
    return dataclasses.replace(section, **values)


def key_differences(old: Config, new: Config) -> list[tuple[str, object, object]]:
    """(dotted key, old value, new value) for every key whose value differs."""
    before, after = flatten(dataclasses.asdict(old)), flatten(dataclasses.asdict(new))
    return [(key, before[key], after[key]) for key in after if before[key] != after[key]]
