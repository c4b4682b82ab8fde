"""The one schema of every data set: what a record holds, the side index of a split, and which split a source video belongs to.

| feature | type | meaning |
|---|---|---|
| `id` | text | name of the clip, unique in the data set |
| `video` | sequence of bytes | one JPEG (RGB or gray, at most 4 channels) per frame, in order of time |
| `fps` | float32 | frames a second of the stored frames |
| `text` | text | the translation, exactly as annotated (never normalized) |
| `gloss` | text | glosses separated by one space; "" if there are none |
| `signer` | text | who signs; "" if unknown |
| `video_id` | text | the source video that the clip was cut from; splits are made on it |
| `start`, `end` | float32 | seconds in the source video; both -1 if the clip is the whole file |

Frames are stored as JPEG bytes and not as a TFDS `Video`, so that a reader decodes only the frames that it samples.
"""

import dataclasses
import hashlib
import io
import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from signvit_jax.files.atomic import write_atomically

TRAIN, VALIDATION, TEST = "train", "validation", "test"
WHOLE_FILE = -1.0  # `start` and `end` of a clip that is its whole file


class SchemaError(ValueError):
    """A record or an index that does not follow the schema; the message names file, line and key."""

    exit_code = 2


@dataclasses.dataclass(frozen=True)
class IndexEntry:
    """What is known of a clip without reading its frames. `fps` in frames a second of the stored frames."""

    id: str
    num_frames: int
    fps: float
    text: str
    gloss: str = ""
    signer: str = ""
    video_id: str = ""


def features() -> Any:
    """The `tfds.features.FeaturesDict` of every data set (TFDS is imported here, not with the module: it takes most of a second)."""
    import tensorflow_datasets as tfds

    return tfds.features.FeaturesDict(
        {
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
    return Path(folder) / f"{split}.index.jsonl"


def index_digest_path(folder: str | os.PathLike, split: str) -> Path:
    """Beside the index, in the format of `sha256sum`."""
    return Path(folder) / f"{split}.index.sha256"


def write_index(folder: str | os.PathLike, split: str, entries: Iterable[IndexEntry]) -> Path:
    """Writes `<split>.index.jsonl`, one entry a line in the order of the records, and its digest; each appears whole or not at all."""
    path = index_path(folder, split)
    digest = hashlib.sha256()

    def write(partial: Path) -> None:
        with partial.open("wb") as file:
            for entry in entries:
                line = (json.dumps(dataclasses.asdict(entry), ensure_ascii=False) + "\n").encode()
                digest.update(line)
                file.write(line)
        # Killed between the two renames, an index has no digest rather than a wrong one.
        index_digest_path(folder, split).unlink(missing_ok=True)

    write_atomically(path, write)
    write_index_digest(folder, split, digest.hexdigest())
    return path


def write_index_digest(folder: str | os.PathLike, split: str, digest: str | None = None) -> None:
    """`digest`: SHA-256 of the index; without it, of the file as it is."""
    digest = digest or hashlib.sha256(index_path(folder, split).read_bytes()).hexdigest()
    line = f"{digest}  {index_path(folder, split).name}\n"
    write_atomically(index_digest_path(folder, split), line)


def has_index_digest(folder: str | os.PathLike, split: str) -> bool:
    """False for an index of an earlier release."""
    return index_digest_path(folder, split).is_file()


def read_index(folder: str | os.PathLike, split: str) -> list[IndexEntry]:
    """Reads what `write_index` wrote.

    Raises FileNotFoundError if there is none, and SchemaError for a file whose digest is not the recorded one and for a line that is not an entry.
    """
    path, digest_path = index_path(folder, split), index_digest_path(folder, split)
    content = path.read_bytes()
    if (
        digest_path.is_file()
        and digest_path.read_bytes()[:64] != hashlib.sha256(content).hexdigest().encode()
    ):
        raise SchemaError(
            f"{path} is not what {digest_path.name} says: it was changed since it was written; the records are read instead"
        )
    entries = []
    for number, line in enumerate(io.BytesIO(content), start=1):
        try:
            entries.append(IndexEntry(**json.loads(line)))
        except (ValueError, TypeError, RecursionError) as error:
            raise SchemaError(
                f"{path}, line {number}: not an index entry ({error}); the records are read instead"
            ) from error
    return entries


def stable_fraction(video_id: str) -> float:
    """A number in [0, 1) that depends on nothing but the text of `video_id` (52 bits of its SHA-256): the same on every machine and in every run."""
    digest = hashlib.sha256(video_id.encode("utf-8", "surrogatepass")).digest()
    return (int.from_bytes(digest[:8], "big") >> 12) / 2**52


def split_of(video_id: str, val_fraction: float = 0.1, test_fraction: float = 0.1) -> str:
    """The split of a source video: "test", "validation" or "train". All clips of a video share it, so nothing leaks between splits."""
    fraction = stable_fraction(video_id)
    if fraction < test_fraction:
        return TEST
    return VALIDATION if fraction < test_fraction + val_fraction else TRAIN


def source_video_of(clip_id: str) -> str:
    """`<video>-<n>` -> `<video>`, cut at the last "-" (video ids may contain "-" themselves); any other id is its own video."""
    video, dash, number = clip_id.rpartition("-")
    return video if dash and video and number.isdecimal() else clip_id
