"""Tests of keypoint layouts, and of the stored values of unknown points."""

import numpy as np
import pytest

from signvit_jax.data.keypoints import (
    DRAWN,
    MEDIAPIPE_POSE,
    KeypointLayout,
    known_share,
    part_points,
    part_weights,
    stored_keypoints,
)


def test_a_mirrored_body_has_its_sides_swapped():
    layout = MEDIAPIPE_POSE
    assert len(layout.points) == 33
    # The numbers are from MediaPipe's documentation of its pose landmarks.
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


def test_a_point_without_a_counterpart_is_not_swapped():
    layout = KeypointLayout("x", ("left_wrist", "Lips", "RELBOW"))
    assert layout.mirrored.tolist() == [0, 1, 2] and not layout.has_sides
    assert layout.side("left_wrist") == ""
    assert DRAWN.has_sides


def test_a_layout_survives_json():
    assert KeypointLayout.from_json(DRAWN.to_json()) == DRAWN
    assert KeypointLayout.from_json({"points": ["a"]}) is None
    assert KeypointLayout.from_json({"layout": "a", "points": "ab"}) is None


def test_unknown_points_are_zeros_with_confidence_0():
    nan = float("nan")
    points = [[0.5, 0.25, 0.5], [nan, 0.1, 1], [0.1, 0.2, nan], [0.1, 0.2, 0], [0.1, 0.2, -1]]
    stored = stored_keypoints(np.array([points]))
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


def test_hands_lie_between_wrist_and_knuckles_and_faces_at_the_nose():
    points = np.zeros((2, len(DRAWN.points), 3), np.float32)
    positions = {"nose": (0.5, 0.1, 0.9), "right_wrist": (0.2, 0.6, 0.8)}
    positions |= {"right_pinky": (0.2, 0.4, 1.0), "right_index": (0.4, 0.4, 0.7)}
    positions |= {"left_wrist": (0.7, 0.6, 1.0), "left_index": (0.8, 0.5, 1.0)}  # no pinky
    for name, position in positions.items():
        points[1, DRAWN.index(name)] = position
    right, left, face = np.moveaxis(part_points(points, part_weights(DRAWN)), 1, 0)
    np.testing.assert_allclose(right, [[0, 0, 0], [0.6 - 0.14, 0.2 + 0.07, 0.7]], atol=1e-6)
    np.testing.assert_array_equal(left[:, 2], [0.0, 0.0])
    np.testing.assert_allclose(face, [[0, 0, 0], [0.1, 0.5, 0.9]], atol=1e-6)


@pytest.mark.parametrize(
    ("points", "expected"),
    [
        (("left_hand", "left_wrist"), [{}, {"left_hand": 1}, {}]),
        (("LWrist", "RWrist", "Nose"), [{"RWrist": 1}, {"LWrist": 1}, {"Nose": 1}]),
        (
            ("POSE_LANDMARKS/RIGHT_WRIST", "RIGHT_HAND_LANDMARKS/WRIST", "face"),
            [{"POSE_LANDMARKS/RIGHT_WRIST": 1}, {}, {"face": 1}],
        ),
        (("rightWrist", "elbow"), [{"rightWrist": 1}, {}, {}]),
    ],
)
def test_parts_are_found_in_other_layouts(points, expected):
    weights = part_weights(KeypointLayout("x", points))
    assert [{points[i]: row[i] for i in row.nonzero()[0]} for row in weights] == expected
