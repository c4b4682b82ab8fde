"""isign: iSign v1.1, Indian Sign Language to English, in the layout of its release."""

from pathlib import Path
from typing import ClassVar

import tensorflow_datasets as tfds

from tfds_builders.annotation_files.rows import REQUIRED_COLUMNS, clips_of, read_clip_table
from tfds_builders.base import SignDatasetBuilder
from tfds_builders.clips import ClipTable
from tfds_builders.media import MediaFolder
from tfds_builders.options import Option, column_options, given_columns


class Builder(SignDatasetBuilder):
    VERSION = tfds.core.Version("1.1.0")
    RELEASE_NOTES: ClassVar = {"1.1.0": "iSign v1.1."}
    HOMEPAGE = "https://exploration-lab.github.io/iSign/"
    MANUAL_DOWNLOAD_INSTRUCTIONS = (
        "Put `iSign_v1.1.csv` and the folder `iSign-videos_v1.1` (the joined and unpacked zip "
        "parts) into manual_dir."
    )
    OPTIONS = (
        Option("csv", "iSign_v1.1.csv, columns uid,text", type=Path),
        Option("videos", "folder of the unpacked clips <uid>.mp4", type=Path),
        *column_options(REQUIRED_COLUMNS),
    )

    def read_clips(self, manual_dir: Path | None) -> ClipTable:
        csv = self.path_of("csv", manual_dir, "iSign_v1.1.csv")
        videos = self.path_of("videos", manual_dir, "iSign-videos_v1.1")
        # Ids are `<video id>-<n>`. What stands before the last "-" is taken as the source video
        # (schema.source_video_of), and the clips of one source video come into one split.
        table = read_clip_table(
            csv, (), given_columns(self.options, REQUIRED_COLUMNS), delimiters=","
        )
        return clips_of(table, MediaFolder(videos, (".mp4",)))
