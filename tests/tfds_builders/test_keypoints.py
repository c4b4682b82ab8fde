"""Tests of the keypoints of a build: their sources, and the report on clips without them."""

import dataclasses
import json
import os

import numpy as np
import pytest
from PIL import Image

from signvit_jax.data.dataset import open_dataset
from signvit_jax.data.keypoints import MEDIAPIPE_POSE, KeypointLayout
from signvit_jax.media.video import VideoReader
from tests.helpers.clip_makers import encode
from tests.helpers.pose_files import pose_file
from tests.helpers.poses import fake_models, frame_with_dot, use_fake_litert
from tfds_builders.apache_beam_build import ShardTask, write_shard
from tfds_builders.base import BuildError
from tfds_builders.build import main
from tfds_builders.clips import Clip, Encoding
from tfds_builders.keypoints import (
    FILE,
    KeypointSource,
    file_keypoints,
    keypoint_file,
    models_digest,
)
from tfds_builders.shards import read_journal
from tfds_builders.video_folder.video_folder_dataset_builder import Builder

FRAMES = 12  # of a video, at 10 per second
NAMES = ("left_hand", "right_hand")
SOURCE = KeypointSource(FILE, KeypointLayout("hands", NAMES))
ALL_IN_TRAIN = ("--val_fraction=0", "--test_fraction=0", "--workers=1")


def numbered_points(count: int, offset: int = 0) -> np.ndarray:
    """Return points whose x is the number of their frame / 64."""
    points = np.full((count, 2, 3), 0.5, np.float32)
    points[..., 0] = (np.arange(count)[:, None] + offset) / 64
    return points


def save(path, points, **arrays) -> None:
    np.savez(path, keypoints=points, points=NAMES, layout="hands", **arrays)


def frames_of(keypoints) -> list[float]:
    """Return the frame number of each point of `numbered_points`, or -1 for an unknown point."""
    points = keypoints.points[:, 0].astype(float)
    return [round(x * 64, 3) if known else -1 for x, _, known in points]


@pytest.fixture
def videos(tmp_path):
    folder = tmp_path / "videos"
    folder.mkdir()
    rows = ["uid,text"]
    for number, x in enumerate((0.3, 0.5, float("nan"))):
        image = frame_with_dot(96, 64, x, 0.5)
        encode(folder / f"clip{number}-1.mp4", [image] * FRAMES)
        rows.append(f"clip{number}-1,text {number}")
    (tmp_path / "clips.csv").write_text("\n".join(rows) + "\n")
    return folder


def build(videos, *options: str, name: str = "data") -> int:
    parent = videos.parent
    return main(
        [
            "video_folder",
            f"--data_dir={parent / name}",
            f"--csv={parent / 'clips.csv'}",
            f"--videos={videos}",
            *ALL_IN_TRAIN,
            *options,
        ]
    )


def built(videos, name: str = "data"):
    """Return the training split and the report of a built data set."""
    dataset = open_dataset(videos.parent / name, "video_folder")
    return dataset.split("train"), json.loads((dataset.folder / "build_report.json").read_text())


# --- files ---


def test_files_beside_the_videos_are_stored(videos, capsys):
    save(videos / "clip0-1.npz", numbered_points(FRAMES), fps=10)
    save(
        videos / "clip1-1.npz",
        np.where(numbered_points(FRAMES) < 0.04, np.nan, numbered_points(FRAMES)),
    )
    assert build(videos, "--keypoints=file") == 0
    split, report = built(videos)
    assert split.keypoint_layout == SOURCE.layout
    assert np.array_equal(split[0]["keypoints"], numbered_points(FRAMES).astype(np.float16))
    assert not split[1]["keypoints"][:3].any() and split[1]["keypoints"][3:].all()
    assert not split[2]["keypoints"].any() and split[2]["keypoints"].shape == (FRAMES, 2, 3)
    assert [entry.keypoints for entry in split.index] == [1.0, 0.75, 0.0]
    few = {"id": "clip2-1", "share": 0.0, "reason": "there is no clip2-1.npz or clip2-1.pose"}
    assert report["keypoints"]["few"] == [few]
    assert report["keypoints"]["frames"] == pytest.approx(1.75 / 3)
    assert "1 of 3 clips have no keypoint file" in report["warnings"][0]
    assert "in 1 clips, such as clip2-1 (there is no clip2-1.npz" in capsys.readouterr().err


