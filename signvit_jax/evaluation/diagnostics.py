"""What a model sees in a clip: the labels that CTC reads over time, and the frames at which the decoder looks for each token."""

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int, PyTree, UInt8

from signvit_jax.decoding.ctc import BLANK, greedy_ctc
from signvit_jax.evaluation.scored_clips import HeatMap
from signvit_jax.models.translator import SignTranslator
from signvit_jax.text.tokenizer import Tokenizer

AttentionMapFn = Callable[[UInt8[np.ndarray, "t h w 3"], Sequence[int] | None], list[HeatMap]]


def make_attention_maps(
    bind: Callable[[PyTree], SignTranslator],
    params: PyTree,
    tokenizer: Tokenizer,
    ctc_tokenizer: Tokenizer,
    buckets: Sequence[int],
    max_len: int,
) -> AttentionMapFn:
    """A function of a clip's sampled frames and the decoder's token ids (without BOS and EOS) that draws both heat maps; one program a bucket.

    For None in place of token ids, of a decoder without cross-attention, CTC's heat map alone.
    """

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

    def look(frames: UInt8[np.ndarray, "t h w 3"], tokens: Sequence[int] | None) -> list[HeatMap]:
        bucket = next(length for length in buckets if len(frames) <= length)
        video = np.zeros((1, bucket, *frames.shape[1:]), np.uint8)
        video[0, : len(frames)] = frames
        said = [tokenizer.bos_id, *(tokens or ())][:max_len]
        given = np.zeros((1, max_len), np.int32)
        given[0, : len(said)] = said
        weights, probabilities, steps, spelled = jax.device_get(
            run(params, video, jnp.asarray([len(frames)]), given)
        )
        labels = spelled.ids[0, : spelled.lengths[0]].tolist()
        alignment = probabilities[0, : steps[0]].T[[*labels, BLANK]]
        ctc = HeatMap(
            "CTC: probability of each label",
            [*(_name(ctc_tokenizer, label) for label in labels), "blank"],
            alignment,
        )
        if tokens is None:
            return [ctc]
        # Position p of the decoder says token p + 1; the last one says EOS.
        names = [_name(tokenizer, token) for token in said[1:]]
        attention = weights[0, : len(names), : len(frames)]
        strongest = attention.max(initial=1e-9)
        return [
            ctc,
            HeatMap(
                "Decoder: where it looks for each token (darkest = the strongest)",
                names,
                attention / strongest,
            ),
        ]

    return look


def no_attention_maps(
    frames: UInt8[np.ndarray, "t h w 3"], tokens: Sequence[int] | None
) -> list[HeatMap]:
    """Of a model that cannot be looked into."""
    return []


def _name(tokenizer: Tokenizer, token: int) -> str:
    return tokenizer.tokens[token] if token < len(tokenizer.tokens) else str(token)
