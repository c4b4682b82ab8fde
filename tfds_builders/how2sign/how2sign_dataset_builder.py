"""how2sign: How2Sign, American Sign Language instructions to English.

Sentences are parts of long videos by the re-aligned times, or files of their own.
"""

import dataclasses
import re
from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar

import tensorflow_datasets as tfds

from signvit_jax.data.schema import TEST, TRAIN, VALIDATION, WHOLE_FILE
from tfds_builders.annotation_files.rows import Media, collect, times
from tfds_builders.annotation_files.tables import AnnotationError, Row, Table, read_table
from tfds_builders.base import SignDatasetBuilder
from tfds_builders.clips import Clip, ClipTable
from tfds_builders.media import MediaFolder
from tfds_builders.options import Option

SPLITS = {"train": TRAIN, "val": VALIDATION, "test": TEST}
COLUMNS = ("SENTENCE_NAME", "SENTENCE", "VIDEO_NAME", "START_REALIGNED", "END_REALIGNED")


class Builder(SignDatasetBuilder):
    VERSION = tfds.core.Version("1.0.0")
    RELEASE_NOTES: ClassVar = {"1.0.0": "Front view, sentences with the manually re-aligned times."}
    HOMEPAGE = "https://how2sign.github.io/"
    MANUAL_DOWNLOAD_INSTRUCTIONS = (
        "Put the files `how2sign_realigned_{train,val,test}.csv` and the mp4 files below "
        "manual_dir, in folders of any names."
    )
    OPTIONS = (
        Option(
            "root",
            "the folder of how2sign_realigned_{train,val,test}.csv and the mp4 files, "
            "in it or below",
            type=Path,
        ),
    )

    def read_clips(self, manual_dir: Path | None) -> ClipTable:
        root = self.path_of("root", manual_dir)
        media = MediaFolder(root, (".mp4",), by_name=True)
        return dataclasses.replace(parse(read_tables(root), media), notes=media.notes)


def read_tables(root: Path) -> dict[str, Table]:
    """Read the existing tables, by the official name of their split. Raises AnnotationError."""
    tables = {}
    for split in SPLITS:
        name = f"how2sign_realigned_{split}.csv"
        paths = sorted(root.rglob(name))
        if len(paths) > 1:
            raise AnnotationError(
                f"{root}: there is more than one {name}: {paths[0]} and {paths[1]}; keep one"
            )
        if paths:
            tables[split] = read_table(paths[0], COLUMNS, ("VIDEO_ID",), delimiters="\t")
    if not tables:
        raise AnnotationError(
            f"{root}: there is no how2sign_realigned_{{{','.join(SPLITS)}}}.csv in it or below; "
            "see the builder's README"
        )
    return tables


def parse(tables: Mapping[str, Table], media: Media) -> ClipTable:
    """Return the clips: <SENTENCE_NAME>.mp4 if it exists, else a part of <VIDEO_NAME>.mp4."""
    split_of = {table.path: SPLITS[split] for split, table in tables.items()}

    def clip_of(table: Table, row: Row, name: str) -> Clip:
        start, end = times(row.values["START_REALIGNED"], row.values["END_REALIGNED"])
        try:
            path, start, end = media.find(name), WHOLE_FILE, WHOLE_FILE
        except LookupError:
            path = media.find(row.values["VIDEO_NAME"])
        signer = re.search(r"-(\d+)-rgb", row.values["VIDEO_NAME"])
        return Clip(
            id=name,
            text=row.values["SENTENCE"],
            path=path,
            signer=signer[1] if signer else "",
            video_id=row.values.get("VIDEO_ID") or row.values["VIDEO_NAME"],
            split=split_of[table.path],
            start=start,
            end=end,
            file=table.path,
            line=row.line,
        )

    return collect(list(tables.values()), lambda row: row.values["SENTENCE_NAME"], clip_of)