def test_a_changed_keypoint_file_changes_the_data_set(videos):
    save(videos / "clip0-1.npz", numbered_points(FRAMES))
    assert build(videos, "--keypoints=file") == build(videos, "--keypoints=file") == 0
    save(videos / "clip1-1.npz", numbered_points(FRAMES))
    with pytest.raises(Exception, match="the annotations or the video files have changed"):
        build(videos, "--keypoints=file")


def test_files_may_be_in_a_separate_folder(videos):
    (videos.parent / "poses").mkdir()
    data = np.full((FRAMES, 1, 2, 2), 50.0)
    content = pose_file({"hands": ["LHand", "RHand"]}, data, np.ones((FRAMES, 1, 2)), fps=10)
    (videos.parent / "poses/clip1-1.pose").write_bytes(content)
    (videos.parent / "poses/clip2-1.pose").write_bytes(content[:-7])
    option = f"--keypoint_files={videos.parent / 'poses'}"
    assert build(videos, "--keypoints=file", option) == 0
    split, report = built(videos)
    assert split.keypoint_layout == KeypointLayout("pose_file_2", ("hands/LHand", "hands/RHand"))
    assert (split[1]["keypoints"] == [0.25, 0.5, 1.0]).all()
    reasons = [few["reason"] for few in report["keypoints"]["few"]]
    assert "there is no clip0-1.npz" in reasons[0] and "clip2-1.pose: it is truncated" in reasons[1]
    assert report["sources"]["keypoint_folder"] == str(videos.parent / "poses")


def test_a_build_without_any_file_is_refused(videos):
    with pytest.raises(BuildError, match=r"no keypoint file in the folders .* <uid>\.npz or"):
        build(videos, "--keypoints=file")
    (videos / "clip0-1.npz").write_bytes(b"")
    with pytest.raises(BuildError, match=r"can be used; clip0-1\.npz cannot be read"):
        build(videos, "--keypoints=file")


def test_points_without_sides_are_noted(videos):
    np.savez(videos / "clip0-1.npz", keypoints=numbered_points(FRAMES))
    assert build(videos, "--keypoints=file") == 0
    assert "mirror cannot swap them" in built(videos)[1]["warnings"][1]


def clip_at(path, **values) -> Clip:
    return Clip(id=path.stem, text="", path=str(path), **values)


def test_a_file_is_spread_over_its_clip(tmp_path):
    """The file has no rate or a slightly wrong one, since .pose files store a rounded rate."""
    for more in ({}, {"fps": 24}):
        save(tmp_path / "a.npz", numbered_points(50), **more)
        found = file_keypoints(clip_at(tmp_path / "a.mp4"), SOURCE, 25, 12.5)
        assert frames_of(found) == list(range(1, 50, 2))


def test_a_file_of_another_length_is_read_by_its_times(tmp_path):
    save(tmp_path / "a.npz", numbered_points(30), fps=25)
    found = file_keypoints(clip_at(tmp_path / "a.mp4"), SOURCE, 25, 12.5)
    assert frames_of(found) == [*range(0, 30, 2), *[-1] * 10]


def test_a_part_of_a_video_uses_that_part_of_its_file(tmp_path):
    save(tmp_path / "talk.npz", numbered_points(60), fps=10)
    part = clip_at(tmp_path / "talk.mp4", start=2.0, end=3.0)
    part = dataclasses.replace(part, id="talk-3", video_id="talk")
    assert frames_of(file_keypoints(part, SOURCE, 10, 10.0)) == list(range(20, 30))
    assert frames_of(file_keypoints(part, SOURCE, 5, 5.0)) == list(range(20, 30, 2))
    late = dataclasses.replace(part, start=5.5, end=6.5)
    assert frames_of(file_keypoints(late, SOURCE, 10, 10.0)) == [*range(55, 60), *[-1] * 5]
    save(tmp_path / "talk-3.npz", numbered_points(10, offset=5))  # the clip's own file
    assert frames_of(file_keypoints(part, SOURCE, 10, 10.0)) == list(range(5, 15))


