"""Tests of frame sampling in evaluation and training."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from signvit_jax.config.schema import AugmentConfig, DataConfig
from signvit_jax.data.frame_sampling import clip_length, sample_frames

EVEN = DataConfig(num_frames=16)
RATE = DataConfig(num_frames=64, sampling="rate", frame_rate=12.5, frame_buckets=(16, 32, 64))
ALL = AugmentConfig(speed=0.2, frame_jitter=0.5, frame_drop=0.2)


@given(st.integers(1, 2000))
def test_even_sampling_is_the_truncated_linspace_of_the_reference(num_stored):
    exact = [i * (num_stored - 1) // 15 for i in range(16)]  # without rounding errors
    assert sample_frames(num_stored, 25.0, EVEN, limit=16).tolist() == exact


def test_a_clip_that_is_too_short_repeats_frames():
    assert sample_frames(1, 25.0, EVEN, limit=16).tolist() == [0] * 16


def test_rate_takes_every_second_frame_of_25_per_second():
    assert sample_frames(50, 25.0, RATE, limit=32).tolist() == list(range(0, 50, 2))


def test_rate_above_the_stored_one_takes_each_frame_once():
    assert sample_frames(10, 6.25, RATE, limit=16).tolist() == list(range(10))


def test_rate_sampling_of_a_long_clip_covers_the_complete_clip():
    frames = sample_frames(1000, 25.0, RATE, limit=64)
    assert len(frames) == 64 and frames[0] == 0 and frames[-1] == 999


@given(st.integers(1, 3000), st.floats(0.5, 240.0), st.sampled_from(["even", "rate", "segment"]))
def test_clip_length_is_the_number_of_frames_that_evaluation_samples(num_stored, fps, sampling):
    config = dataclasses.replace(RATE, sampling=sampling)
    assert clip_length(num_stored, fps, config) == len(
        sample_frames(num_stored, fps, config, limit=64)
    )


@given(
    st.integers(1, 3000),
    st.floats(0.5, 240.0),
    st.sampled_from(["even", "rate", "segment"]),
    st.sampled_from([16, 32, 64]),
    st.integers(0, 99),
)
def test_training_samples_stay_in_the_clip_and_its_bucket(num_stored, fps, sampling, limit, seed):
    config = dataclasses.replace(RATE, sampling=sampling, augment=ALL)
    frames = sample_frames(num_stored, fps, config, limit, np.random.default_rng(seed))
    assert 1 <= len(frames) <= limit
    assert frames.min() >= 0 and frames.max() < num_stored
    assert (np.diff(frames) >= 0).all()


@pytest.mark.parametrize("fps", [0.0, -1.0, float("nan"), float("inf")])
def test_unknown_frame_rate_takes_every_frame(fps):
    assert sample_frames(20, fps, RATE, limit=32).tolist() == list(range(20))


def test_speed_changes_how_many_frames_a_clip_has():
    config = dataclasses.replace(RATE, augment=AugmentConfig(speed=0.25))
    counts = {
        len(sample_frames(60, 25.0, config, 64, np.random.default_rng(seed))) for seed in range(200)
    }
    assert min(counts) == pytest.approx(30 / 1.25, abs=1.5) and max(counts) == pytest.approx(
        30 / 0.75, abs=1.5
    )


@pytest.mark.parametrize("sampling", ["rate", "segment"])
def test_speed_goes_both_ways_at_the_stored_rate(sampling):
    config = dataclasses.replace(RATE, sampling=sampling, augment=AugmentConfig(speed=0.25))
    samples = [
        sample_frames(30, 12.5, config, 64, np.random.default_rng(seed)) for seed in range(200)
    ]
    counts = [len(frames) for frames in samples]
    assert min(counts) == pytest.approx(30 / 1.25, abs=1.5) and max(counts) == pytest.approx(
        30 / 0.75, abs=1.5
    )
    assert 0.3 < np.mean([count > 30 for count in counts]) < 0.6
    # The samples cover the complete clip.
    assert all(np.diff(frames).max() <= 2 and frames[-1] >= 27 for frames in samples)


def test_speed_of_even_sampling_keeps_both_ends():
    config = dataclasses.replace(EVEN, augment=AugmentConfig(speed=0.25))
    frames = sample_frames(1501, 25.0, config, 16, np.random.default_rng(0))
    gaps = np.diff(frames)
    assert frames[0] == 0 and frames[-1] == 1500
    assert 75 <= gaps.min() < 95 and 105 < gaps.max() <= 125


def test_jitter_moves_frames_by_at_most_its_share_of_the_gap():
    config = dataclasses.replace(EVEN, augment=AugmentConfig(frame_jitter=0.4))
    moved = sample_frames(1501, 25.0, config, 16, np.random.default_rng(1)) - np.arange(16) * 100
    assert 10 < abs(moved).max() <= 40


def test_frame_drop_omits_up_to_its_share_and_never_all_frames():
    config = dataclasses.replace(EVEN, augment=AugmentConfig(frame_drop=0.5))
    counts = [
        len(sample_frames(100, 25.0, config, 16, np.random.default_rng(seed)))
        for seed in range(200)
    ]
    assert min(counts) == 8 and max(counts) == 16
    single_frame = dataclasses.replace(EVEN, num_frames=1, augment=AugmentConfig(frame_drop=0.99))
    assert len(sample_frames(100, 25.0, single_frame, 1, np.random.default_rng(0))) == 1


def test_a_clip_without_frames_is_refused():
    with pytest.raises(ValueError, match="without frames"):
        sample_frames(0, 25.0, EVEN, limit=16)


SEGMENT = dataclasses.replace(RATE, sampling="segment")


def test_the_segment_of_a_short_clip_is_the_complete_clip():
    assert sample_frames(50, 25.0, SEGMENT, limit=64).tolist() == list(range(0, 50, 2))
    assert sample_frames(50, 25.0, SEGMENT, 64, np.random.default_rng(0)).tolist() == list(
        range(0, 50, 2)
    )


def test_evaluation_takes_the_segment_in_the_middle():
    frames = sample_frames(1001, 25.0, SEGMENT, limit=64)
    assert np.diff(frames).tolist() == [2] * 63
    assert frames[0] == 1000 - frames[-1]
    assert frames.tolist() == sample_frames(1001, 25.0, SEGMENT, limit=64).tolist()


def test_training_takes_segments_from_every_part():
    samples = [
        sample_frames(1001, 25.0, SEGMENT, 64, np.random.default_rng(seed)) for seed in range(300)
    ]
    assert all(set(np.diff(frames).tolist()) == {2} for frames in samples)
    starts = np.array([frames[0] for frames in samples])
    assert starts.min() < 30 and starts.max() > 1000 - 126 - 30
    assert np.histogram(starts, bins=5, range=(0, 875))[0].min() > 30
