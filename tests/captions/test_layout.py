"""Tests of caption layouts: the limits of every cue, and a comparison with all schedules."""

import dataclasses
import itertools
import math

import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from signvit_jax.captions.formats import Captions
from signvit_jax.captions.layout import MOST_EARLY, MOST_LATE, CaptionLayout, lay_out
from signvit_jax.captions.line_breaking import RIGHT_TO_LEFT_MARK, break_lines, units_of, width
from signvit_jax.captions.segments import Segment, SubtitleError, in_order
from signvit_jax.text.words import TimedWord
from signvit_jax.text.writing_systems import pieces

words = st.text(st.sampled_from("abcdefgé"), min_size=1, max_size=9) | st.sampled_from(
    [
        "Donaudampfschifffahrt",
        "now.",
        "well,",
        "東京へ行きました。",
        "「今日」は",
        "שלום",
        "ไทย",
        "🤟🏽",
    ]
)
texts = st.lists(words, min_size=1, max_size=25).map(" ".join)
times = st.floats(0, 100)
segments = st.lists(st.builds(Segment, times, times, texts), min_size=1, max_size=8)
layouts = st.builds(
    CaptionLayout,
    max_line_width=st.integers(2, 40),
    max_line_count=st.none() | st.integers(1, 3),
    min_cue_seconds=st.none() | st.floats(0.05, 2.0),
    max_cue_seconds=st.none() | st.floats(2.0, 8.0),
    max_reading_speed=st.none() | st.floats(5, 40),
)


def letters(text):
    return "".join(text.split())


@settings(max_examples=60, deadline=None)
@given(segments, layouts, st.none() | st.floats(0.001, 120))
@example([Segment(0.0, 0.004, "a b c d e f")], CaptionLayout(2, 1), 0.004)
def test_every_cue_keeps_the_limits_of_its_layout(given_segments, layout, end):
    before = in_order(given_segments, end)
    cues, faults = lay_out(before, end, layout)
    assert letters("".join(cue.text for cue in cues)) == letters("".join(c.text for c in before))
    assert all(letters("".join(cue.lines)) == letters(cue.text) for cue in cues)
    assert all(0 < width(line) <= layout.max_line_width for cue in cues for line in cue.lines)
    assert all(0 <= cue.start < cue.end for cue in cues)
    assert all(cue.end <= after.start for cue, after in itertools.pairwise(cues))
    if end is not None:
        assert all(cue.end <= end * 1000 for cue in cues)
    seconds = [(cue.end - cue.start) / 1000 for cue in cues]
    if layout.max_cue_seconds is not None:
        # Tolerance for the rounding of floats.
        assert max(seconds, default=0.0) <= layout.max_cue_seconds + 1e-9
    # Every violation of the layout is counted.
    too_short = [s < (layout.min_cue_seconds or 0.0) - 1e-9 for s in seconds]
    speeds = [width(cue.text) / s for cue, s in zip(cues, seconds)]
    too_fast = [speed > (layout.max_reading_speed or math.inf) * (1 + 1e-9) for speed in speeds]
    too_long = [len(cue.lines) > (layout.max_line_count or math.inf) for cue in cues]
    assert faults.cues == len(cues)
    assert (faults.too_short, faults.too_long) == (sum(too_short), sum(too_long))
    assert faults.too_fast == sum(too_fast)
    # A cue with too many lines is split, unless it has fewer milliseconds than parts.
    assert not any(too_long) or min(c.end - c.start for c in before) < 200


def can_schedule(starts, needed, video_end):
    """Return whether each cue can start near its given start and last the needed milliseconds."""
    previous_end = 0
    for start, need in zip(starts, needed):
        begin = max(previous_end, start - MOST_EARLY, 0)
        if begin > start + MOST_LATE:
            return False
        previous_end = begin + need
    return previous_end <= video_end


@settings(max_examples=100, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 12_000), st.integers(1, 20)), min_size=1, max_size=6),
    st.integers(12_001, 14_000),
)
def test_cues_have_time_to_be_read_whenever_their_neighbors_can_make_room(given_cues, end):
    given_cues = sorted(dict(given_cues).items())
    cues = in_order(
        [Segment(ms / 1000, ms / 1000, "x" * length) for ms, length in given_cues], end / 1000
    )
    layout = CaptionLayout(max_reading_speed=10)
    laid_out, faults = lay_out(cues, end / 1000, layout)
    needed = [layout.needed(cue.text) for cue in cues]
    possible = can_schedule([cue.start for cue in cues], needed, end)
    assert (faults.too_fast == 0) == possible
    assert all(
        cue.start - MOST_EARLY <= after.start <= cue.start + MOST_LATE
        for cue, after in zip(cues, laid_out)
    )


def test_cues_with_enough_time_are_not_moved():
    cues = in_order([Segment(1.0, 3.0, "hello"), Segment(5.0, 9.0, "you there")], 20.0)
    laid_out, faults = lay_out(cues, 20.0, CaptionLayout(42, 2, 1.0, 7.0, 17))
    assert [(cue.start, cue.end) for cue in laid_out] == [(1000, 3000), (5000, 9000)]
    assert faults.sentences() == []