def test_a_file_without_a_rate_cannot_be_used_for_parts_of_a_video(tmp_path):
    save(tmp_path / "talk.npz", numbered_points(61))
    part = dataclasses.replace(clip_at(tmp_path / "talk.mp4", start=2.0, end=3.0), id="talk-3")
    found = file_keypoints(part, SOURCE, 10, 10.0)
    assert not found.points.any() and "has no 'fps'" in found.fault


def test_a_file_with_other_points_is_ignored(tmp_path):
    np.savez(tmp_path / "a.npz", keypoints=numbered_points(4))
    found = file_keypoints(clip_at(tmp_path / "a.mp4"), SOURCE, 4, 10.0)
    assert found.points.shape == (4, 2, 3) and not found.points.any()
    assert found.fault == "a.npz has the 2 points file_2, others have 2 points hands"


def test_names_are_found_in_other_normal_forms_and_cases(tmp_path):
    save(tmp_path / "gru\u0308n.npz", numbered_points(4))
    os.rename(tmp_path / "gru\u0308n.npz", tmp_path / "gru\u0308n.NPZ")
    for name in ("gr\u00fcn", "gru\u0308n"):
        clip = clip_at(tmp_path / f"{name}.mp4")
        assert keypoint_file(clip, "") == tmp_path / "gru\u0308n.NPZ"


def test_files_outside_of_the_folder_are_not_read(tmp_path):
    inside = tmp_path / "inside"
    inside.mkdir()
    save(tmp_path / "a.npz", numbered_points(4))
    (inside / "b.npz").symlink_to(tmp_path / "a.npz")
    for name in ("../a", str(tmp_path / "a"), "b"):
        clip = dataclasses.replace(clip_at(inside / "c.mp4"), id=name)
        assert keypoint_file(clip, "") is None and keypoint_file(clip, str(inside)) is None
    (inside / "sub").mkdir()
    save(inside / "sub/d.npz", numbered_points(4))
    clip = dataclasses.replace(clip_at(tmp_path / "sub/d.mp4"), id="sub/d")
    assert keypoint_file(clip, str(inside)) == inside / "sub/d.npz"


def test_shards_written_by_a_cluster_have_keypoints(videos):
    save(videos / "clip0-1.npz", numbered_points(FRAMES))
    clips = tuple(clip_at(videos / f"clip{i}-1.mp4") for i in range(2))
    folder = videos.parent / "shards"
    folder.mkdir()
    task = ShardTask("train", 0, 0, clips)
    assert write_shard(task, folder, Encoding(keypoints=SOURCE)) == 2
    journal = read_journal(folder, "train", 0, 0)
    assert [entry.keypoints for entry in journal.entries] == [1.0, 0.0]
    assert list(journal.keypoint_faults) == ["clip1-1"]


# --- MediaPipe's models, replaced by a stand-in ---


@pytest.fixture
def models(monkeypatch, tmp_path):
    use_fake_litert(monkeypatch)
    with VideoReader() as reader:
        monkeypatch.setattr("signvit_jax.media.video._readers.reader", reader, raising=False)
        yield fake_models(tmp_path / "models")


def test_poses_are_found_in_the_stored_frames(videos, models):
    options = ["--keypoints=mediapipe", f"--keypoint_models={models}"]
    assert build(videos, *options, "--frame_rate=5") == 0
    split, report = built(videos)
    assert split.keypoint_layout == MEDIAPIPE_POSE
    assert [len(split[i]["keypoints"]) for i in range(3)] == [6, 6, 6]
    for i, x in enumerate((0.3, 0.5)):
        assert np.abs(split[i]["keypoints"][..., :2] - [x, 0.5]).max() < 0.02
    assert not split[2]["keypoints"].any()
    assert report["keypoints"]["few"] == [{"id": "clip2-1", "share": 0.0, "reason": ""}]
    assert report["settings"]["keypoint_models"] == models_digest(models)
    assert build(videos, *options, "--frame_rate=5") == 0
    (models / "pose_detection.tflite").write_bytes(b"detector of another release")
    with pytest.raises(Exception, match=r"keypoint_models was '.*', now"):
        build(videos, *options, "--frame_rate=5")


