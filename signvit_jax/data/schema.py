"""The schema of every data set: its records, the index of a split, and the split of a source video.

| feature | type | meaning |
|---|---|---|
| `id` | text | name of the clip, unique in the data set |
| `video` | sequence of bytes | a JPEG (RGB or gray, at most 4 channels) per frame, in time order |
| `fps` | float32 | stored frames per second |
| `text` | text | the translation, exactly as annotated (never normalized) |
| `gloss` | text | glosses separated by one space; "" if there are none |
| `signer` | text | who signs; "" if unknown |
| `video_id` | text | the source video of the clip; splits are made by it |
| `start`, `end` | float32 | seconds in the source video; both -1 if the clip is the complete file |
| `keypoints` | float16 (t, k, 3) | if built with keypoints: see `signvit_jax.data.keypoints` |

Frames are stored as JPEG bytes and not as a TFDS `Video`: a reader decodes only the frames it
samples. The layout of the keypoints is in the data set's metadata.json.
"""

import dataclasses
import hashlib
import io
import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any, TypedDict

import numpy as np

from signvit_jax.errors.base import SignVitError
from signvit_jax.files.atomic import write_atomically

TRAIN, VALIDATION, TEST = "train", "validation", "test"
WHOLE_FILE = -1.0  # `start` and `end` of a clip that is a complete file
# Builders store at most this many frames per second of a faster source. Translation reads videos at
# the same rate, so that a model sees what it saw in training.
STORED_FRAME_RATE = 25.0


class SchemaError(SignVitError, ValueError):
    """An index that does not follow the schema; the message names file and line."""


@dataclasses.dataclass(frozen=True)
class IndexEntry:
    """The description of a clip without its frames.

    `fps`: stored frames per second. `keypoints`: share of frames in which some point is known; None
    if the clip has no keypoints.
    """

    id: str
    num_frames: int
    fps: float
    text: str
    gloss: str = ""
    signer: str = ""
    video_id: str = ""
    keypoints: float | None = None

    def to_json(self) -> dict[str, object]:
        """Return a line of the index; without keypoints it is that of earlier releases."""
        values = dataclasses.asdict(self)
        if self.keypoints is None:
            del values["keypoints"]
        return values


class SharedValues(TypedDict):
    """Source videos, or signers, that have clips in two splits."""

    splits: list[str]
    count: int
    allowed: bool  # by the protocol of the data set
    listed: list[str]  # some of them


class FailedClip(TypedDict):
    """A clip that could not be read."""

    id: str
    reason: str
    path: str
    file: str  # the annotation, and its line if that is not 0
    line: int


class FewKeypoints(TypedDict):
    """A clip in which a pose is known in less than half of the frames."""

    id: str
    share: float  # of the frames
    reason: str  # "" if no pose was found in them


class KeypointReport(TypedDict):
    """The keypoints of a data set."""

    layout: str
    points: list[str]
    frames: float  # share of all frames in which some point is known
    few: list[FewKeypoints]


class BuildReport(TypedDict, total=False):
    """The part of `tfds_builders`' build_report.json that others read."""

    settings: dict[str, object]  # the builder's options
    warnings: list[str]
    shared_videos: list[SharedValues]
    shared_signers: list[SharedValues]
    failed: list[FailedClip]
    keypoints: KeypointReport  # of a data set built with keypoints


def features(keypoints: bool = False) -> Any:
    """Return the `tfds.features.FeaturesDict` of every data set, or of one with keypoints."""
    import tensorflow_datasets as tfds  # takes most of a second

    optional = {}
    if keypoints:
        optional["keypoints"] = tfds.features.Tensor(
            shape=(None, None, 3), dtype=np.float16, encoding=tfds.features.Encoding.BYTES
        )
    return tfds.features.FeaturesDict(
        optional
        | {
            "id": tfds.features.Text(),
            "video": tfds.features.Sequence(tfds.features.Scalar(dtype=np.object_)),
            "fps": tfds.features.Scalar(dtype=np.float32),
            "text": tfds.features.Text(),
            "gloss": tfds.features.Text(),
            "signer": tfds.features.Text(),
            "video_id": tfds.features.Text(),
            "start": tfds.features.Scalar(dtype=np.float32),
            "end": tfds.features.Scalar(dtype=np.float32),
        }
    )


