"""Builds of shards with Apache Beam, on any of its runners.

Beam only replaces the local processes. Every element is the clips of one shard, which a worker
writes with its journal into a folder that all workers see. Then the build resumes as if it had been
interrupted just before its end.
"""

import dataclasses
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from signvit_jax.errors.base import SignVitError
from signvit_jax.runtime.optional_deps import install_command
from tfds_builders.clips import Clip, Encoding, encode_clip
from tfds_builders.shards import SplitWriter, read_journal, shard_path, write_journal


class BeamMissing(SignVitError):
    """Apache Beam is not installed; the message says what to do."""


@dataclasses.dataclass(frozen=True)
class ShardTask:
    """Clips `first` to `first + len(clips) - 1` of a split, which become shard `number`."""

    split: str
    number: int
    first: int
    clips: tuple[Clip, ...]


def tasks_of(
    splits: Mapping[str, Sequence[Clip]], folder: Path, clips_per_shard: int
) -> list[ShardTask]:
    """Return the shards that are not in `folder` yet."""
    tasks = [
        ShardTask(split, number, first, tuple(clips[first : first + clips_per_shard]))
        for split, clips in splits.items()
        for number, first in enumerate(range(0, len(clips), clips_per_shard))
    ]
    return [
        task for task in tasks if read_journal(folder, task.split, task.number, task.first) is None
    ]


def write_shard(task: ShardTask, folder: Path, encoding: Encoding) -> int:
    """Write one shard and its journal; return the number of clips.

    The shard is first written into a temporary folder: Beam may run a task twice at the same time.
    """
    prefix = f".{task.split}.{task.number:05d}."
    with tempfile.TemporaryDirectory(prefix=prefix, dir=folder) as scratch:
        writer = SplitWriter(Path(scratch), task.split, 1 << 62, encoding.keypoints is not None)
        for clip in task.clips:
            writer.take(clip, encode_clip(clip, encoding))
        writer.close_shard()
        (journal,) = writer.journals
        if journal.entries:
            written = shard_path(Path(scratch), task.split, 0)
            written.replace(shard_path(folder, task.split, task.number))
        end = task.first + len(task.clips)
        journal = dataclasses.replace(journal, first=task.first, end=end)
        write_journal(folder, task.split, task.number, journal)
    return len(task.clips)


def write_shards(
    splits: Mapping[str, Sequence[Clip]],
    folder: Path,
    encoding: Encoding,
    runner: str,
    clips_per_shard: int,
) -> None:
    """Write all missing shards. Raises BeamMissing.

    `runner`: name of a Beam runner, such as DirectRunner or DataflowRunner.
    """
    try:
        import apache_beam as beam
    except ImportError as error:
        raise BeamMissing(
            f"--beam_runner={runner} needs Apache Beam: {install_command('apache_beam')}; "
            "without the option, this machine builds the data set itself"
        ) from error
    with beam.Pipeline(
        runner=runner, options=beam.options.pipeline_options.PipelineOptions([])
    ) as pipeline:
        _ = (
            pipeline
            | beam.Create(tasks_of(splits, folder, clips_per_shard))
            | beam.Reshuffle()
            | beam.Map(write_shard, folder=folder, encoding=encoding)
        )
