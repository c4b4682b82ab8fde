"""phoenix14t: RWTH-PHOENIX-Weather 2014T, German Sign Language weather forecasts to German.

It has glosses; the files are in the layout of the release.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar

import tensorflow_datasets as tfds

from signvit_jax.data.schema import TEST, TRAIN, VALIDATION
from tfds_builders.annotation_files.rows import collect
from tfds_builders.annotation_files.tables import AnnotationError, Row, Table, read_table
from tfds_builders.base import SignDatasetBuilder
from tfds_builders.clips import Clip, ClipTable
from tfds_builders.media import ImageFolders
from tfds_builders.options import Option

FRAME_RATE = 25.0  # of the broadcasts, in frames per second
SPLITS = {"train": TRAIN, "dev": VALIDATION, "test": TEST}
FRAMES = Path("features", "fullFrame-210x260px")


class Builder(SignDatasetBuilder):
    VERSION = tfds.core.Version("3.0.0")
    RELEASE_NOTES: ClassVar = {"3.0.0": "PHOENIX-2014-T-release-v3."}
    HOMEPAGE = "https://www-i6.informatik.rwth-aachen.de/~koller/RWTH-PHOENIX-2014-T/"
    MANUAL_DOWNLOAD_INSTRUCTIONS = (
        "Unpack the release; manual_dir is its folder `PHOENIX-2014-T`, with `annotations` and "
        "`features`."
    )
    OPTIONS = (
        Option(
            "root",
            "the folder PHOENIX-2014-T of the unpacked release, with annotations/ and features/",
            type=Path,
        ),
    )
    SHARED_VIDEOS = True  # each official split has sentences of the same broadcasts

    def read_clips(self, manual_dir: Path | None) -> ClipTable:
        root = self.path_of("root", manual_dir)
        return parse(read_tables(root / "annotations" / "manual"), ImageFolders(root / FRAMES))


def read_tables(folder: Path) -> dict[str, Table]:
    """Read the existing tables, by the official name of their split. Raises AnnotationError."""
    paths = {split: folder / f"PHOENIX-2014-T.{split}.corpus.csv" for split in SPLITS}
    tables = {
        # The release does not quote: quotation marks are literal.
        split: read_table(
            path, ("name", "translation"), ("orth", "speaker"), delimiters="|", quoted=False
        )
        for split, path in paths.items()
        if path.is_file()
    }
    if not tables:
        raise AnnotationError(
            f"{folder}: none of {', '.join(path.name for path in paths.values())} is there; "
            "give the release's folder PHOENIX-2014-T"
        )
    return tables


def parse(tables: Mapping[str, Table], media: ImageFolders) -> ClipTable:
    """Return the clips; the frames of a sentence are a folder of images."""
    split_of = {table.path: split for split, table in tables.items()}

    def clip_of(table: Table, row: Row, name: str) -> Clip:
        split = split_of[table.path]
        path = media.find(f"{split}/{name}", f"{split}/{name}/1")
        gloss = " ".join(row.values.get("orth", "").split())
        return Clip(
            id=name,
            text=row.values["translation"],
            path=path,
            gloss=gloss,
            signer=row.values.get("speaker", ""),
            split=SPLITS[split],
            file=table.path,
            line=row.line,
            image_rate=FRAME_RATE,
        )

    return collect(list(tables.values()), lambda row: row.values["name"], clip_of)
