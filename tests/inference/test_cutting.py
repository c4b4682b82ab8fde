"""When nobody signs, and where a recording is cut because of it."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from signvit_jax.inference.resting import (
    Cutter,
    Heard,
    Sign,
    blocks,
    evidence,
    is_frozen,
    is_other_shot,
    motion,
)


def cutter(**options: float) -> Cutter:
    return Cutter(**({"longest": 6.0, "overlap": 0.5, "rest_seconds": 2.0} | options))


def told(
    signs: list[tuple[float, float]],
    until: float,
    still: tuple[float, float] = (0.0, 0.0),
    **options: float,
) -> Cutter:
    """All told at once; hands move but in `still`."""
    found = cutter(**options)
    for at in np.arange(0.1, until, 0.1):
        found.see(float(at), 1.0 if still[0] < at <= still[1] + 1e-6 else 50.0)
    found.hear([Sign(*sign) for sign in signs], 0.0, until)
    return found


def test_a_long_rest_cuts_and_the_next_piece_begins_before_its_first_sign():
    pieces = told([(1.0, 1.4), (1.8, 2.2), (6.0, 6.4)], 7.0).pieces(ended=True)
    assert [piece.start for piece in pieces] == pytest.approx([0.2, 5.2])
    assert [piece.end for piece in pieces] == pytest.approx([2.8, 7.0])


def test_hands_that_do_not_move_make_a_short_gap_a_rest():
    signs = [(0.5, 0.9), (1.1, 1.5), (2.1, 2.5)]
    assert len(told(signs, 3.0).pieces(ended=True)) == 1
    one, other = told(signs, 3.0, still=(1.6, 2.0)).pieces(ended=True)
    assert 1.6 <= one.end <= 2.0 and one.end <= other.start <= 2.0


def test_what_ctc_hears_in_hands_that_do_not_move_is_no_sign():
    (piece,) = told([(0.5, 0.9), (1.1, 1.5), (3.0, 3.3)], 4.0, still=(1.8, 4.0)).pieces(ended=True)
    assert piece.end <= 2.1


def test_nothing_is_certain_before_its_rest_is_over():
    live = told([(0.5, 0.9), (1.1, 1.5)], 2.0)
    assert live.pieces() == []
    live.hear([Sign(0.5, 0.9), Sign(1.1, 1.5)], 0.0, 3.6)
    (piece,) = live.pieces()
    assert piece.end == pytest.approx(2.1)
    assert live.pieces(ended=True) == []


def test_long_signing_is_cut_at_its_longest_pause_if_it_has_one_else_in_windows():
    signs = [(0.5 * n, 0.5 * n + 0.45) for n in range(1, 20)]
    windows = told(signs, 10.0).pieces(ended=True)
    assert [piece.goes_on for piece in windows] == [True, True, False]
    assert [piece.end - piece.start for piece in windows][:2] == pytest.approx([6.0, 6.0])
    assert windows[1].start == pytest.approx(windows[0].start + 3.0)
    paused = [sign if sign[0] < 4.0 else (sign[0] + 1.3, sign[1] + 1.3) for sign in signs]
    first, *_ = told(paused, 12.0).pieces(ended=True)
    assert 3.95 <= first.end <= 5.3 and not first.goes_on


@settings(max_examples=100, deadline=None)
@given(
    st.lists(st.tuples(st.floats(0.05, 4.0), st.floats(0.1, 1.5)), max_size=40),
    st.floats(0.0, 0.9),
    st.floats(2.0, 8.0),
)
def test_every_sign_is_in_a_piece_none_is_too_long_and_they_are_in_order(gaps, overlap, longest):
    now, signs = 0.0, []
    for gap, length in gaps:
        signs.append((now + gap, now + gap + length))
        now += gap + length
    pieces = told(signs, now + 1.0, longest=longest, overlap=overlap).pieces(ended=True)
    assert all(piece.end - piece.start <= longest + 1e-6 for piece in pieces)
    for before, after in itertools.pairwise(pieces):
        assert before.start < after.start and (before.goes_on or before.end <= after.start + 1e-6)
    for start, end in signs:
        assert any(piece.start - 1e-6 <= (start + end) / 2 <= piece.end + 1e-6 for piece in pieces)


@pytest.mark.parametrize(
    "before", [[(0.5, 0.9), (2.7, 3.1)], [(0.5, 0.9)]], ids=["heard twice", "missed by the first"]
)
def test_a_sign_at_the_border_of_two_windows_is_there_once(before):
    found = cutter()
    found.hear([Sign(*sign) for sign in before], 0.0, 3.0)
    found.hear([Sign(2.8, 3.15), Sign(4.0, 4.4)], 3.0, 6.0)
    assert len(found._signs) == 3


def test_however_long_nobody_signs_nothing_old_is_waited_for():
    found = cutter()
    for second in range(1000):
        found.see(float(second), 50.0)
        found.hear([], float(second), second + 1.0)
    assert found.begin >= 1000.0 - 6.0 and len(found._motions) <= 10


def test_evidence_is_that_of_signs_one_after_the_other():
    one, two = Heard(4, 6, 0.99, 8.0), Heard(8, 10, 0.9, 6.0)
    assert evidence([]) == 0.0
    assert evidence([one]) == pytest.approx(8.0 / 10)
    assert evidence([one, two]) == pytest.approx(14.0 / 14)
    assert evidence([one, Heard(38, 40, 0.9, 6.0)]) < evidence(
        [one]
    )  # two that are far apart are less than one


def test_noise_is_no_motion_a_hand_is_and_a_cut_of_the_film_is_another_shot():
    rng = np.random.default_rng(0)
    still = np.full((64, 64, 3), 100, np.uint8)
    noisy = np.clip(still + rng.normal(0, 1.0, still.shape), 0, 255).astype(np.uint8)
    hand = still.copy()
    hand[20:28, 30:38] = 220
    assert motion(blocks(still), blocks(noisy)) < 2.0 < 20.0 < motion(blocks(still), blocks(hand))
    assert not is_other_shot(blocks(still), blocks(hand)) and is_other_shot(
        blocks(still), blocks(255 - hand)
    )
    assert (
        is_frozen([still, noisy, still])
        and not is_frozen([still, hand, still])
        and not is_frozen([still, still])
    )
