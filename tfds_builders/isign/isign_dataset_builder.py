"""isign: iSign v1.1, Indian Sign Language to English, in the layout of its release."""

from pathlib import Path
from typing import ClassVar

import tensorflow_datasets as tfds

from tfds_builders.annotation_files.rows import OWN_REQUIRED, clips_of, read_own_table
from tfds_builders.base import SignDatasetBuilder
from tfds_builders.clips import ClipTable
from tfds_builders.media import MediaFolder
from tfds_builders.options import Option, column_options, columns_called


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
        *column_options(OWN_REQUIRED),
    )

    def read_clips(self, manual_dir: Path | None) -> ClipTable:
        csv = self.path_of("csv", manual_dir, "iSign_v1.1.csv")
        videos = self.path_of("videos", manual_dir, "iSign-videos_v1.1")
        # The source video of `<video id>-<n>` ends at the last "-" (schema.source_video_of), so
        # splits share no video.
        table = read_own_table(csv, (), columns_called(self.options, OWN_REQUIRED), delimiters=",")
        return clips_of(table, MediaFolder(videos, (".mp4",)))
