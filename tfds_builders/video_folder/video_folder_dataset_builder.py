"""video_folder: your own videos, with a table, ELAN files or subtitle files."""

import dataclasses
from pathlib import Path
from typing import ClassVar

import tensorflow_datasets as tfds

from tfds_builders.annotation_files.recordings import Videos, elan_clips, subtitle_clips
from tfds_builders.annotation_files.rows import (
    OPTIONAL_COLUMNS,
    REQUIRED_COLUMNS,
    clips_of,
    read_clip_table,
)
from tfds_builders.base import BuildError, SignDatasetBuilder
from tfds_builders.clips import ClipTable
from tfds_builders.media import MediaFolder
from tfds_builders.options import FRAME_RATES, Option, column_options, given_columns
from tfds_builders.splits import SPLIT_BY, group_clips

COLUMNS = (*REQUIRED_COLUMNS, *OPTIONAL_COLUMNS)
# Option -> the kinds of annotations that it is for; options that are not here are for all kinds.
KINDS_OF = {
    **{f"{column}_column": ("csv",) for column in COLUMNS},
    "text_tier": ("eaf",),
    "gloss_tier": ("eaf",),
    "language": ("subtitles",),
    "encoding": ("csv", "subtitles"),
    "image_rate": ("csv",),
}


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
            optional=True,
        ),
        Option(
            "eaf",
            "instead of a table: an ELAN file, or a folder of them; each annotation is a clip",
            type=Path,
            optional=True,
        ),
        Option(
            "subtitles",
            "instead of a table: a .vtt or .srt file, or a folder of them; each cue is a clip",
            type=Path,
            optional=True,
        ),
        Option(
            "videos",
            "folder that holds the videos <uid>.mp4 (or webm, mov, avi, mkv, gif, m4v, 3gp); "
            "for one ELAN or subtitle file also the video itself",
            type=Path,
        ),
        Option(
            "image_rate",
            "images per second, where clips are folders of PNG or JPEG images, <uid>/0001.png, and "
            "not videos",
            type=float,
            allowed=FRAME_RATES,
        ),
        *column_options(COLUMNS),
        Option(
            "text_tier",
            "the ELAN tier of the texts, or several: A,B or Translation* (text, or the only one "
            "with texts)",
            in_fingerprint=True,
        ),
        Option(
            "gloss_tier", "the ELAN tier of the glosses, or several (gloss)", in_fingerprint=True
        ),
        Option(
            "language",
            "which subtitles of a video to take, where there are several: en takes a.en.vtt",
            in_fingerprint=True,
        ),
        Option(
            "split_by",
            "what is kept within one split, where no column gives the splits: video (the default), "
            "signer, or clip for one long video, whose parts are then in every split",
            allowed=tuple(SPLIT_BY),
            in_fingerprint=True,
        ),
        Option(
            "encoding",
            "encoding of a table or of subtitles, such as cp1252 (UTF-8, or by a byte order mark)",
            in_fingerprint=True,
        ),
    )
    ONE_OF: ClassVar = ("csv", "eaf", "subtitles")
    EXAMPLES: ClassVar = r"""
  # a table uid,text, and one from Excel with its own names
  signvit build video_folder --data_dir=data --csv=clips.csv --videos=videos
  signvit build video_folder --data_dir=data --csv=clips.csv --videos=videos \
      --uid_column=Name --text_column=Satz --encoding=cp1252
  # a table uid,text,video_id,start,end: each clip is a part of <video_id>.mp4
  signvit build video_folder --data_dir=data --csv=parts.csv --videos=recordings
  # folders of images in place of videos: frames/<uid>/0001.png, 0002.png, ...
  signvit build video_folder --data_dir=data --csv=clips.csv --videos=frames --image_rate=25
  # ELAN files, and the names of their tiers
  signvit build video_folder --data_dir=data --eaf=corpus --videos=corpus \
      --text_tier=Translation --gloss_tier='Gloss*'
  # subtitles of long videos; one file for one video
  signvit build video_folder --data_dir=data --subtitles=talks --videos=talks --language=en
  signvit build video_folder --data_dir=data --subtitles=talk.srt --videos=talk.mp4
"""

    def read_clips(self, manual_dir: Path | None) -> ClipTable:
        kind = self._kind(manual_dir)
        for name, kinds in KINDS_OF.items():
            if self.options[name] and kind not in kinds:
                options = " and ".join(f"--{known}" for known in kinds)
                raise BuildError(f"--{name} is for {options} only; leave it out with --{kind}")
        videos = self.path_of("videos", manual_dir, "videos")
        get = self.options.get
        if kind == "csv":
            clips = self._table_clips(self.path_of("csv", manual_dir, "clips.csv"), videos)
        elif kind == "eaf":
            tiers = get("text_tier"), get("gloss_tier")
            clips = elan_clips(self.options["eaf"], Videos(videos), *tiers)
        else:
            settings = get("language"), get("encoding")
            clips = subtitle_clips(self.options["subtitles"], Videos(videos), *settings)
        return group_clips(clips, get("split_by"))

    def _table_clips(self, csv: Path, videos: Path) -> ClipTable:
        media = MediaFolder(videos, image_rate=self.options["image_rate"])
        column_names = given_columns(self.options, COLUMNS)
        table = read_clip_table(csv, column_names=column_names, encoding=self.options["encoding"])
        result = clips_of(table, media)
        others = media.others(clip.path for clip in result.clips if clip.path)
        return dataclasses.replace(result, notes=[*result.notes, *others])

    def _kind(self, manual_dir: Path | None) -> str:
        """Return which of ONE_OF the user gave. Raises BuildError."""
        kinds = [name for name in self.ONE_OF if self.options[name]]
        if len(kinds) > 1 or (not kinds and manual_dir is None):
            options = ", ".join(f"--{name}" for name in self.ONE_OF)
            listed = " and ".join(f"--{name}" for name in kinds) or "none"
            raise BuildError(f"given: {listed}; give one of {options}")
        return kinds[0] if kinds else "csv"
