"""Tests of the pose of a signer: the positions of the models' points in the image."""

import sys

import numpy as np
import pytest

from signvit_jax.media.pose_model import PoseModel, PoseModelError
from tests.helpers.poses import VISIBLE, fake_models, frame_with_dot, real_models, use_fake_litert

NO_PERSON = float("nan")


@pytest.fixture
def fake(monkeypatch, tmp_path):
    """The folder of stand-in models, with the stand-in for LiteRT in place of the real one."""
    use_fake_litert(monkeypatch)
    for module in [name for name in sys.modules if name.startswith("ai_edge_litert")]:
        monkeypatch.delitem(sys.modules, module)
    yield fake_models(tmp_path / "models")
    for module in [name for name in sys.modules if name.startswith("ai_edge_litert")]:
        del sys.modules[module]


@pytest.mark.parametrize(("width", "height"), [(160, 90), (90, 160), (128, 128), (300, 97)])
def test_points_are_fractions_of_the_image_sides(fake, width, height):
    """The stand-in's points cause crops of another rotation and size in later frames."""
    model = PoseModel(str(fake))
    for x, y in ((0.4, 0.5), (0.45, 0.55), (0.5, 0.5), (0.55, 0.45)):
        points = model.points(frame_with_dot(width, height, x, y))
        assert points.shape == (33, 3) and points.dtype == np.float32
        assert np.abs(points[:, :2] - [x, y]).max() * max(width, height) < 1.0
        assert np.allclose(points[:, 2], VISIBLE)


def test_frames_without_a_person_are_zeros(fake):
    model = PoseModel(str(fake))
    places = [NO_PERSON, 0.4, NO_PERSON, 0.6]
    found = [model.points(frame_with_dot(120, 90, x, 0.5)) for x in places]
    assert [bool(points.any()) for points in found] == [False, True, False, True]


def test_a_person_who_jumps_is_found_in_the_same_frame(fake):
    model = PoseModel(str(fake))
    model.points(frame_with_dot(400, 100, 0.1, 0.5))
    jumped = model.points(frame_with_dot(400, 100, 0.9, 0.5))
    assert np.abs(jumped[:, :2] - [0.9, 0.5]).max() < 0.01


def test_a_clip_does_not_depend_on_the_previous_clip(fake):
    frame = frame_with_dot(120, 90, 0.43, 0.57)
    model = PoseModel(str(fake))
    first = model.points(frame)
    assert not np.array_equal(model.points(frame), first)  # cropped to another square
    model.start_clip()
    assert np.array_equal(model.points(frame), first)


def test_missing_or_other_models_are_refused(fake):
    (fake / "pose_landmark_full.tflite").write_bytes(b"detector")
    with pytest.raises(
        PoseModelError, match=r"pose_landmark_full\.tflite is not MediaPipe's model"
    ):
        PoseModel(str(fake))
    (fake / "pose_detection.tflite").unlink()
    with pytest.raises(PoseModelError, match=r"there is no .*pose_detection\.tflite"):
        PoseModel(str(fake))


def test_the_error_says_that_litert_is_missing(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "ai_edge_litert", None)
    with pytest.raises(PoseModelError, match="ai_edge_litert cannot be imported"):
        PoseModel(str(fake_models(tmp_path / "models")))


def test_the_real_models_find_nobody_in_noise():
    model = PoseModel(str(real_models()))
    noise = np.random.default_rng(0).integers(0, 255, (128, 160, 3), dtype=np.uint8)
    assert not model.points(noise).any()


def test_pruning_operators_changes_no_point(monkeypatch):
    """`PoseModel` does not compute the mask and the heat maps of the landmark model."""
    from signvit_jax.media import pose_model

    folder = str(real_models())
    image = np.random.default_rng(0).uniform(0, 1, (256, 256, 3)).astype(np.float32)
    pruned = PoseModel(folder)._landmarks(image)
    monkeypatch.setattr(pose_model, "_with_outputs", lambda content, shapes: content)
    complete = PoseModel(folder)._landmarks(image)
    assert np.array_equal(pruned["points"], complete["points"])
    assert np.array_equal(pruned["person"], complete["person"])
