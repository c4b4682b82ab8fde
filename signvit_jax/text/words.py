"""Words of a decoded text, with confidences computed from those of its tokens."""

from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

from signvit_jax.text import writing_systems


class Word(NamedTuple):
    """A word, or a character of a script without spaces."""

    text: str
    confidence: float  # mean probability of the tokens that spell it, 0 to 1
    space: bool = True  # whether a space separates it from the word before


class TimedWord(Word):
    """A word for a sign that CTC detected, from `start` to `end`, in seconds of the video.

    The times are attributes; the tuple itself has the fields of `Word` alone.
    """

    start: float
    end: float

    def __new__(
        cls,
        text: str,
        confidence: float,
        space: bool = True,
        start: float = 0.0,
        end: float = 0.0,
    ) -> "TimedWord":
        word = super().__new__(cls, text, confidence, space)
        word.start, word.end = start, end
        return word


def later(word: Word, seconds: float) -> Word:
    """Return the word with its times, if it has any, moved by some seconds."""
    if not isinstance(word, TimedWord):
        return word
    return TimedWord(*word, start=word.start + seconds, end=word.end + seconds)


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
    words, members = word_tokens(tokens, spell, pieces)
    return tuple(
        Word(
            word.removeprefix(" "),
            sum(confidences[place] for place in places) / len(places) if places else 0.0,
            word.startswith(" "),
        )
        for word, places in zip(words, members)
    )


def word_tokens(
    tokens: Sequence[int],
    spell: Callable[[Sequence[int]], str],
    pieces: Callable[[str], list[str]] = writing_systems.pieces,
) -> tuple[list[str], list[list[int]]]:
    """The words of `word_confidences`, and for each the places of its tokens in `tokens`."""
    words = pieces(spell(tokens))
    lengths = [len(pieces(spell(tokens[: count + 1]))) for count in range(len(tokens))]
    # A later token can merge words, as the t of "don ' t" does. So the number of words at a token
    # is the smallest count at this token or a later one.
    for place in reversed(range(len(lengths) - 1)):
        lengths[place] = min(lengths[place], lengths[place + 1])
    adds_text = [bool(spell([token]).strip()) for token in tokens]
    members: list[list[int]] = [[] for _ in words]
    for place, (length, is_text) in enumerate(zip(lengths, adds_text)):
        if length and is_text:
            members[length - 1].append(place)
    return words, members