def test_keypoints_change_neither_frames_nor_index(videos, models):
    assert build(videos, name="without") == 0
    assert build(videos, "--keypoints=mediapipe", f"--keypoint_models={models}") == 0
    (split, report), (plain, plain_report) = built(videos), built(videos, "without")
    for i, entry in enumerate(split.index):
        assert {**split[i], "keypoints": None} == {**plain[i], "keypoints": None}
        assert dataclasses.replace(entry, keypoints=None) == plain.index[i]
    assert report["fingerprint"] == plain_report["fingerprint"]
    assert plain.keypoint_layout is None and "keypoints" not in plain_report["settings"]


def test_folders_of_images_have_poses(tmp_path, models):
    frames = tmp_path / "frames"
    for name, x in (("a", 0.4), ("b", 0.6)):
        (frames / name).mkdir(parents=True)
        for number in range(4):
            image = Image.fromarray(frame_with_dot(96, 64, x, 0.5))
            image.save(frames / name / f"{number}.png")
    (tmp_path / "clips.csv").write_text("uid,text\na,one\nb,two\n")
    options = ["--image_rate=10", "--keypoints=mediapipe", f"--keypoint_models={models}"]
    assert build(frames, *options) == 0
    split, _ = built(frames)
    found = {split[i]["id"]: split[i]["keypoints"][..., 0].mean() for i in range(2)}
    assert found == pytest.approx({"a": 0.4, "b": 0.6}, abs=0.02)


def test_a_clip_is_kept_when_the_pose_model_crashes(videos, models):
    blue = np.zeros((64, 96, 3), np.uint8)
    blue[..., 2] = 255
    encode(videos / "clip1-1.mp4", [blue] * FRAMES, pix_fmt="yuv444p")
    assert build(videos, "--keypoints=mediapipe", f"--keypoint_models={models}") == 0
    split, report = built(videos)
    assert len(split) == 3 and len(split[1]["video"]) == FRAMES
    assert split[0]["keypoints"].any() and not split[1]["keypoints"].any()
    assert "the decoder crashed" in report["keypoints"]["few"][0]["reason"]


def test_a_video_that_cannot_be_read_fails_with_its_own_reason(videos, models):
    (videos / "clip1-1.mp4").write_bytes(b"no video")
    assert build(videos, "--keypoints=mediapipe", f"--keypoint_models={models}") == 3
    _, report = built(videos)
    assert [(problem["id"], problem["reason"][:11]) for problem in report["failed"]] == [
        ("clip1-1", "not a video")
    ]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--keypoints=mediapipe"], r"needs --keypoint_models=FOLDER; `bash scripts/keypoint_"),
        (["--keypoints=mediapipe", "--keypoint_models=."], r"there is no .*pose_detection\.tflite"),
        (["--keypoints=mediapipe", "--keypoint_models=nowhere"], "nowhere is no folder"),
        (["--keypoints=file", "--keypoint_models=."], "is for --keypoints=mediapipe only"),
        (["--keypoint_files=."], "is for --keypoints=file only; here --keypoints is 'none'"),
        (["--keypoints=exact"], "is for drawn clips .* allowed here: none, mediapipe, file"),
        (["--keypoints=openpose"], "--keypoints is 'openpose'; allowed: none, mediapipe, file"),
    ],
)
def test_wrong_options_are_refused_before_anything_is_read(
    videos, models, monkeypatch, options, message
):
    monkeypatch.chdir(videos)
    with pytest.raises(Exception, match=message):
        build(videos, *options)
    assert not (videos.parent / "data" / Builder.name).exists()


def test_missing_litert_is_named_with_the_command_that_installs_it(videos, tmp_path, monkeypatch):
    broken = tmp_path / "broken/ai_edge_litert"
    broken.mkdir(parents=True)
    (broken / "__init__.py").write_text("raise ImportError('no such library')")
    monkeypatch.setenv("PYTHONPATH", str(broken.parent))
    with VideoReader() as reader:
        monkeypatch.setattr("signvit_jax.media.video._readers.reader", reader, raising=False)
        with pytest.raises(BuildError, match=r"no such library; .*pip install '?ai-edge-litert"):
            build(
                videos,
                "--keypoints=mediapipe",
                f"--keypoint_models={fake_models(tmp_path / 'models')}",
            )
