"""Scripts written without spaces between words, and the units in which texts are counted.

A unit is a word where words stand between spaces, and one user-perceived character (an extended
grapheme cluster of UAX 29: a letter with its marks) where the script has no spaces. The scripts are
those in which a line may break without a space (UAX 14, classes ID, CJ, SA, AK and BA of Tibetan).
Hangul, Ethiopic and Vai are not among them, because they mark word boundaries.
"""

from collections.abc import Iterable

import regex

UNSPACED_SCRIPTS = (
    *("Han", "Hiragana", "Katakana", "Bopomofo", "Yi", "Tangut", "Nushu"),
    *("Thai", "Lao", "Khmer", "Myanmar", "Tai_Le", "New_Tai_Lue", "Tai_Tham", "Tai_Viet"),
    *("Tibetan", "Javanese", "Balinese"),
)
# The long-vowel marks belong to both Hiragana and Katakana, so Unicode assigns them no script.
_LETTER = "[" + "".join(rf"\p{{{script}}}" for script in UNSPACED_SCRIPTS) + "\u30fc\uff70]"
# No space is written beside the full-width marks of Chinese and Japanese either.
_MARK = (
    "[\u3001-\u3003\u3008-\u3011\u3014-\u301f\u30fb"
    "\uff01\uff08\uff09\uff0c\uff0e\uff1a\uff1b\uff1f\uff5e\uff61-\uff65]"
)
# A unit of a script without spaces; `regex` and Oniguruma (of `tokenizers`) both read the pattern.
UNSPACED_UNIT = rf"(?={_LETTER})\X|{_MARK}"

_letter = regex.compile(_LETTER)
_no_space_beside = regex.compile(f"{_LETTER}|{_MARK}")
_units = regex.compile(rf"{UNSPACED_UNIT}|(?:(?!{_LETTER}|{_MARK})\X)+")
_unwanted_spaces = regex.compile(rf"(?<={_LETTER}|{_MARK}) | (?={_LETTER}|{_MARK})")


def has_unspaced(text: str) -> bool:
    """Return True if any character of the text belongs to a script without spaces."""
    return _letter.search(text) is not None


def mostly_unspaced(texts: Iterable[str]) -> bool:
    """Return True if more than half of the units with a letter belong to scripts without spaces."""
    unspaced = spaced = 0
    for text in texts:
        for unit in units(text):
            if _letter.match(unit):
                unspaced += 1
            elif any(map(str.isalpha, unit)):
                spaced += 1
    return unspaced > spaced


def pieces(text: str, by_spaces: bool = False) -> list[str]:
    """The units of a text, each with a leading space if white space precedes it.

    `by_spaces` is for glosses, which spaces separate in every script.

    The first unit has a leading space where a space would separate it from an earlier text. So the
    pieces of consecutive texts can be concatenated, and `"".join(pieces(text)).strip()` is the text
    with its white space collapsed.
    """
    if by_spaces:
        return [" " + word for word in text.split()]
    found: list[str] = []
    for word in text.split():
        inner = _units.findall(word) if _no_space_beside.search(word) else [word]
        space = " " if found or not _no_space_beside.match(word) else ""
        found += [space + inner[0], *inner[1:]]
    return found


def units(text: str, by_spaces: bool = False) -> list[str]:
    """The words of a text, or its characters in scripts without spaces. Errors count units."""
    return [piece.removeprefix(" ") for piece in pieces(text, by_spaces)]


def join_texts(texts: Iterable[str]) -> str:
    """Consecutive texts as one, separated by spaces where their script has them."""
    return "".join(piece for text in texts for piece in pieces(text)).strip()


def join_units(parts: Iterable[str]) -> str:
    """The text of units, with a space between two unless either is of a script without spaces.

    Units do not show the spaces that Chinese or Thai text itself had; `pieces` keeps them.
    """
    text = before = ""
    for part in filter(None, parts):
        text += f" {part}" if sets_apart(before, part) else part
        before = part
    return text


def sets_apart(before: str, after: str) -> bool:
    """Return True if a space separates two consecutive units; `before` is empty for the first."""
    open_before = before and not _letter.match(before) and not _no_space_beside.match(before[-1])
    return bool(open_before and after and not _no_space_beside.match(after))


def without_spaces_beside(text: str) -> str:
    """The text without spaces next to characters of scripts without spaces."""
    return _unwanted_spaces.sub("", text)
