"""Captions that people can read: few lines of limited width, on the screen for long enough."""

import collections
import dataclasses
import itertools
import math
from collections.abc import Sequence

from signvit_jax.captions.line_breaking import (
    Unit,
    break_lines,
    count_lines,
    line_text,
    units_of,
    width,
)
from signvit_jax.captions.segments import Cue, SubtitleError
from signvit_jax.captions.word_times import text_units, unit_begins

# Milliseconds by which a cue may begin before or after its signs, so that it and its neighbors can
# be read.
MOST_EARLY, MOST_LATE = 500, 1500
# Costs of a split: one per cue; the square of the unused share of its room, times _UNUSED_ROOM; and
# one for a cue that ends within a sentence or within a clause.
_CUE, _UNUSED_ROOM, _IN_SENTENCE, _IN_CLAUSE = 10.0, 4.0, 3.0, 8.0


@dataclasses.dataclass(frozen=True)
class CaptionLayout:
    """Limits on the lines and times of cues; None means no limit. Raises SubtitleError.

    Characters are counted as people see them, spaces included (Netflix: 42 a line and 17 a second
    in English, 16 a line and 9 a second in Chinese).
    """

    max_line_width: int | None = None  # characters
    max_line_count: int | None = None  # lines of a cue
    min_cue_seconds: float | None = None
    max_cue_seconds: float | None = None
    max_reading_speed: float | None = None  # characters per second

    def __post_init__(self):
        for name in ("max_line_width", "max_line_count"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise SubtitleError(f"{name} is {value}; allowed: an integer >= 1")
        for name in ("min_cue_seconds", "max_cue_seconds", "max_reading_speed"):
            value = getattr(self, name)
            if value is not None and not (math.isfinite(value) and value > 0):
                raise SubtitleError(f"{name} is {value}; allowed: a number > 0")
        if self.max_line_count is not None and self.max_line_width is None:
            raise SubtitleError(
                f"max_line_count is {self.max_line_count}, and without max_line_width a text has "
                "one line; give max_line_width too, such as 42"
            )
        shortest, longest = self.min_cue_seconds, self.max_cue_seconds
        if shortest is not None and longest is not None and shortest > longest:
            raise SubtitleError(
                f"min_cue_seconds is {shortest:g} and max_cue_seconds {longest:g}; "
                "allowed: a longest time that is not below the shortest"
            )

    @property
    def is_off(self) -> bool:
        """True if there is no limit."""
        return all(value is None for value in dataclasses.asdict(self).values())

    def needed(self, text: str) -> int:
        """Shortest time of a text on screen in milliseconds, >= 1; at most `max_cue_seconds`."""
        least = (self.min_cue_seconds or 0.0) * 1000
        if self.max_reading_speed is not None:
            least = max(least, width(text) / self.max_reading_speed * 1000)
        return max(min(math.ceil(least - 1e-6), self.longest), 1)

    @property
    def longest(self) -> int:
        """Most milliseconds of a cue."""
        seconds = self.max_cue_seconds
        return 1 << 60 if seconds is None else max(math.floor(seconds * 1000 + 1e-6), 1)


@dataclasses.dataclass(frozen=True)
class LayoutFaults:
    """Number of cues that exceed each limit of the layout, where nothing else was possible."""

    cues: int = 0  # of all
    too_fast: int = 0  # shorter than their text takes to read
    too_short: int = 0  # shorter than the shortest time
    too_long: int = 0  # more lines than allowed: there is no time to split them
    broken_words: int = 0  # words wider than a line, which are broken between letters

    def __add__(self, other: "LayoutFaults") -> "LayoutFaults":
        pairs = zip(dataclasses.astuple(self), dataclasses.astuple(other))
        return LayoutFaults(*(a + b for a, b in pairs))

    def sentences(self) -> list[str]:
        """One sentence for each kind of fault that there is."""
        texts = {
            "too_fast": "are on the screen for less time than they take to read: the signing is "
            "faster than max_reading_speed",
            "too_short": "are on the screen for less than min_cue_seconds: others follow at once",
            "too_long": "have more lines than max_line_count: there is no time to split them",
        }
        counts = dataclasses.asdict(self)
        lines = [
            f"{counts[name]:,} of {self.cues:,} cues {text}"
            for name, text in texts.items()
            if counts[name]
        ]
        if self.broken_words:
            lines.append(
                f"{self.broken_words:,} words are wider than max_line_width and were broken"
            )
        return lines


def lay_out(
    cues: Sequence[Cue], duration: float | None, layout: CaptionLayout
) -> tuple[list[Cue], LayoutFaults]:
    """Return cues with lines, split where a text is too long for one cue, and the faults left.

    `cues` are those of `segments.in_order`, `duration` the seconds of the video. A cue that needs
    more time stays on the screen until the next one begins, and neighbors make room: a cue begins
    at most MOST_EARLY before its signs and MOST_LATE after. Cues never overlap or outlast the
    video.
    """
    laid_out: list[Cue] = []
    counts: collections.Counter[str] = collections.Counter()
    for cue in cues:
        parts, num_broken = _split(cue, layout)
        laid_out += parts
        counts["broken_words"] += num_broken
    limit = None if duration is None else math.floor(duration * 1000)
    laid_out = _schedule(laid_out, limit, layout)
    for cue in laid_out:
        shown = cue.end - cue.start
        is_long = layout.max_line_count is not None and len(cue.lines) > layout.max_line_count
        only_reading_speed = dataclasses.replace(layout, min_cue_seconds=None, max_cue_seconds=None)
        counts["too_fast"] += shown < only_reading_speed.needed(cue.text)
        counts["too_short"] += shown < (layout.min_cue_seconds or 0.0) * 1000 - 1e-6
        counts["too_long"] += is_long
    return laid_out, LayoutFaults(cues=len(laid_out), **counts)


def _split(cue: Cue, layout: CaptionLayout) -> tuple[list[Cue], int]:
    """Return the parts of a cue that the layout allows, and the number of words broken."""
    pieces = text_units(cue)
    units, num_broken = units_of(pieces, layout.max_line_width)
    begins = unit_begins(cue, pieces)
    # The parts of a broken word have the same place, and so the same time.
    times = [begins[unit.place] for unit in units]
    bounds = _bounds(units, [*times, cue.end], layout)
    if len(bounds) - 1 > cue.end - cue.start:
        bounds = [0, len(units)]
    parts: list[Cue] = []
    for number, (first, last) in enumerate(itertools.pairwise(bounds)):
        num_following = len(bounds) - 2 - number  # each needs a millisecond at least
        start = cue.start
        if parts:
            start = min(max(times[first], parts[-1].start + 1), cue.end - 1 - num_following)
            parts[-1] = dataclasses.replace(parts[-1], end=start)
        part_units = units[first:last]
        lines = break_lines(part_units, layout.max_line_width)
        end_place = units[last].place if last < len(units) else len(pieces)
        words = ()
        if len(cue.words) == len(pieces):
            words = cue.words[part_units[0].place : end_place]
        parts.append(
            dataclasses.replace(
                cue,
                start=start,
                end=cue.end,
                text=line_text(part_units),
                words=words,
                lines=tuple(lines),
            )
        )
    return parts, num_broken


def _bounds(units: Sequence[Unit], times: Sequence[int], layout: CaptionLayout) -> list[int]:
    """Return [0, ..., number of units]: where a cue is split, at the least cost."""
    count = len(units)
    speed, seconds = layout.max_reading_speed, layout.max_cue_seconds
    max_characters = math.inf if speed is None or seconds is None else speed * seconds
    max_lines = layout.max_line_count or math.inf
    capacity = min(max_characters, max_lines * (layout.max_line_width or math.inf))

    def fits(first: int, last: int) -> bool:
        part = units[first:last]
        return (
            width(line_text(part)) <= max_characters
            and times[last] - times[first] <= layout.longest
            and (max_lines == math.inf or count_lines(part, layout.max_line_width) <= max_lines)
        )

    if fits(0, count) or count <= 1:
        return [0, count]
    # best[n]: the least cost of splitting the first n units, and where their last part begins
    best: list[tuple[float, int]] = [(0.0, 0)]
    for last in range(1, count + 1):
        cheapest: tuple[float, int] | None = None
        for first in range(last - 1, -1, -1):
            if last - first > 1 and not fits(first, last):
                break
            fill = 0.0 if capacity == math.inf else width(line_text(units[first:last])) / capacity
            cost = best[first][0] + _CUE + _UNUSED_ROOM * (1.0 - fill) ** 2
            cost += _break_cost(units[last - 1].text) if last < count else 0.0
            if cheapest is None or cost < cheapest[0]:
                cheapest = (cost, first)
        assert cheapest is not None  # a single unit always fits
        best.append(cheapest)
    bounds = [count]
    while bounds[-1]:
        bounds.append(best[bounds[-1]][1])
    return bounds[::-1]


def _break_cost(text: str) -> float:
    if text[-1] in ".!?。！？…؟।":
        return 0.0
    return _IN_SENTENCE if text[-1] in ",;:、，；：،؛" else _IN_CLAUSE


def _schedule(cues: Sequence[Cue], limit: int | None, layout: CaptionLayout) -> list[Cue]:
    """Move the cues so that each is on the screen for as long as it takes to read.

    `limit`: the video's end in milliseconds, None if not known. If all cues can have enough time
    without a move of more than MOST_EARLY or MOST_LATE, they get it; otherwise some are shorter.
    """
    count = len(cues)
    if not count:
        return []
    # 1 << 60 milliseconds for a video of unknown length: later than every cue.
    video_end = 1 << 60 if limit is None else limit
    needed = [layout.needed(cue.text) for cue in cues]
    # The earliest start of each cue, forward: not more than MOST_EARLY, and in order.
    earliest: list[int] = []
    for cue in cues:
        earliest.append(max(cue.start - MOST_EARLY, earliest[-1] + 1 if earliest else 0))
    # The latest start of each cue, backward: it leaves enough time for it and all later ones.
    latest = [0] * count
    following = video_end
    for number in reversed(range(count)):
        late = min(cues[number].start + MOST_LATE, video_end - (count - number))
        latest[number] = max(min(late, following - needed[number]), earliest[number])
        following = latest[number]
    # Each cue starts with its signs, if the one before it is read by then and it need not be
    # earlier.
    starts: list[int] = []
    for number, cue in enumerate(cues):
        previous_read = starts[-1] + needed[number - 1] if starts else 0
        starts.append(min(max(cue.start, previous_read), latest[number]))
    scheduled = []
    for number, (cue, start) in enumerate(zip(cues, starts)):
        next_start = starts[number + 1] if number + 1 < count else video_end
        end = min(max(cue.end, start + needed[number]), next_start, start + layout.longest)
        scheduled.append(dataclasses.replace(cue, start=start, end=end))
    return scheduled
