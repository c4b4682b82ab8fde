"""Tests of the plan of an epoch: every clip once, few shapes, a deterministic order."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from signvit_jax.data.epoch_plan import assign_buckets, plan_epoch, steps_per_epoch

BUCKETS_OF_CLIPS = st.lists(st.integers(0, 3), min_size=1, max_size=60).map(np.array)


@given(BUCKETS_OF_CLIPS, st.integers(1, 9), st.integers(0, 5), st.booleans())
def test_each_epoch_has_every_example_once(bucket_of, batch_size, epoch, shuffle):
    plan = plan_epoch(bucket_of, batch_size, seed=3, epoch=epoch, shuffle=shuffle)
    assert plan.examples.shape == (steps_per_epoch(len(bucket_of), batch_size), batch_size)
    assert sorted(plan.examples[plan.examples >= 0]) == list(range(len(bucket_of)))


@given(BUCKETS_OF_CLIPS, st.integers(1, 9), st.booleans())
def test_only_leftover_clips_move_to_a_longer_bucket(bucket_of, batch_size, shuffle):
    plan = plan_epoch(bucket_of, batch_size, seed=3, epoch=1, shuffle=shuffle)
    moved = 0
    for row, bucket in zip(plan.examples, plan.buckets, strict=True):
        clip_buckets = bucket_of[row[row >= 0]]
        assert (clip_buckets <= bucket).all()
        moved += (clip_buckets < bucket).sum()
    assert moved <= (batch_size - 1) * len(np.unique(bucket_of))


@given(BUCKETS_OF_CLIPS, st.integers(1, 9))
def test_at_most_one_batch_has_padding_rows(bucket_of, batch_size):
    plan = plan_epoch(bucket_of, batch_size, seed=0, epoch=0, shuffle=True)
    assert ((plan.examples < 0).any(axis=1)).sum() == (len(bucket_of) % batch_size > 0)


@given(BUCKETS_OF_CLIPS, st.integers(1, 9))
def test_every_epoch_has_the_same_shapes(bucket_of, batch_size):
    first, later = (plan_epoch(bucket_of, batch_size, 0, epoch, True).buckets for epoch in (0, 7))
    assert sorted(first) == sorted(later)


def test_plans_depend_only_on_epoch_and_seed():
    bucket_of = np.zeros(100, int)
    plans = [
        plan_epoch(bucket_of, 8, seed, epoch, True).examples.tolist()
        for seed, epoch in [(0, 0), (0, 1), (1, 0), (0, 0)]
    ]
    assert (
        plans[0] == plans[3]
        and plans[0] != plans[1]
        and plans[0] != plans[2]
        and plans[1] != plans[2]
    )


def test_evaluation_keeps_the_order_of_the_split_within_buckets():
    plan = plan_epoch(np.array([1, 0, 1, 0, 0]), 2, seed=0, epoch=0, shuffle=False)
    assert plan.examples.tolist() == [[1, 3], [4, 0], [2, -1]]
    assert plan.buckets.tolist() == [0, 1, 1]


@pytest.mark.parametrize(
    ("length", "bucket"), [(1, 0), (16, 0), (17, 1), (32, 1), (33, 2), (64, 2)]
)
def test_a_clip_goes_to_the_shortest_bucket_that_holds_it(length, bucket):
    assert assign_buckets(np.array([length]), (16, 32, 64)).tolist() == [bucket]


LENGTHS = st.lists(st.integers(1, 64), min_size=1, max_size=60).map(np.array)


@given(LENGTHS, st.integers(1, 9), st.integers(0, 3))
def test_short_first_orders_all_clips_by_length(lengths, batch_size, epoch):
    plan = plan_epoch(
        assign_buckets(lengths, (16, 32, 64)),
        batch_size,
        seed=3,
        epoch=epoch,
        shuffle=True,
        lengths=lengths,
    )
    order = plan.examples[plan.examples >= 0]
    assert sorted(order) == list(range(len(lengths)))
    assert (np.diff(lengths[order]) >= 0).all()
    assert (np.diff(plan.buckets) >= 0).all()


def test_short_first_shuffles_clips_of_equal_length():
    lengths = np.full(50, 7)
    orders = [
        plan_epoch(np.zeros(50, int), 5, 0, epoch, True, lengths).examples.tolist()
        for epoch in (0, 1, 0)
    ]
    assert orders[0] == orders[2] != orders[1]


def test_short_first_does_not_order_an_evaluation():
    lengths = np.array([3, 1, 2])
    assert plan_epoch(np.zeros(3, int), 3, 0, 0, False, lengths).examples.tolist() == [[0, 1, 2]]
