"""sign_language_datasets: a data set that the package of that name has built, in our format.

Its ArrayRecord files are read without TensorFlow.
"""

import dataclasses
import functools
import io
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import tensorflow_datasets as tfds
from jaxtyping import UInt8
from PIL import Image

from signvit_jax.data.records import parse_example
from signvit_jax.media.video import VideoDecodeError, VideoLimits
from tfds_builders.annotation_files.rows import SPLIT_NAMES
from tfds_builders.annotation_files.tables import AnnotationError
from tfds_builders.base import BuildError, SignDatasetBuilder
from tfds_builders.clips import Clip, ClipTable, Problem
from tfds_builders.options import FRAME_RATES, Option

if TYPE_CHECKING:
    from array_record.python.array_record_data_source import ArrayRecordDataSource

# Data sets whose frames OpenCV wrote with swapped red and blue.
BGR_DATA_SETS = ("rwth_phoenix2014_t",)
BOOLEANS = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}
type Values = dict[str, list[Any]]  # feature -> its values: all of them bytes, int, or float


class Builder(SignDatasetBuilder):
    VERSION = tfds.core.Version("1.0.0")
    RELEASE_NOTES: ClassVar = {"1.0.0": "First release."}
    HOMEPAGE = "https://github.com/sign-language-processing/datasets"
    MANUAL_DOWNLOAD_INSTRUCTIONS = (
        "manual_dir is the version folder of the data set that sign-language-datasets has built as "
        "array_record."
    )
    OPTIONS = (
        Option(
            "source",
            "version folder of the built data set, "
            "such as ~/tensorflow_datasets/dgs_types/default/3.0.0",
            type=Path,
        ),
        Option(
            "source_fps",
            "frames per second where the data set stores none; "
            "give the true rate of frame folders, which the package does not store",
            25.0,
            float,
            allowed=FRAME_RATES,
        ),
        Option(
            "bgr",
            "true: blue and red are swapped in its frames, false: they are not "
            "(default: true for rwth_phoenix2014_t)",
        ),
    )
    SHARED_VIDEOS = True  # the splits are those of that package

    def read_clips(self, manual_dir: Path | None) -> ClipTable:
        source = self.path_of("source", manual_dir)
        is_bgr = self._is_bgr(source)
        clips, problems = [], []
        for split, shards in shards_of(source).items():
            table = _clips(split, shards, is_bgr, self.options["source_fps"])
            clips += table.clips
            problems += table.problems
        return ClipTable(clips, problems)

    def _is_bgr(self, source: Path) -> bool:
        """Return True if blue and red are swapped in the frames. Raises BuildError."""
        value = self.options["bgr"]
        if not value:
            return any(name in source.parts for name in BGR_DATA_SETS)
        if value.lower() not in BOOLEANS:
            raise BuildError(f"--bgr is {value!r}; allowed: true or false")
        return BOOLEANS[value.lower()]


def shards_of(folder: Path) -> dict[str, tuple[str, ...]]:
    """Return the ArrayRecord files of each split in `dataset_info.json`. Raises AnnotationError."""
    try:
        info = json.loads((folder / "dataset_info.json").read_text(encoding="utf-8"))
        name = info["name"]
        splits = [split["name"] for split in info["splits"]]
        file_format = info.get("fileFormat", "tfrecord")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise AnnotationError(
            f"{folder}: no readable dataset_info.json ({error}); "
            "give the version folder of a built data set"
        ) from error
    if file_format != "array_record":
        raise AnnotationError(
            f"{folder}: stored as {file_format!r}; allowed: array_record. "
            "Build it with tfds.load(..., builder_kwargs={'file_format': 'array_record'})"
        )
    shards = {
        split: tuple(map(str, sorted(folder.glob(f"{name}-{split}.array_record-*"))))
        for split in splits
    }
    if missing := [split for split, files in shards.items() if not files]:
        raise AnnotationError(f"{folder}: the files of split {missing[0]!r} are not there")
    return shards


