"""Word errors that splitting, joining and live captions add to those of a simulated model.

docs/recordings.md has the complete table.
"""

import itertools
import random

import pytest

from signvit_jax.config.schema import InferenceConfig
from tests.helpers import oracle

PAUSES = (0.0, 0.3, 0.5, 1.0, 2.0, 4.0)


@pytest.mark.parametrize("pauses", [False, True], ids=["without a rest", "with pauses"])
@pytest.mark.parametrize("times_off", [None, 0.3], ids=["without times", "times off by 0.3 s"])
@pytest.mark.parametrize("error", [0.0, 0.1, 0.2])
def test_joining_adds_at_most_four_points_of_word_errors(error, times_off, pauses):
    recording, within = oracle.simulated(2, 50.0, error, 20, pauses=pauses, times_off=times_off)
    assert recording <= within + 0.04


@pytest.mark.parametrize("times_off", [None, 0.3])
def test_chinese_is_joined_by_character_without_repetition(times_off):
    assert oracle.simulated(1, 60.0, 0.0, None, pauses=False, times_off=times_off)[0] == 0.0
    recording, within = oracle.simulated(1, 60.0, 0.1, None, pauses=False, times_off=times_off)
    assert recording <= within + 0.04


@pytest.mark.parametrize("pause", PAUSES)
def test_live_captions_of_a_perfect_recognizer_lose_no_word(pause):
    assert oracle.live_error(1, 45.0, pause, has_times=True) == 0.0


@pytest.mark.parametrize("has_times", [True, False])
@pytest.mark.parametrize("late", [3.0, 11.0])
def test_live_captions_that_are_read_late_lose_no_word(has_times, late):
    assert oracle.live_error(2, 45.0, 1.0, has_times=has_times, most_late=late) <= 0.01


@pytest.mark.parametrize("pause", PAUSES)
def test_live_captions_without_times_lose_at_most_one_percent_of_words(pause):
    assert oracle.live_error(2, 45.0, pause, has_times=False) <= 0.01


def test_a_recording_with_rests_is_recognized_sentence_by_sentence():
    rng = random.Random(1)
    vocabulary = [f"w{number}" for number in range(200)]
    script = oracle.sentences(rng, vocabulary, 60.0, lambda: 2.0)
    pieces = []  # (start, end) of the frames of each call, in seconds
    model = oracle.Oracle(script, vocabulary, 0.0, rng)
    recognize = model.recognize

    def record_piece(frames):
        pieces.append((oracle.seconds_of(frames[0]), oracle.seconds_of(frames[-1])))
        return recognize(frames)

    model.recognize = record_piece
    assert oracle.captioned(script, 60.0, model).split() == [sign.word for sign in script]
    rests = [
        (sign.end, following.start)
        for sign, following in itertools.pairwise(script)
        if following.start - sign.end > 1.0
    ]
    assert len(pieces) == len(rests) + 1
    for (before, after), (rest_start, rest_end) in zip(itertools.pairwise(pieces), rests):
        assert before[1] < rest_end and rest_start < after[0] + 0.5


def test_the_default_overlap_of_windows_is_a_half():
    assert InferenceConfig().window_overlap == 0.5  # the simulations use the same overlap
