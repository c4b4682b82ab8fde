"""The joining of texts of overlapping windows: examples, and properties of any windows."""

import dataclasses
import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from signvit_jax.captions.segments import Segment
from signvit_jax.inference.joining import Joiner, join_windows
from signvit_jax.text.words import Word, words_text


def window(number: int, text: str, seconds: float = 6.0, hop: float = 3.0) -> Segment:
    """Return the segment of the window `number`, without the times of its words."""
    words = tuple(Word(word, 0.5) for word in text.split())
    return Segment(number * hop, number * hop + seconds, text, -1.0 - number, 0.5, words)


def joined(*texts: str, max_seconds: float = 12.0) -> list[tuple[float, float, str]]:
    """Join windows with these texts; return (start, end, text) of each segment."""
    found = join_windows([window(number, text) for number, text in enumerate(texts)], max_seconds)
    return [(segment.start, segment.end, segment.text) for segment in found]


def test_a_sentence_in_two_windows_is_written_once():
    assert joined("mother sleeps", "mother sleeps", "") == [(0, 9, "mother sleeps")]
    assert joined("mother sleeps", "Sleeps.") == [(0, 9, "mother sleeps")]
    assert joined("mother", "mother sleeps") == [(0, 9, "mother sleeps")]


def test_a_sentence_across_windows_is_joined_at_common_words():
    assert joined("mother will buy a book", "a book tomorrow") == [
        (0, 9, "mother will buy a book tomorrow")
    ]


def test_different_sentences_split_in_the_middle_of_the_overlap():
    assert joined("mother sleeps", "father eats") == [
        (0, 4.5, "mother sleeps"),
        (4.5, 9, "father eats"),
    ]


def test_rest_between_two_sentences_stays_empty():
    assert joined("mother sleeps", "", "", "father eats") == [
        (0, 6, "mother sleeps"),
        (9, 15, "father eats"),
    ]
    assert joined("", "", "") == []


def test_segments_are_at_most_max_seconds_long_and_repeat_no_words():
    assert joined("a b", "b c", "c d", max_seconds=12.0) == [(0, 12, "a b c d")]
    assert joined("a b", "b c", "c d", max_seconds=9.0) == [(0, 7.5, "a b c"), (7.5, 12, "d")]
    assert joined(*["again"] * 4, max_seconds=9.0) == [(0, 7.5, "again"), (7.5, 15, "again")]


def test_a_joined_segment_has_the_lower_score():
    first, second = window(0, "a b"), window(1, "b c")
    second = Segment(second.start, second.end, "b c", -5.0, 0.9, (Word("b", 0.9), Word("c", 0.8)))
    (found,) = join_windows([first, second], 20.0)
    assert found.words == (Word("a", 0.5), Word("b", 0.5), Word("c", 0.8))
    assert found.confidence == pytest.approx(0.6) and found.score == -5.0


texts = st.lists(st.sampled_from(["a", "b", "c", "D.", "é"]), max_size=4).map(" ".join)


@settings(max_examples=100, deadline=None)
@given(
    st.lists(texts, max_size=12),
    st.sampled_from([(6.0, 3.0), (6.0, 5.4), (6.0, 0.6), (6.0, 6.0)]),
    st.sampled_from([6.0, 12.0, 60.0]),
)
def test_joined_segments_cover_the_signing_and_add_no_words(texts, shape, max_seconds):
    windows = [window(number, text, *shape) for number, text in enumerate(texts)]
    found = join_windows(windows, max_seconds)
    assert all(segment.start < segment.end and segment.text for segment in found)
    assert all(before.end <= after.start for before, after in itertools.pairwise(found))
    assert all(segment.end - segment.start <= max_seconds + 1e-9 for segment in found)
    assert {word for segment in found for word in segment.text.split()} <= {
        word for text in texts for word in text.split()
    }
    assert [segment.text for segment in found] == [
        " ".join(word.text for word in segment.words) for segment in found
    ]
    for signing in (window for window in windows if window.text):
        middle = (signing.start + signing.end) / 2
        assert any(segment.start <= middle <= segment.end for segment in found)


def timed(start: float, *timed_words: tuple[str, float], space: bool = True) -> Segment:
    """Return the segment of a window of six seconds from words and their times."""
    words = tuple(Word(text, 0.5, space) for text, _ in timed_words)
    times = tuple(second for _, second in timed_words)
    return Segment(start, start + 6.0, words_text(words), -1.0, 0.5, words, times=times)


def joined_texts(*windows: Segment) -> list[str]:
    return [segment.text for segment in join_windows(windows, 12.0)]


def test_a_wrong_word_in_the_overlap_repeats_no_words():
    first = timed(
        0.0, ("the", 0.5), ("cat", 2.0), ("sat", 3.3), ("on", 4.2), ("a", 5.0), ("ma", 5.9)
    )
    second = timed(3.0, ("set", 3.2), ("on", 4.3), ("a", 5.1), ("mat", 6.0), ("today", 7.5))
    assert joined_texts(first, second) == ["the cat sat on a mat today"]
    without_times = [dataclasses.replace(segment, times=()) for segment in (first, second)]
    assert joined_texts(*without_times) == ["the cat sat on a mat today"]


def test_a_word_that_is_signed_twice_is_written_twice():
    first = timed(0.0, ("no", 1.0), ("go", 3.2), ("go", 4.4), ("home", 5.6))
    second = timed(3.0, ("go", 3.3), ("go", 4.5), ("home", 5.7), ("home", 7.0))
    assert joined_texts(first, second) == ["no go go home home"]


def test_equal_words_far_apart_in_time_do_not_join_windows():
    first = timed(0.0, ("a", 0.5), ("b", 2.0), ("c", 3.5))
    second = timed(3.0, ("c", 8.8), ("d", 8.9))
    segments = join_windows([first, second], 12.0)
    assert [word.text for segment in segments for word in segment.words] == list("abccd")


def test_chinese_windows_are_joined_by_character():
    windows = []
    for start, text in ((0.0, "今天的天气是"), (3.0, "天气是很好的")):
        words = tuple(Word(character, 0.5, False) for character in text)
        windows.append(Segment(start, start + 6.0, text, -1.0, 0.5, words))
    assert joined_texts(*windows) == ["今天的天气是很好的"]


def test_words_at_one_end_of_a_window_are_joined_by_order():
    assert joined("i saw a big red house", "hat a big red house", max_seconds=12.0) == [
        (0, 9, "i saw a big red house")
    ]


def test_joining_live_windows_gives_new_words_as_soon_as_they_are_known():
    joiner = Joiner(0.0)
    texts = ["a b c d", "c d e f", "e f g h"]
    found = [
        segment.text
        for number, text in enumerate(texts)
        for segment in joiner.add(window(number, text))
    ]
    assert len(found) == 2
    found += [segment.text for segment in joiner.finish()]
    assert " ".join(found) == "a b c d e f g h"
