"""Tests of poses that the decoding child estimates while it decodes frames."""

import io

import numpy as np
import pytest
from PIL import Image

from signvit_jax.media.image_folder import read_image_folder
from signvit_jax.media.video import (
    Sampling,
    VideoDecodeError,
    VideoLimits,
    VideoReader,
    poses_of_jpegs,
    read_jpegs,
)
from tests.helpers.clip_makers import encode
from tests.helpers.poses import VISIBLE, fake_models, frame_with_dot, real_models, use_fake_litert
from tests.helpers.toy_dataset import jpeg

DOT_X = [0.3, 0.35, 0.4, float("nan"), 0.6, 0.65]
FRAMES = np.stack([frame_with_dot(96, 64, x, 0.5) for x in DOT_X])


@pytest.fixture
def models(monkeypatch, tmp_path):
    """Stand-in models, with a new reader whose child imports the stand-in for LiteRT."""
    use_fake_litert(monkeypatch)
    with VideoReader() as reader:
        monkeypatch.setattr("signvit_jax.media.video._readers.reader", reader, raising=False)
        yield str(fake_models(tmp_path / "models"))


def assert_dot_poses(poses, dot_x):
    """Check that the points of each pose are at its dot, and zeros where there is no dot (NaN)."""
    assert poses.shape == (len(dot_x), 33, 3) and poses.dtype == np.float32
    for pose, x in zip(poses, dot_x, strict=True):
        if np.isnan(x):
            assert not pose.any()
        else:
            assert np.abs(pose - [x, 0.5, VISIBLE]).max() < 0.02


def test_every_frame_of_a_video_has_its_pose(models, tmp_path):
    path = encode(tmp_path / "a.mp4", FRAMES)
    video = read_jpegs(path, Sampling(pose_models=models))
    assert_dot_poses(video.poses, DOT_X)
    assert read_jpegs(path, Sampling()).poses is None
    part = read_jpegs(path, Sampling(pose_models=models, start=0.1, end=0.3, short_side=32))
    assert_dot_poses(part.poses, DOT_X[1:3])


def test_repeated_frames_have_the_same_pose(models, tmp_path):
    path = encode(tmp_path / "a.mp4", FRAMES)
    video = read_jpegs(path, Sampling(pose_models=models, frame_rate=20))
    assert_dot_poses(video.poses, np.repeat(DOT_X, 2))
    assert np.array_equal(video.poses[::2], video.poses[1::2])


def test_frames_are_the_same_with_and_without_poses(models, tmp_path):
    path = encode(tmp_path / "a.mp4", FRAMES)
    with_poses = read_jpegs(path, Sampling(pose_models=models))
    assert with_poses.frames == read_jpegs(path, Sampling()).frames


def test_stored_frames_have_the_same_poses_as_their_video(models):
    assert_dot_poses(poses_of_jpegs([jpeg(frame) for frame in FRAMES], models), DOT_X)
    assert poses_of_jpegs([], models).shape == (0, 33, 3)


def test_images_of_a_folder_have_poses(models, tmp_path):
    folder = tmp_path / "images"
    folder.mkdir()
    for number, frame in enumerate(FRAMES):
        Image.fromarray(frame).save(folder / f"{number}.png")
    assert_dot_poses(read_image_folder(folder, 10, Sampling(pose_models=models)).poses, DOT_X)


def test_the_error_names_models_that_cannot_be_loaded(models, tmp_path):
    path = encode(tmp_path / "a.mp4", FRAMES)
    with pytest.raises(VideoDecodeError, match=r"there is no .*pose_detection\.tflite"):
        read_jpegs(path, Sampling(pose_models=str(tmp_path)))
    with pytest.raises(VideoDecodeError, match=r"there is no .*pose_detection\.tflite"):
        poses_of_jpegs([], tmp_path)
    assert len(read_jpegs(path, Sampling(pose_models=models)).poses) == len(DOT_X)


def test_pose_estimation_does_not_count_as_decoding_time(models):
    green = np.zeros((64, 64, 3), np.uint8)
    green[..., 1] = 255
    limits = VideoLimits(cpu_seconds=2.0, wall_seconds=30.0)
    poses_of_jpegs([], models, limits)  # starts the child
    assert len(poses_of_jpegs([jpeg(green)] * 8, models, limits)) == 8


def test_a_crash_in_the_model_ends_only_the_child(models):
    blue = np.zeros((64, 64, 3), np.uint8)
    blue[..., 2] = 255
    with pytest.raises(VideoDecodeError, match="the decoder crashed"):
        poses_of_jpegs([jpeg(blue)], models)
    assert_dot_poses(poses_of_jpegs([jpeg(FRAMES[0])], models), DOT_X[:1])


def test_damaged_images_are_refused(models):
    with pytest.raises(VideoDecodeError):
        poses_of_jpegs([b"\xff\xd8 no image"], models)


def test_the_real_models_run_in_the_child():
    buffer = io.BytesIO()
    Image.fromarray(FRAMES[0]).save(buffer, "JPEG")
    assert not poses_of_jpegs([buffer.getvalue()] * 3, real_models()).any()
