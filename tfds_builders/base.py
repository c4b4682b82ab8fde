"""The base of every builder: clips in, ArrayRecord shards, side index and `build_report.json` out.

A builder of this package is its options and its annotation parser (`read_clips`); all else is here. The methods that TFDS calls are conventional, so
`tfds build` works too. Only the writer is ours, and streams: that of TFDS collects a split in memory and, past 1 GB, needs TensorFlow to spill.
"""

import abc
import collections
import contextlib
import dataclasses
import hashlib
import itertools
import json
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar

import tensorflow_datasets as tfds

from signvit_jax.data import schema
from tfds_builders import beam_build
from tfds_builders.audit import audit, notes
from tfds_builders.clips import Clip, ClipTable, EncodedClip, Encoding, Problem, encode_clip
from tfds_builders.encoding import ClipEncoder
from tfds_builders.shards import PLAN_NAME, SplitWriter, open_folder

REPORT_NAME = "build_report.json"
SPLIT_ORDER = (schema.TRAIN, schema.VALIDATION, schema.TEST)


class BuildError(Exception):
    """The data set cannot be built; the message is for the user and complete."""


class NoReadableMedia(BuildError):
    """Not one clip could be read. `problems` has them all."""

    def __init__(self, message: str, problems: Sequence[Problem]):
        super().__init__(message)
        self.problems = list(problems)


@dataclasses.dataclass(frozen=True)
class Option:
    """A command-line option of one builder. `default=None` means that it is left out; a `type` of `Path` is a file or folder."""

    name: str
    help: str
    default: Any = None
    type: Callable[[str], Any] = str
    optional: bool = False  # a file or folder without which the builder can do


