"""The batches of an epoch: a pure function of (bucket of each clip, batch size, seed, epoch).

Every process computes the same plan and reads its own rows of it. So processes need no
communication, any step can be looked up directly, and an interrupted run resumes at any step.
"""

import dataclasses
import math

import numpy as np
from jaxtyping import Int


@dataclasses.dataclass(frozen=True)
class EpochPlan:
    """The clips and the bucket of every step of an epoch."""

    examples: Int[np.ndarray, "s b"]  # number of the clip in each row, -1 for a padding row
    buckets: Int[np.ndarray, " s"]  # number of the bucket


def assign_buckets(
    lengths: Int[np.ndarray, " n"], bucket_lengths: tuple[int, ...]
) -> Int[np.ndarray, " n"]:
    """Return the number of the shortest bucket that holds each clip.

    `bucket_lengths` are increasing, and the last one holds every clip.
    """
    return np.searchsorted(np.asarray(bucket_lengths), lengths, side="left")


def steps_per_epoch(num_examples: int, batch_size: int) -> int:
    return math.ceil(num_examples / batch_size)


def plan_epoch(
    bucket_of: Int[np.ndarray, " n"],
    batch_size: int,
    seed: int,
    epoch: int,
    shuffle: bool,
    lengths: Int[np.ndarray, " n"] | None = None,
) -> EpochPlan:
    """Plan batches of clips of one bucket, each clip exactly once.

    Clips that do not fill a batch move to the next longer bucket; only the last such batch has
    padding rows. So every epoch has ceil(n / batch_size) steps.

    Without `shuffle`: in the order of the buckets, and of the split within a bucket. With `shuffle`
    and `lengths`: from the shortest clips to the longest (SortaGrad, Amodei et al. 2016), clips of
    equal length in random order.
    """
    rng = np.random.default_rng([seed, epoch]) if shuffle else None
    remaining = np.empty(0, np.int64)
    examples: list[np.ndarray] = [np.empty((0, batch_size), np.int64)]
    buckets: list[np.ndarray] = [np.empty(0, np.int64)]
    for bucket in np.unique(bucket_of):
        members = np.flatnonzero(bucket_of == bucket)
        if rng:
            members = rng.permutation(members)
            if lengths is not None:
                members = members[np.argsort(lengths[members], kind="stable")]
        pool = np.concatenate([remaining, members])
        full = len(pool) // batch_size
        examples.append(pool[: full * batch_size].reshape(full, batch_size))
        buckets.append(np.full(full, bucket))
        remaining = pool[full * batch_size :]
    if len(remaining):
        padding = np.full(batch_size - len(remaining), -1)
        examples.append(np.concatenate([remaining, padding])[None])
        buckets.append(bucket_of.max(keepdims=True))
    plan = EpochPlan(np.concatenate(examples), np.concatenate(buckets))
    if rng and lengths is None:
        order = rng.permutation(len(plan.buckets))
        plan = EpochPlan(plan.examples[order], plan.buckets[order])
    return plan
