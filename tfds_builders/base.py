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
from array_record.python.array_record_module import ArrayRecordWriter

from signvit_jax.data import schema
from tfds_builders.clips import Clip, ClipTable, EncodedClip, Encoding, Problem
from tfds_builders.encoding import ClipEncoder

REPORT_NAME = "build_report.json"
SHARD_BYTES = 256 << 20
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


@dataclasses.dataclass
class SplitSummary:
    clips: int = 0
    frames: int = 0
    seconds: float = 0.0
    bytes: int = 0


class SignDatasetBuilder(tfds.core.GeneratorBasedBuilder):
    """Subclasses set VERSION, OPTIONS and `read_clips`, and put README.md, CITATIONS.bib and TAGS.txt beside their file."""

    HOMEPAGE: ClassVar[str] = ""
    OPTIONS: ClassVar[tuple[Option, ...]] = ()

    def __init__(
        self,
        *,
        short_side: int = Encoding.short_side,
        frame_rate: float | None = Encoding.frame_rate,
        jpeg_quality: int = Encoding.jpeg_quality,
        val_fraction: float = 0.1,
        test_fraction: float = 0.1,
        workers: int = 0,
        on_progress: Callable[[int, int], None] | None = None,
        options: dict[str, Any] | None = None,
        file_format: str | None = "array_record",
        **kwargs: Any,
    ):
        """`workers`: processes that decode, 0 = one per core. `on_progress(done, total)` is called after each clip. `options`: values for OPTIONS."""
        if val_fraction < 0 or test_fraction < 0 or val_fraction + test_fraction > 1:
            raise BuildError(f"val_fraction is {val_fraction} and test_fraction {test_fraction}; allowed: shares >= 0 that add up to at most 1")
        if short_side < 1 or not 1 <= jpeg_quality <= 95 or (frame_rate is not None and not 0 < frame_rate < 1000) or workers < 0:
            raise BuildError(
                f"short_side is {short_side}, frame_rate {frame_rate}, jpeg_quality {jpeg_quality}, workers {workers}; "
                "allowed: short_side >= 1, 0 < frame_rate < 1000, jpeg_quality 1 to 95, workers >= 0"
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
        self.problems = list(table.problems)
        splits: dict[str, list[Clip]] = collections.defaultdict(list)
        for clip in table.clips:
            splits[clip.split or schema.split_of(clip.source_video, *self._fractions)].append(clip)
        self.warnings = self._split_warnings(splits)
        order = sorted(splits, key=lambda name: (SPLIT_ORDER.index(name) if name in SPLIT_ORDER else len(SPLIT_ORDER), name))
        self._planned = {name: splits[name] for name in order}
        return self._planned

    def _split_warnings(self, splits: dict[str, list[Clip]]) -> list[str]:
        videos = {name: {clip.source_video for clip in clips} for name, clips in splits.items()}
        found = []
        for a, b in itertools.combinations(videos, 2):
            if shared := sorted(videos[a] & videos[b]):
                found.append(f"{len(shared)} source videos have clips in {a} as well as in {b} (such as {shared[0]}): figures on {b} will flatter")
        total = len(set().union(*videos.values())) if videos else 0
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
                size = os.path.getsize(clip.path) if clip.path is not None else -1
                entry = (name, clip.id, clip.text, clip.gloss, clip.signer, clip.source_video, clip.start, clip.end, size)
                digest.update(json.dumps(entry).encode() + b"\n")
        for problem in self.problems:
            digest.update(json.dumps((problem.id, problem.reason)).encode() + b"\n")
        return digest.hexdigest()[:16]

    # --- building: the methods that TFDS calls ---

    def _split_generators(self, dl_manager: Any) -> dict[str, Iterator[tuple[int, dict[str, Any]]]]:
        not_given = any(option.type is Path and self.options[option.name] is None for option in self.OPTIONS)
        splits = self.plan(Path(dl_manager.manual_dir) if not_given else None)
        self._fingerprint = self.fingerprint(splits)
        total = sum(map(len, splits.values()))
        if total == 0:
            raise NoReadableMedia(f"{self.name}: no clip to build" + first_problems(self.problems), self.problems)
        self._done, self._total = 0, total
        return {name: self._generate_examples(clips) for name, clips in splits.items()}

    def _generate_examples(self, clips: Sequence[Clip]) -> Iterator[tuple[int, dict[str, Any]]]:
        """(position, record) in the order of the annotations, whatever the number of workers; what cannot be read goes to `problems`."""
        for position, (clip, result) in enumerate(zip(clips, self._encoder.encode(clips))):
            if isinstance(result, EncodedClip):
                yield position, record_of(clip, result)
            else:
                self.problems.append(result)
            self._done += 1
            if self._on_progress is not None:
                self._on_progress(self._done, self._total)

    def _generate_splits(self, dl_manager: Any, download_config: Any) -> list[tfds.core.SplitInfo]:
        """Takes the place of the TFDS writer: streams every split into shards of about SHARD_BYTES and writes index and report beside them."""
        infos, summaries = [], {}
        with ClipEncoder(self.encoding, self._workers) as self._encoder:
            for name, examples in self._split_generators(dl_manager).items():
                with contextlib.closing(examples):
                    writer = ShardWriter(self, name)
                    for _, record in itertools.islice(examples, download_config.max_examples_per_split):
                        writer.add(record)
                if info := writer.finish():
                    infos.append(info)
                    summaries[name] = writer.summary
                else:
                    self.warnings.append(f"the split {name!r} is empty: none of its clips could be read")
        if not infos:
            raise NoReadableMedia(f"{self.name}: none of the {self._total} clips could be read" + first_problems(self.problems), self.problems)
        write_report(Path(self.data_path), self, self._fingerprint, summaries)
        return infos


class ShardWriter:
    """Streams one split into numbered ArrayRecord files, and its index beside them."""

    def __init__(self, builder: SignDatasetBuilder, split: str):
        self.summary = SplitSummary()
        self._builder = builder
        self._split = split
        self._features = builder.info.features
        self._serializer = tfds.core.example_serializer.ExampleSerializer(self._features.get_serialized_info())
        self._template = builder._get_filename_template(split_name=split)
        self._lengths: list[int] = []
        self._shard_bytes = SHARD_BYTES
        self._writer: ArrayRecordWriter | None = None
        self._entries: list[schema.IndexEntry] = []

    def add(self, record: dict[str, Any]) -> None:
        data = self._serializer.serialize_example(self._features.encode_example(record))
        if self._shard_bytes >= SHARD_BYTES:
            self._close()
            # One record a group: a reader fetches single clips in random order.
            self._writer = ArrayRecordWriter(os.fspath(self._unnumbered(len(self._lengths))), "group_size:1")
            self._lengths.append(0)
            self._shard_bytes = 0
        self._writer.write(data)
        self._lengths[-1] += 1
        self._shard_bytes += len(data)
        entry = schema.IndexEntry(
            record["id"], len(record["video"]), record["fps"], record["text"], record["gloss"], record["signer"], record["video_id"]
        )
        self._entries.append(entry)
        summary = self.summary
        summary.clips, summary.frames, summary.bytes = summary.clips + 1, summary.frames + entry.num_frames, summary.bytes + len(data)
        summary.seconds += entry.num_frames / entry.fps

    def finish(self) -> tfds.core.SplitInfo | None:
        """Gives the shards their final names, which hold their number, and writes the index. None if there was no record."""
        self._close()
        if not self._entries:
            return None
        for number in range(len(self._lengths)):
            final = self._template.sharded_filepath(shard_index=number, num_shards=len(self._lengths))
            os.rename(self._unnumbered(number), os.fspath(final))
        schema.write_index(self._builder.data_path, self._split, self._entries)
        return tfds.core.SplitInfo(name=self._split, shard_lengths=self._lengths, num_bytes=self.summary.bytes, filename_template=self._template)

    def _unnumbered(self, number: int) -> Path:
        return Path(self._builder.data_path) / f"{self._split}.{number:05d}.partial"

    def _close(self) -> None:
        if self._writer is not None:
            self._writer.close()
            self._writer = None


def record_of(clip: Clip, encoded: EncodedClip) -> dict[str, Any]:
    """A record as `signvit_jax.data.schema` describes it."""
    return {
        "id": clip.id,
        "video": encoded.jpegs,
        "fps": encoded.fps,
        "text": clip.text,
        "gloss": clip.gloss,
        "signer": clip.signer,
        "video_id": clip.source_video,
        "start": clip.start,
        "end": clip.end,
    }


def first_problems(problems: Sequence[Problem], shown: int = 5) -> str:
    """The first few problems, one a line, and how many more there are."""
    lines = [f"\n  {problem}" for problem in problems[:shown]]
    return "".join(lines) + (f"\n  and {len(problems) - shown} more" if len(problems) > shown else "")


def write_report(folder: Path, builder: SignDatasetBuilder, fingerprint: str, summaries: dict[str, SplitSummary]) -> None:
    report = {
        "name": builder.name,
        "version": str(builder.version),
        "settings": builder.settings(),
        "sources": builder.sources(),
        "fingerprint": fingerprint,
        "splits": {name: dataclasses.asdict(summary) for name, summary in summaries.items()},
        "warnings": builder.warnings,
        "failed": [dataclasses.asdict(problem) for problem in builder.problems],
    }
    (folder / REPORT_NAME).write_text(json.dumps(report, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
