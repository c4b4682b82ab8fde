"""Runs decoders over a split: every clip once, on all devices, text and confidence out."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh
from jaxtyping import PyTree

from signvit_jax.config import InferenceConfig
from signvit_jax.data.tokenizer import Tokenizer
from signvit_jax.decoding.decoders import DECODERS, Decoded, Decoder, SpecialIds
from signvit_jax.models.translator import SignTranslator
from signvit_jax.parallel.sharding import to_device


@dataclass(frozen=True)
class Hypothesis:
    """One clip's text by one decoder; `score` is the decoder's own, `confidence` the mean probability of its tokens, 0 to 1."""

    text: str
    tokens: tuple[int, ...]
    score: float
    confidence: float


class Predictor:
    """Compiled decoders: one program a decoder and clip length, shared by all batches of that shape."""

    def __init__(
        self,
        bind: Callable[[PyTree], SignTranslator],
        tokenizer: Tokenizer,
        ctc_tokenizer: Tokenizer,
        config: InferenceConfig,
        mesh: Mesh,
        decoders: Sequence[str],
    ):
        self.mesh = mesh
        self.tokenizers = {name: ctc_tokenizer if name == "ctc" else tokenizer for name in decoders}
        ids = SpecialIds(tokenizer.bos_id, tokenizer.eos_id)
        self._encode = jax.jit(lambda params, video, lengths: bind(params).encode(video, lengths))
        self._decode = {name: jax.jit(_program(bind, DECODERS[name], config, ids)) for name in decoders}

    def __call__(self, params: PyTree, batch: Mapping[str, np.ndarray], seed: int = 0) -> dict[str, list[Hypothesis]]:
        """Decoder name -> one hypothesis a row of the global batch; the clips are encoded once for all decoders."""
        on_device = to_device({name: batch[name] for name in ("video", "frame_lengths")}, self.mesh)
        encoded = self._encode(params, on_device["video"], on_device["frame_lengths"])
        decoded = {name: program(params, encoded, jax.random.key(seed)) for name, program in self._decode.items()}
        return {name: _texts(_fetch(found), self.tokenizers[name]) for name, found in decoded.items()}

    def predict_split(
        self,
        params: PyTree,
        batches: Iterable[Mapping[str, np.ndarray]],
        should_stop: Callable[[], bool] = lambda: False,
        on_batch: Callable[[int], None] = lambda clips: None,
    ) -> dict[int, dict[str, Hypothesis]]:
        """Position in the split -> decoder -> hypothesis, for the clips of all processes; ends early when `should_stop()`."""
        found: dict[int, dict[str, Hypothesis]] = {}
        for batch in batches:
            if should_stop():
                break
            by_decoder = self(params, batch)
            positions = _fetch(to_device({"index": batch["index"]}, self.mesh))["index"].tolist()
            for row, position in enumerate(positions):
                if position >= 0:
                    found[position] = {name: hypotheses[row] for name, hypotheses in by_decoder.items()}
            on_batch(sum(position >= 0 for position in positions))
        return dict(sorted(found.items()))


def _program(bind: Callable[[PyTree], SignTranslator], decoder: Decoder, config: InferenceConfig, ids: SpecialIds) -> Callable[..., Decoded]:
    return lambda params, encoded, key: decoder(bind(params), encoded, config, ids, key)


def _fetch(arrays: PyTree) -> PyTree:
    """Device arrays as numpy, the rows of other processes included."""
    if jax.process_count() > 1:
        arrays = multihost_utils.process_allgather(arrays, tiled=True)
    return jax.tree.map(np.asarray, arrays)


def _texts(decoded: Decoded, tokenizer: Tokenizer) -> list[Hypothesis]:
    rows = zip(decoded.tokens.tolist(), decoded.scores.tolist(), decoded.confidences.tolist())
    return [Hypothesis(tokenizer.decode(tokens), tuple(t for t in tokens if t), score, confidence) for tokens, score, confidence in rows]
