"""Tests of reading .npz and .pose files: their keypoints, and the reasons for refusing others."""

import io
import os
import struct
import zipfile

import numpy as np
import pytest

from signvit_jax.data.keypoints import HOLISTIC, MEDIAPIPE_POSE
from tests.helpers.pose_files import pose_file
from tfds_builders.keypoint_files import KeypointFileError, read_keypoint_file

RNG = np.random.default_rng(0)
HAND = [point.removeprefix("left_hand_").upper() for point in HOLISTIC.points[33:54]]
HOLISTIC_COMPONENTS = {
    "POSE_LANDMARKS": [point.upper() for point in MEDIAPIPE_POSE.points],
    "FACE_LANDMARKS": ["0", "1"],
    "LEFT_HAND_LANDMARKS": HAND,
    "RIGHT_HAND_LANDMARKS": HAND,
    "POSE_WORLD_LANDMARKS": [point.upper() for point in MEDIAPIPE_POSE.points],
}


def save(path, **arrays):
    np.savez_compressed(path, **arrays)
    return path


# --- .npz ---


def test_normalized_coordinates_are_read_unchanged(tmp_path):
    points = RNG.uniform(-0.2, 1.2, (5, 2, 3)).astype(np.float32)
    names = np.array(["left_hand", "right_hand"])
    path = save(tmp_path / "a.npz", keypoints=points, points=names, layout="hands", fps=12.5)
    found = read_keypoint_file(path)
    assert np.array_equal(found.points, points) and found.fps == 12.5
    assert found.layout.name == "hands" and found.layout.points == ("left_hand", "right_hand")


def test_pixel_coordinates_are_divided_by_the_size(tmp_path):
    points = RNG.uniform(0, 90, (5, 33, 2))
    confidence = RNG.uniform(0, 1, (5, 33))
    path = save(tmp_path / "a.npz", keypoints=points, confidence=confidence, size=[200, 100])
    found = read_keypoint_file(path)
    assert np.allclose(found.points[..., :2] * [200, 100], points, atol=1e-4)
    assert np.allclose(found.points[..., 2], confidence) and found.fps is None
    assert found.layout == MEDIAPIPE_POSE


def test_points_without_confidence_are_all_known(tmp_path):
    found = read_keypoint_file(save(tmp_path / "a.npz", keypoints=np.zeros((2, 75, 2))))
    assert (found.points[..., 2] == 1).all() and found.layout == HOLISTIC


def test_column_major_arrays_of_other_types_are_read(tmp_path):
    points = np.asfortranarray(RNG.uniform(0, 1, (4, 3, 3)).astype(np.float16))
    found = read_keypoint_file(save(tmp_path / "a.npz", keypoints=points))
    assert np.array_equal(found.points, points.astype(np.float32))
    assert found.layout.name == "file_3" and not found.layout.has_sides


@pytest.mark.parametrize(
    ("arrays", "reason"),
    [
        ({"other": np.zeros((2, 3, 3))}, "it has no array 'keypoints'"),
        ({"keypoints": np.zeros((2, 3))}, r"'keypoints' is float64 \(2, 3\); allowed: numbers"),
        ({"keypoints": np.full((2, 3, 3), "a")}, "'keypoints' is <U1"),
        ({"keypoints": np.zeros((2, 3, 3), object)}, "cannot be read|not allowed"),
        ({"keypoints": np.zeros((2, 0, 3))}, "it has 0 points; allowed: 1 to"),
        (
            {"keypoints": np.full((2, 3, 2), 90.0)},
            r"pixels need an array 'size', \(width, height\)",
        ),
        ({"keypoints": np.zeros((2, 3, 3)), "size": [0, 5]}, r"'size' is not \(width, height\)"),
        ({"keypoints": np.zeros((2, 3, 3)), "fps": [1, 2]}, "'fps' is not a number"),
        ({"keypoints": np.zeros((2, 3, 3)), "points": ["a", "b"]}, "3 points, but 2 names"),
        (
            {"keypoints": np.zeros((2, 2, 3)), "points": ["a", "a"]},
            "two of its points have the same",
        ),
        ({"keypoints": np.zeros((2, 3, 3)), "confidence": np.ones(2)}, "'confidence' is float64"),
    ],
)
def test_other_arrays_are_refused_with_the_reason(tmp_path, arrays, reason):
    with pytest.raises(KeypointFileError, match=rf"a\.npz.*({reason})"):
        read_keypoint_file(save(tmp_path / "a.npz", **arrays))


