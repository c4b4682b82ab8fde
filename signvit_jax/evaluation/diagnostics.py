"""Attention maps of a clip: CTC's labels over time, and the frames that each token attends to."""

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int, PyTree, UInt8

from signvit_jax.decoding.ctc import greedy_ctc
from signvit_jax.evaluation.scored_clips import HeatMap
from signvit_jax.models.ctc_loss import BLANK
from signvit_jax.models.translator import SignTranslator
from signvit_jax.text.tokenizer import Tokenizer

# Heat maps of a clip's sampled frames and the decoder's token ids, without BOS and EOS. With None
# for the ids (a decoder without cross-attention) only the heat map of CTC is returned.
AttentionMapFn = Callable[[UInt8[np.ndarray, "t h w 3"], Sequence[int] | None], list[HeatMap]]


def make_attention_maps(
    bind: Callable[[PyTree], SignTranslator],
    params: PyTree,
    tokenizer: Tokenizer,
    ctc_tokenizer: Tokenizer,
    buckets: Sequence[int],
    max_len: int,
) -> AttentionMapFn:
    """Return the function that computes both heat maps; it compiles one program per bucket."""

    @jax.jit
    def run(
        params: PyTree, video: Array, lengths: Int[Array, "1"], tokens: Int[Array, "1 l"]
    ) -> tuple[Array, ...]:
        model = bind(params)
        encoded = model.encode(video, lengths)
        logits, steps = model.ctc_logits(encoded)
        return (
            model.frame_weights(encoded, tokens),
            jax.nn.softmax(logits),
            steps,
            greedy_ctc(logits, steps),
        )

    def attention_maps(
        frames: UInt8[np.ndarray, "t h w 3"], ids: Sequence[int] | None
    ) -> list[HeatMap]:
        bucket = next(length for length in buckets if len(frames) <= length)
        video = np.zeros((1, bucket, *frames.shape[1:]), np.uint8)
        video[0, : len(frames)] = frames
        inputs = [tokenizer.bos_id, *(ids or ())][:max_len]
        tokens = np.zeros((1, max_len), np.int32)
        tokens[0, : len(inputs)] = inputs
        weights, probabilities, steps, ctc = jax.device_get(
            run(params, video, jnp.asarray([len(frames)]), tokens)
        )
        labels = ctc.ids[0, : ctc.lengths[0]].tolist()
        ctc_map = HeatMap(
            "CTC: probability of each label",
            [*(_name(ctc_tokenizer, label) for label in labels), "blank"],
            probabilities[0, : steps[0]].T[[*labels, BLANK]],
        )
        if ids is None:
            return [ctc_map]
        # The decoder outputs token p + 1 at position p; the output at the last position is EOS.
        names = [_name(tokenizer, token) for token in inputs[1:]]
        attention = weights[0, : len(names), : len(frames)]
        strongest = attention.max(initial=1e-9)
        attention_map = HeatMap(
            "Decoder: frames that each token attends to (darkest = the most)",
            names,
            attention / strongest,
        )
        return [ctc_map, attention_map]

    return attention_maps


def no_attention_maps(
    frames: UInt8[np.ndarray, "t h w 3"], ids: Sequence[int] | None
) -> list[HeatMap]:
    """Return no heat maps, for models without access to attention weights."""
    return []


def _name(tokenizer: Tokenizer, token: int) -> str:
    return tokenizer.tokens[token] if token < len(tokenizer.tokens) else str(token)
