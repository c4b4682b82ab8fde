"""The base of every builder: clips in; ArrayRecord shards, index and `build_report.json` out.

A builder of this package is its options and its annotation parser (`read_clips`); the rest is here.
The methods that TFDS calls have their usual meaning, so `tfds build` works too. Only the writer
differs: it streams, while that of TFDS collects a split in memory and needs TensorFlow above 1 GB.
"""

import abc
import contextlib
import dataclasses
import hashlib
import itertools
import json
import os
from collections.abc import Callable, Generator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import tensorflow_datasets as tfds

from signvit_jax.data import schema
from signvit_jax.data.keypoints import DRAWN, MEDIAPIPE_POSE
from signvit_jax.data.schema import KeypointReport
from signvit_jax.errors.base import SignVitError
from signvit_jax.errors.nearest import did_you_mean
from signvit_jax.media.video import VideoDecodeError, poses_of_jpegs
from signvit_jax.runtime.exit_codes import NO_READABLE_MEDIA
from signvit_jax.runtime.optional_deps import install_command
from tfds_builders import apache_beam_build
from tfds_builders.audit import audit, notes
from tfds_builders.clips import (
    Clip,
    ClipTable,
    EncodedClip,
    Encoding,
    Problem,
    encode_clip,
)
from tfds_builders.encoding import ClipEncoder
from tfds_builders.keypoints import (
    EXACT,
    FILE,
    MEDIAPIPE,
    NONE,
    SOURCES,
    KeypointSource,
    file_source,
    keypoint_file,
    keypoint_report,
    keypoint_sentences,
    models_digest,
)
from tfds_builders.media_notes import media_notes, media_sentences, rest_sentences
from tfds_builders.options import (
    HELDOUT_FRACTION,
    SHARD_MEGABYTES,
    WORKERS,
    Option,
    OptionValues,
    allowed_by_option,
    option_fault,
)
from tfds_builders.shards import PLAN_NAME, SplitWriter, open_folder
from tfds_builders.splits import assign_splits, split_notes

REPORT_NAME = "build_report.json"
# Version of how frames are read from a file. A build does not reuse shards of another version.
READER = 2


class BuildError(SignVitError):
    """The data set cannot be built; the message is complete and for the user."""


class NoReadableMedia(BuildError):
    """No clip could be read; `problems` has all of them."""

    exit_code = NO_READABLE_MEDIA

    def __init__(self, message: str, problems: Sequence[Problem]):
        super().__init__(message)
        self.problems = list(problems)


def _check_keypoint_folder(option: str, folder: Path | None, kind: str, keypoints: str) -> None:
    """Raise BuildError for a folder that is missing, or that is for another `kind` of keypoints."""
    if folder is None:
        return
    if keypoints != kind:
        raise BuildError(
            f"--{option} is for --keypoints={kind} only; here --keypoints is {keypoints!r}"
        )
    if not folder.is_dir():
        raise BuildError(f"--{option}={folder} is no folder")


