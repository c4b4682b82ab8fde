"""Scripts that are written without spaces between words, and the units that a text is counted in.

A unit is a word where words stand between spaces, and one user-perceived character (an extended
grapheme cluster of UAX 29: a letter with its marks) where the script has no spaces. The scripts are
those in which a line may break without a space (UAX 14, classes ID, CJ, SA, AK and BA of Tibetan):
Hangul, Ethiopic and Vai, say, have word boundaries that are written, and are not among them.
"""

import itertools
from collections.abc import Iterable

import regex

UNSPACED_SCRIPTS = (
    *("Han", "Hiragana", "Katakana", "Bopomofo", "Yi", "Tangut", "Nushu"),
    *("Thai", "Lao", "Khmer", "Myanmar", "Tai_Le", "New_Tai_Lue", "Tai_Tham", "Tai_Viet"),
    *("Tibetan", "Javanese", "Balinese"),
)
# The long-vowel marks belong to Hiragana and Katakana alike and so to no script.
_LETTER = "[" + "".join(rf"\p{{{script}}}" for script in UNSPACED_SCRIPTS) + "\u30fc\uff70]"
# No space is written beside these either: the full-width marks of Chinese and Japanese.
_MARK = "[\u3001-\u3003\u3008-\u3011\u3014-\u301f\u30fb\uff01\uff08\uff09\uff0c\uff0e\uff1a\uff1b\uff1f\uff5e\uff61-\uff65]"
# A unit of a script without spaces; `regex` and Oniguruma (of `tokenizers`) both read the pattern.
UNSPACED_UNIT = rf"(?={_LETTER})\X|{_MARK}"

_letter = regex.compile(_LETTER)
_closed = regex.compile(f"{_LETTER}|{_MARK}")
_units = regex.compile(rf"{UNSPACED_UNIT}|(?:(?!{_LETTER}|{_MARK})\X)+")
_beside = regex.compile(rf"(?<={_LETTER}|{_MARK}) | (?={_LETTER}|{_MARK})")


def has_unspaced(text: str) -> bool:
    """Whether any character of the text belongs to a script without spaces."""
    return _letter.search(text) is not None


def mostly_unspaced(texts: Iterable[str]) -> bool:
    """Whether more than half of the units with a letter belong to scripts without spaces."""
    own = others = 0
    for unit in (unit for text in texts for unit in units(text)):
        if _letter.match(unit):
            own += 1
        elif any(map(str.isalpha, unit)):
            others += 1
    return own > others


def pieces(text: str, by_spaces: bool = False) -> list[str]:
    """The units of a text, a space at the front of each that has white space before it.

    `by_spaces` is for glosses: spaces set them apart in every script.

    The first has one where a text that went before would be set off by a space. So the pieces of
    texts that follow one another can be concatenated, and `"".join(pieces(text)).strip()` is the
    text with its white space collapsed.
    """
    if by_spaces:
        return [" " + word for word in text.split()]
    found: list[str] = []
    for word in text.split():
        inner = _units.findall(word) if _closed.search(word) else [word]
        space = " " if found or not _closed.match(word) else ""
        found += [space + inner[0], *inner[1:]]
    return found


def units(text: str, by_spaces: bool = False) -> list[str]:
    """The words and, of scripts without spaces, characters of a text: what errors are counted in."""
    return [piece.removeprefix(" ") for piece in pieces(text, by_spaces)]


def join_texts(texts: Iterable[str]) -> str:
    """Texts that follow one another as one, set off by spaces where their script has them."""
    return "".join(piece for text in texts for piece in pieces(text)).strip()


def join_units(parts: Iterable[str]) -> str:
    """The text of units: a space between two of them unless one borders on a script without spaces.

    Spaces that Chinese or Thai text had of its own are not known from units; `pieces` keeps them.
    """
    known = [part for part in parts if part]
    return "".join(" " * sets_apart(*pair) + pair[1] for pair in itertools.pairwise(["", *known]))


def sets_apart(before: str, after: str) -> bool:
    """Whether a space stands between two units that follow one another; none before the first."""
    open_before = before and not _letter.match(before) and not _closed.match(before[-1])
    return bool(open_before and after and not _closed.match(after))


def without_spaces_beside(text: str) -> str:
    """The text without spaces that border on a character of a script without spaces."""
    return _beside.sub("", text)
