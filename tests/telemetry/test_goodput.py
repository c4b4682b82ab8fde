"""Tests of goodput: the seconds of a run by activity, and the steps that a stop would lose."""

import re
import time

import jax
import jax.numpy as jnp
import pytest

from signvit_jax.telemetry import goodput as module
from signvit_jax.telemetry.goodput import Goodput


class Clock:
    """Replaces the module `time`; only `sleep` advances it."""

    def __init__(self):
        self.now = 100.0

    def perf_counter(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


@pytest.fixture
def clock(monkeypatch):
    monkeypatch.setattr(module, "time", clock := Clock())
    return clock


def test_a_nested_part_does_not_count_for_the_outer_part(clock):
    with Goodput() as goodput:
        clock.sleep(0.3)
        with goodput.time_as("step"):
            clock.sleep(0.05)
            with goodput.time_as("data"):
                clock.sleep(0.1)
            with pytest.raises(ValueError, match="in the block"), goodput.time_as("save"):
                clock.sleep(0.02)
                raise ValueError("in the block")
        goodput.line(None)  # adds the seconds since the last change of part
    expected = {"rest": 0.3, "step": 0.05, "data": 0.1, "save": 0.02, "compile": 0.0, "eval": 0.0}
    assert goodput.seconds == pytest.approx(expected)


def test_compile_time_counts_once_and_not_for_the_outer_part():
    inner = jax.jit(lambda x: x + 1)

    def slow_to_trace(x):
        time.sleep(0.2)  # while JAX traces, which is a part of compiling
        return inner(x)

    x = jnp.zeros(3)
    start = time.perf_counter()
    with Goodput() as goodput:
        with goodput.time_as("eval"):
            jax.jit(lambda x: inner(jax.jit(slow_to_trace)(x)) * 2)(x)
            time.sleep(0.1)  # evaluation without compiling
        goodput.line(None)
        elapsed = time.perf_counter() - start
        assert 0.2 <= goodput.seconds["compile"] <= elapsed - 0.1
        assert 0.1 <= goodput.seconds["eval"] <= elapsed - 0.2
        assert min(goodput.seconds.values()) >= 0
        compiled = goodput.seconds["compile"]
    jax.jit(lambda x: inner(x) * 3)(x)
    goodput.line(None)
    assert goodput.seconds["compile"] == compiled  # after the block, compiling is not counted


def test_steps_after_the_newest_final_checkpoint_are_lost(clock):
    # The run resumed from step 100, so its third step is step 103.
    goodput = Goodput()
    with goodput.time_as("step"):
        goodput.steps = 3
        goodput.mark_save(103)
        goodput.steps = 6
        goodput.mark_save(106)
        clock.sleep(0.4)
        goodput.steps = 8
    assert "8 steps" in goodput.line(106)
    assert re.search(r"lost since the last checkpoint: 2 steps \(0\.4 s\)", goodput.line(106))
    assert "lost since the last checkpoint: 5 steps" in goodput.line(103)  # the save at 106 failed
    assert "lost since the last checkpoint: 8 steps" in goodput.line(100)  # both saves failed


def test_replayed_steps_are_reported_if_there_are_any():
    goodput = Goodput()
    assert "replayed" not in goodput.line(None)
    goodput.steps_replayed = 4
    assert "replayed after a restart: 4 steps" in goodput.line(None)
