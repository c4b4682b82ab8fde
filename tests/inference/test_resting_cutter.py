"""The detection of rest, and the splitting of videos at rests."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from signvit_jax.inference.resting import (
    CtcSign,
    Cutter,
    Sign,
    block_means,
    evidence,
    is_frozen,
    is_new_shot,
    motion,
)


def cutter(**options: float) -> Cutter:
    return Cutter(**({"max_seconds": 6.0, "overlap": 0.5, "rest_seconds": 2.0} | options))


def cutter_with(
    signs: list[tuple[float, float]],
    until: float,
    still: tuple[float, float] = (0.0, 0.0),
    **options: float,
) -> Cutter:
    """Return a cutter that has got all signs up to `until` at once; hands move except in `still`.

    Times are in seconds: (start, end).
    """
    filled = cutter(**options)
    for second in np.arange(0.1, until, 0.1):
        is_still = still[0] < second <= still[1] + 1e-6
        filled.add_motion(float(second), 1.0 if is_still else 50.0)
    filled.add_signs([Sign(*sign) for sign in signs], 0.0, until)
    return filled


def test_a_long_rest_splits_the_video():
    pieces = cutter_with([(1.0, 1.4), (1.8, 2.2), (6.0, 6.4)], 7.0).pieces(ended=True)
    assert [piece.start for piece in pieces] == pytest.approx([0.2, 5.2])
    assert [piece.end for piece in pieces] == pytest.approx([2.8, 7.0])


def test_a_short_gap_is_a_rest_if_hands_are_still():
    signs = [(0.5, 0.9), (1.1, 1.5), (2.1, 2.5)]
    assert len(cutter_with(signs, 3.0).pieces(ended=True)) == 1
    first, second = cutter_with(signs, 3.0, still=(1.6, 2.0)).pieces(ended=True)
    assert 1.6 <= first.end <= 2.0 and first.end <= second.start <= 2.0


def test_a_sign_that_ctc_finds_while_hands_are_still_is_ignored():
    signs = [(0.5, 0.9), (1.1, 1.5), (3.0, 3.3)]
    (piece,) = cutter_with(signs, 4.0, still=(1.8, 4.0)).pieces(ended=True)
    assert piece.end <= 2.1


def test_a_piece_is_final_only_after_its_rest():
    live = cutter_with([(0.5, 0.9), (1.1, 1.5)], 2.0)
    assert live.pieces() == []
    live.add_signs([Sign(0.5, 0.9), Sign(1.1, 1.5)], 0.0, 3.6)
    (piece,) = live.pieces()
    assert piece.end == pytest.approx(2.1)
    assert live.pieces(ended=True) == []


def test_long_signing_is_split_at_its_longest_pause():
    signs = [(0.5 * n, 0.5 * n + 0.45) for n in range(1, 20)]
    windows = cutter_with(signs, 10.0).pieces(ended=True)
    assert [piece.overlaps_next for piece in windows] == [True, True, False]
    assert [piece.end - piece.start for piece in windows][:2] == pytest.approx([6.0, 6.0])
    assert windows[1].start == pytest.approx(windows[0].start + 3.0)
    paused = [sign if sign[0] < 4.0 else (sign[0] + 1.3, sign[1] + 1.3) for sign in signs]
    first, *_ = cutter_with(paused, 12.0).pieces(ended=True)
    assert 3.95 <= first.end <= 5.3 and not first.overlaps_next


@settings(max_examples=100, deadline=None)
@given(
    st.lists(st.tuples(st.floats(0.05, 4.0), st.floats(0.1, 1.5)), max_size=40),
    st.floats(0.0, 0.9),
    st.floats(2.0, 8.0),
)
def test_pieces_hold_every_sign_in_order_and_are_not_too_long(gaps, overlap, max_seconds):
    now = 0.0
    signs = []
    for gap, length in gaps:
        signs.append((now + gap, now + gap + length))
        now += gap + length
    filled = cutter_with(signs, now + 1.0, max_seconds=max_seconds, overlap=overlap)
    pieces = filled.pieces(ended=True)
    assert all(piece.end - piece.start <= max_seconds + 1e-6 for piece in pieces)
    for before, after in itertools.pairwise(pieces):
        assert before.start < after.start
        assert before.overlaps_next or before.end <= after.start + 1e-6
    for start, end in signs:
        assert any(piece.start - 1e-6 <= (start + end) / 2 <= piece.end + 1e-6 for piece in pieces)


@pytest.mark.parametrize(
    "before",
    [[(0.5, 0.9), (2.7, 3.1)], [(0.5, 0.9)]],
    ids=["found in both windows", "missed in the first window"],
)
def test_a_sign_at_the_border_of_two_windows_counts_once(before):
    filled = cutter()
    filled.add_signs([Sign(*sign) for sign in before], 0.0, 3.0)
    filled.add_signs([Sign(2.8, 3.15), Sign(4.0, 4.4)], 3.0, 6.0)
    assert len(filled._signs) == 3


def test_the_memory_of_the_cutter_does_not_grow_during_a_long_rest():
    filled = cutter()
    for second in range(1000):
        filled.add_motion(float(second), 50.0)
        filled.add_signs([], float(second), second + 1.0)
    assert filled.begin >= 1000.0 - 6.0 and len(filled._history._motions) <= 10


def test_evidence_is_highest_for_signs_in_succession():
    sign, following = CtcSign(4, 6, 0.99, 8.0), CtcSign(8, 10, 0.9, 6.0)
    distant = CtcSign(38, 40, 0.9, 6.0)
    assert evidence([]) == 0.0
    assert evidence([sign]) == pytest.approx(8.0 / 10)
    assert evidence([sign, following]) == pytest.approx(14.0 / 14)
    assert evidence([sign, distant]) < evidence([sign])


def test_noise_hands_and_new_shots_are_distinguished():
    rng = np.random.default_rng(0)
    still = np.full((64, 64, 3), 100, np.uint8)
    noisy = np.clip(still + rng.normal(0, 1.0, still.shape), 0, 255).astype(np.uint8)
    hand = still.copy()
    hand[20:28, 30:38] = 220
    assert motion(block_means(still), block_means(noisy)) < 2.0
    assert motion(block_means(still), block_means(hand)) > 20.0
    assert not is_new_shot(block_means(still), block_means(hand))
    assert is_new_shot(block_means(still), block_means(255 - hand))
    assert is_frozen([still, noisy, still])
    assert not is_frozen([still, hand, still])
    assert not is_frozen([still, still])
