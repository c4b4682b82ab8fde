"""Writes a split as ArrayRecord shards that survive a kill: a shard counts once its journal is there, and a build goes on after the last such shard.

While a build runs, its folder holds `<split>.<number>.shard` and, once that is whole and on the disk, `<split>.<number>.json`: which clips of the
split the shard covers, their index entries, and the clips that could not be read.
"""

import contextlib
import dataclasses
import json
import os
from pathlib import Path
from typing import Any

import tensorflow_datasets as tfds
from array_record.python.array_record_module import ArrayRecordWriter

from signvit_jax.data import schema
from signvit_jax.files.atomic import flush_to_disk
from tfds_builders.clips import Clip, EncodedClip, Problem

PLAN_NAME = "plan.json"


@dataclasses.dataclass
class Journal:
    """What one shard holds: the clips `first` to `end` - 1 of its split."""

    first: int
    end: int
    num_bytes: int = 0  # of the records
    file_bytes: int = (
        0  # of the shard; 0 where none of its clips could be read, and there is no shard
    )
    entries: list[schema.IndexEntry] = dataclasses.field(default_factory=list)
    digests: list[str] = dataclasses.field(default_factory=list)  # of each record's frames
    notes: dict[str, list[str]] = dataclasses.field(default_factory=dict)  # note -> ids
    problems: list[Problem] = dataclasses.field(default_factory=list)

    @classmethod
    def from_json(cls, text: str) -> "Journal":
        """Raises ValueError, TypeError, KeyError for anything that `to_json` has not written."""
        values = json.loads(text)
        entries = [schema.IndexEntry(**entry) for entry in values.pop("entries")]
        problems = [Problem(**problem) for problem in values.pop("problems")]
        return cls(entries=entries, problems=problems, **values)

    def to_json(self) -> str:
        return json.dumps(dataclasses.asdict(self), ensure_ascii=False)


@dataclasses.dataclass
class SplitSummary:
    clips: int = 0
    frames: int = 0
    seconds: float = 0.0
    bytes: int = 0
    rest: int = 0  # clips without a text: nobody signs


