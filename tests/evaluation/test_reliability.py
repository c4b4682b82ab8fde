"""AUC and calibration error against counting pairs and bins by hand, and what counts as right."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from signvit_jax.evaluation.reliability import BINS, is_right, reliability, right_words


@settings(max_examples=100, deadline=None)
@given(
    st.lists(
        st.tuples(st.sampled_from([0.0, 0.25, 0.5, 0.75, 1.0]), st.booleans()),
        min_size=1,
        max_size=30,
    )
)
def test_auc_is_the_share_of_pairs_in_which_the_right_one_is_surer(examples):
    found = reliability(*zip(*examples))
    pairs = [(a > b) + (a == b) / 2 for a, yes in examples if yes for b, no in examples if not no]
    assert found.auc == (pytest.approx(np.mean(pairs)) if pairs else None)
    assert (found.examples, found.right) == (len(examples), sum(yes for _, yes in examples))


def test_calibration_error_is_the_mean_gap_of_ten_bins_of_equal_count():
    rng = np.random.default_rng(0)
    confidences, right = rng.random(200), rng.random(200) < 0.5
    order = np.argsort(confidences)
    by_hand = [abs(confidences[part].mean() - right[part].mean()) for part in np.split(order, BINS)]
    found = reliability(confidences, right)
    assert found.ece == pytest.approx(np.mean(by_hand))
    assert [part.count for part in found.bins] == [20] * BINS
    assert found.bins[-1].confidence == pytest.approx(confidences[order[-20:]].mean())
    assert found.bins[-1].right == pytest.approx(right[order[-20:]].mean())


def test_confidences_that_say_how_often_they_are_right_have_little_calibration_error():
    rng = np.random.default_rng(1)
    confidences = rng.random(20_000)
    found = reliability(confidences, rng.random(20_000) < confidences)
    assert found.ece < 0.02 and found.ece_interval[0] <= found.ece_interval[1] < 0.03
    assert found.auc == pytest.approx(5 / 6, abs=0.01)  # of a uniform probability of being right
    assert found.auc_interval[0] < 5 / 6 < found.auc_interval[1]


def test_a_confidence_that_is_always_too_high_is_off_by_as_much():
    found = reliability([0.9] * 100, [True, False] * 50)
    assert found.ece == pytest.approx(0.4) and found.auc == 0.5


def test_the_interval_is_of_whole_clips():
    """Words of a clip that are right or wrong together say no more than one word does."""
    rng = np.random.default_rng(2)
    confidences, right = rng.random(100), rng.random(100) < 0.5
    tenfold = reliability(
        np.repeat(confidences, 10), np.repeat(right, 10), np.repeat(np.arange(100), 10)
    )
    alone = reliability(confidences, right)
    assert tenfold.auc_interval == pytest.approx(alone.auc_interval, abs=0.03)
    careless = reliability(np.repeat(confidences, 10), np.repeat(right, 10))
    assert np.diff(careless.auc_interval) < 0.5 * np.diff(tenfold.auc_interval)


def test_where_all_are_right_there_is_no_auc():
    found = reliability([0.9, 0.8], [True, True])
    assert found.auc is None and found.auc_interval is None and found.ece == pytest.approx(0.15)


def test_no_examples_have_no_figures():
    found = reliability([], [])
    assert (found.examples, found.auc, found.ece, found.bins) == (0, None, None, ())


def test_a_sentence_is_right_letter_for_letter_after_nfc():
    assert is_right("cafe\u0301  now", "café now")
    assert not is_right("Rain", "rain") and is_right("Rain", "rain", lowercase=True)
    assert not is_right("rain.", "rain")


def test_a_word_is_right_where_the_alignment_matches_it():
    assert right_words("the big red house", ["the", "red", "horse"]) == [True, True, False]
    assert right_words("", ["so"]) == [False] and right_words("so", []) == []
    assert right_words("cafe\u0301", ["café"]) == [True]
