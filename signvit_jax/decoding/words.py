"""How sure a decoder is of each word, from how sure it is of each token."""

from collections.abc import Callable, Sequence
from typing import NamedTuple


class Word(NamedTuple):
    text: str
    confidence: float  # mean probability of the tokens that spell it, 0 to 1


def word_confidences(tokens: Sequence[int], confidences: Sequence[float], spell: Callable[[Sequence[int]], str]) -> tuple[Word, ...]:
    """The words of `spell(tokens)`. A token belongs to the word at the end of the text that it completes, and one that adds no text to none."""
    words = spell(tokens).split()
    lengths = [len(spell(tokens[: count + 1]).split()) for count in range(len(tokens))]
    # A token can draw words together again, as the t of "don ' t" does: what counts is the fewest words from here on.
    for place in reversed(range(len(lengths) - 1)):
        lengths[place] = min(lengths[place], lengths[place + 1])
    spelt = [bool(spell([token]).strip()) for token in tokens]
    members: list[list[float]] = [[] for _ in words]
    for length, confidence, is_text in zip(lengths, confidences, spelt):
        if length and is_text:
            members[length - 1].append(confidence)
    return tuple(Word(word, sum(own) / len(own) if own else 0.0) for word, own in zip(words, members))
