"""Which examples make which batch of an epoch: a pure function of (bucket of each example, batch size, seed, epoch).

Every process computes the same plan and reads its own rows of it, so nothing has to be agreed upon, any step can be looked up directly,
and an interrupted run goes on at any step.
"""

import dataclasses
import math

import numpy as np
from jaxtyping import Int


@dataclasses.dataclass(frozen=True)
class EpochPlan:
    """`examples` (s, b): index of the example in each row of each step, -1 in rows that only fill; `buckets` (s,): bucket number of each step."""

    examples: Int[np.ndarray, "s b"]
    buckets: Int[np.ndarray, " s"]


def assign_buckets(
    lengths: Int[np.ndarray, " n"], bucket_lengths: tuple[int, ...]
) -> Int[np.ndarray, " n"]:
    """Number of the shortest bucket that holds each clip; `bucket_lengths` rise and the last holds all."""
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
    """Batches of clips of one bucket, every example exactly once.

    What does not fill a batch moves to the next longer bucket; only the last such batch has filling rows. So there are
    ceil(n / batch_size) batches in every epoch. Without `shuffle`: the order of the buckets, and of the split within each.
    With `shuffle` and `lengths`: from the shortest clips to the longest (SortaGrad, Amodei et al. 2016), clips of one length in random order.
    """
    rng = np.random.default_rng([seed, epoch]) if shuffle else None
    left = np.empty(0, np.int64)
    examples, buckets = [np.empty((0, batch_size), np.int64)], [np.empty(0, np.int64)]
    for bucket in np.unique(bucket_of):
        members = np.flatnonzero(bucket_of == bucket)
        if rng:
            members = rng.permutation(members)
            if lengths is not None:
                members = members[np.argsort(lengths[members], kind="stable")]
        pool = np.concatenate([left, members])
        whole = len(pool) // batch_size
        examples.append(pool[: whole * batch_size].reshape(whole, batch_size))
        buckets.append(np.full(whole, bucket))
        left = pool[whole * batch_size :]
    if len(left):
        examples.append(np.concatenate([left, np.full(batch_size - len(left), -1)])[None])
        buckets.append(bucket_of.max(keepdims=True))
    plan = EpochPlan(np.concatenate(examples), np.concatenate(buckets))
    if rng and lengths is None:
        order = rng.permutation(len(plan.buckets))
        plan = EpochPlan(plan.examples[order], plan.buckets[order])
    return plan
