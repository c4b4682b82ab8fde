"""Tests of the times of words: from CTC's words and glosses, or proportional to word length."""

import copy
import json
import pickle

from hypothesis import given, settings
from hypothesis import strategies as st

from signvit_jax.captions.formats import Captions
from signvit_jax.captions.segments import Segment, in_order
from signvit_jax.captions.word_times import BY_LENGTH, FROM_CTC, unit_begins, word_spans
from signvit_jax.decoding.lexicon import learn_lexicon
from signvit_jax.decoding.sign_times import TimedUnit, with_times
from signvit_jax.text.words import TimedWord, Word


def words(text):
    return tuple(Word(word, 1.0) for word in text.split())


def times(found):
    """Return (text, start in seconds, or None for a word without times) of each word."""
    return [(word.text, getattr(word, "start", None)) for word in found]


def test_words_that_ctc_spelled_have_its_times():
    units = [TimedUnit("I", 0.2, 0.5), TimedUnit("see", 1.0, 1.4), TimedUnit("house", 2.0, 2.6)]
    found = with_times(words("I saw a House."), units, None)
    assert times(found) == [("I", 0.2), ("saw", None), ("a", None), ("House.", 2.0)]
    assert found[3].end == 2.6


def test_the_lexicon_gives_words_the_times_of_their_glosses_in_any_order():
    pairs = [
        (["YESTERDAY", "I", "SEE"], ["i", "saw", "yesterday"]),
        (["YESTERDAY", "I"], ["i", "yesterday"]),
        (["I", "SEE"], ["i", "saw"]),
        (["SEE"], ["saw"]),
    ] * 5
    # The keys of a lexicon are case-folded, as by `word_key`.
    lexicon = learn_lexicon(
        [([gloss.casefold() for gloss in glosses], texts) for glosses, texts in pairs]
    )
    units = [TimedUnit("YESTERDAY", 0.3, 0.6), TimedUnit("I", 1, 1.2), TimedUnit("SEE", 2, 2.5)]
    found = with_times(words("I saw it yesterday."), units, lexicon)
    assert times(found) == [("I", 1), ("saw", 2), ("it", None), ("yesterday.", 0.3)]


def test_a_word_takes_the_nearest_of_equal_glosses():
    pairs = [(["see", "dog", "see"], ["saw", "dogs", "saw"]), (["dog"], ["dogs"])] * 5
    units = [TimedUnit("SEE", 0, 1), TimedUnit("DOG", 1, 2), TimedUnit("SEE", 2, 3)]
    found = with_times(words("saw dogs saw"), units, learn_lexicon(pairs))
    assert times(found) == [("saw", 0), ("dogs", 1), ("saw", 2)]


def test_json_says_where_each_time_comes_from():
    timed = (Word("a", 0.9), TimedWord("bb", 0.9, True, 1.0, 1.5), Word("cc", 0.9))
    segment = Segment(0.0, 3.0, "a bb cc", words=timed)
    document = json.loads(Captions([segment], 3.0, word_times=True).as_format("json"))
    assert [
        (w["text"], w["start"], w["end"], w["timed_by"]) for w in document["segments"][0]["words"]
    ] == [("a", 0.0, 1.0, BY_LENGTH), ("bb", 1.0, 1.5, FROM_CTC), ("cc", 2.0, 3.0, BY_LENGTH)]
    without = json.loads(Captions([segment], 3.0).as_format("json"))
    assert without["segments"][0]["words"][1] == {"text": "bb", "confidence": 0.9}


starts = st.none() | st.floats(-1, 11)


@settings(max_examples=60, deadline=None)
@given(st.lists(starts, min_size=1, max_size=8))
def test_words_begin_in_order_and_lie_within_their_cue(given_starts):
    timed = tuple(
        Word("abc", 1.0) if start is None else TimedWord("abc", 1.0, True, start, start + 0.5)
        for start in given_starts
    )
    (cue,) = in_order([Segment(1.0, 9.0, " ".join(w.text for w in timed), words=timed)], 10.0)
    begins = unit_begins(cue, [" abc"] * len(timed))
    assert begins == sorted(begins) and begins[0] == 1000 and begins[-1] <= 9000
    spans = word_spans(cue)
    assert all(1000 <= span.start <= span.end <= 9000 for span in spans)
    assert [span.source == FROM_CTC for span in spans] == [s is not None for s in given_starts]
    known_starts = [start for start in given_starts if start is not None]
    # If the signs are in order, every signed word begins with its sign.
    if known_starts == sorted(known_starts) and given_starts[0] is None:
        assert all(
            begin == span.start for begin, span in zip(begins, spans) if span.source == FROM_CTC
        )


def test_a_timed_word_equals_its_word_and_copies_keep_its_times():
    word = TimedWord("a", 0.5, False, 1.0, 2.0)
    assert word == Word("a", 0.5, False) and tuple(word) == ("a", 0.5, False)
    for copied in (copy.deepcopy(word), pickle.loads(pickle.dumps(word))):
        assert (copied, copied.start, copied.end) == (word, 1.0, 2.0)
