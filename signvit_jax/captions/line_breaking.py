"""Lines of captions: where a text may break, and which breaks make lines of similar length."""

import unicodedata
from collections.abc import Sequence
from typing import NamedTuple

import regex

_grapheme = regex.compile(r"\X")
# No line begins with these marks, and none ends with those (JIS X 4051 and GB/T 15834).
_CLOSING = frozenset("、。，．,.!?！？:;：；)]}）］｝〕〉》」』】〙〗…‥ー々・’”»›%％‰゛゜ゝゞヽヾ")
_OPENING = frozenset("([{（［｛〔〈《「『【〘〖‘“«‹¿¡$＄￥")
RIGHT_TO_LEFT_MARK = "\u200f"


class Unit(NamedTuple):
    """A part of a text that stays on one line."""

    text: str  # without the space in front of it
    space: bool  # whether a space separates it from the unit before, if they share a line
    place: int  # of its first piece in the text

    @property
    def width(self) -> int:
        return width(self.text)


def width(text: str) -> int:
    """Number of characters as people count them: extended grapheme clusters."""
    return len(text) if text.isascii() else len(_grapheme.findall(text))


def units_of(pieces: Sequence[str], max_width: int | None) -> tuple[list[Unit], int]:
    """Return the units of a text's `writing_systems.pieces`, and the number of words broken.

    Marks stay with the piece that they close or open, also if a space is between them as in French.
    A unit wider than `max_width` is broken between characters: no line is too wide.
    """
    units: list[Unit] = []
    for place, piece in enumerate(pieces):
        text, space = piece.removeprefix(" "), piece.startswith(" ")
        last = units[-1] if units else None
        joins = last is not None and (all(c in _CLOSING for c in text) or last.text[-1] in _OPENING)
        if joins and last is not None:
            joined = f"{last.text} {text}" if space else last.text + text
            if max_width is None or width(joined) <= max_width:
                units[-1] = last._replace(text=joined)
                continue
        units.append(Unit(text, space, place))
    if max_width is None:
        return units, 0
    fitting: list[Unit] = []
    num_broken = 0
    for unit in units:
        if unit.width <= max_width:
            fitting.append(unit)
            continue
        num_broken += 1
        letters = _grapheme.findall(unit.text)
        parts = (
            "".join(letters[i : i + max_width]).strip() for i in range(0, len(letters), max_width)
        )
        fitting += [
            Unit(part, unit.space and not number, unit.place)
            for number, part in enumerate(parts)
            if part
        ]
    return fitting, num_broken


def count_lines(units: Sequence[Unit], max_width: int | None) -> int:
    """Return the least number of lines that hold the units; no unit may be too wide."""
    if max_width is None:
        return 1
    lines, room = 0, -1
    for unit in units:
        needed = unit.width + unit.space
        if room >= needed:
            room -= needed
        else:
            lines, room = lines + 1, max_width - unit.width
    return lines


def break_lines(units: Sequence[Unit], max_width: int | None) -> list[str]:
    """Break the units into the least number of lines, of lengths as equal as possible.

    Among breaks of about the same quality, those after punctuation are taken.
    """
    num_lines = count_lines(units, max_width)
    if num_lines <= 1 or max_width is None:
        return [line_text(units)] if units else []
    count = len(units)
    # best[n][i]: the first i units in n lines: (least cost, number of units before the last line)
    best: list[dict[int, tuple[float, int]]] = [{0: (0.0, 0)}]
    for line in range(1, num_lines + 1):
        row: dict[int, tuple[float, int]] = {}
        for end in range(line, count + 1):
            used = -1
            for start in range(end - 1, -1, -1):
                used = units[start].width + (0 if used < 0 else units[start + 1].space + used)
                if used > max_width:
                    break
                if start not in best[line - 1]:
                    continue
                cost = best[line - 1][start][0] + (1.0 - used / max_width) ** 2
                if end < count and not _is_pause(units[end - 1].text):
                    cost += 0.05
                if end not in row or cost < row[end][0]:
                    row[end] = (cost, start)
        best.append(row)
    lines: list[str] = []
    end = count
    for line in range(num_lines, 0, -1):
        start = best[line][end][1]
        lines.append(line_text(units[start:end]))
        end = start
    return lines[::-1]


def line_text(units: Sequence[Unit]) -> str:
    """The units as one line."""
    return "".join(f" {unit.text}" if unit.space else unit.text for unit in units).strip()


def reads_right_to_left(text: str) -> bool:
    """Return True if most words of the text are written from right to left (Arabic, Hebrew, ...).

    The first letter of a word tells its direction. If half of the words are written from right to
    left, the first word decides.
    """
    right_to_left: list[bool] = []  # of each word that has a letter
    for word in text.split():
        directions = [unicodedata.bidirectional(character) for character in word]
        letters = [direction for direction in directions if direction in ("L", "R", "AL")]
        if letters:
            right_to_left.append(letters[0] != "L")
    balance = 2 * sum(right_to_left) - len(right_to_left)
    return balance > 0 or (balance == 0 and right_to_left[:1] == [True])


def with_direction_marks(line: str) -> str:
    """The line between right-to-left marks.

    Players take the direction of a line from its first letter. Without the marks, a Latin name or a
    full stop would be shown at the wrong end of an Arabic line.
    """
    return f"{RIGHT_TO_LEFT_MARK}{line}{RIGHT_TO_LEFT_MARK}"


def _is_pause(text: str) -> bool:
    return text[-1] in ",;:.!?、。，；：！？…،؛؟।"
