"""Joining what overlapping windows say: examples, and what holds for any windows."""

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from signvit_jax.decoding.subtitles import Segment
from signvit_jax.decoding.windows import join_windows
from signvit_jax.decoding.words import Word


def window(number: int, text: str, seconds: float = 6.0, hop: float = 3.0) -> Segment:
    words = tuple(Word(word, 0.5) for word in text.split())
    return Segment(number * hop, number * hop + seconds, text, -1.0 - number, 0.5, words)


def joined(*texts: str, longest: float = 12.0) -> list[tuple[float, float, str]]:
    found = join_windows([window(number, text) for number, text in enumerate(texts)], longest)
    return [(segment.start, segment.end, segment.text) for segment in found]


def test_a_sentence_seen_twice_is_said_once():
    assert joined("mother sleeps", "mother sleeps", "") == [(0, 9, "mother sleeps")]
    assert joined("mother sleeps", "Sleeps.") == [(0, 9, "mother sleeps")]
    assert joined("mother", "mother sleeps") == [(0, 9, "mother sleeps")]


def test_a_sentence_cut_by_a_window_is_put_together_where_both_say_the_same():
    assert joined("mother will buy a book", "a book tomorrow") == [(0, 9, "mother will buy a book tomorrow")]


def test_different_sentences_part_in_the_middle_of_the_overlap():
    assert joined("mother sleeps", "father eats") == [(0, 4.5, "mother sleeps"), (4.5, 9, "father eats")]


def test_rest_between_two_sentences_stays_empty():
    assert joined("mother sleeps", "", "", "father eats") == [(0, 6, "mother sleeps"), (9, 15, "father eats")]
    assert joined("", "", "") == []


def test_no_segment_grows_beyond_the_longest_and_words_are_still_said_once():
    assert joined("a b", "b c", "c d", longest=12.0) == [(0, 12, "a b c d")]
    assert joined("a b", "b c", "c d", longest=9.0) == [(0, 7.5, "a b c"), (7.5, 12, "d")]
    assert joined(*["again"] * 4, longest=9.0) == [(0, 7.5, "again"), (7.5, 15, "again")]


def test_a_joined_segment_has_the_confidence_of_its_words_and_the_lower_score():
    first, second = window(0, "a b"), window(1, "b c")
    second = Segment(second.start, second.end, "b c", -5.0, 0.9, (Word("b", 0.9), Word("c", 0.8)))
    (found,) = join_windows([first, second], 20.0)
    assert found.words == (Word("a", 0.5), Word("b", 0.5), Word("c", 0.8))
    assert found.confidence == pytest.approx(0.6) and found.score == -5.0


texts = st.lists(st.sampled_from(["a", "b", "c", "D.", "é"]), max_size=4).map(" ".join)


@settings(max_examples=100, deadline=None)
@given(st.lists(texts, max_size=12), st.sampled_from([(6.0, 3.0), (6.0, 5.4), (6.0, 0.6), (6.0, 6.0)]), st.sampled_from([6.0, 12.0, 60.0]))
def test_segments_follow_one_another_cover_what_was_signed_and_say_nothing_new(texts, shape, longest):
    windows = [window(number, text, *shape) for number, text in enumerate(texts)]
    found = join_windows(windows, longest)
    assert all(segment.start < segment.end and segment.text for segment in found)
    assert all(before.end <= after.start for before, after in itertools.pairwise(found))
    assert all(segment.end - segment.start <= longest + 1e-9 for segment in found)
    assert {word for segment in found for word in segment.text.split()} <= {word for text in texts for word in text.split()}
    assert [segment.text for segment in found] == [" ".join(word.text for word in segment.words) for segment in found]
    for signing in (window for window in windows if window.text):
        middle = (signing.start + signing.end) / 2
        assert any(segment.start <= middle <= segment.end for segment in found)
