"""Token ids of all texts or gloss lines of a split: encoded once, padded in each batch."""

import dataclasses
import logging
from collections.abc import Sequence

import numpy as np
from jaxtyping import Int, Int32

from signvit_jax.data.dataset import Split
from signvit_jax.text.tokenizer import Tokenizer

log = logging.getLogger(__name__)

_ROUND_TO = 8  # padded lengths are multiples of this


@dataclasses.dataclass(frozen=True)
class TokenTable:
    """Concatenated ids, which are compact to send to reading processes.

    The last row is the empty text, for padding rows.
    """

    ids: Int32[np.ndarray, " total"]
    ends: Int[np.ndarray, " rows"]  # of each row in `ids`
    width: int  # padded length

    def write(self, i: int, out: Int32[np.ndarray, " width"]) -> int:
        """Write the ids of text `i` (-1: the empty text) to the front of `out`; return how many."""
        i %= len(self.ends)
        row = self.ids[self.ends[i - 1] if i else 0 : self.ends[i]]
        out[: len(row)] = row
        return len(row)


def text_table(tokenizer: Tokenizer, texts: Sequence[str], width: int, split: str) -> TokenTable:
    """Encode texts as BOS, ids, EOS; texts longer than `width` are truncated, with a warning."""
    bos, eos = tokenizer.bos_id, tokenizer.eos_id
    rows = [[bos, *ids, eos] for ids in tokenizer.encode_all([*texts, ""])]
    truncated = [row if len(row) <= width else [*row[: width - 1], eos] for row in rows]
    return _table(rows, truncated, width, f"texts of split {split!r}")


def gloss_table(tokenizer: Tokenizer, glosses: Sequence[str], width: int, split: str) -> TokenTable:
    """Encode gloss lines, without BOS and EOS; longer ones are truncated, with a warning."""
    rows = tokenizer.encode_all([*glosses, ""])
    return _table(rows, [row[:width] for row in rows], width, f"gloss lines of split {split!r}")


def padded_text_length(split: Split, tokenizer: Tokenizer, max_len: int) -> int:
    """Return the padded length of texts, at most `max_len`.

    It is the longest of the split with BOS and EOS, rounded up to a multiple of 8.
    """
    encoded = tokenizer.encode_all([entry.text for entry in split.index])
    longest = max((len(ids) for ids in encoded), default=0)
    return min(_round_up(longest + 2), max_len)


def padded_gloss_length(split: Split, gloss_tokenizer: Tokenizer) -> int:
    """Return the padded length of gloss lines: the longest, rounded up to a multiple of 8."""
    encoded = gloss_tokenizer.encode_all([entry.gloss for entry in split.index])
    return _round_up(max((len(ids) for ids in encoded), default=0))


def _table(rows: list[list[int]], truncated: list[list[int]], width: int, what: str) -> TokenTable:
    num_truncated = sum(len(row) > width for row in rows)
    if num_truncated:
        log.warning(
            "%d of %d %s have more than %d tokens (the longest %d) and were truncated; "
            "model.decoder.max_len and the longest training text set the limit",
            num_truncated,
            len(rows) - 1,
            what,
            width,
            max(map(len, rows)),
        )
    ids = np.fromiter((i for row in truncated for i in row), np.int32)
    return TokenTable(ids, np.cumsum([len(row) for row in truncated]), width)


def _round_up(length: int) -> int:
    return -(-max(length, 1) // _ROUND_TO) * _ROUND_TO
