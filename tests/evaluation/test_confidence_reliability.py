"""AUC and calibration error, compared with counts by hand, and what counts as right."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from signvit_jax.evaluation.confidence_reliability import BINS, is_right, reliability, right_words


@settings(max_examples=100, deadline=None)
@given(
    st.lists(
        st.tuples(st.sampled_from([0.0, 0.25, 0.5, 0.75, 1.0]), st.booleans()),
        min_size=1,
        max_size=30,
    )
)
def test_auc_is_the_share_of_correctly_ordered_pairs(examples):
    found = reliability(*zip(*examples))
    right = [confidence for confidence, is_correct in examples if is_correct]
    wrong = [confidence for confidence, is_correct in examples if not is_correct]
    pairs = [(a > b) + (a == b) / 2 for a in right for b in wrong]
    assert found.auc == (pytest.approx(np.mean(pairs)) if pairs else None)
    assert (found.examples, found.right) == (len(examples), len(right))


def test_calibration_error_is_the_mean_gap_of_ten_equal_bins():
    rng = np.random.default_rng(0)
    confidences = rng.random(200)
    right = rng.random(200) < 0.5
    order = np.argsort(confidences)
    gaps = [abs(confidences[part].mean() - right[part].mean()) for part in np.split(order, BINS)]
    found = reliability(confidences, right)
    assert found.ece == pytest.approx(np.mean(gaps))
    assert [confidence_bin.count for confidence_bin in found.bins] == [20] * BINS
    assert found.bins[-1].confidence == pytest.approx(confidences[order[-20:]].mean())
    assert found.bins[-1].right == pytest.approx(right[order[-20:]].mean())


def test_calibrated_confidences_have_little_calibration_error():
    rng = np.random.default_rng(1)
    confidences = rng.random(20_000)
    found = reliability(confidences, rng.random(20_000) < confidences)
    assert found.ece < 0.02 and found.ece_interval[0] <= found.ece_interval[1] < 0.03
    auc = 5 / 6  # the AUC if the probability of being right is uniform
    assert found.auc == pytest.approx(auc, abs=0.01)
    assert found.auc_interval[0] < auc < found.auc_interval[1]


def test_a_constant_excess_of_confidence_is_the_calibration_error():
    found = reliability([0.9] * 100, [True, False] * 50)
    assert found.ece == pytest.approx(0.4) and found.auc == 0.5


def test_the_bootstrap_draws_complete_clips():
    """If all words of a clip are right, or all are wrong, they count as much as one word."""
    rng = np.random.default_rng(2)
    confidences = rng.random(100)
    right = rng.random(100) < 0.5
    repeated = np.repeat(confidences, 10), np.repeat(right, 10)
    by_clip = reliability(*repeated, np.repeat(np.arange(100), 10))
    single = reliability(confidences, right)
    assert by_clip.auc_interval == pytest.approx(single.auc_interval, abs=0.03)
    by_word = reliability(*repeated)
    assert np.diff(by_word.auc_interval) < 0.5 * np.diff(by_clip.auc_interval)


def test_without_wrong_examples_there_is_no_auc():
    found = reliability([0.9, 0.8], [True, True])
    assert found.auc is None and found.auc_interval is None and found.ece == pytest.approx(0.15)


def test_without_examples_there_are_no_measures():
    found = reliability([], [])
    assert (found.examples, found.auc, found.ece, found.bins) == (0, None, None, ())


def test_a_sentence_is_right_if_all_letters_match_after_nfc():
    assert is_right("cafe\u0301  now", "café now")
    assert not is_right("Rain", "rain") and is_right("Rain", "rain", lowercase=True)
    assert not is_right("rain.", "rain")


def test_a_word_is_right_where_the_alignment_matches_it():
    assert right_words("the big red house", ["the", "red", "horse"]) == [True, True, False]
    assert right_words("", ["so"]) == [False] and right_words("so", []) == []
    assert right_words("cafe\u0301", ["café"]) == [True]
