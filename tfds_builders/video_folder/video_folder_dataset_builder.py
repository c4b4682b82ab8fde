"""video_folder: your own data, a table `uid,text` and a folder of videos."""

from pathlib import Path
from typing import ClassVar

import tensorflow_datasets as tfds

from tfds_builders.annotations import OWN_OPTIONAL, OWN_REQUIRED, clips_of, read_own_table
from tfds_builders.base import Option, SignDatasetBuilder, column_options, columns_called
from tfds_builders.clips import ClipTable
from tfds_builders.media import MediaFolder

COLUMNS = (*OWN_REQUIRED, *OWN_OPTIONAL)


class Builder(SignDatasetBuilder):
    VERSION = tfds.core.Version("1.0.0")
    RELEASE_NOTES: ClassVar = {"1.0.0": "First version."}
    MANUAL_DOWNLOAD_INSTRUCTIONS = (
        "Put `clips.csv` (columns uid,text) and the folder `videos` into manual_dir."
    )
    OPTIONS = (
        Option(
            "csv",
            "table with the columns uid,text and optionally gloss,signer,video_id,split,start,end",
            type=Path,
        ),
        Option(
            "videos",
            "folder that holds the videos <uid>.mp4 (or webm, mov, avi, mkv, gif, m4v, 3gp)",
            type=Path,
        ),
        *column_options(COLUMNS),
    )

    def read_clips(self, manual_dir: Path | None) -> ClipTable:
        csv = self.path_of("csv", manual_dir, "clips.csv")
        videos = self.path_of("videos", manual_dir, "videos")
        return clips_of(
            read_own_table(csv, called=columns_called(self.options, COLUMNS)), MediaFolder(videos)
        )