class SignDatasetBuilder(tfds.core.GeneratorBasedBuilder):
    """Base class of builders.

    Subclasses set VERSION, OPTIONS and `read_clips`, and have README.md, CITATIONS.bib and TAGS.txt
    beside their file.
    """

    HOMEPAGE: ClassVar[str] = ""
    OPTIONS: ClassVar[tuple[Option, ...]] = ()
    ONE_OF: ClassVar[tuple[str, ...]] = ()  # options of which the command line gives exactly one
    EXAMPLES: ClassVar[str] = ""  # command lines, for --help
    # Whether the official splits have clips of one source video in several splits.
    SHARED_VIDEOS: ClassVar[bool] = False
    SIGNER_INDEPENDENT: ClassVar[bool] = False  # no signer may be in two splits

    def __init__(
        self,
        *,
        short_side: int = Encoding.short_side,
        frame_rate: float | None = Encoding.frame_rate,
        jpeg_quality: int = Encoding.jpeg_quality,
        keypoints: str = NONE,
        keypoint_models: Path | None = None,
        keypoint_files: Path | None = None,
        val_fraction: float = HELDOUT_FRACTION,
        test_fraction: float = HELDOUT_FRACTION,
        workers: int = WORKERS,
        shard_megabytes: float = SHARD_MEGABYTES,
        beam_runner: str | None = None,
        resume_dir: Path | None = None,
        on_progress: Callable[[int, int], None] | None = None,
        options: OptionValues | None = None,
        file_format: str | None = "array_record",
        **kwargs: Any,
    ):
        """Check the options. Raises BuildError.

        Args:
            short_side, frame_rate, jpeg_quality: see `Encoding`.
            keypoints: one of `keypoints.SOURCES`.
            keypoint_models, keypoint_files: folders for "mediapipe" and "file".
            val_fraction, test_fraction: shares of source videos where the table has no split.
            workers: decoding processes, 0 = one per core.
            shard_megabytes: size of a shard.
            beam_runner: name of the Apache Beam runner that builds instead of local processes.
            resume_dir: folder on the disk of the data set that keeps finished shards; a later build
                of the same data set resumes after them.
            on_progress: called with (done, total) after each clip.
            options: values for OPTIONS.
            file_format, kwargs: those of TFDS.
        """
        options = options or {}
        shared = {
            "short_side": short_side,
            "jpeg_quality": jpeg_quality,
            "keypoints": keypoints,
            "val_fraction": val_fraction,
            "test_fraction": test_fraction,
            "workers": workers,
            "shard_megabytes": shard_megabytes,
            "frame_rate": frame_rate,
        }
        self._check_options(shared, options)
        _check_keypoint_folder("keypoint_models", keypoint_models, MEDIAPIPE, keypoints)
        _check_keypoint_folder("keypoint_files", keypoint_files, FILE, keypoints)
        if val_fraction + test_fraction > 1:
            raise BuildError(
                f"--val_fraction is {val_fraction} and --test_fraction {test_fraction}; "
                "allowed: shares that add up to at most 1"
            )
        # `plan` adds the source of the keypoints: only the clips tell which points files have.
        self.encoding = Encoding(short_side, frame_rate, jpeg_quality)
        self._keypoints = keypoints
        self._keypoint_folders = {MEDIAPIPE: keypoint_models, FILE: keypoint_files}
        self._keypoint_notes: list[str] = []
        self._metadata = tfds.core.MetadataDict()  # of the data set, filled by the build
        self.options: OptionValues = {option.name: option.default for option in self.OPTIONS}
        self.options |= options
        self.problems: list[Problem] = []
        self.warnings: list[str] = []
        self._fractions = (val_fraction, test_fraction)
        self._workers = workers
        self._shard_bytes = int(shard_megabytes * 2**20)
        self._beam_runner = beam_runner
        self._resume_dir = resume_dir
        self._writers: dict[str, SplitWriter] = {}
        self._on_progress = on_progress
        self._encoder: ClipEncoder | None = None
        self._planned: dict[str, list[Clip]] | None = None
        super().__init__(file_format=file_format, **kwargs)

    def _check_options(self, shared: OptionValues, options: OptionValues) -> None:
        """Raise BuildError for an unknown option or a value that is not allowed.

        `shared`: values of options that all builders have; `options`: values for OPTIONS.
        """
        known = [option.name for option in self.OPTIONS]
        for name in sorted(set(options) - set(known)):
            raise BuildError(
                f"{self.name} has no option {name}; allowed: {', '.join(known) or 'none'}"
                f"{did_you_mean(name, known)}"
            )
        allowed = allowed_by_option(self.OPTIONS)
        values = shared | {name: options[name] for name in known if name in options}
        faults = [
            option_fault(name, value, allowed[name])
            for name, value in values.items()
            if value is not None
        ]
        if any(faults):
            raise BuildError("; ".join(filter(None, faults)))

    @abc.abstractmethod
    def read_clips(self, manual_dir: Path | None) -> ClipTable:
        """Parse the annotations. Raises AnnotationError.

        `manual_dir`: folder of the files by `tfds build --manual_dir`, for options of type Path
        that were not given.
        """

    def path_of(self, option: str, manual_dir: Path | None, default: str = "") -> Path:
        """Return the value of an option of type Path, or else the path `default` in `manual_dir`.

        Raises BuildError if neither the option nor `manual_dir` is given.
        """
        path: Path | None = self.options[option]
        if path:
            return path
        if manual_dir is None:
            raise BuildError(f"--{option} is missing")
        return manual_dir / default

    def _info(self) -> tfds.core.DatasetInfo:
        has_keypoints = self._keypoints != NONE
        return self.dataset_info_from_configs(
            features=schema.features(has_keypoints),
            homepage=self.HOMEPAGE or None,
            disable_shuffling=True,
            metadata=self._metadata if has_keypoints else None,
        )

    # --- the plan ---

    def plan(self, manual_dir: Path | None = None) -> dict[str, list[Clip]]:
        """Return the clips of each split, train first; the annotations are read once.

        It fills `problems` and `warnings`. Raises BuildError, AnnotationError.
        """
        if self._planned is not None:
            return self._planned
        table = self.read_clips(manual_dir)
        self.problems = list(table.problems)
        self._table_problems = table.problems
        if self._keypoints != NONE:
            source = self._keypoint_source(table.clips)
            self.encoding = dataclasses.replace(self.encoding, keypoints=source)
        self._planned = assign_splits(table.clips, self._fractions)
        self.warnings = [
            *table.notes,
            *self._keypoint_notes,
            *split_notes(self._planned, self._fractions, self.options),
        ]
        return self._planned

    def _keypoint_source(self, clips: Sequence[Clip]) -> KeypointSource:
        """Return the source of the clips' keypoints. Raises BuildError."""
        if self._keypoints == MEDIAPIPE:
            return _pose_source(self._keypoint_folders[MEDIAPIPE])
        if self._keypoints == FILE:
            folder = self._keypoint_folders[FILE]
            source, notes = file_source(clips, "" if folder is None else os.path.abspath(folder))
            if source is None:
                raise BuildError(" ".join(notes))
            self._keypoint_notes = notes
            return source
        if not all(clip.keypoints for clip in clips):
            raise BuildError(
                f"--keypoints=exact is for drawn clips (synthetic_signs), not for {self.name}; "
                f"allowed here: {', '.join(kind for kind in SOURCES if kind != EXACT)}"
            )
        return KeypointSource(EXACT, DRAWN)

    def settings(self) -> dict[str, object]:
        """Return every option that changes the result, as JSON values.

        The number of workers is not among them. Neither are paths and options `in_fingerprint`,
        because `fingerprint` covers what was read from them. Without keypoints there is no key for
        them, as in earlier releases.
        """
        builder_options = {
            option.name: self.options[option.name]
            for option in self.OPTIONS
            if option.type is not Path and not option.in_fingerprint
        }
        encoding = dataclasses.asdict(dataclasses.replace(self.encoding, keypoints=None))
        del encoding["keypoints"]
        if self._keypoints != NONE:
            encoding["keypoints"] = self._keypoints
        if self._keypoints == MEDIAPIPE and self.encoding.keypoints is not None:
            encoding["keypoint_models"] = self.encoding.keypoints.models
        fractions = dict(zip(("val_fraction", "test_fraction"), self._fractions))
        return encoding | fractions | builder_options

    def sources(self) -> dict[str, str]:
        """Return the options that name the sources: paths, and options `in_fingerprint`."""
        folder = self._keypoint_folders.get(self._keypoints)
        paths = {} if folder is None else {"keypoint_folder": os.path.abspath(folder)}
        paths |= {
            option.name: os.path.abspath(self.options[option.name])
            for option in self.OPTIONS
            if option.type is Path and self.options[option.name]
        }
        return paths | {
            option.name: self.options[option.name]
            for option in self.OPTIONS
            if option.in_fingerprint and self.options[option.name]
        }

    def fingerprint(self, splits: dict[str, list[Clip]]) -> str:
        """Return a digest of all annotations, splits and sizes of video and keypoint files.

        It includes the reasons in `_table_problems`, so a change of their wording makes a data set
        that is built already look changed.
        """
        digest = hashlib.sha256()
        source = self.encoding.keypoints
        for name, clips in splits.items():
            for clip in clips:
                entry = (
                    name,
                    clip.id,
                    clip.text,
                    clip.gloss,
                    clip.signer,
                    clip.source_video,
                    clip.start,
                    clip.end,
                    _media_size(clip),
                )
                if source is not None and source.kind == FILE:
                    entry += (_keypoint_file_size(clip, source),)
                digest.update(json.dumps(entry).encode() + b"\n")
        for problem in self._table_problems:
            digest.update(json.dumps((problem.id, problem.reason)).encode() + b"\n")
        return digest.hexdigest()[:16]

    # --- the build: methods that TFDS calls ---

    def _split_generators(
        self, dl_manager: tfds.download.DownloadManager
    ) -> dict[str, Generator[tuple[int, EncodedClip | Problem]]]:
        """Return `_generate_examples` of each split for the clips that have no finished shard.

        Shards that an earlier, killed build has finished are reused.
        """
        not_given = any(
            option.type is Path and not option.optional and self.options[option.name] is None
            for option in self.OPTIONS
        )
        splits = self.plan(Path(dl_manager.manual_dir) if not_given else None)
        total = sum(map(len, splits.values()))
        if total == 0:
            raise NoReadableMedia(
                f"{self.name}: no clip to build" + first_problems(self.problems), self.problems
            )
        folder = self._resume_dir or Path(self.data_path)
        per_shard = self._clips_per_shard(splits) if self._beam_runner else 0
        open_folder(
            folder,
            {
                "settings": self.settings(),
                "fingerprint": self.fingerprint(splits),
                "shard": [self._shard_bytes, per_shard],
                "reader": READER,
            },
        )
        if self._beam_runner:
            apache_beam_build.write_shards(
                splits, folder, self.encoding, self._beam_runner, per_shard
            )
        source = self.encoding.keypoints
        if source is not None:
            self._metadata["keypoints"] = source.layout.to_json()
        self._writers = {
            name: SplitWriter(folder, name, self._shard_bytes, source is not None)
            for name in splits
        }
        self._done = sum(writer.position for writer in self._writers.values())
        self._total = total
        if self._on_progress is not None:
            self._on_progress(self._done, total)
        return {
            name: self._generate_examples(splits[name], writer.position)
            for name, writer in self._writers.items()
        }

    def _generate_examples(
        self, clips: Sequence[Clip], first: int
    ) -> Generator[tuple[int, EncodedClip | Problem]]:
        """Yield (position, encoded clip or problem) from clip `first` on, in their order."""
        assert self._encoder is not None  # `_generate_splits` calls this
        for position, result in enumerate(self._encoder.encode(clips[first:]), first):
            yield position, result
            self._done += 1
            if self._on_progress is not None:
                self._on_progress(self._done, self._total)

    def _generate_splits(
        self,
        dl_manager: tfds.download.DownloadManager,
        download_config: tfds.download.DownloadConfig,
    ) -> list[tfds.core.SplitInfo]:
        """Stream every split into shards and write index and report, instead of TFDS's writer.

        Raises NoReadableMedia.
        """
        infos = []
        examples_by_split = self._split_generators(dl_manager)
        with ClipEncoder(self.encoding, self._workers) as self._encoder:
            for name, examples in examples_by_split.items():
                writer, clips = self._writers[name], self.plan()[name]
                with contextlib.closing(examples):
                    for position, result in itertools.islice(
                        examples, download_config.max_examples_per_split
                    ):
                        writer.take(clips[position], result)
                if info := writer.finish(self._get_filename_template(split_name=name)):
                    infos.append(info)
                else:
                    self.warnings.append(
                        f"the split {name!r} is empty: none of its clips could be read"
                    )
        for writer in self._writers.values():
            for journal in writer.journals:
                self.problems += journal.problems
        if not infos:
            self._clear_shards()
            raise NoReadableMedia(
                f"{self.name}: none of the {self._total} clips could be read"
                + first_problems(self.problems),
                self.problems,
            )
        self._write_report(Path(self.data_path))
        if self._resume_dir is None:
            self._clear_shards()
        return infos

    def _clear_shards(self) -> None:
        for writer in self._writers.values():
            writer.clear()
        ((self._resume_dir or Path(self.data_path)) / PLAN_NAME).unlink()

    def _clips_per_shard(self, splits: dict[str, list[Clip]]) -> int:
        """The number of clips for the requested shard size, estimated from a few clips."""
        mean = mean_clip_bytes([clip for clips in splits.values() for clip in clips], self.encoding)
        return max(1, int(self._shard_bytes / mean)) if mean else 100

    def _write_report(self, folder: Path) -> None:
        written = {
            name: writer
            for name, writer in self._writers.items()
            if any(journal.entries for journal in writer.journals)
        }
        entries: dict[str, list[schema.IndexEntry]] = {}
        digests: dict[str, list[str]] = {}
        for name, writer in written.items():
            entries[name] = [entry for journal in writer.journals for entry in journal.entries]
            digests[name] = [digest for journal in writer.journals for digest in journal.digests]
        audited = audit(entries, digests, self.SHARED_VIDEOS, self.SIGNER_INDEPENDENT)
        media = media_notes(
            journal.notes for writer in written.values() for journal in writer.journals
        )
        summaries = {name: writer.summary() for name, writer in written.items()}
        keypoints = self._keypoint_report(written)
        report = {
            "name": self.name,
            "version": str(self.version),
            "settings": self.settings(),
            "sources": self.sources(),
            "fingerprint": self.fingerprint(self.plan()),
            "splits": {name: dataclasses.asdict(split) for name, split in summaries.items()},
            "warnings": self.warnings
            + rest_sentences({name: split.rest for name, split in summaries.items()})
            + media_sentences(media)
            + (keypoint_sentences(keypoints) if keypoints else [])
            + notes(audited),
            "media": media,
            **audited,
            "failed": [dataclasses.asdict(problem) for problem in self.problems],
            **({"keypoints": keypoints} if keypoints else {}),
        }
        (folder / REPORT_NAME).write_text(
            json.dumps(report, indent=1, ensure_ascii=False) + "\n", encoding="utf-8"
        )

    def _keypoint_report(self, written: Mapping[str, SplitWriter]) -> KeypointReport | None:
        source = self.encoding.keypoints
        if source is None:
            return None
        journals = [journal for writer in written.values() for journal in writer.journals]
        entries = [entry for journal in journals for entry in journal.entries]
        faults = {
            name: why for journal in journals for name, why in journal.keypoint_faults.items()
        }
        return keypoint_report(source.layout, entries, faults)


