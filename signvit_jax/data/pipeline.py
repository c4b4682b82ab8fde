"""Batches of clips for training and evaluation, through Grain.

A batch is a function of its step: the plan of the epoch says which clips it has, and everything
random about a clip comes from (seed, epoch, clip). So the batches do not depend on the number of
threads, reading processes and hosts, and a run resumes at any step.
"""

import collections
import dataclasses
import math
import multiprocessing
import os
import signal
import threading
from typing import Any, NotRequired, TypedDict

import grain
import numpy as np
from absl import flags
from jaxtyping import Float32, Int, Int32, UInt8

from signvit_jax.config.errors import ConfigError
from signvit_jax.config.schema import Config, DataConfig
from signvit_jax.data.augment import (
    NO_AUGMENTATION,
    augment_keypoints,
    decode_clip,
    draw_augmentation,
)
from signvit_jax.data.dataset import DatasetError, Split
from signvit_jax.data.epoch_plan import EpochPlan, assign_buckets, plan_epoch, steps_per_epoch
from signvit_jax.data.frame_sampling import clip_length, sample_frames
from signvit_jax.data.keypoints import KeypointLayout, part_points, part_weights
from signvit_jax.data.sentences import SentenceDraws
from signvit_jax.data.token_table import TokenTable, gloss_table, text_table
from signvit_jax.media.frames import jpeg_shape
from signvit_jax.text.tokenizer import Tokenizer

_PLANS_KEPT = 2  # reading ahead crosses from one epoch into the next


class Batch(TypedDict):
    """The arrays of a batch of b clips.

    A padding row fills a batch that has too few clips. It holds one black frame and the empty text,
    so that nothing divides by zero.
    """

    video: UInt8[np.ndarray, "b t h w 3"]  # RGB, zero after the clip; t is in config.frame_buckets
    frame_lengths: Int32[np.ndarray, " b"]  # frames of the clip
    tokens: Int32[np.ndarray, "b l"]  # BOS, text, EOS, PAD ...
    token_lengths: Int32[np.ndarray, " b"]  # with BOS and EOS
    weights: Float32[np.ndarray, " b"]  # 1 for a clip, 0 for a padding row
    index: Int32[np.ndarray, " b"]  # number of the clip in the split, -1 for a padding row
    gloss_tokens: NotRequired[Int32[np.ndarray, "b g"]]  # with a gloss vocabulary; no BOS and EOS
    gloss_lengths: NotRequired[Int32[np.ndarray, " b"]]
    # In training with a gloss memory, n sentences for each clip: `data.sentences`.
    sentence_tokens: NotRequired[Int32[np.ndarray, "b n l"]]  # as `tokens`
    sentence_glosses: NotRequired[Int32[np.ndarray, "b n g"]]  # as `gloss_tokens`
    sentence_gloss_lengths: NotRequired[Int32[np.ndarray, "b n"]]
    # The points of `batch_layout`: x, y and confidence. x and y are shares of the frame in `video`
    # and move with its augmentation. Zeros for unknown points and after the clip.
    keypoints: NotRequired[Float32[np.ndarray, "b t k 3"]]
    # The places of hands and face by these keypoints, from `data.keypoints.part_points`.
    part_points: NotRequired[Float32[np.ndarray, "b t parts 3"]]


