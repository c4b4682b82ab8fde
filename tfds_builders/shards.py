"""ArrayRecord shards of a split, written so that a build that was killed can resume.

While a build runs, its folder holds `<split>.<number>.shard` and, once that shard is complete and
on the disk, its journal `<split>.<number>.json`: which clips the shard covers, their index entries,
and the clips that could not be read. A shard without a journal is incomplete and is written again:
a build resumes after the last shard with a journal.
"""

import contextlib
import dataclasses
import json
import os
from pathlib import Path

import tensorflow_datasets as tfds
from array_record.python.array_record_module import ArrayRecordWriter

from signvit_jax.data import schema
from signvit_jax.data.records import Record
from signvit_jax.files.atomic import flush_to_disk, write_atomically
from tfds_builders.clips import Clip, EncodedClip, Problem

PLAN_NAME = "plan.json"


@dataclasses.dataclass
class Journal:
    """The description of one shard, which has the clips `first` to `end` - 1 of its split."""

    first: int
    end: int
    num_bytes: int = 0  # of the records
    file_bytes: int = 0  # of the shard; 0 if no clip could be read, and there is no shard
    entries: list[schema.IndexEntry] = dataclasses.field(default_factory=list)
    digests: list[str] = dataclasses.field(default_factory=list)  # of each record's frames
    notes: dict[str, list[str]] = dataclasses.field(default_factory=dict)  # note -> ids
    problems: list[Problem] = dataclasses.field(default_factory=list)
    # Clip id -> why no keypoints are known.
    keypoint_faults: dict[str, str] = dataclasses.field(default_factory=dict)

    @classmethod
    def from_json(cls, text: str) -> "Journal":
        """Read what `to_json` wrote. Raises ValueError, TypeError or KeyError for anything else."""
        values = json.loads(text)
        entries = [schema.IndexEntry(**entry) for entry in values.pop("entries")]
        problems = [Problem(**problem) for problem in values.pop("problems")]
        return cls(entries=entries, problems=problems, **values)

    def to_json(self) -> str:
        return json.dumps(dataclasses.asdict(self), ensure_ascii=False)


@dataclasses.dataclass
class SplitSummary:
    """Counts of a split for the report."""

    clips: int = 0
    frames: int = 0
    seconds: float = 0.0
    bytes: int = 0
    rest: int = 0  # number of clips without a text, in which nobody signs


