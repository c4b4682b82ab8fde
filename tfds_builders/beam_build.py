"""Builds the shards of a data set with Apache Beam, on any of its runners.

Beam takes the place of the local processes and of nothing else: every element is a shard's worth of clips, written with its journal into a folder
that all workers see, and the build goes on from there as if it had been interrupted just before its end.
"""

import dataclasses
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from signvit_jax.runtime.optional_deps import install_command
from tfds_builders.clips import Clip, Encoding, encode_clip
from tfds_builders.shards import SplitWriter, read_journal, shard_path, write_journal


class BeamMissing(Exception):
    """Apache Beam is not installed; the message says what to do."""


@dataclasses.dataclass(frozen=True)
class ShardTask:
    """Clips `first` to `first + len(clips) - 1` of a split, which become its shard `number`."""

    split: str
    number: int
    first: int
    clips: tuple[Clip, ...]


def tasks_of(
    splits: Mapping[str, Sequence[Clip]], folder: Path, clips_per_shard: int
) -> list[ShardTask]:
    """The shards that are not in `folder` yet."""
    tasks = [
        ShardTask(split, number, first, tuple(clips[first : first + clips_per_shard]))
        for split, clips in splits.items()
        for number, first in enumerate(range(0, len(clips), clips_per_shard))
    ]
    return [
        task for task in tasks if read_journal(folder, task.split, task.number, task.first) is None
    ]


def write_shard(task: ShardTask, folder: Path, encoding: Encoding) -> int:
    """Writes one shard and its journal, under a name of its own first: Beam may run a task twice at a time. Returns the number of clips."""
    with tempfile.TemporaryDirectory(prefix=f".{task.split}.{task.number:05d}.", dir=folder) as own:
        writer = SplitWriter(Path(own), task.split, shard_bytes=1 << 62)
        for clip in task.clips:
            writer.take(clip, encode_clip(clip, encoding))
        writer.close_shard()
        (journal,) = writer.journals
        if journal.entries:
            shard_path(Path(own), task.split, 0).replace(
                shard_path(folder, task.split, task.number)
            )
        write_journal(
            folder,
            task.split,
            task.number,
            dataclasses.replace(journal, first=task.first, end=task.first + len(task.clips)),
        )
    return len(task.clips)


def write_shards(
    splits: Mapping[str, Sequence[Clip]],
    folder: Path,
    encoding: Encoding,
    runner: str,
    clips_per_shard: int,
) -> None:
    """Writes all shards that are missing. `runner`: a Beam runner's name, such as DirectRunner or DataflowRunner. Raises BeamMissing."""
    try:
        import apache_beam as beam
    except ImportError as error:
        raise BeamMissing(
            f"--beam_runner={runner} needs Apache Beam: {install_command('apache_beam')}; "
            "without the option this machine builds"
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