def batch_layout(split: Split, data: DataConfig) -> KeypointLayout | None:
    """Return the points that batches of a split have; None if they have no keypoints.

    Raises ConfigError if `data.keypoints` requires them and the data set has none.
    """
    if data.keypoints == "required" and split.keypoint_layout is None:
        raise ConfigError(
            f"config.data.keypoints is 'required', but {split.folder} was built without keypoints; "
            "allowed here: 'auto' or 'none'. `signvit build` stores them with "
            "--keypoints=mediapipe or file (docs/keypoints.md)"
        )
    return None if data.keypoints == "none" else split.keypoint_layout


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
    """Return the batches of `num_epochs` epochs; each epoch has every clip exactly once.

    Args:
        batch_size: clips of all P processes together; process p gets rows p*b/P to (p+1)*b/P.
        training: shuffle and augment. Without it clips are in the order of the buckets, and
            nothing is random.
        text_length, gloss_length: padded lengths. Longer texts are truncated, with a warning.

    Raises:
        ConfigError: the processes cannot share a batch of this size, or the data set has no
            keypoints although the config requires them.
        DatasetError: the split has no clips, or clips without frames.
    """
    if batch_size % process_count:
        raise ConfigError(
            f"config.training.batch_size is {batch_size}; "
            f"allowed: a multiple of the {process_count} processes"
        )
    if not len(split):
        raise DatasetError(
            f"split {split.name!r} in {split.folder} has no clip; "
            "give another split (config.data) or build the data set again"
        )
    empty = [entry.id for entry in split.index if entry.num_frames < 1]
    if empty:
        raise DatasetError(
            f"split {split.name!r} in {split.folder}: {len(empty)} clips have no frame, "
            f"the first {empty[0]!r}; build the data set again"
        )
    texts = [entry.text for entry in split.index]
    glosses = None
    if gloss_tokenizer:
        lines = [entry.gloss for entry in split.index]
        glosses = gloss_table(gloss_tokenizer, lines, gloss_length, split.name)
    text_ids = text_table(tokenizer, texts, text_length, split.name)
    sentences = None
    if training and glosses and config.model.decoder.gloss_memory:
        annotated = [i for i, entry in enumerate(split.index) if entry.gloss or not entry.text]
        number = config.training.gloss_sentences
        sentences = SentenceDraws(text_ids, glosses, number, np.array(annotated), seed)
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
        texts=text_ids,
        glosses=glosses,
        sentences=sentences,
        layout=batch_layout(split, config.data),
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
    """Iterator over batches; Grain reads ahead in threads or processes.

    Its state is the number of the next step, with what the plan depends on. It goes into an Orbax
    checkpoint by `grain.checkpoint.CheckpointSave`, and does not depend on the number of threads
    (`data.num_threads`), reading processes (`data.num_workers`) and hosts.
    """

    def __init__(self, source: "_BatchSource", num_epochs: int, identity: dict[str, object]):
        """`identity`: what the plan depends on, as JSON values."""
        super().__init__()
        self._source = source
        self._num_epochs = num_epochs
        self._identity = identity
        self._next_step = 0
        self._prefetched: grain.DatasetIterator[Batch] | None = None

    @property
    def steps_per_epoch(self) -> int:
        """The same in every epoch."""
        return self._source.steps_per_epoch

    @property
    def total_steps(self) -> int:
        return self.steps_per_epoch * self._num_epochs

    @property
    def next_step(self) -> int:
        """Batches returned so far, over all epochs."""
        return self._next_step

    def __next__(self) -> Batch:
        """Return the next batch.

        Raises DatasetError with the clip that cannot be read, or why a reading process ended.
        """
        self._assert_not_closed()
        if self._next_step >= self.total_steps:
            self._stop()
            raise StopIteration
        self.start_prefetch()
        assert self._prefetched is not None
        try:
            batch = next(self._prefetched)
        except RuntimeError as error:
            if "terminated unexpectedly" not in str(error):
                raise
            raise DatasetError(
                f"a reading process ended before its work was done ({str(error).split('. ')[0]}). "
                "Exit code -9: killed, usually out of memory; -7: /dev/shm is too small for the "
                "batches. Set data.num_workers=0 to read in threads, or lower data.prefetch_batches"
            ) from error
        self._next_step += 1
        return batch

    def start_prefetch(self) -> None:
        """Start to read ahead, if that has not started."""
        if self._prefetched is None and self._next_step < self.total_steps:
            self._prefetched = iter(_prefetch(self._source, self._next_step, self.total_steps))
            self._prefetched.start_prefetch()

    def frames_of_steps(self, first: int, end: int) -> list[int]:
        """Return the padded lengths of the batches of steps `first` to `end` - 1, longest first."""
        per_epoch = self.steps_per_epoch
        buckets: set[int] = set()
        # Every epoch has the same buckets, in another order, so the first two epochs of the range
        # have all buckets of the range.
        for epoch in range(first // per_epoch, math.ceil(end / per_epoch))[:2]:
            start = epoch * per_epoch
            steps = slice(max(first - start, 0), end - start)
            buckets.update(self._source.buckets_of_epoch(epoch)[steps].tolist())
        return [self._source.config.frame_buckets[bucket] for bucket in sorted(buckets)[::-1]]

    def get_state(self) -> dict[str, object]:
        return self.state_at(self._next_step)

    def state_at(self, step: int) -> dict[str, object]:
        """Return the state after `step` batches."""
        return {"next_step": step, "plan": self._identity}

    def set_state(self, state: dict[str, Any]) -> None:
        """Go to the step of `state`. Raises DatasetError if the state belongs to another plan."""
        saved = state["plan"]
        differences = [
            f"{key}: {saved.get(key)!r} then, {now!r} now"
            for key, now in self._identity.items()
            if saved.get(key) != now
        ]
        if differences:
            raise DatasetError(
                f"the saved position belongs to other batches ({'; '.join(differences)}); "
                "resume with the old values or start a new workdir"
            )
        if not 0 <= state["next_step"] <= self.total_steps:
            raise DatasetError(
                f"the saved position is step {state['next_step']}, "
                f"but {self._num_epochs} epochs have {self.total_steps} steps"
            )
        self._stop()
        self._next_step = state["next_step"]

    def close(self) -> None:
        """End reading threads and processes."""
        self._stop()
        super().close()

    def _stop(self) -> None:
        prefetched = self._prefetched
        self._prefetched = None
        if prefetched is not None:
            prefetched.close()


def _prefetch(
    source: "_BatchSource", first_step: int, total_steps: int
) -> grain.IterDataset[Batch]:
    """Grain's prefetch over steps; buffers are counted in batches, because a batch is large."""
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
    # Process i of n reads steps i, i + n, ... Grain takes a batch of each process in turn, so the
    # batches are in order.
    per_worker = max(data.prefetch_batches // data.num_workers, 1)
    one_each = steps.to_iter_dataset(grain.ReadOptions(num_threads=1, prefetch_buffer_size=1))
    return one_each.mp_prefetch(
        grain.MultiprocessingOptions(
            num_workers=data.num_workers, per_worker_buffer_size=per_worker
        ),
        _end_with_the_trainer,
    )


def _end_with_the_trainer(worker: int, workers: int) -> None:
    """Initialize a reading process: it ignores Ctrl-C and ends when the trainer ends.

    A terminal sends Ctrl-C to all processes; the trainer handles it.
    """
    del worker, workers
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    assert parent is not None  # a reading process has one

    def follow() -> None:
        parent.join()
        os._exit(0)

    threading.Thread(target=follow, name="trainer", daemon=True).start()


@dataclasses.dataclass(frozen=True)
class _Steps:
    """Random access for Grain: step -> batch."""

    source: "_BatchSource"
    total: int

    def __len__(self) -> int:
        return self.total

    def __getitem__(self, index: int) -> Batch:
        return self.source.batch(index)


class _BatchSource:
    """The batch of any step. Thread-safe."""

    def __init__(
        self,
        split: Split,
        config: Config,
        batch_size: int,
        training: bool,
        seed: int,
        rows: slice,
        texts: TokenTable,
        glosses: TokenTable | None,
        sentences: SentenceDraws | None,
        layout: KeypointLayout | None,
    ):
        """`rows`: the rows of each batch that belong to this process.

        `layout`: the keypoints of the batches; None if they have none.
        """
        self.config = config
        self._split = split
        self._batch_size = batch_size
        self._training = training
        self._seed = seed
        self._rows = rows
        self._texts = texts
        self._glosses = glosses
        self._sentences = sentences
        self._layout = layout
        self._lengths = np.array(
            [clip_length(entry.num_frames, entry.fps, config.data) for entry in split.index]
        )
        self._bucket_of = assign_buckets(self._lengths, config.frame_buckets)
        self.steps_per_epoch = steps_per_epoch(len(self._bucket_of), batch_size)
        self._plans: collections.OrderedDict[int, EpochPlan] = collections.OrderedDict()
        self._lock = threading.Lock()

    def __getstate__(self) -> dict[str, object]:
        return {**self.__dict__, "_plans": collections.OrderedDict(), "_lock": None}

    def __setstate__(self, state: dict[str, object]) -> None:
        self.__dict__.update(state)
        self._lock = threading.Lock()

    def batch(self, step: int) -> Batch:
        epoch, step_of_epoch = divmod(step, self.steps_per_epoch)
        plan = self._plan(epoch)
        examples = plan.examples[step_of_epoch, self._rows]
        b = len(examples)
        t = self.config.frame_buckets[plan.buckets[step_of_epoch]]
        size = self.config.data.image_size
        batch = Batch(
            video=np.zeros((b, t, size, size, 3), np.uint8),
            frame_lengths=np.ones(b, np.int32),
            tokens=np.zeros((b, self._texts.width), np.int32),
            token_lengths=np.zeros(b, np.int32),
            weights=(examples >= 0).astype(np.float32),
            index=examples.astype(np.int32),
        )
        points = None
        if self._layout is not None:
            points = np.zeros((b, t, len(self._layout.points), 3), np.float32)
            batch["keypoints"] = points
        for row, example in enumerate(examples.tolist()):
            if example >= 0:
                batch["frame_lengths"][row] = self._read_clip(
                    example, epoch, batch["video"][row], None if points is None else points[row]
                )
            batch["token_lengths"][row] = self._texts.write(example, batch["tokens"][row])
        if points is not None and self._layout is not None:
            batch["part_points"] = part_points(points, part_weights(self._layout))
        if self._glosses:
            batch["gloss_tokens"] = np.zeros((b, self._glosses.width), np.int32)
            batch["gloss_lengths"] = np.zeros(b, np.int32)
            for row, example in enumerate(examples.tolist()):
                length = self._glosses.write(example, batch["gloss_tokens"][row])
                batch["gloss_lengths"][row] = length
        if self._sentences:
            sentences = self._sentences.arrays(step, self._batch_size, self._rows)
            batch["sentence_tokens"] = sentences["sentence_tokens"]
            batch["sentence_glosses"] = sentences["sentence_glosses"]
            batch["sentence_gloss_lengths"] = sentences["sentence_gloss_lengths"]
        return batch

    def buckets_of_epoch(self, epoch: int) -> Int[np.ndarray, " s"]:
        """Bucket number of each step."""
        return self._plan(epoch).buckets

    def _read_clip(
        self,
        example: int,
        epoch: int,
        out: UInt8[np.ndarray, "t h w 3"],
        points: Float32[np.ndarray, "t k 3"] | None,
    ) -> int:
        """Write the frames of a clip to the front of `out`; return their number.

        Its keypoints go to the front of `points`. Raises DatasetError with the clip's id.
        """
        data = self.config.data
        # + 1: NumPy treats the seeds [seed, epoch] and [seed, epoch, 0] alike, and the first one is
        # the seed of the epoch's plan.
        rng = np.random.default_rng([self._seed, epoch, example + 1]) if self._training else None
        try:
            record = self._split[example]
            frames = sample_frames(
                len(record["video"]), record["fps"], data, limit=len(out), rng=rng
            )
            augmentation = draw_augmentation(data.augment, rng) if rng else NO_AUGMENTATION
            jpegs = [record["video"][i] for i in frames]
            decode_clip(jpegs, data.image_size, data.resize_mode, augmentation, out[: len(frames)])
            if points is not None and self._layout is not None:
                if "keypoints" not in record:
                    raise ValueError("its record has no keypoints")
                points[: len(frames)] = augment_keypoints(
                    record["keypoints"][frames],
                    jpeg_shape(jpegs[0]),
                    data.image_size,
                    data.resize_mode,
                    augmentation,
                    self._layout.mirrored,
                )
        except ValueError as error:
            split = self._split
            raise DatasetError(
                f"clip {split.index[example].id!r} (record {example} of split {split.name!r} in "
                f"{split.folder}) cannot be read: {error}"
            ) from error
        return len(frames)

    def _plan(self, epoch: int) -> EpochPlan:
        with self._lock:
            if epoch not in self._plans:
                by_length = self._lengths if epoch < self.config.data.sortagrad_epochs else None
                self._plans[epoch] = plan_epoch(
                    self._bucket_of, self._batch_size, self._seed, epoch, self._training, by_length
                )
                if len(self._plans) > _PLANS_KEPT:
                    self._plans.popitem(last=False)
            return self._plans[epoch]
