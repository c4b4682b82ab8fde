"""Checks of a workdir and of a data set.

They import JAX and read files, so they must run in separate processes.
"""

import dataclasses
import json
import os
import re
import socket
import time
from pathlib import Path
from typing import TYPE_CHECKING

from signvit_jax.config.schema import Config
from signvit_jax.doctor.findings import GIB, Finding, Request, gib, joined
from signvit_jax.errors.base import SignVitError
from signvit_jax.files.parsed_json import UNREADABLE_JSON

if TYPE_CHECKING:
    from signvit_jax.data.dataset import Split

_MAX_HASHED = 2 * GIB  # bytes of a checkpoint; hashing more would exceed the time limit of a check
_NUM_SAMPLED = 24  # clips that are read
_SECONDS = 5.0  # time limit of reading them
_MADE_BY = re.compile(r"run by signvit-jax (\S+)")  # `at_start.run_facts` writes it to run.log
_LOG_BYTES = 1 << 16  # bytes that are read at the end of run.log


@dataclasses.dataclass(frozen=True)
class WorkdirFacts:
    """A run's folder. `error`: why it is not a workdir. `damage`: of the newest checkpoint.

    `step`: of that checkpoint, -1 without one. `hashed`: False if it is so large that only sizes
    were compared. `holder`: who uses the workdir, "" = nobody. `made_by`: the version that run.log
    names, "" if none does.
    """

    folder: str
    error: str = ""
    step: int = -1
    steps: int = 0
    bytes: int = 0
    damage: tuple[str, ...] = ()
    hashed: bool = True
    unchecked: bool = False  # no manifest: written by an early release
    holder: str = ""
    made_by: str = ""
    version: str = ""


def probe_workdir(request: Request) -> WorkdirFacts:
    from signvit_jax import __version__
    from signvit_jax.checkpoints.manifest import ManifestMissing, find_damage
    from signvit_jax.checkpoints.reader import CheckpointReader
    from signvit_jax.checkpoints.workdir import Workdir

    try:
        workdir = Workdir.open(request.workdir)
        workdir.read_config()
    except SignVitError as error:
        return WorkdirFacts(request.workdir, str(error))
    reader = CheckpointReader(workdir.checkpoints)
    steps = reader.steps()
    facts = WorkdirFacts(
        folder=str(workdir.path),
        steps=len(steps),
        holder=lock_holder(workdir.lock_file),
        made_by=_made_by(workdir.run_log),
        version=__version__,
    )
    if not steps:
        return facts
    newest = workdir.checkpoints / str(steps[-1])
    size = sum(path.stat().st_size for path in newest.rglob("*") if path.is_file())
    facts = dataclasses.replace(facts, step=steps[-1], bytes=size, hashed=size <= _MAX_HASHED)
    try:
        damage = find_damage(newest, sizes_only=not facts.hashed)
    except ManifestMissing:
        return dataclasses.replace(facts, unchecked=True)
    return dataclasses.replace(facts, damage=tuple(damage))


def lock_holder(lock_file: Path, locks: Path = Path("/proc/locks")) -> str:
    """Who holds the lock of a workdir; "" if nobody does.

    This does not take the lock, which could keep out a trainer that starts at that moment. It reads
    the kernel's list of the locks of this machine. Of a holder on another host only the lock file
    is known, which a killed trainer leaves behind.
    """
    try:
        lock = json.loads(lock_file.read_text(encoding="utf-8"))
        holder = f"process {lock['pid']} on {lock['host']} since {lock['since']}"
        elsewhere = lock["host"] != socket.gethostname()
        device = lock_file.stat()
        listed = f"{os.major(device.st_dev):02x}:{os.minor(device.st_dev):02x}:{device.st_ino} "
        if listed in locks.read_text():
            return holder
    except UNREADABLE_JSON:
        return ""
    return f"{holder}, or it was killed" if elsewhere else ""


def _made_by(run_log: Path) -> str:
    """The version in the last line of run.log that names one."""
    try:
        with run_log.open("rb") as file:
            file.seek(max(run_log.stat().st_size - _LOG_BYTES, 0))
            versions = _MADE_BY.findall(file.read().decode(errors="replace"))
            file.seek(0)
            versions = versions or _MADE_BY.findall(file.read(_LOG_BYTES).decode(errors="replace"))
    except OSError:
        return ""
    return versions[-1] if versions else ""


def check_workdir(facts: WorkdirFacts) -> Finding:
    if facts.error:
        return Finding("workdir", "bad", facts.error, "give the folder of a run")
    parts = [Finding("", "ok", facts.folder)]
    if facts.step < 0:
        parts.append(Finding("", "note", "no checkpoint yet", "start the run again"))
    elif facts.damage:
        listed = "; ".join(facts.damage[:3])
        parts.append(
            Finding(
                "",
                "bad",
                f"checkpoint {facts.step} is damaged: {listed}",
                "start the run again: the one before it is used"
                if facts.steps > 1
                else "restore checkpoints/ from a copy: there is no older one",
            )
        )
    else:
        if facts.unchecked:
            state = "without a manifest, so not checked"
        elif facts.hashed:
            state = "sound"
        else:
            state = f"has its sizes (more than {gib(_MAX_HASHED)}: content not compared)"
        parts.append(Finding("", "ok", f"checkpoint {facts.step} of {gib(facts.bytes)} {state}"))
    parts.append(Finding("", "ok", f"in use by {facts.holder}" if facts.holder else "not in use"))
    if facts.made_by and facts.made_by != facts.version:
        parts.append(
            Finding(
                "",
                "note",
                f"last run by signvit-jax {facts.made_by}, this is {facts.version}",
                "nothing: earlier workdirs can be read; results may differ in the last digits",
            )
        )
    return joined("workdir", parts)


