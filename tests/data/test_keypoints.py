"""Layouts of keypoints, and what is stored of a point that is not known."""

import numpy as np
import pytest

from signvit_jax.data.keypoints import (
    DRAWN,
    MEDIAPIPE_POSE,
    KeypointLayout,
    known_share,
    stored_keypoints,
)


def test_a_mirrored_body_has_its_sides_swapped():
    layout = MEDIAPIPE_POSE
    assert len(layout.points) == 33
    # Numbers as in MediaPipe's own documentation of its pose landmarks.
    known = {"nose": 0, "left_shoulder": 11, "left_wrist": 15, "right_wrist": 16, "left_index": 19}
    assert {name: layout.index(name) for name in known} == known
    assert [layout.mirrored[number] for number in (0, 1, 9, 15, 20, 32)] == [0, 4, 10, 16, 19, 31]
    assert np.array_equal(layout.mirrored[layout.mirrored], np.arange(33))


def test_drawn_points_are_points_of_the_pose_model():
    assert set(DRAWN.points) < set(MEDIAPIPE_POSE.points)


@pytest.mark.parametrize(
    ("left", "right"),
    [
        ("LEFT_WRIST", "RIGHT_WRIST"),
        ("left_hand_landmarks/thumb_tip", "right_hand_landmarks/thumb_tip"),
        ("pose/LWrist", "pose/RWrist"),
        ("handLeft", "handRight"),
        ("LEFT_HAND/RING_TIP", "RIGHT_HAND/RING_TIP"),
    ],
)
def test_sides_are_found_in_names_of_other_programs(left, right):
    layout = KeypointLayout("x", (right, "neck", left))
    assert layout.mirrored.tolist() == [2, 1, 0]
    assert [layout.side(point) for point in layout.points] == ["right", "", "left"]


def test_a_point_without_the_other_side_stays():
    layout = KeypointLayout("x", ("left_wrist", "Lips", "RELBOW"))
    assert layout.mirrored.tolist() == [0, 1, 2] and not layout.has_sides
    assert layout.side("left_wrist") == ""
    assert DRAWN.has_sides


def test_a_layout_is_what_its_json_says():
    assert KeypointLayout.from_json(DRAWN.to_json()) == DRAWN
    assert KeypointLayout.from_json({"points": ["a"]}) is None
    assert KeypointLayout.from_json({"layout": "a", "points": "ab"}) is None


def test_unknown_points_are_zeros_with_confidence_0():
    nan = float("nan")
    given = [[0.5, 0.25, 0.5], [nan, 0.1, 1], [0.1, 0.2, nan], [0.1, 0.2, 0], [0.1, 0.2, -1]]
    stored = stored_keypoints(np.array([given]))
    assert stored.dtype == np.float16
    assert stored.tolist() == [[[0.5, 0.25, 0.5], *[[0.0, 0.0, 0.0]] * 4]]


def test_confidences_and_far_points_are_clipped():
    stored = stored_keypoints(np.array([[[1e9, -1e9, 7.0]]]))
    assert stored.tolist() == [[[65504.0, -65504.0, 1.0]]]


def test_frames_with_any_known_point_are_counted():
    points = np.zeros((4, 2, 3), np.float16)
    points[1, 0] = points[3, 1] = 0.5
    assert known_share(points) == 0.5
    assert known_share(points[:0]) == 0.0
