"""Keypoints of clips for a build: found in the frames, read from files, or those of drawn clips.

A clip never fails because of its keypoints: if they cannot be found or read, all are unknown, and
the build report lists the clip with the reason. The module is fast to import: worker processes do
not need TFDS.
"""

import dataclasses
import functools
import hashlib
import os
import unicodedata
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float16, Int

from signvit_jax.data.keypoints import MEDIAPIPE_POSE, KeypointLayout, stored_keypoints
from signvit_jax.data.schema import WHOLE_FILE, FewKeypoints, IndexEntry, KeypointReport
from signvit_jax.media.pose_model import MODEL_FILES
from signvit_jax.media.video import VideoDecodeError, poses_of_jpegs
from tfds_builders.keypoint_files import (
    EXTENSIONS,
    KeypointFile,
    KeypointFileError,
    read_keypoint_file,
)

if TYPE_CHECKING:
    from tfds_builders.clips import Clip

NONE, MEDIAPIPE, FILE, EXACT = SOURCES = ("none", "mediapipe", "file", "exact")
FEW_POSES = 0.5  # a clip with a pose in a smaller share of its frames is listed
# A keypoint file is stretched to its clip's length if they differ by at most a tenth or two frames,
# whichever is more.
_SAME_LENGTH, _SAME_FRAMES = 0.1, 2.0


@dataclasses.dataclass(frozen=True)
class KeypointSource:
    """Where the keypoints of all clips come from, and what they are."""

    kind: str  # one of SOURCES, but not NONE
    layout: KeypointLayout
    folder: str = ""  # of the pose models, or of the files; "" if those are beside the videos
    models: str = ""  # digest of the pose models

    @property
    def pose_models(self) -> str | None:
        """The folder of the pose models, if they are the source."""
        return self.folder if self.kind == MEDIAPIPE else None


@dataclasses.dataclass(frozen=True)
class ClipKeypoints:
    """The keypoints of a clip."""

    points: Float16[np.ndarray, "t k 3"]  # as `signvit_jax.data.keypoints` describes them
    fault: str = ""  # why none are known, if there is a reason

    @classmethod
    def unknown(cls, num_frames: int, layout: KeypointLayout, fault: str) -> "ClipKeypoints":
        return cls(np.zeros((num_frames, len(layout.points), 3), np.float16), fault)


def find_keypoints(jpegs: Sequence[bytes], models: str) -> ClipKeypoints:
    """Find the poses in the stored frames of a clip; `models` is the folder of the pose models."""
    try:
        return ClipKeypoints(stored_keypoints(poses_of_jpegs(jpegs, models)))
    except VideoDecodeError as error:
        return ClipKeypoints.unknown(len(jpegs), MEDIAPIPE_POSE, error.reason)


def models_digest(folder: str | os.PathLike) -> str:
    """Return 16 hexadecimal digits of the pose models in a folder. Raises OSError."""
    digest = hashlib.sha256()
    for name in MODEL_FILES:
        digest.update(hashlib.sha256(Path(folder, name).read_bytes()).digest())
    return digest.hexdigest()[:16]


# --- files ---


def keypoint_file(clip: "Clip", folder: str) -> Path | None:
    """Return the file of a clip: that of its id or, otherwise, that of its video.

    It is in `folder`, "" for that of the video. A link that leaves the folder is not followed.
    """
    beside = os.path.dirname(clip.path) if clip.path else ""
    root = Path(folder or beside)
    if not (folder or clip.path):
        return None
    for name in _names(clip):
        for extension in (*EXTENSIONS, *map(str.upper, EXTENSIONS)):
            path = root / f"{name}{extension}"
            if path.is_file() and path.resolve().is_relative_to(root.resolve()):
                return path
    return None


def file_source(clips: Sequence["Clip"], folder: str) -> tuple[KeypointSource | None, list[str]]:
    """Return the files of the clips as a source, and sentences on them for the user.

    `folder` is as for `keypoint_file`. The first readable file defines the points. If no file is
    readable, there is no source, and the sentences explain why.
    """
    files = [keypoint_file(clip, folder) for clip in clips]
    where = folder or "the folders of the videos"
    existing = [path for path in files if path is not None]
    if not existing:
        return None, [
            f"--keypoints=file: there is no keypoint file in {where}; a clip's file is <uid>.npz "
            "or <uid>.pose beside its video, or in --keypoint_files=FOLDER"
        ]
    layout, fault = None, ""
    for path in existing:
        try:
            layout = read_keypoint_file(path).layout
            break
        except KeypointFileError as error:
            fault = fault or str(error)
    if layout is None:
        return None, [f"--keypoints=file: no keypoint file in {where} can be used; {fault}"]
    notes = []
    if missing := [clip.id for clip, path in zip(clips, files, strict=True) if path is None]:
        notes.append(
            f"{len(missing)} of {len(clips)} clips have no keypoint file in {where}, such as "
            f"{missing[0]}"
        )
    if not layout.has_sides:
        notes.append(
            "the keypoints have no names of a left and a right side, so that data.augment.mirror "
            "cannot swap them: give a .npz the array 'points', the names"
        )
    return KeypointSource(FILE, layout, folder), notes


