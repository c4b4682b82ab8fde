"""Tests of the measured speed of a run and of its MFU (model FLOP utilization)."""

import time
from types import SimpleNamespace

import numpy as np
import pytest

from signvit_jax.planning.flops import ClipFlops
from signvit_jax.telemetry import throughput as module
from signvit_jax.telemetry.throughput import Stopwatch


def batch(clips=4, padding_rows=1):
    """Return a batch of clips of 3 frames, padded to 5; padding rows have weight and length 0."""
    weights = np.ones(clips, np.float32)
    weights[clips - padding_rows :] = 0
    lengths = np.full(clips, 3)
    lengths[clips - padding_rows :] = 0
    return {
        "video": np.zeros((clips, 5, 2, 2, 3), np.uint8),
        "tokens": np.zeros((clips, 7), np.int32),
        "weights": weights,
        "frame_lengths": lengths,
    }


@pytest.fixture
def start_stopwatch(monkeypatch):
    """A function that starts a stopwatch; each `read` of it measures 2 s.

    The stopwatch asks for the time once at its start and twice in each `read`.
    """
    now = iter([0.0, 2.0, 2.0, 4.0, 4.0])
    monkeypatch.setattr(time, "perf_counter", lambda: next(now))

    def start(kind, devices=1):
        device = SimpleNamespace(device_kind=kind)
        mesh = SimpleNamespace(devices=np.full((devices, 1, 1), device), size=devices)
        return Stopwatch(None, mesh)  # None: the model's definition, which `clip_flops` gets

    return start


def test_speed_is_measured_since_the_last_reading(start_stopwatch):
    watch = start_stopwatch("cpu")
    watch.add_wait(0.5)
    watch.add_batch(batch(), frozen_backbone=False)
    watch.add_batch(batch(), frozen_backbone=False)
    # Two batches of 3 clips (9 frames) in 2 s. On a CPU neither MFU nor device memory is known.
    assert watch.read() == {"clips_per_second": 3.0, "frames_per_second": 9.0, "data_wait": 0.25}
    assert watch.read() == {"clips_per_second": 0.0, "frames_per_second": 0.0, "data_wait": 0.0}


def test_mfu_is_the_share_of_the_peak_flops(start_stopwatch, monkeypatch):
    counted_shapes = []

    def clip_flops(definition, frames, text_length):
        counted_shapes.append((frames, text_length))
        return ClipFlops(
            backbone=100.0,
            temporal=20.0,
            decoder=30.0,
            ctc_head=50.0,
            training=600.0,
            training_frozen=400.0,
        )

    monkeypatch.setattr(module, "clip_flops", clip_flops)
    monkeypatch.setattr(module, "peak_memory", lambda: 3 * 2**30)
    # The peak is that of the two devices of the mesh, not of the devices of this process.
    monkeypatch.setattr(module, "peak_flops", {"some GPU": 0.5e5}.get)
    watch = start_stopwatch("some GPU", devices=2)
    for _ in range(3):
        watch.add_batch(batch(), frozen_backbone=False)
    watch.add_batch(batch(), frozen_backbone=True)
    figures = watch.read()
    flops = 4 * (3 * 600 + 400)  # rows, padding included, in three steps and a frozen one
    assert figures["mfu"] == pytest.approx(flops / 2.0 / (2 * 0.5e5))  # seconds, devices
    assert figures["peak_memory_gib"] == 3.0
    # (frames, text length); counted once without and once with a frozen backbone.
    assert counted_shapes == [(5, 7)] * 2