def _clips(split: str, shards: tuple[str, ...], is_bgr: bool, fallback_fps: float) -> ClipTable:
    """Return the clips of a split, and a problem for each record that is not a usable clip."""
    clips, problems = [], []
    source = _records(shards)
    for number in range(len(source)):
        where = f"{shards[0]} ..., record {number}"
        try:
            values = _parse(source[number])
            name = _text(values, "id") or f"{split}-{number}"
            if not _text(values, "text").strip():
                raise LookupError("it has no text")
            check_video(values)
            frames = StoredFrames(shards, number, is_bgr, _fps(values, fallback_fps))
            gloss = " ".join(" ".join(_texts(values, "gloss")).split())
            clips.append(
                Clip(
                    id=name,
                    text=_text(values, "text"),
                    frames=frames,
                    gloss=gloss,
                    signer=_text(values, "signer"),
                    split=_split(split),
                    file=where,
                )
            )
        except LookupError as error:
            problems.append(Problem(f"{split} {number}", str(error.args[0]), file=where))
    return ClipTable(clips, problems)


def check_video(values: Values) -> None:
    """Raise LookupError for a record whose frames are not stored as images."""
    video = values.get("video")
    if not video:
        raise LookupError("it has no video: built with include_video=False, or poses alone")
    if not isinstance(video[0], bytes) or not video[0].startswith((b"\x89PNG", b"\xff\xd8")):
        raise LookupError("its video is a path, not frames: built with process_video=False")


@dataclasses.dataclass(frozen=True)
class StoredFrames:
    """A function that reads the frames of one record; small, so that it pickles quickly."""

    shards: tuple[str, ...]
    number: int  # of the record, in all shards
    is_bgr: bool
    fps: float  # frames per second

    def __call__(self) -> tuple[UInt8[np.ndarray, "t h w 3"], float]:
        """Return the RGB frames and their rate. Raises VideoDecodeError."""
        try:
            images = _parse(_records(self.shards)[self.number])["video"]
            frames = np.stack([_decode(data) for data in images])
        except Exception as error:  # ArrayRecord, protobuf and Pillow raise many types
            raise VideoDecodeError(
                self.shards[0], f"a frame of record {self.number} cannot be read: {error}"
            ) from error
        return (np.ascontiguousarray(frames[..., ::-1]) if self.is_bgr else frames), self.fps


def _decode(data: bytes) -> UInt8[np.ndarray, "h w 3"]:
    allowed = VideoLimits().max_pixels
    with Image.open(io.BytesIO(data), formats=("PNG", "JPEG")) as image:
        if image.width * image.height > allowed:
            raise ValueError(
                f"{image.width}x{image.height} pixels; allowed: at most {allowed} in all"
            )
        return np.asarray(image.convert("RGB"))


@functools.cache
def _records(shards: tuple[str, ...]) -> "ArrayRecordDataSource":
    from array_record.python.array_record_data_source import ArrayRecordDataSource

    return ArrayRecordDataSource(list(shards))


def _parse(serialized: bytes) -> Values:
    """Return the values of each feature of a `tf.train.Example`; [] for an empty feature."""
    feature = parse_example(serialized)
    return {
        name: list(getattr(value, value.WhichOneof("kind") or "bytes_list").value)
        for name, value in feature.items()
    }


def _texts(values: Values, name: str) -> list[str]:
    return [
        value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)
        for value in values.get(name, [])
    ]


def _text(values: Values, name: str) -> str:
    return next(iter(_texts(values, name)), "")


def _fps(values: Values, fallback: float) -> float:
    """Return the stored frames per second, or `fallback` if no possible rate is stored."""
    stored = float(next(iter(values.get("fps", ())), 0.0))
    return stored if stored in FRAME_RATES else fallback


def _split(name: str) -> str:
    """Return our name of a common split, such as "validation" for "dev"; other names stay."""
    return SPLIT_NAMES.get(name.casefold(), name)