def test_a_short_cue_stays_until_it_is_read_and_a_long_one_ends_early():
    cues = in_order([Segment(1.0, 1.2, "hello"), Segment(5.0, 15.0, "you")], 20.0)
    laid_out, _ = lay_out(cues, 20.0, CaptionLayout(min_cue_seconds=1.5, max_cue_seconds=7))
    assert [(cue.start, cue.end) for cue in laid_out] == [(1000, 2500), (5000, 12000)]


def test_a_long_text_is_split_at_sentences_and_by_the_times_of_its_words():
    text = "It rains. We stay at home, and read."
    starts = [0.0, 0.5, 4.0, 4.5, 5.0, 5.5, 6.0, 6.5]
    timed = [TimedWord(w, 1.0, True, s, s + 0.4) for w, s in zip(text.split(), starts)]
    cues = in_order([Segment(0.0, 7.0, text, words=tuple(timed))], 7.0)
    laid_out, _ = lay_out(cues, 7.0, CaptionLayout(26, 1))
    assert [(c.start, c.end, c.lines) for c in laid_out] == [
        (0, 4000, ("It rains.",)),
        (4000, 7000, ("We stay at home, and read.",)),
    ]
    assert [word.text for word in laid_out[1].words] == [
        "We",
        "stay",
        "at",
        "home,",
        "and",
        "read.",
    ]
    without_word_times = [dataclasses.replace(cues[0], words=())]
    parts, _ = lay_out(without_word_times, 7.0, CaptionLayout(26, 1))
    assert parts[0].end == round(7000 * 10 / 37)  # the split is proportional to length


@pytest.mark.parametrize(
    ("text", "most", "expected"),
    [
        ("one two three four", 10, ["one two", "three four"]),  # "three four" stays together
        ("aaaa bbbb cccc d", 14, ["aaaa bbbb", "cccc d"]),
        ("abcd, ef ghijk", 9, ["abcd,", "ef ghijk"]),  # not after "ef": a comma is better
        ("今日は東京へ行きました。", 6, ["今日は東京へ", "行きました。"]),
        ("はい。そうです", 2, ["は", "い。", "そう", "です"]),  # no line begins with a full stop
        ("「「「」」」", 4, ["「「「」", "」」"]),  # one unit, but wider than a line
        ("これ「本」です", 3, ["これ", "「本」", "です"]),  # no line ends with an opening mark
        ("« mot » et « non »", 8, ["« mot »", "et", "« non »"]),
    ],
)
def test_lines_break_by_the_rules_of_their_script(text, most, expected):
    assert break_lines(units_of(pieces(text), most)[0], most) == expected


@settings(max_examples=50, deadline=None)
@given(texts, st.integers(2, 20))
def test_no_other_breaks_need_fewer_lines(text, most):
    units, _ = units_of(pieces(text), most)
    assume(len(units) <= 9)
    lines = break_lines(units, most)

    def fits(cuts):
        """Return whether no line is too wide if the lines end before the units numbered `cuts`."""
        for first, end in itertools.pairwise((0, *cuts, len(units))):
            line = "".join(" " * unit.space + unit.text for unit in units[first:end])
            if width(line.removeprefix(" ")) > most:
                return False
        return True

    def can_have_lines(count):
        return any(map(fits, itertools.combinations(range(1, len(units)), count - 1)))

    counts = range(1, len(units) + 1)
    assert len(lines) == next(count for count in counts if can_have_lines(count))


def test_right_to_left_lines_keep_their_direction():
    text = "אני עובד ב Google Translate ובבית."
    captions = Captions([Segment(0.0, 2.0, text)], 2.0, layout=CaptionLayout(12))
    (cue,) = captions.shown
    assert all(line[0] == line[-1] == RIGHT_TO_LEFT_MARK for line in cue.lines)
    assert " ".join(line.strip(RIGHT_TO_LEFT_MARK) for line in cue.lines) == text
    # Files without a layout and left-to-right texts have no direction marks.
    assert RIGHT_TO_LEFT_MARK not in Captions([Segment(0.0, 2.0, text)], 2.0).as_format("srt")
    plain = Captions([Segment(0.0, 2.0, "hello")], 2.0, layout=CaptionLayout(12))
    assert RIGHT_TO_LEFT_MARK not in plain.as_format("vtt")


@pytest.mark.parametrize(
    ("values", "named"),
    [
        ({"max_line_width": 0}, "max_line_width is 0"),
        ({"max_line_count": 2}, "give max_line_width too"),
        ({"max_reading_speed": math.nan}, "max_reading_speed is nan"),
        ({"min_cue_seconds": 3, "max_cue_seconds": 2}, "min_cue_seconds is 3"),
    ],
)
def test_impossible_layouts_are_named(values, named):
    with pytest.raises(SubtitleError, match=named):
        CaptionLayout(**values)


def test_faults_are_sentences_with_counts():
    cues = in_order([Segment(0.0, 0.4, "much too long to read")], 0.5)
    _, faults = lay_out(cues, 0.5, CaptionLayout(8, 1, 1.0, None, 17))
    (fast, short) = faults.sentences()[:2]
    assert "of 3 cues are on the screen for less time" in fast and "min_cue_seconds" in short
