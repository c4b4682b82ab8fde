"""The token ids of all texts (or gloss lines) of a split: encoded once, padded to one length when a batch is made."""

import dataclasses
import logging
from collections.abc import Sequence

import numpy as np
from jaxtyping import Int, Int32

from signvit_jax.data.tokenizer import Tokenizer

logger = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class TokenTable:
    """Ids end to end, which is compact where the table travels to reading processes; the last row is the empty text, for filling rows."""

    ids: Int32[np.ndarray, " total"]
    ends: Int[np.ndarray, " rows"]
    width: int  # padded length
    num_cut: int = 0

    def write(self, i: int, out: Int32[np.ndarray, " width"]) -> int:
        """Writes the ids of text `i` (-1: the empty text) to the front of `out`; returns how many."""
        i %= len(self.ends)
        row = self.ids[self.ends[i - 1] if i else 0 : self.ends[i]]
        out[: len(row)] = row
        return len(row)


def text_table(tokenizer: Tokenizer, texts: Sequence[str], width: int) -> TokenTable:
    """BOS, ids, EOS of every text; those longer than `width` lose their ends, which is counted and logged."""
    rows = [[tokenizer.bos_id, *ids, tokenizer.eos_id] for ids in tokenizer.encode_all([*texts, ""])]
    num_cut = sum(len(row) > width for row in rows)
    if num_cut:
        longest = max(map(len, rows))
        advice = "model.decoder.max_len and the longest training text set the limit"
        logger.warning("%d of %d texts have more than %d tokens (the longest %d) and were cut; %s", num_cut, len(texts), width, longest, advice)
    return _table([row if len(row) <= width else [*row[: width - 1], tokenizer.eos_id] for row in rows], width, num_cut)


def gloss_table(tokenizer: Tokenizer, glosses: Sequence[str]) -> TokenTable:
    """Ids of every gloss line, without BOS and EOS, as wide as the longest of them (in eights)."""
    rows = tokenizer.encode_all([*glosses, ""])
    return _table(rows, _round_up(max(map(len, rows))), num_cut=0)


def padded_length(tokenizer: Tokenizer, texts: Sequence[str], max_len: int) -> int:
    """Tokens that every text is padded to: the longest of `texts` with BOS and EOS, rounded up to a multiple of 8, at most `max_len`."""
    return min(_round_up(max(map(len, tokenizer.encode_all(texts)), default=0) + 2), max_len)


def _table(rows: Sequence[Sequence[int]], width: int, num_cut: int) -> TokenTable:
    ids = np.fromiter((i for row in rows for i in row), np.int32)
    return TokenTable(ids, np.cumsum([len(row) for row in rows]), width, num_cut)


def _round_up(length: int) -> int:
    return -(-max(length, 1) // 8) * 8
