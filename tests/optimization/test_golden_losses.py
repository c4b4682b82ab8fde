"""50 losses of the tiny model, held against a recording: any change of what training computes shows here."""

import json
import os
import platform
import re
import warnings
from pathlib import Path

import jax
import jaxlib
import numpy as np
import pytest

from tests.helpers import tiny_model
from tests.optimization.test_train_step import with_dropout

pytestmark = pytest.mark.xdist_group("train_step")

GOLDEN = Path(__file__).parents[1] / "fixtures" / "golden_losses.json"


def fifty_losses() -> list[float]:
    """Losses of 50 steps over five batches, dropout on: initialization, both random streams, gradients, clipping, AdamW and the schedule."""
    run = with_dropout()
    state, losses = run.fresh(), []
    for step in range(50):
        state, report = run.step(state, tiny_model.batch(seed=step % 5))
        losses.append(float(report.loss.total))
    return losses


def arithmetic() -> dict[str, object]:
    """What the last bits of a sum depend on: the instructions that the processor has, the compiler, and how far it optimizes."""
    found = re.search(
        r"^flags\s*:(.*)$",
        Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else "",
        re.MULTILINE,
    )
    vector = sorted(
        flag
        for flag in (found[1].split() if found else [])
        if re.match(r"avx|amx|fma|sse|f16c", flag)
    )
    optimized = not jax.config.read("jax_disable_most_optimizations") and not os.environ.get(
        "XLA_FLAGS"
    )
    return {
        "machine": platform.machine(),
        "instructions": vector,
        "jaxlib": jaxlib.__version__,
        "optimised": optimized,  # the name in golden_losses.json
    }


def test_fifty_losses_are_those_that_were_recorded():
    """Exactly where the arithmetic is that of the recording; elsewhere to 1e-5, and the test says so in a warning."""
    golden, losses = json.loads(GOLDEN.read_text()), fifty_losses()
    wanted = [float.fromhex(text) for text in golden["losses"]]
    differing = [
        name for name, value in arithmetic().items() if golden["arithmetic"][name] != value
    ]
    if differing:
        warnings.warn(
            f"losses compared to 1e-5, not exactly: {', '.join(differing)} differ from the recording's",
            stacklevel=1,
        )
        np.testing.assert_allclose(losses, wanted, rtol=1e-5)
    else:
        assert losses == wanted


if __name__ == "__main__":
    # Records the losses anew: JAX_PLATFORMS=cpu JAX_DISABLE_MOST_OPTIMIZATIONS=true PYTHONPATH=. python tests/optimization/test_golden_losses.py
    GOLDEN.write_text(
        json.dumps(
            {"arithmetic": arithmetic(), "losses": [loss.hex() for loss in fifty_losses()]},
            indent=1,
        )
        + "\n"
    )
