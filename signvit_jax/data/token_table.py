"""The token ids of all texts (or gloss lines) of a split: encoded once, padded to one length when a batch is made."""

import dataclasses
import logging
from collections.abc import Sequence

import numpy as np
from jaxtyping import Int, Int32

from signvit_jax.data.dataset import Split
from signvit_jax.text.tokenizer import Tokenizer

logger = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class TokenTable:
    """Ids end to end, which is compact where the table travels to reading processes; the last row is the empty text, for filling rows."""

    ids: Int32[np.ndarray, " total"]
    ends: Int[np.ndarray, " rows"]
    width: int  # padded length
    num_truncated: int

    def write(self, i: int, out: Int32[np.ndarray, " width"]) -> int:
        """Writes the ids of text `i` (-1: the empty text) to the front of `out`; returns how many."""
        i %= len(self.ends)
        row = self.ids[self.ends[i - 1] if i else 0 : self.ends[i]]
        out[: len(row)] = row
        return len(row)


def text_table(tokenizer: Tokenizer, texts: Sequence[str], width: int, split: str) -> TokenTable:
    """BOS, ids, EOS of every text; those longer than `width` lose their ends, which is counted and logged."""
    rows = [
        [tokenizer.bos_id, *ids, tokenizer.eos_id] for ids in tokenizer.encode_all([*texts, ""])
    ]
    cut = [row if len(row) <= width else [*row[: width - 1], tokenizer.eos_id] for row in rows]
    return _table(rows, cut, width, f"texts of split {split!r}")


def gloss_table(tokenizer: Tokenizer, glosses: Sequence[str], width: int, split: str) -> TokenTable:
    """Ids of every gloss line, without BOS and EOS; those longer than `width` lose their ends, which is counted and logged."""
    rows = tokenizer.encode_all([*glosses, ""])
    return _table(rows, [row[:width] for row in rows], width, f"gloss lines of split {split!r}")


def padded_text_length(split: Split, tokenizer: Tokenizer, max_len: int) -> int:
    """Tokens that every text is padded to: the longest of the split with BOS and EOS, rounded up to a multiple of 8, at most `max_len`."""
    longest = max(
        (len(ids) for ids in tokenizer.encode_all([entry.text for entry in split.index])), default=0
    )
    return min(_round_up(longest + 2), max_len)


def padded_gloss_length(split: Split, gloss_tokenizer: Tokenizer) -> int:
    """Glosses that every clip is padded to: the most of any clip of the split, rounded up to a multiple of 8."""
    return _round_up(
        max(
            (
                len(ids)
                for ids in gloss_tokenizer.encode_all([entry.gloss for entry in split.index])
            ),
            default=0,
        )
    )


def _table(rows: list[list[int]], cut: list[list[int]], width: int, what: str) -> TokenTable:
    num_truncated = sum(len(row) > width for row in rows)
    if num_truncated:
        longest = max(map(len, rows))
        logger.warning(
            "%d of %d %s have more than %d tokens (the longest %d) and were cut; model.decoder.max_len and the longest training text set the limit",
            num_truncated,
            len(rows) - 1,
            what,
            width,
            longest,
        )
    ids = np.fromiter((i for row in cut for i in row), np.int32)
    return TokenTable(ids, np.cumsum([len(row) for row in cut]), width, num_truncated)


def _round_up(length: int) -> int:
    return -(-max(length, 1) // 8) * 8