class SplitWriter:
    """Streams one split into numbered shards in `folder`, from `position` on: the number of clips that finished shards cover already."""

    def __init__(self, folder: Path, split: str, shard_bytes: int):
        self.folder, self.split = folder, split
        self._shard_bytes = shard_bytes
        self._features = schema.features()
        self._serializer = tfds.core.example_serializer.ExampleSerializer(
            self._features.get_serialized_info()
        )
        self.journals: list[Journal] = []
        while (
            journal := read_journal(folder, split, len(self.journals), self.position)
        ) is not None:
            self.journals.append(journal)
        self._writer: ArrayRecordWriter | None = None
        self._open = Journal(self.position, self.position)

    @property
    def position(self) -> int:
        return self.journals[-1].end if self.journals else 0

    def take(self, clip: Clip, result: EncodedClip | Problem) -> None:
        """The next clip of the split: a record, or a problem to report."""
        self._open.end += 1
        if isinstance(result, Problem):
            self._open.problems.append(result)
            return
        if self._writer is None:
            # One record a group: a reader fetches single clips in random order.
            self._writer = ArrayRecordWriter(
                os.fspath(shard_path(self.folder, self.split, len(self.journals))), "group_size:1"
            )
        record = record_of(clip, result)
        data = self._serializer.serialize_example(self._features.encode_example(record))
        self._writer.write(data)
        self._open.num_bytes += len(data)
        self._open.digests.append(result.digest)
        for kind in result.notes:
            self._open.notes.setdefault(kind, []).append(clip.id)
        self._open.entries.append(
            schema.IndexEntry(
                clip.id,
                len(result.jpegs),
                float(result.fps),
                clip.text,
                clip.gloss,
                clip.signer,
                clip.source_video,
            )
        )
        if self._open.num_bytes >= self._shard_bytes:
            self.close_shard()

    def close_shard(self) -> None:
        """Ends the shard that is being written: from now on it survives a kill."""
        if self._open.end == self._open.first:
            return
        number = len(self.journals)
        if self._writer is not None:
            self._writer.close()
            self._writer = None
            path = shard_path(self.folder, self.split, number)
            flush_to_disk(path)
            self._open.file_bytes = path.stat().st_size
        write_journal(self.folder, self.split, number, self._open)
        self.journals.append(self._open)
        self._open = Journal(self.position, self.position)

    def summary(self) -> SplitSummary:
        entries = [entry for journal in self.journals for entry in journal.entries]
        frames, seconds = (
            sum(entry.num_frames for entry in entries),
            sum(entry.num_frames / entry.fps for entry in entries),
        )
        rest = sum(not entry.text for entry in entries)
        return SplitSummary(
            len(entries), frames, seconds, sum(journal.num_bytes for journal in self.journals), rest
        )

    def finish(self, template: tfds.core.ShardedFileTemplate) -> tfds.core.SplitInfo | None:
        """Puts the shards under their final names, which hold their number, with the index beside them. None if there is no record.

        `template` may name another folder of the same disk; the journals then stay valid until the whole set is in its place.
        """
        self.close_shard()
        whole = [
            (number, journal) for number, journal in enumerate(self.journals) if journal.entries
        ]
        if not whole:
            return None
        for position, (number, _) in enumerate(whole):
            final = os.fspath(
                template.sharded_filepath(shard_index=position, num_shards=len(whole))
            )
            source = shard_path(self.folder, self.split, number)
            try:
                os.link(source, final)
            except OSError:  # a file system without hard links
                os.replace(source, final)
        schema.write_index(
            template.data_dir,
            self.split,
            [entry for _, journal in whole for entry in journal.entries],
        )
        lengths = [len(journal.entries) for _, journal in whole]
        return tfds.core.SplitInfo(
            name=self.split,
            shard_lengths=lengths,
            num_bytes=self.summary().bytes,
            filename_template=template,
        )

    def clear(self) -> None:
        """Removes shards and journals from `folder`: `finish` has put the shards elsewhere."""
        for number in range(len(self.journals)):
            shard_path(self.folder, self.split, number).unlink(missing_ok=True)
            journal_path(self.folder, self.split, number).unlink()


def shard_path(folder: Path, split: str, number: int) -> Path:
    return folder / f"{split}.{number:05d}.shard"


def journal_path(folder: Path, split: str, number: int) -> Path:
    return folder / f"{split}.{number:05d}.json"


def read_journal(folder: Path, split: str, number: int, first: int) -> Journal | None:
    """The journal of a whole shard whose first clip is `first`; None if there is none, or it does not fit its shard."""
    try:
        journal = Journal.from_json(journal_path(folder, split, number).read_text(encoding="utf-8"))
        size = shard_path(folder, split, number).stat().st_size if journal.entries else 0
    except (OSError, ValueError, TypeError, KeyError):
        return None
    return journal if journal.first == first and size == journal.file_bytes else None


def write_journal(folder: Path, split: str, number: int, journal: Journal) -> None:
    """It appears whole or not at all."""
    path = journal_path(folder, split, number)
    partial = path.with_suffix(".partial")
    partial.write_text(journal.to_json(), encoding="utf-8")
    flush_to_disk(partial)
    os.replace(partial, path)


def open_folder(folder: Path, plan: dict[str, Any]) -> None:
    """Makes `folder` ready for a build of `plan` (JSON values): what a build of the same plan left there stays, anything else is removed."""
    path = folder / PLAN_NAME
    wanted = json.dumps(plan, sort_keys=True, ensure_ascii=False)
    with contextlib.suppress(OSError, UnicodeDecodeError):
        if path.read_text(encoding="utf-8") == wanted:
            return
    folder.mkdir(parents=True, exist_ok=True)
    for left in folder.iterdir():
        left.unlink()
    path.write_text(wanted, encoding="utf-8")


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
