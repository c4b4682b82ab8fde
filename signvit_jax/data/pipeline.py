"""Batches of clips for training and evaluation, through Grain.

A batch is a function of its step alone: the epoch's plan says which clips, and everything random about a clip comes from (seed, epoch, clip).
So the batches are the same for any number of threads, reading processes and hosts, and resuming means going to a step.

| key | type | meaning |
|---|---|---|
| `video` | u8 (b, t, h, w, 3) | RGB frames, zero beyond the clip; `t` is one of `config.frame_buckets` |
| `frame_lengths` | i32 (b,) | frames of the clip |
| `tokens` | i32 (b, l) | BOS, text, EOS, PAD ... |
| `token_lengths` | i32 (b,) | counts BOS and EOS |
| `weights` | f32 (b,) | 1 for a clip, 0 for a row that only fills the batch (one black frame, the empty text: nothing divides by zero) |
| `index` | i32 (b,) | the clip's number in the split; -1 in filling rows |
| `gloss_tokens`, `gloss_lengths` | i32 (b, g), (b,) | with a gloss vocabulary only; no BOS and EOS |
"""

import collections
import dataclasses
import math
import multiprocessing
import os
import signal
import threading
from typing import Any

import grain
import numpy as np
from absl import flags
from jaxtyping import Int

from signvit_jax.config.errors import ConfigError
from signvit_jax.config.schema import Config
from signvit_jax.data.augment import NONE, decode_clip, draw_augmentation
from signvit_jax.data.dataset import DatasetError, Split
from signvit_jax.data.epoch_plan import EpochPlan, assign_buckets, plan_epoch, steps_per_epoch
from signvit_jax.data.sampling import clip_length, sample_frames
from signvit_jax.data.token_table import TokenTable, gloss_table, text_table
from signvit_jax.text.tokenizer import Tokenizer

Batch = dict[str, np.ndarray]


def make_batches(
    split: Split,
    tokenizer: Tokenizer,
    config: Config,
    *,
    batch_size: int,
    training: bool,
    text_length: int,
    seed: int = 0,
    num_epochs: int = 1,
    process_index: int = 0,
    process_count: int = 1,
    gloss_tokenizer: Tokenizer | None = None,
    gloss_length: int = 0,
) -> "BatchIterator":
    """The batches of `num_epochs` epochs, every clip exactly once an epoch over all processes.

    `batch_size` counts the clips of all processes; this process gets rows p*b/P to (p+1)*b/P. With `training` the order is shuffled and clips are
    augmented; without, the order is that of the buckets and nothing is drawn. Longer texts than `text_length` are cut, with a warning.
    Raises ConfigError for a batch size that the processes cannot share and DatasetError for a split without clips or clips without frames.
    """
    if batch_size % process_count:
        raise ConfigError(
            f"config.training.batch_size is {batch_size}; allowed: a multiple of the {process_count} processes"
        )
    if not len(split):
        raise DatasetError(
            f"split {split.name!r} in {split.folder} has no clip; name another (config.data) or build the data set again"
        )
    empty = [entry.id for entry in split.index if entry.num_frames < 1]
    if empty:
        raise DatasetError(
            f"split {split.name!r} in {split.folder}: {len(empty)} clips have no frame, the first {empty[0]!r}; build the data set again"
        )
    lengths = np.array([clip_length(e.num_frames, e.fps, config.data) for e in split.index])
    source = _BatchSource(
        split=split,
        config=config,
        batch_size=batch_size,
        training=training,
        seed=seed,
        rows=slice(
            process_index * batch_size // process_count,
            (process_index + 1) * batch_size // process_count,
        ),
        lengths=lengths,
        bucket_of=assign_buckets(lengths, config.frame_buckets),
        texts=text_table(tokenizer, [entry.text for entry in split.index], text_length, split.name),
        glosses=gloss_table(
            gloss_tokenizer, [e.gloss for e in split.index], gloss_length, split.name
        )
        if gloss_tokenizer
        else None,
    )
    identity = {
        "split": split.fingerprint,
        "batch_size": batch_size,
        "seed": seed,
        "shuffled": training,
        "sampling": f"{config.data.sampling} {config.data.num_frames} {config.data.frame_rate:g}",
        "frame_buckets": list(config.frame_buckets),
        # The name in checkpoints of all releases.
        "short_first_epochs": config.data.sortagrad_epochs if training else 0,
    }
    return BatchIterator(source, num_epochs, identity)