def mean_clip_bytes(clips: Sequence[Clip], encoding: Encoding, sampled: int = 8) -> float:
    """Return the mean size of a stored clip in bytes, estimated by encoding `sampled` clips.

    0 if none of these can be read.
    """
    sample = clips[:: max(1, len(clips) // sampled)][:sampled]
    results = [encode_clip(clip, encoding) for clip in sample]
    sizes = [result.num_bytes for result in results if isinstance(result, EncodedClip)]
    return sum(sizes) / len(sizes) if sizes else 0.0


def _keypoint_file_size(clip: Clip, source: KeypointSource) -> int:
    """Bytes of the clip's file of keypoints; -1 without one."""
    path = keypoint_file(clip, source.folder)
    return -1 if path is None else path.stat().st_size


def _pose_source(folder: Path | None) -> KeypointSource:
    """Return the pose models in `folder` as a source, after they were loaded. Raises BuildError."""
    advice = (
        f"`bash scripts/keypoint_models.sh FOLDER` downloads the models, "
        f"{install_command('ai_edge_litert')} installs what runs them (docs/keypoints.md)"
    )
    if folder is None:
        raise BuildError(f"--keypoints=mediapipe needs --keypoint_models=FOLDER; {advice}")
    models = os.path.abspath(folder)
    try:
        poses_of_jpegs([], models)
        return KeypointSource(MEDIAPIPE, MEDIAPIPE_POSE, models, models_digest(models))
    except VideoDecodeError as error:
        raise BuildError(f"--keypoints=mediapipe: {error.reason}; {advice}") from error


def _media_size(clip: Clip) -> int:
    """Bytes of the video file, or the number of files of a folder of images; -1 for a drawn clip.

    This is fast to read, and changed content rarely has the same size.
    """
    if clip.path is None:
        return -1
    return os.path.getsize(clip.path) if clip.image_rate is None else len(os.listdir(clip.path))


def first_problems(problems: Sequence[Problem], shown: int = 5) -> str:
    """Return the first problems, one per line, and the number of others."""
    lines = [f"\n  {problem}" for problem in problems[:shown]]
    others = len(problems) - shown
    return "".join(lines) + (f"\n  and {others} more" if others > 0 else "")