class SignDatasetBuilder(tfds.core.GeneratorBasedBuilder):
    """Subclasses set VERSION, OPTIONS and `read_clips`, and put README.md, CITATIONS.bib and TAGS.txt beside their file."""

    HOMEPAGE: ClassVar[str] = ""
    OPTIONS: ClassVar[tuple[Option, ...]] = ()
    SHARED_VIDEOS: ClassVar[bool] = False  # the official splits cut one source video into clips of several splits
    SIGNER_INDEPENDENT: ClassVar[bool] = False  # no signer may be in two splits

    def __init__(
        self,
        *,
        short_side: int = Encoding.short_side,
        frame_rate: float | None = Encoding.frame_rate,
        jpeg_quality: int = Encoding.jpeg_quality,
        val_fraction: float = 0.1,
        test_fraction: float = 0.1,
        workers: int = 0,
        shard_megabytes: float = 256.0,
        beam_runner: str | None = None,
        resume_dir: Path | None = None,
        on_progress: Callable[[int, int], None] | None = None,
        options: dict[str, Any] | None = None,
        file_format: str | None = "array_record",
        **kwargs: Any,
    ):
        """`workers`: processes that decode, 0 = one per core. `on_progress(done, total)` is called after each clip. `options`: values for OPTIONS.

        `beam_runner`: Apache Beam builds instead. `resume_dir`: keeps finished shards, on the disk of the data set; a later build of the same goes on
        after them.
        """
        if val_fraction < 0 or test_fraction < 0 or val_fraction + test_fraction > 1:
            raise BuildError(f"val_fraction is {val_fraction} and test_fraction {test_fraction}; allowed: shares >= 0 that add up to at most 1")
        sound = short_side >= 1 and 1 <= jpeg_quality <= 95 and (frame_rate is None or 0 < frame_rate < 1000)
        if not sound or workers < 0 or shard_megabytes <= 0:
            given = f"short_side is {short_side}, frame_rate {frame_rate}, jpeg_quality {jpeg_quality}, workers {workers}"
            raise BuildError(
                f"{given}, shard_megabytes {shard_megabytes}; "
                "allowed: short_side >= 1, 0 < frame_rate < 1000, jpeg_quality 1 to 95, workers >= 0, shard_megabytes > 0"
            )
        unknown = set(options or {}) - {option.name for option in self.OPTIONS}
        if unknown:
            raise BuildError(
                f"{self.name} has no option {', '.join(sorted(unknown))}; allowed: {', '.join(option.name for option in self.OPTIONS) or 'none'}"
            )
        self.encoding = Encoding(short_side, frame_rate, jpeg_quality)
        self.options = {option.name: option.default for option in self.OPTIONS} | dict(options or {})
        self.problems: list[Problem] = []
        self.warnings: list[str] = []
        self._fractions = (val_fraction, test_fraction)
        self._workers = workers
        self._shard_bytes = int(shard_megabytes * 2**20)
        self._beam_runner, self._resume_dir = beam_runner, resume_dir
        self._writers: dict[str, SplitWriter] = {}
        self._on_progress = on_progress
        self._encoder: ClipEncoder | None = None
        self._planned: dict[str, list[Clip]] | None = None
        super().__init__(file_format=file_format, **kwargs)

    @abc.abstractmethod
    def read_clips(self, manual_dir: Path | None) -> ClipTable:
        """The annotation parser. `manual_dir`: where `tfds build --manual_dir` says that the files lie, if an option of type Path was not given."""

    def _info(self) -> tfds.core.DatasetInfo:
        return self.dataset_info_from_configs(features=schema.features(), homepage=self.HOMEPAGE or None, disable_shuffling=True)

    # --- what is to be built ---

    def plan(self, manual_dir: Path | None = None) -> dict[str, list[Clip]]:
        """Clips per split, train first. Fills `problems` and `warnings`. Reads the annotations once. Raises BuildError, AnnotationError."""
        if self._planned is not None:
            return self._planned
        table = self.read_clips(manual_dir)
        self.problems, self._table_problems = list(table.problems), table.problems
        splits: dict[str, list[Clip]] = collections.defaultdict(list)
        for clip in table.clips:
            splits[clip.split or schema.split_of(clip.source_video, *self._fractions)].append(clip)
        self.warnings = self._split_warnings(splits)
        order = sorted(splits, key=lambda name: (SPLIT_ORDER.index(name) if name in SPLIT_ORDER else len(SPLIT_ORDER), name))
        self._planned = {name: splits[name] for name in order}
        return self._planned

    def _split_warnings(self, splits: dict[str, list[Clip]]) -> list[str]:
        found = []
        total = len({clip.source_video for clips in splits.values() for clip in clips})
        by_hash = any(clip.split is None for clips in splits.values() for clip in clips)
        for name, fraction in zip((schema.VALIDATION, schema.TEST), self._fractions):
            if by_hash and fraction > 0 and total and not splits.get(name):
                few = f"{total} source videos are too few for a share of {fraction:g}"
                found.append(f"the split {name!r} is empty: {few}; give a column 'split' or other fractions")
        return found

    def settings(self) -> dict[str, Any]:
        """Every option that changes what is built, as JSON values; not the number of workers, nor paths (`fingerprint` has the content)."""
        own = {option.name: self.options[option.name] for option in self.OPTIONS if option.type is not Path}
        return dataclasses.asdict(self.encoding) | dict(zip(("val_fraction", "test_fraction"), self._fractions)) | own

    def sources(self) -> dict[str, str]:
        """The files and folders that the builder reads."""
        return {option.name: os.path.abspath(self.options[option.name] or "") for option in self.OPTIONS if option.type is Path}

    def fingerprint(self, splits: dict[str, list[Clip]]) -> str:
        """Changes when an annotation, a split or the size of a video file changes."""
        digest = hashlib.sha256()
        for name, clips in splits.items():
            for clip in clips:
                size = _media_size(clip)
                entry = (name, clip.id, clip.text, clip.gloss, clip.signer, clip.source_video, clip.start, clip.end, size)
                digest.update(json.dumps(entry).encode() + b"\n")
        for problem in self._table_problems:
            digest.update(json.dumps((problem.id, problem.reason)).encode() + b"\n")
        return digest.hexdigest()[:16]

    # --- building: the methods that TFDS calls ---

    def _split_generators(self, dl_manager: Any) -> dict[str, Iterator[tuple[int, EncodedClip | Problem]]]:
        """The clips of each split that no finished shard holds, as `_generate_examples` gives them; shards of an earlier, killed build count."""
        not_given = any(option.type is Path and not option.optional and self.options[option.name] is None for option in self.OPTIONS)
        splits = self.plan(Path(dl_manager.manual_dir) if not_given else None)
        total = sum(map(len, splits.values()))
        if total == 0:
            raise NoReadableMedia(f"{self.name}: no clip to build" + first_problems(self.problems), self.problems)
        folder = self._resume_dir or Path(self.data_path)
        per_shard = self._clips_per_shard(splits) if self._beam_runner else 0
        open_folder(folder, {"settings": self.settings(), "fingerprint": self.fingerprint(splits), "shard": [self._shard_bytes, per_shard]})
        if self._beam_runner:
            beam_build.write_shards(splits, folder, self.encoding, self._beam_runner, per_shard)
        self._writers = {name: SplitWriter(folder, name, self._shard_bytes) for name in splits}
        self._done, self._total = sum(writer.position for writer in self._writers.values()), total
        if self._on_progress is not None:
            self._on_progress(self._done, total)
        return {name: self._generate_examples(splits[name], writer.position) for name, writer in self._writers.items()}

    def _generate_examples(self, clips: Sequence[Clip], first: int) -> Iterator[tuple[int, EncodedClip | Problem]]:
        """(position, frames or why there are none) from clip `first` on, in the order of the annotations, whatever the number of workers."""
        for position, result in enumerate(self._encoder.encode(clips[first:]), first):
            yield position, result
            self._done += 1
            if self._on_progress is not None:
                self._on_progress(self._done, self._total)

    def _generate_splits(self, dl_manager: Any, download_config: Any) -> list[tfds.core.SplitInfo]:
        """Takes the place of the TFDS writer: streams every split into shards and writes index and report beside them."""
        infos = []
        with ClipEncoder(self.encoding, self._workers) as self._encoder:
            for name, examples in self._split_generators(dl_manager).items():
                writer = self._writers[name]
                with contextlib.closing(examples):
                    for position, result in itertools.islice(examples, download_config.max_examples_per_split):
                        writer.take(self._planned[name][position], result)
                if info := writer.finish(self._get_filename_template(split_name=name)):
                    infos.append(info)
                else:
                    self.warnings.append(f"the split {name!r} is empty: none of its clips could be read")
        self.problems += [problem for writer in self._writers.values() for journal in writer.journals for problem in journal.problems]
        if not infos:
            self._clear_shards()
            raise NoReadableMedia(f"{self.name}: none of the {self._total} clips could be read" + first_problems(self.problems), self.problems)
        self._write_report(Path(self.data_path))
        if self._resume_dir is None:
            self._clear_shards()
        return infos

    def _clear_shards(self) -> None:
        for writer in self._writers.values():
            writer.clear()
        ((self._resume_dir or Path(self.data_path)) / PLAN_NAME).unlink()

    def _clips_per_shard(self, splits: dict[str, list[Clip]]) -> int:
        """So many that a shard is about as large as asked for, judged by a few clips."""
        mean = mean_clip_bytes([clip for clips in splits.values() for clip in clips], self.encoding)
        return max(1, int(self._shard_bytes / mean)) if mean else 100

    def _write_report(self, folder: Path) -> None:
        written = {name: writer for name, writer in self._writers.items() if any(journal.entries for journal in writer.journals)}
        entries = {name: [entry for journal in writer.journals for entry in journal.entries] for name, writer in written.items()}
        digests = {name: [digest for journal in writer.journals for digest in journal.digests] for name, writer in written.items()}
        found = audit(entries, digests, self.SHARED_VIDEOS, self.SIGNER_INDEPENDENT)
        report = {
            "name": self.name,
            "version": str(self.version),
            "settings": self.settings(),
            "sources": self.sources(),
            "fingerprint": self.fingerprint(self._planned),
            "splits": {name: dataclasses.asdict(writer.summary()) for name, writer in written.items()},
            "warnings": self.warnings + notes(found),
            **found,
            "failed": [dataclasses.asdict(problem) for problem in self.problems],
        }
        (folder / REPORT_NAME).write_text(json.dumps(report, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def mean_clip_bytes(clips: Sequence[Clip], encoding: Encoding, sampled: int = 8) -> float:
    """Bytes of a clip's frames once stored, judged by `sampled` clips that are built on trial; 0 if none of them can be read."""
    trial = [encode_clip(clip, encoding) for clip in clips[:: max(1, len(clips) // sampled)][:sampled]]
    sizes = [result.num_bytes for result in trial if isinstance(result, EncodedClip)]
    return sum(sizes) / len(sizes) if sizes else 0.0


def _media_size(clip: Clip) -> int:
    """Bytes of the video file, or how many files a folder of pictures has: quick to find out, and seldom the same for other content."""
    if clip.path is None:
        return -1
    return os.path.getsize(clip.path) if clip.picture_rate is None else len(os.listdir(clip.path))


def first_problems(problems: Sequence[Problem], shown: int = 5) -> str:
    """The first few problems, one a line, and how many more there are."""
    lines = [f"\n  {problem}" for problem in problems[:shown]]
    return "".join(lines) + (f"\n  and {len(problems) - shown} more" if len(problems) > shown else "")