@dataclasses.dataclass(frozen=True)
class DataFacts:
    """A data set. `splits`: clips by split. `error`: why it cannot be read; `damage`: of records.

    `rate`: frames per second that one thread reads and decodes to the model's size. `eaten`: frames
    per second that the run in --workdir consumes; 0 if not known. `threads`: number of threads or
    processes that would read.
    """

    folder: str
    names: tuple[str, ...] = ()
    splits: dict[str, int] = dataclasses.field(default_factory=dict)
    error: str = ""
    damage: tuple[str, ...] = ()
    clips_read: int = 0
    rate: float = 0.0
    threads: int = 1
    eaten: float = 0.0


def probe_data(request: Request) -> DataFacts:
    from signvit_jax.data.dataset import open_dataset

    config = request.config or Config()
    name = config.data.name if request.config_json else _only_data_set(Path(request.data_dir))
    if not name:
        names = tuple(_data_sets(Path(request.data_dir)))
        return DataFacts(request.data_dir, names)
    facts = DataFacts(request.data_dir, (name,))
    try:
        dataset = open_dataset(request.data_dir, name)
        splits = {split: len(dataset.split(split)) for split in dataset.splits}
        facts = dataclasses.replace(facts, folder=str(dataset.folder), splits=splits)
        if request.config_json:  # raise DatasetError if a split of the config is missing
            for split in (config.data.train_split, config.data.val_split):
                dataset.split(split)
        largest = max(splits, key=lambda split: splits[split], default="")
        if not splits.get(largest):
            return dataclasses.replace(facts, error="it has no clips")
        clips, rate, damage = _read_sample(dataset.split(largest), config)
    except SignVitError as error:
        return dataclasses.replace(facts, error=str(error))
    return dataclasses.replace(
        facts,
        clips_read=clips,
        rate=rate,
        damage=tuple(damage),
        threads=config.data.num_workers or config.data.num_threads,
        eaten=_frame_rate_of_run(request.workdir),
    )


def _read_sample(split: "Split", config: Config) -> tuple[int, float, list[str]]:
    """Read and decode clips spread over a split: their number, frames per second, and damage.

    The index is compared with the records as it is when the split is opened for training.
    """
    from signvit_jax.data.augment import decode_clip
    from signvit_jax.data.dataset import DatasetError
    from signvit_jax.data.frame_sampling import sample_frames
    from signvit_jax.data.records import index_entry, stored_values
    from signvit_jax.media.frames import FrameDecodeError

    positions = [i * len(split) // _NUM_SAMPLED for i in range(_NUM_SAMPLED)]
    positions = sorted(set(positions))
    damage: list[str] = []
    frames = clips = 0
    start = time.perf_counter()
    deadline = start + _SECONDS
    for i in positions:
        try:
            record = split[i]
            if stored_values(index_entry(record)) != stored_values(split.index[i]):
                damage.append(f"record {i} is not what its index says")
            chosen = sample_frames(
                len(record["video"]), record["fps"], config.data, config.data.num_frames
            )
            jpegs = [record["video"][j] for j in chosen]
            decode_clip(jpegs, config.data.image_size, config.data.resize_mode)
            frames += len(jpegs)
            clips += 1
        except (DatasetError, FrameDecodeError, ValueError) as error:
            damage.append(f"record {i}: {error}")
        if time.perf_counter() > deadline:
            break
    return clips, frames / max(time.perf_counter() - start, 1e-9), damage


def _frame_rate_of_run(workdir: str) -> float:
    """The median of the frames per second in the metrics of a run, 0 without one."""
    if not workdir:
        return 0.0
    import statistics

    from signvit_jax.telemetry.metrics_file import read_metrics

    series = read_metrics(Path(workdir) / "metrics.csv").get("train/frames_per_second")
    return statistics.median(series[1]) if series else 0.0


def _data_sets(data_dir: Path) -> list[str]:
    versions = sorted(path.parent for path in data_dir.glob("*/*/dataset_info.json"))
    return list(dict.fromkeys(version.parent.name for version in versions))


def _only_data_set(data_dir: Path) -> str:
    names = _data_sets(data_dir)
    return names[0] if len(names) == 1 else ""


def check_data(facts: DataFacts) -> Finding:
    name, *others = facts.names or ("",)
    if not name:
        return Finding(
            "data_set",
            "bad",
            f"no data set in {facts.folder}",
            "signvit build, or another --data_dir",
        )
    if others:
        return Finding(
            "data_set",
            "note",
            f"{facts.folder} has {', '.join(facts.names)}; none was read",
            "say which: --config=NAME --config.data.name=...",
        )
    splits = ", ".join(f"{name} {count:,}" for name, count in facts.splits.items())
    found = f"{name} in {facts.folder}" + (f": {splits} clips" if splits else "")
    if facts.error:
        return Finding("data_set", "bad", f"{found}; {facts.error}")  # which says what to do
    if facts.damage:
        return Finding(
            "data_set",
            "bad",
            f"{found}; {len(facts.damage)} of the clips read are damaged: "
            f"{'; '.join(facts.damage[:3])}",
            "build the data set again, and look at the disk (dmesg)",
        )
    found += (
        f"; {facts.clips_read} clips read and decoded, {facts.rate:,.0f} frames/s in one thread"
    )
    if facts.eaten:
        found += f"; the run takes {facts.eaten:,.0f} frames/s"
    if facts.eaten and facts.rate * facts.threads < facts.eaten:
        return Finding(
            "data_set",
            "note",
            f"{found}, more than {facts.threads} threads can read",
            "more of --config.data.num_threads, or --config.data.num_workers; a faster disk",
        )
    return Finding("data_set", "ok", found)
