"""Sentences that the decoder learns to translate from their glosses alone, without a video."""

import dataclasses
import functools

import numpy as np
from jaxtyping import Int, Int32

from signvit_jax.data.token_table import TokenTable


@dataclasses.dataclass(frozen=True)
class SentenceDraws:
    """The sentences of each training step: as `per_clip` texts with their glosses for each clip.

    They are drawn from all annotated clips of the split, every one once before any again, in a
    random order that depends on the seed and the step alone.
    """

    texts: TokenTable
    glosses: TokenTable
    per_clip: int
    annotated: Int[np.ndarray, " n"]  # clips of the split with a gloss, or in which nobody signs
    seed: int

    def arrays(
        self, step: int, batch_size: int, rows: slice
    ) -> dict[str, Int32[np.ndarray, "..."]]:
        """Return the arrays of `rows` of the batch of a step, by their names in it."""
        first = (step * batch_size + rows.start) * self.per_clip
        drawn = self._drawn(first, (rows.stop - rows.start) * self.per_clip)
        tokens = np.zeros((len(drawn), self.texts.width), np.int32)
        glosses = np.zeros((len(drawn), self.glosses.width), np.int32)
        lengths = np.zeros(len(drawn), np.int32)
        for row, clip in enumerate(drawn.tolist()):
            self.texts.write(clip, tokens[row])
            lengths[row] = self.glosses.write(clip, glosses[row])

        def by_clip(values: Int32[np.ndarray, "..."]) -> Int32[np.ndarray, "..."]:
            return values.reshape(-1, self.per_clip, *values.shape[1:])

        return {
            "sentence_tokens": by_clip(tokens),
            "sentence_glosses": by_clip(glosses),
            "sentence_gloss_lengths": by_clip(lengths),
        }

    def _drawn(self, first: int, count: int) -> Int[np.ndarray, " count"]:
        """Return the clips at `count` places from `first` on, of all passes one after the other."""
        n = len(self.annotated)
        passes = range(first // n, (first + count - 1) // n + 1)
        orders = [_order(self.seed, number, n) for number in passes]
        start = first - passes.start * n
        return self.annotated[np.concatenate(orders)[start : start + count]]


@functools.lru_cache(maxsize=2)  # the steps of a pass share its order; a step can span two passes
def _order(seed: int, number: int, n: int) -> Int[np.ndarray, " n"]:
    """Return the order of the n annotated clips in a pass over them, counted from 0.

    The third number of the random seed is 0; it is at least 1 in those of the pipeline's clips.
    """
    return np.random.default_rng([seed, number, 0, 1]).permutation(n)
