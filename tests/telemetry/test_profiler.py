"""Traces of training steps."""

import argparse
import gzip
import json

import jax
import jax.numpy as jnp
import pytest

from signvit_jax.telemetry.profiler import StepTrace, TracedSteps


def test_a_count_starts_after_the_warm_up_and_a_range_has_steps_of_the_run():
    assert TracedSteps.parse("5").within(100) == (104, 108)
    assert TracedSteps.parse("7:9").within(100) == (7, 9)
    assert TracedSteps.parse("7:7").within(0) == (7, 7)


@pytest.mark.parametrize("text", ["", "0", "x", "5:4", "0:3", "1:2:3", "-1", "²"])
def test_invalid_steps_to_trace_are_refused(text):
    with pytest.raises(argparse.ArgumentTypeError, match="allowed"):
        TracedSteps.parse(text)


def traced_steps(folder):
    """Return the numbers of the training steps in a trace."""
    with gzip.open(next(folder.rglob("*.trace.json.gz"))) as file:
        return [
            event["args"]["step_num"]
            for event in json.load(file)["traceEvents"]
            if event.get("name") == "train"
        ]


@pytest.mark.parametrize(
    ("requested", "steps", "expected"),
    [("2:3", 5, ["2", "3"]), ("1", 6, ["4"]), ("3:9", 4, ["3", "4"])],
)
def test_the_trace_has_the_requested_steps(tmp_path, requested, steps, expected):
    double = jax.jit(lambda x: x + x)
    x = jnp.ones(8)
    with StepTrace(TracedSteps.parse(requested), 0, tmp_path) as trace:
        for number in range(1, steps + 1):
            with trace.step(number):
                x = double(x)
            trace.done(number, x)
    assert traced_steps(tmp_path) == expected


def test_without_requested_steps_no_trace_is_written(tmp_path):
    with StepTrace(None, 0, tmp_path) as trace:
        for number in range(3):
            with trace.step(number):
                pass
            trace.done(number, None)
    assert not list(tmp_path.iterdir())
