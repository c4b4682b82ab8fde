"""Tests of contact sheets: which frames they show, and where."""

import numpy as np

from signvit_jax.media.contact_sheet import contact_sheet


def test_contact_sheet_runs_from_the_first_frame_to_the_last():
    frames = np.zeros((100, 10, 10, 3), np.uint8)
    frames[0], frames[-1] = 50, 250
    sheet = np.asarray(contact_sheet(frames))
    assert sheet.shape == (2 * 112, 8 * 112, 3)
    assert (
        (sheet[:112, :112] == 50).all()
        and (sheet[112:, -112:] == 250).all()
        and not sheet[:112, 112:224].any()
    )
    assert contact_sheet(frames[:3]).size == (3 * 112, 112)
