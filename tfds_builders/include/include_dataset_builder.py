"""include: INCLUDE, single words of Indian Sign Language.

Each word has a folder; the text of a clip is its word.
"""

import dataclasses
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar

import tensorflow_datasets as tfds

from signvit_jax.data.schema import TEST, TRAIN, VALIDATION
from tfds_builders.annotation_files.rows import Media, collect
from tfds_builders.annotation_files.tables import AnnotationError, Row, Table, read_table
from tfds_builders.base import SignDatasetBuilder
from tfds_builders.clips import Clip, ClipTable, Problem
from tfds_builders.media import MediaFolder
from tfds_builders.options import Option

SPLITS = {"train": TRAIN, "val": VALIDATION, "test": TEST}
SUBSETS = ("include", "include50")


class Builder(SignDatasetBuilder):
    VERSION = tfds.core.Version("1.0.0")
    RELEASE_NOTES: ClassVar = {"1.0.0": "First release."}
    HOMEPAGE = "https://zenodo.org/record/4010759"
    MANUAL_DOWNLOAD_INSTRUCTIONS = (
        "Unpack all archives into manual_dir: <Category>/<number>. <Word>/<file>.MOV; "
        "put include_{train,val,test}.csv there too."
    )
    OPTIONS = (
        Option(
            "root",
            "the folder of the unpacked archives, <Category>/<number>. <Word>/<file>.MOV",
            type=Path,
        ),
        Option(
            "tables",
            "folder of include_{train,val,test}.csv; without it a hash splits all videos",
            type=Path,
            optional=True,
        ),
        Option(
            "subset",
            "include: all words; include50: the 50 of include50_{train,val,test}.csv",
            "include",
            allowed=SUBSETS,
        ),
    )

    def read_clips(self, manual_dir: Path | None) -> ClipTable:
        subset, media = self.options["subset"], MediaFolder(self.path_of("root", manual_dir))
        folder = self.options["tables"] or manual_dir
        clips = parse(read_tables(folder, subset), media) if folder else parse_folders(media)
        return dataclasses.replace(clips, notes=media.notes)


def read_tables(folder: Path, subset: str) -> dict[str, Table]:
    """Read the existing tables, by the official name of their split. Raises AnnotationError."""
    paths = {split: folder / f"{subset}_{split}.csv" for split in SPLITS}
    tables = {
        split: read_table(path, ("Word", "FilePath"), delimiters=",")
        for split, path in paths.items()
        if path.is_file()
    }
    if not tables:
        raise AnnotationError(
            f"{folder}: none of {', '.join(path.name for path in paths.values())} is there; "
            "see the builder's README"
        )
    return tables


def parse(tables: Mapping[str, Table], media: Media) -> ClipTable:
    """Return the clips of the tables."""
    split_of = {table.path: SPLITS[split] for split, table in tables.items()}

    def clip_of(table: Table, row: Row, name: str) -> Clip:
        return _clip(
            name,
            row.values["Word"],
            media.find(row.values["FilePath"]),
            split_of[table.path],
            table.path,
            row.line,
        )

    return collect(
        list(tables.values()), lambda row: os.path.splitext(row.values["FilePath"])[0], clip_of
    )


def parse_folders(media: MediaFolder) -> ClipTable:
    """Return a clip for each video <Category>/<Word>/.../<file>, without official splits.

    Raises AnnotationError if there is none.
    """
    clips, problems = [], []
    for relative in media.relative_paths():
        name, parts = os.path.splitext(relative)[0], Path(relative).parts
        try:
            if len(parts) < 3:
                raise LookupError("it is not in a folder <Category>/<Word>")
            clips.append(_clip(name, parts[1], media.find(relative)))
        except LookupError as error:
            problems.append(Problem(name, str(error.args[0]), path=str(media.root / relative)))
    if not clips and not problems:
        raise AnnotationError(
            f"{media.root}: there is no video in it; give the folder of the unpacked archives"
        )
    return ClipTable(clips, problems)


def _clip(
    name: str, word: str, path: str, split: str | None = None, file: str = "", line: int = 0
) -> Clip:
    text = word_of(word)
    if not text:
        raise LookupError(f"no word in {word!r}")
    return Clip(
        id=name,
        text=text,
        path=path,
        gloss="-".join(text.split()).upper(),
        video_id=name,
        split=split,
        file=file,
        line=line,
    )


def word_of(folder: str) -> str:
    """Return the word of a folder, `4. Bird` -> `Bird`: words are numbered in their category."""
    return re.sub(r"^\d+\.\s*", "", folder).strip()
