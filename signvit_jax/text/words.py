"""Words of a decoded text, with confidences computed from those of its tokens."""

from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

from signvit_jax.text import writing_systems


class Word(NamedTuple):
    """A word, or a character of a script without spaces."""

    text: str
    confidence: float  # mean probability of the tokens that spell it, 0 to 1
    space: bool = True  # whether a space separates it from the word before


def words_text(words: Iterable[Word]) -> str:
    """The text of the words, from one window or several consecutive ones."""
    return "".join(f" {word.text}" if word.space else word.text for word in words).strip()


def word_confidences(
    tokens: Sequence[int],
    confidences: Sequence[float],
    spell: Callable[[Sequence[int]], str],
    pieces: Callable[[str], list[str]] = writing_systems.pieces,
) -> tuple[Word, ...]:
    """The words of `spell(tokens)`, split by `pieces` (which gives separated words leading spaces).

    A token belongs to the last word of the text that ends with it. A token that adds no text
    belongs to no word.
    """
    words = pieces(spell(tokens))
    lengths = [len(pieces(spell(tokens[: count + 1]))) for count in range(len(tokens))]
    # A later token can merge words, as the t of "don ' t" does: use the least count from here on.
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