class BatchIterator(grain.DatasetIterator[Batch]):
    """Iterates over the batches; Grain reads ahead in threads (`data.num_threads`) or processes (`data.num_workers`).

    The state is the number of the next step (and what the plan depends on), whatever the number of threads, reading processes and hosts is;
    it goes into an Orbax checkpoint with `grain.checkpoint.CheckpointSave`.
    """

    def __init__(self, source: "_BatchSource", num_epochs: int, identity: dict[str, Any]):
        super().__init__()
        self._source, self._num_epochs, self._identity = source, num_epochs, identity
        self._next_step = 0
        self._ahead: grain.DatasetIterator | None = None

    @property
    def steps_per_epoch(self) -> int:
        """The same in every epoch."""
        return self._source.steps_per_epoch

    @property
    def total_steps(self) -> int:
        return self.steps_per_epoch * self._num_epochs

    @property
    def next_step(self) -> int:
        """Batches taken so far, over all epochs."""
        return self._next_step

    @property
    def num_cut_texts(self) -> int:
        return self._source.texts.num_truncated

    def __next__(self) -> Batch:
        """Raises DatasetError naming the clip that cannot be read, or why a reading process ended."""
        self._assert_not_closed()
        if self._next_step >= self.total_steps:
            self._stop()
            raise StopIteration
        self.start_prefetch()
        try:
            batch = next(self._ahead)
        except RuntimeError as error:
            if "terminated unexpectedly" not in str(error):
                raise
            raise DatasetError(
                f"a reading process ended before its work was done ({str(error).split('. ')[0]}). Exit code -9: killed, usually for want of memory; "
                "-7: /dev/shm is too small for the batches. Set data.num_workers=0 to read in threads, or lower data.prefetch_batches"
            ) from error
        self._next_step += 1
        return batch

    def start_prefetch(self) -> None:
        """Begins to read ahead, if that has not begun."""
        if self._ahead is None and self._next_step < self.total_steps:
            self._ahead = iter(_read_ahead(self._source, self._next_step, self.total_steps))
            self._ahead.start_prefetch()

    def frames_of_steps(self, first: int, end: int) -> list[int]:
        """Frames that the batches of the steps from `first` up to, not including, `end` are padded
        to, the longest first. Every epoch has the same ones.
        """
        buckets: set[int] = set()
        for epoch in range(first // self.steps_per_epoch, math.ceil(end / self.steps_per_epoch))[
            :2
        ]:
            start = epoch * self.steps_per_epoch
            buckets.update(
                self._source.buckets_of_epoch(epoch)[max(first - start, 0) : end - start].tolist()
            )
        return [
            self._source.config.frame_buckets[bucket] for bucket in sorted(buckets, reverse=True)
        ]

    def get_state(self) -> dict[str, Any]:
        return self.state_at(self._next_step)

    def state_at(self, step: int) -> dict[str, Any]:
        """The state in which `step` batches have been taken."""
        return {"next_step": step, "plan": self._identity}

    def set_state(self, state: dict[str, Any]) -> None:
        """Goes to the step of the state. Raises DatasetError if the state belongs to batches of another plan."""
        saved = state["plan"]
        differing = [
            f"{key}: {saved.get(key)!r} then, {own!r} now"
            for key, own in self._identity.items()
            if saved.get(key) != own
        ]
        if differing:
            raise DatasetError(
                f"the saved position belongs to other batches ({'; '.join(differing)}); resume with the old values or start a new workdir"
            )
        if not 0 <= state["next_step"] <= self.total_steps:
            raise DatasetError(
                f"the saved position is step {state['next_step']}, but {self._num_epochs} epochs have {self.total_steps} steps"
            )
        self._stop()
        self._next_step = state["next_step"]

    def close(self) -> None:
        """Ends reading threads and processes."""
        self._stop()
        super().close()

    def _stop(self) -> None:
        ahead, self._ahead = self._ahead, None
        if ahead is not None:
            ahead.close()