def npz_with_header(shape) -> bytes:
    """Return an archive whose array header has `shape`, and whose array has no values."""
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        header, {"descr": "<f4", "fortran_order": False, "shape": shape}
    )
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("keypoints.npy", header.getvalue())
    return archive.getvalue()


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "cannot be read"),
        (b"no archive", "cannot be read"),
        (npz_with_header((10**6, 10**6, 3)), "not allowed"),
        (npz_with_header((10, 10, 3)), "'keypoints' is truncated"),
    ],
    ids=["empty", "no archive", "too large", "truncated"],  # archives contain the time
)
def test_damaged_archives_are_refused(tmp_path, content, reason):
    path = tmp_path / "a.npz"
    path.write_bytes(content)
    with pytest.raises(KeypointFileError, match=reason):
        read_keypoint_file(path)


def test_a_pipe_is_refused_without_waiting(tmp_path):
    os.mkfifo(tmp_path / "a.npz")
    with pytest.raises(KeypointFileError, match="not a regular file"):
        read_keypoint_file(tmp_path / "a.npz")


# --- .pose ---


@pytest.mark.parametrize("version", [0.0, 0.1, 0.2])
@pytest.mark.parametrize("dims", [2, 3])
def test_holistic_poses_are_read_without_the_face(tmp_path, version, dims):
    data = RNG.uniform(1, 90, (6, 1, 110, dims))
    confidence = RNG.uniform(0.1, 1, (6, 1, 110))
    path = tmp_path / "a.POSE"
    path.write_bytes(pose_file(HOLISTIC_COMPONENTS, data, confidence, version=version, fps=12))
    found = read_keypoint_file(path)
    assert found.layout == HOLISTIC and found.fps == 12
    kept = [*range(33), *range(35, 77)]
    assert np.allclose(found.points[..., :2] * [200, 100], data[:, 0, kept, :2], atol=1e-4)
    assert np.allclose(found.points[..., 2], confidence[:, 0, kept])


def test_the_most_confident_person_is_taken(tmp_path):
    data, confidence = RNG.uniform(1, 90, (4, 2, 3, 2)), np.full((4, 2, 3), 0.5)
    confidence[:, 1] = 0.9
    path = tmp_path / "a.pose"
    components = {"body": ["Nose", "LWrist", "RWrist"]}
    path.write_bytes(pose_file(components, data, confidence, version=0.2, fps=29.97))
    found = read_keypoint_file(path)
    assert np.allclose(found.points[..., :2] * [200, 100], data[:, 1], atol=1e-4)
    assert found.layout.name == "pose_file_3" and found.fps == pytest.approx(29.97)
    assert found.layout.mirrored.tolist() == [0, 2, 1]


def good_pose(version: float = 0.2) -> bytes:
    points, confidence = np.ones((3, 1, 2, 2)), np.ones((3, 1, 2))
    return pose_file({"body": ["a", "b"]}, points, confidence, version=version)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (good_pose()[:-4], "cannot be read"),
        (good_pose()[:30], "cannot be read"),
        (good_pose(version=0.1)[:-12], "it is truncated: .* bytes for 3 frames"),
        (
            struct.pack("<f", 0.7) + good_pose()[4:],
            r"its version is 0\.7; allowed: 0\.0, 0\.1, 0\.2",
        ),
        (good_pose()[:4] + bytes(2) + good_pose()[6:], "its image has 0x100 pixels"),
        (good_pose().replace(b"XYC", b"XYZ"), "its points are 'XYZ'; allowed: XYC, XYZC"),
        (
            pose_file({"a": ["x"]}, np.ones((3, 0, 1, 2)), np.ones((3, 0, 1)), version=0.2),
            "nobody's points",
        ),
        (
            pose_file({"FACE_LANDMARKS": ["x"]}, np.ones((3, 1, 1, 2)), np.ones((3, 1, 1))),
            "it has 0 points",
        ),
    ],
)
def test_damaged_pose_files_are_refused(tmp_path, content, reason):
    path = tmp_path / "a.pose"
    path.write_bytes(content)
    with pytest.raises(KeypointFileError, match=reason):
        read_keypoint_file(path)


def test_a_pose_file_with_many_frames_for_its_size_is_refused(tmp_path):
    """A frame without people takes two bytes, but decoded frames would take a gigabyte."""
    content = bytearray(
        pose_file(
            {"b": [str(i) for i in range(2000)]},
            np.ones((0, 0, 2000, 2)),
            np.ones((0, 0, 2000)),
            version=0,
        )
    )
    content[-2:] = struct.pack("<H", 65535)
    (tmp_path / "a.pose").write_bytes(content)
    with pytest.raises(KeypointFileError, match="65535 frames of 2000 points"):
        read_keypoint_file(tmp_path / "a.pose")
