"""How sure a decoder is of each word, from how sure it is of each token."""

from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

from signvit_jax.text import scripts


class Word(NamedTuple):
    """A word or, of a script without spaces, a character."""

    text: str
    confidence: float  # mean probability of the tokens that spell it, 0 to 1
    space: bool = True  # whether a space sets it off from what is said before


def words_text(words: Iterable[Word]) -> str:
    """The text that the words spell, of one window or of several that follow one another."""
    return "".join(" " * word.space + word.text for word in words).strip()


def word_confidences(
    tokens: Sequence[int],
    confidences: Sequence[float],
    spell: Callable[[Sequence[int]], str],
    pieces: Callable[[str], list[str]] = scripts.pieces,
) -> tuple[Word, ...]:
    """The words of `spell(tokens)`, cut by `pieces` (a space at the front of what is set off).

    A token belongs to the word at the end of the text that it completes, and one that adds no text to none.
    """
    words = pieces(spell(tokens))
    lengths = [len(pieces(spell(tokens[: count + 1]))) for count in range(len(tokens))]
    # A token can draw words together again, as the t of "don ' t" does: what counts is the fewest words from here on.
    for place in reversed(range(len(lengths) - 1)):
        lengths[place] = min(lengths[place], lengths[place + 1])
    spelt = [bool(spell([token]).strip()) for token in tokens]
    members: list[list[float]] = [[] for _ in words]
    for length, confidence, is_text in zip(lengths, confidences, spelt):
        if length and is_text:
            members[length - 1].append(confidence)
    return tuple(
        Word(word.removeprefix(" "), sum(own) / len(own) if own else 0.0, word.startswith(" "))
        for word, own in zip(words, members)
    )
