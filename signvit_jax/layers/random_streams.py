"""Random streams by name: each use of randomness in a module folds its own number into the key."""

from typing import overload

import jax
from jaxtyping import Array, Int, Key

# The number of each stream within its module. A change of a number changes the random numbers of
# every run, so a new stream takes a number that its module does not use yet. A stream that repeats
# (per layer, per chunk) is last in its module, or the next one starts after its last index.
STREAMS = {
    # optimization.losses.outputs, from the key of a microbatch
    "step.encoder": 0,
    "step.decoder": 1,
    "step.ctc_head": 2,
    "step.glosses": 3,
    # models.translator.VideoEncoder
    "encoder.backbone": 0,
    "encoder.temporal": 1,
    "encoder.pooling": 2,
    "encoder.hands": 3,
    # models.hand_crops.HandCrops
    "crops.hands": 0,
    "crops.face": 1,
    "crops.dropout": 2,
    # backbones.vit.DenseViT; with frames in chunks the key of a chunk takes the module's place
    "vit.chunk": 0,  # + chunk
    "vit.block": 0,  # + layer
    "vit.embedding_dropout": 0,  # + number of layers
    "vit.patch_drop": 1,  # + number of layers
    # layers.transformer.TransformerBlock
    "block.attention_dropout": 0,
    "block.attention_branch": 1,
    "block.attention_drop_path": 2,
    "block.feed_forward_dropout": 3,
    "block.feed_forward_branch": 4,
    "block.feed_forward_drop_path": 5,
    # models.temporal.TemporalNetwork
    "temporal.input_dropout": 0,
    "temporal.conv": 1,  # + layer
    "temporal.attention": 1,  # + number of convolutions + layer
    # models.pooling.AttentionPooling
    "pooling.attention_dropout": 0,
    "pooling.attention_branch": 1,
    "pooling.feed_forward_dropout": 2,
    "pooling.refinement_dropout": 3,
    # models.translator.SignTranslator.gloss_logits
    "glosses.encoder": 0,
    "glosses.decoder": 1,
    # models.gloss_encoder.GlossEncoder
    "gloss_encoder.corruption": 0,
    "gloss_encoder.dropout": 1,
    "gloss_encoder.block": 2,
    # models.decoder.TextDecoder
    "decoder.layer": 0,  # + layer
    "decoder.embedding_dropout": 0,  # + number of layers
    # models.decoder.DecoderLayer
    "decoder_layer.self_attention_dropout": 0,
    "decoder_layer.self_attention_branch": 1,
    "decoder_layer.cross_attention_dropout": 2,
    "decoder_layer.cross_attention_branch": 3,
    "decoder_layer.feed_forward_dropout": 4,
    "decoder_layer.feed_forward_branch": 5,
}


@overload
def fold(rng: Key[Array, ""], stream: str, index: int | Int[Array, ""] = 0) -> Key[Array, ""]: ...


@overload
def fold(rng: None, stream: str, index: int | Int[Array, ""] = 0) -> None: ...


@overload
def fold(
    rng: Key[Array, ""] | None, stream: str, index: int | Int[Array, ""] = 0
) -> Key[Array, ""] | None: ...


def fold(
    rng: Key[Array, ""] | None, stream: str, index: int | Int[Array, ""] = 0
) -> Key[Array, ""] | None:
    """Derive the key of a stream of `STREAMS`; `index` separates its repetitions.

    None (evaluation) stays None.
    """
    return None if rng is None else jax.random.fold_in(rng, STREAMS[stream] + index)