class SplitWriter:
    """A writer of one split into numbered shards in `folder`, from `position` on.

    `shard_bytes`: a shard is closed when its records have at least this size. `keypoints`: whether
    the records have keypoints.
    """

    def __init__(self, folder: Path, split: str, shard_bytes: int, keypoints: bool = False):
        self.folder = folder
        self.split = split
        self._shard_bytes = shard_bytes
        self._features = schema.features(keypoints)
        self._serializer = tfds.core.ExampleSerializer(self._features.get_serialized_info())
        self.journals: list[Journal] = []
        while True:  # resume after the complete shards of an earlier build
            journal = read_journal(folder, split, len(self.journals), self.position)
            if journal is None:
                break
            self.journals.append(journal)
        self._writer: ArrayRecordWriter | None = None
        self._current = Journal(self.position, self.position)  # of the shard that is written now

    @property
    def position(self) -> int:
        """Number of clips that finished shards already cover."""
        return self.journals[-1].end if self.journals else 0

    def take(self, clip: Clip, result: EncodedClip | Problem) -> None:
        """Add the next clip of the split: a record, or a problem to report."""
        self._current.end += 1
        if isinstance(result, Problem):
            self._current.problems.append(result)
            return
        writer = self._writer
        if writer is None:
            # One record per group: readers fetch single clips in random order.
            writer = self._writer = ArrayRecordWriter(
                os.fspath(shard_path(self.folder, self.split, len(self.journals))), "group_size:1"
            )
        record = record_of(clip, result)
        data = self._serializer.serialize_example(self._features.encode_example(record))
        writer.write(data)
        self._current.num_bytes += len(data)
        self._current.digests.append(result.digest)
        if result.keypoints is not None and result.keypoints.fault:
            self._current.keypoint_faults[clip.id] = result.keypoints.fault
        for kind in result.notes:
            self._current.notes.setdefault(kind, []).append(clip.id)
        self._current.entries.append(
            schema.IndexEntry(
                clip.id,
                len(result.jpegs),
                float(result.fps),
                clip.text,
                clip.gloss,
                clip.signer,
                clip.source_video,
                result.known_keypoints,
            )
        )
        if self._current.num_bytes >= self._shard_bytes:
            self.close_shard()

    def close_shard(self) -> None:
        """Finish the current shard: from now on it survives a kill."""
        if self._current.end == self._current.first:
            return
        number = len(self.journals)
        if self._writer is not None:
            self._writer.close()
            self._writer = None
            path = shard_path(self.folder, self.split, number)
            flush_to_disk(path)
            self._current.file_bytes = path.stat().st_size
        write_journal(self.folder, self.split, number, self._current)
        self.journals.append(self._current)
        self._current = Journal(self.position, self.position)

    def summary(self) -> SplitSummary:
        entries = [entry for journal in self.journals for entry in journal.entries]
        return SplitSummary(
            clips=len(entries),
            frames=sum(entry.num_frames for entry in entries),
            seconds=sum(entry.num_frames / entry.fps for entry in entries),
            bytes=sum(journal.num_bytes for journal in self.journals),
            rest=sum(not entry.text for entry in entries),
        )

    def finish(self, template: tfds.core.ShardedFileTemplate) -> tfds.core.SplitInfo | None:
        """Give the shards their final names and write the index. None if there is no record.

        The names contain the number of shards. `template` may name another folder of the same disk.
        The shards keep their old names too, as hard links, so the journals stay valid until the
        complete data set is in its place. Where the file system has no hard links, the shards are
        moved, and a build that is killed after that writes all of them again.
        """
        self.close_shard()
        written = [
            (number, journal) for number, journal in enumerate(self.journals) if journal.entries
        ]
        if not written:
            return None
        for index, (number, _) in enumerate(written):
            final = os.fspath(template.sharded_filepath(shard_index=index, num_shards=len(written)))
            source = shard_path(self.folder, self.split, number)
            try:
                os.link(source, final)
            except OSError:  # a file system without hard links
                os.replace(source, final)
        entries = [entry for _, journal in written for entry in journal.entries]
        schema.write_index(template.data_dir, self.split, entries)
        lengths = [len(journal.entries) for _, journal in written]
        return tfds.core.SplitInfo(
            name=self.split,
            shard_lengths=lengths,
            num_bytes=self.summary().bytes,
            filename_template=template,
        )

    def clear(self) -> None:
        """Remove shards and journals from `folder`, after `finish`."""
        for number in range(len(self.journals)):
            shard_path(self.folder, self.split, number).unlink(missing_ok=True)
            journal_path(self.folder, self.split, number).unlink()


def shard_path(folder: Path, split: str, number: int) -> Path:
    return folder / f"{split}.{number:05d}.shard"


def journal_path(folder: Path, split: str, number: int) -> Path:
    return folder / f"{split}.{number:05d}.json"


def read_journal(folder: Path, split: str, number: int, first: int) -> Journal | None:
    """Return the journal of a complete shard whose first clip is `first`.

    None if there is no journal or it does not match its shard.
    """
    try:
        journal = Journal.from_json(journal_path(folder, split, number).read_text(encoding="utf-8"))
        size = shard_path(folder, split, number).stat().st_size if journal.entries else 0
    except (OSError, ValueError, TypeError, KeyError):
        return None
    return journal if journal.first == first and size == journal.file_bytes else None


def write_journal(folder: Path, split: str, number: int, journal: Journal) -> None:
    """Write a journal atomically. Raises OSError."""
    write_atomically(journal_path(folder, split, number), journal.to_json())


def open_folder(folder: Path, plan: dict[str, object]) -> None:
    """Prepare `folder` for a build of `plan` (JSON values).

    Shards of an earlier build of the same plan stay, everything else is removed.
    """
    path = folder / PLAN_NAME
    content = json.dumps(plan, sort_keys=True, ensure_ascii=False)
    with contextlib.suppress(OSError, UnicodeDecodeError):
        if path.read_text(encoding="utf-8") == content:
            return
    folder.mkdir(parents=True, exist_ok=True)
    for file in folder.iterdir():
        file.unlink()
    path.write_text(content, encoding="utf-8")


def record_of(clip: Clip, encoded: EncodedClip) -> Record:
    """Return the record as `signvit_jax.data.schema` describes it."""
    record: Record = {
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
    if encoded.keypoints is not None:
        record["keypoints"] = encoded.keypoints.points
    return record