def index_path(folder: str | os.PathLike, split: str) -> Path:
    """Path of the index of a split: one JSON object per line, one line per record."""
    return Path(folder) / f"{split}.index.jsonl"


def index_digest_path(folder: str | os.PathLike, split: str) -> Path:
    """Path of the index's digest, in the format of `sha256sum`."""
    return Path(folder) / f"{split}.index.sha256"


def write_index(folder: str | os.PathLike, split: str, entries: Iterable[IndexEntry]) -> Path:
    """Write the index, in the order of the records, and its digest. Raises OSError.

    Each of the two files is written atomically.
    """
    path = index_path(folder, split)
    digest = hashlib.sha256()

    def write(temporary: Path) -> None:
        with temporary.open("wb") as file:
            for entry in entries:
                line = (json.dumps(entry.to_json(), ensure_ascii=False) + "\n").encode()
                digest.update(line)
                file.write(line)
        # A kill between the two renames leaves an index without a digest, not with a wrong one.
        index_digest_path(folder, split).unlink(missing_ok=True)

    write_atomically(path, write)
    write_index_digest(folder, split, digest.hexdigest())
    return path


def write_index_digest(folder: str | os.PathLike, split: str, digest: str | None = None) -> None:
    """Write the SHA-256 of the index: `digest`, or that of the file. Raises OSError."""
    path = index_path(folder, split)
    digest = digest or hashlib.sha256(path.read_bytes()).hexdigest()
    write_atomically(index_digest_path(folder, split), f"{digest}  {path.name}\n")


def has_index_digest(folder: str | os.PathLike, split: str) -> bool:
    """Return True if the index has a digest; one of an earlier release has none."""
    return index_digest_path(folder, split).is_file()


def read_index(folder: str | os.PathLike, split: str) -> list[IndexEntry]:
    """Read what `write_index` wrote.

    Raises FileNotFoundError if there is no index, and SchemaError if its digest is not the recorded
    one or a line is not an entry.
    """
    path = index_path(folder, split)
    digest_path = index_digest_path(folder, split)
    content = path.read_bytes()
    digest = hashlib.sha256(content).hexdigest().encode()
    if digest_path.is_file() and digest_path.read_bytes()[:64] != digest:
        raise SchemaError(
            f"{path} does not match {digest_path.name}: it was changed after it was written; "
            "reading the records instead"
        )
    entries = []
    for number, line in enumerate(io.BytesIO(content), start=1):
        try:
            entries.append(IndexEntry(**json.loads(line)))
        except (ValueError, TypeError, RecursionError) as error:
            raise SchemaError(
                f"{path}, line {number}: not an index entry ({error}); reading the records instead"
            ) from error
    return entries


def stable_fraction(video_id: str) -> float:
    """Return a number in [0, 1) that depends on `video_id` alone (52 bits of its SHA-256)."""
    digest = hashlib.sha256(video_id.encode("utf-8", "surrogatepass")).digest()
    return (int.from_bytes(digest[:8], "big") >> 12) / 2**52


def split_of(video_id: str, val_fraction: float = 0.1, test_fraction: float = 0.1) -> str:
    """Return the split of a source video, "test", "validation" or "train", by `stable_fraction`.

    All clips of a video are in one split, so nothing leaks between splits.
    """
    fraction = stable_fraction(video_id)
    if fraction < test_fraction:
        return TEST
    return VALIDATION if fraction < test_fraction + val_fraction else TRAIN


def source_video_of(clip_id: str) -> str:
    """Return `<video>` of a clip id `<video>-<n>`; any other id is its own video.

    The last "-" counts: video ids may contain "-" themselves.
    """
    video, dash, number = clip_id.rpartition("-")
    return video if dash and video and number.isdecimal() else clip_id