def file_keypoints(
    clip: "Clip", source: KeypointSource, num_frames: int, fps: float
) -> ClipKeypoints:
    """Return the keypoints of `num_frames` stored frames at `fps`, from the clip's file."""
    layout = source.layout
    path = keypoint_file(clip, source.folder)
    if path is None:
        names = " or ".join(f"{clip.id}{extension}" for extension in EXTENSIONS)
        return ClipKeypoints.unknown(num_frames, layout, f"there is no {names}")
    try:
        content = _read(os.fspath(path))
        if content.layout != layout:
            raise KeypointFileError(
                f"{path.name} has the {len(content.layout.points)} points {content.layout.name}, "
                f"others have {len(layout.points)} points {layout.name}"
            )
        start = 0.0 if _covers_clip(clip, path) else clip.start
        frames = _frames_in_file(content, num_frames, fps, start, _covers_clip(clip, path))
    except KeypointFileError as error:
        return ClipKeypoints.unknown(num_frames, layout, str(error))
    points = np.zeros((num_frames, len(layout.points), 3), np.float16)
    inside = (frames >= 0) & (frames < len(content.points))
    points[inside] = stored_keypoints(content.points[frames[inside]])
    return ClipKeypoints(points)


def _names(clip: "Clip") -> list[str]:
    """Names of files of a clip without extension, as paths that stay in their folder.

    They are in both Unicode normal forms: file systems differ in the one that they write.
    """
    clip_path = Path(clip.id)
    is_outside = clip_path.is_absolute() or ".." in clip_path.parts
    names = [clip_path.name] if is_outside else [str(clip_path), clip_path.name]
    if clip.path:
        video = Path(clip.path)
        names.append(video.name if clip.image_rate else video.stem)
    forms = [unicodedata.normalize(form, name) for name in names for form in ("NFC", "NFD")]
    return list(dict.fromkeys(filter(None, forms)))


def _covers_clip(clip: "Clip", path: Path) -> bool:
    """Return True if a file begins and ends with the clip, and not with its longer video."""
    video = Path(clip.path).stem if clip.path else ""
    return clip.start == clip.end == WHOLE_FILE or path.stem != video


@functools.lru_cache(maxsize=1)
def _read(path: str) -> KeypointFile:
    """Read a file. The clips of a recording, which follow each other, read it once."""
    return read_keypoint_file(path)


def _frames_in_file(
    content: KeypointFile, num_frames: int, fps: float, start: float, covers_clip: bool
) -> Int[np.ndarray, " t"]:
    """Return the frame of the file for each stored frame; it may be out of range.

    Raises KeypointFileError without a rate where one is needed.
    """
    frames = np.arange(num_frames)
    count = len(content.points)
    if covers_clip:
        seconds = num_frames / fps
        differ = 0.0 if content.fps is None else abs(count / content.fps - seconds)
        tolerated = max(_SAME_LENGTH * seconds, _SAME_FRAMES / (content.fps or fps))
        if differ <= tolerated:
            return ((frames + 0.5) * count / num_frames).astype(int)
    if content.fps is None:
        raise KeypointFileError("its file is that of the complete video, and has no 'fps'")
    # As in video_worker.py, a stored frame is what is on screen a quarter of a frame later.
    seconds = start + (frames + 0.25) / fps
    return np.floor(seconds * content.fps + 1e-6).astype(int)


def keypoint_report(
    layout: KeypointLayout, entries: Sequence[IndexEntry], faults: Mapping[str, str]
) -> KeypointReport:
    """Return the part of the build report on keypoints.

    `faults`: by clip id, why none are known.
    """
    frames = sum(entry.num_frames for entry in entries)
    known = sum(entry.num_frames * (entry.keypoints or 0.0) for entry in entries)
    few: list[FewKeypoints] = [
        {"id": entry.id, "share": entry.keypoints or 0.0, "reason": faults.get(entry.id, "")}
        for entry in entries
        if (entry.keypoints or 0.0) < FEW_POSES
    ]
    return {
        "layout": layout.name,
        "points": list(layout.points),
        "frames": known / frames if frames else 0.0,
        "few": few,
    }


def keypoint_sentences(report: KeypointReport) -> list[str]:
    """A sentence on the clips with few keypoints."""
    few = report["few"]
    if not few:
        return []
    first = few[0]
    reason = f" ({first['reason']})" if first["reason"] else ""
    return [
        f"in {len(few)} clips, such as {first['id']}{reason}, keypoints are known in less than "
        "half of the frames: stored with confidence 0 elsewhere (build_report.json, keypoints)"
    ]
