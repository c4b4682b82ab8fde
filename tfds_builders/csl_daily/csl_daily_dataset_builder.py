"""csl_daily: CSL-Daily, Chinese Sign Language of daily life to Chinese, with glosses.

The files are in the layout of the release.
"""

import io
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar, NamedTuple, NoReturn, NotRequired, TypedDict

import tensorflow_datasets as tfds

from tfds_builders.annotation_files.rows import collect, split_named
from tfds_builders.annotation_files.tables import MAX_TEXT, AnnotationError, Row, Table, read_table
from tfds_builders.base import SignDatasetBuilder
from tfds_builders.clips import Clip, ClipTable
from tfds_builders.media import ImageFolders
from tfds_builders.options import Option

FRAME_RATE = 30.0
LABELS = Path("sentence_label", "csl2020ct_v2.pkl")
SPLITS = Path("sentence_label", "split_1.txt")
FRAMES = Path("sentence", "frames_512x512")
MAX_PICKLE_BYTES = 1 << 28


class Builder(SignDatasetBuilder):
    VERSION = tfds.core.Version("2.0.0")
    RELEASE_NOTES: ClassVar = {"2.0.0": "Annotations csl2020ct_v2, official split 1."}
    HOMEPAGE = "http://home.ustc.edu.cn/~zhouh156/dataset/csl-daily/"
    MANUAL_DOWNLOAD_INSTRUCTIONS = (
        "Unpack the release; manual_dir is the folder with `sentence_label` and `sentence`."
    )
    OPTIONS = (
        Option(
            "root",
            "the folder of the unpacked release, with sentence_label/ and sentence/frames_512x512/",
            type=Path,
        ),
    )

    def read_clips(self, manual_dir: Path | None) -> ClipTable:
        root = self.path_of("root", manual_dir)
        return parse(
            read_table(root / SPLITS, ("name", "split"), delimiters="|"),
            read_labels(root / LABELS),
            ImageFolders(root / FRAMES),
        )


class Label(NamedTuple):
    """The annotation of a clip."""

    text: str
    gloss: str
    signer: str


class _Entry(TypedDict):
    """A clip in the label file."""

    name: str
    label_char: list[str]
    label_gloss: list[str]
    signer: NotRequired[int | str]


class _PlainUnpickler(pickle.Unpickler):
    """An unpickler of numbers, texts, lists and dicts alone.

    A pickle that names a class or function could run any code, and is refused.
    """

    def find_class(self, module: str, name: str) -> NoReturn:
        raise pickle.UnpicklingError(
            f"it needs {module}.{name}; allowed: lists, dicts, texts and numbers"
        )


def read_labels(path: Path) -> dict[str, Label]:
    """Read the labels of `csl2020ct_v2.pkl` by clip. Raises AnnotationError."""
    try:
        if path.stat().st_size > MAX_PICKLE_BYTES:
            raise AnnotationError(
                f"{path}: {path.stat().st_size} bytes; allowed: at most {MAX_PICKLE_BYTES}"
            )
        entries = _PlainUnpickler(io.BytesIO(path.read_bytes())).load()["info"]
        return {entry["name"]: _label(entry) for entry in entries}
    except OSError as error:
        raise AnnotationError(
            f"{path}: cannot be read ({error.strerror}); give the folder of the unpacked release"
        ) from error
    except AnnotationError:
        raise
    except Exception as error:  # a damaged pickle, or another content, can raise anything
        raise AnnotationError(
            f"{path}: not the label file of CSL-Daily ({type(error).__name__}: {error})"
        ) from error


def _label(entry: _Entry) -> Label:
    """Join the characters of the text without spaces, and the glosses with spaces."""
    return Label(
        "".join(map(str, entry["label_char"])),
        " ".join(map(str, entry["label_gloss"])),
        str(entry.get("signer", "")),
    )


def parse(splits: Table, labels: Mapping[str, Label], media: ImageFolders) -> ClipTable:
    """Return a clip for each name in the split file.

    The official file has one name without a label (S000005_P0004_T00), which becomes a problem.
    """

    def clip_of(table: Table, row: Row, name: str) -> Clip:
        split = split_named(row.values["split"])
        if name not in labels:
            raise LookupError(f"no label for it in {LABELS.name}")
        label = labels[name]
        if not label.text.strip() or len(label.text) > MAX_TEXT:
            raise LookupError(
                f"its text has {len(label.text.strip())} characters; allowed: 1 to {MAX_TEXT}"
            )
        path = media.find(name)
        return Clip(
            id=name,
            text=label.text,
            path=path,
            gloss=label.gloss,
            signer=label.signer,
            video_id=name,
            split=split,
            file=table.path,
            line=row.line,
            image_rate=FRAME_RATE,
        )

    return collect([splits], lambda row: row.values["name"], clip_of)