def _read_ahead(source: "_BatchSource", first_step: int, total_steps: int) -> grain.IterDataset:
    """Grain's own reading ahead over the steps; a decoded batch is large, so what is kept ready is counted in batches."""
    data = source.config.data
    steps = grain.MapDataset.source(_Steps(source, total_steps)).slice(slice(first_step, None))
    if not data.num_workers:
        return steps.to_iter_dataset(
            grain.ReadOptions(
                num_threads=data.num_threads, prefetch_buffer_size=data.prefetch_batches
            )
        )
    if not flags.FLAGS.is_parsed():
        flags.FLAGS.mark_as_parsed()  # Grain's processes read their settings from absl flags
    # Process i reads steps i, i + n, ...: taken in turn, they come in order.
    per_worker = max(data.prefetch_batches // data.num_workers, 1)
    one_each = steps.to_iter_dataset(grain.ReadOptions(num_threads=1, prefetch_buffer_size=1))
    return one_each.mp_prefetch(
        grain.MultiprocessingOptions(
            num_workers=data.num_workers, per_worker_buffer_size=per_worker
        ),
        _end_with_the_trainer,
    )


def _end_with_the_trainer(worker: int, workers: int) -> None:
    """For a reading process: Ctrl-C, which a terminal sends to all, is the trainer's affair; and when that ends, however it ends, so does this."""
    del worker, workers
    signal.signal(signal.SIGINT, signal.SIG_IGN)

    def follow() -> None:
        multiprocessing.parent_process().join()
        os._exit(0)

    threading.Thread(target=follow, name="trainer", daemon=True).start()


@dataclasses.dataclass(frozen=True)
class _Steps:
    """What Grain reads by random access: step -> batch."""

    source: "_BatchSource"
    total: int

    def __len__(self) -> int:
        return self.total

    def __getitem__(self, step: int) -> Batch:
        return self.source.batch(step)


class _BatchSource:
    """Makes the batch of any step."""

    def __init__(
        self,
        split: Split,
        config: Config,
        batch_size: int,
        training: bool,
        seed: int,
        rows: slice,
        lengths: np.ndarray,
        bucket_of: np.ndarray,
        texts: TokenTable,
        glosses: TokenTable | None,
    ):
        self.split, self.config, self.texts, self.glosses = split, config, texts, glosses
        self._batch_size, self._training, self._seed, self._rows = batch_size, training, seed, rows
        self._lengths, self._bucket_of = lengths, bucket_of
        self.steps_per_epoch = steps_per_epoch(len(bucket_of), batch_size)
        self._plans: collections.OrderedDict[int, EpochPlan] = collections.OrderedDict()
        self._lock = threading.Lock()

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_plans": collections.OrderedDict(), "_lock": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._lock = threading.Lock()

    def batch(self, step: int) -> Batch:
        epoch, step_of_epoch = divmod(step, self.steps_per_epoch)
        plan = self._plan(epoch)
        examples = plan.examples[step_of_epoch, self._rows]
        data, b = self.config.data, len(examples)
        batch = {
            "video": np.zeros(
                (
                    b,
                    self.config.frame_buckets[plan.buckets[step_of_epoch]],
                    data.image_size,
                    data.image_size,
                    3,
                ),
                np.uint8,
            ),
            "frame_lengths": np.ones(b, np.int32),
            "tokens": np.zeros((b, self.texts.width), np.int32),
            "token_lengths": np.zeros(b, np.int32),
            "weights": (examples >= 0).astype(np.float32),
            "index": examples.astype(np.int32),
        }
        if self.glosses:
            batch |= {
                "gloss_tokens": np.zeros((b, self.glosses.width), np.int32),
                "gloss_lengths": np.zeros(b, np.int32),
            }
        for row, example in enumerate(examples.tolist()):
            if example >= 0:
                batch["frame_lengths"][row] = self._read_clip(example, epoch, batch["video"][row])
            batch["token_lengths"][row] = self.texts.write(example, batch["tokens"][row])
            if self.glosses:
                batch["gloss_lengths"][row] = self.glosses.write(
                    example, batch["gloss_tokens"][row]
                )
        return batch

    def buckets_of_epoch(self, epoch: int) -> Int[np.ndarray, " s"]:
        """Number of the bucket of each step."""
        return self._plan(epoch).buckets

    def _read_clip(self, example: int, epoch: int, out: np.ndarray) -> int:
        """Writes the frames of a clip to the front of `out` (t, h, w, 3); returns how many. Raises DatasetError naming the clip."""
        data = self.config.data
        # + 1: numpy takes [seed, epoch] and [seed, epoch, 0] for the same seed, and the first is the plan's.
        rng = np.random.default_rng([self._seed, epoch, example + 1]) if self._training else None
        try:
            record = self.split[example]
            frames = sample_frames(
                len(record["video"]), record["fps"], data, limit=len(out), rng=rng
            )
            augmentation = draw_augmentation(data.augment, rng) if rng else NONE
            decode_clip(
                [record["video"][i] for i in frames],
                data.image_size,
                data.resize_mode,
                augmentation,
                out[: len(frames)],
            )
        except ValueError as error:
            name = self.split.index[example].id
            raise DatasetError(
                f"clip {name!r} (record {example} of split {self.split.name!r} in {self.split.folder}) cannot be read: {error}"
            ) from error
        return len(frames)

    def _plan(self, epoch: int) -> EpochPlan:
        """Two are kept: reading ahead crosses from one epoch into the next."""
        with self._lock:
            if epoch not in self._plans:
                by_length = self._lengths if epoch < self.config.data.sortagrad_epochs else None
                self._plans[epoch] = plan_epoch(
                    self._bucket_of, self._batch_size, self._seed, epoch, self._training, by_length
                )
                if len(self._plans) > 2:
                    self._plans.popitem(last=False)
            return self._plans[epoch]
