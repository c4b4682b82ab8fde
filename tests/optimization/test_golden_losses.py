"""50 losses of the tiny model, compared with a recording to notice changes in the arithmetic."""

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
    """Return the losses of 50 steps over five batches, with dropout.

    They depend on initialization, both random streams, gradients, clipping, AdamW and the schedule.
    """
    run = with_dropout()
    state, losses = run.fresh(), []
    for step in range(50):
        state, report = run.step(state, tiny_model.batch(seed=step % 5))
        losses.append(float(report.loss.total))
    return losses


def arithmetic() -> dict[str, object]:
    """Return what the last bits of a sum depend on: processor, compiler and optimization."""
    cpuinfo = Path("/proc/cpuinfo")
    text = cpuinfo.read_text() if cpuinfo.exists() else ""
    found = re.search(r"^flags\s*:(.*)$", text, re.MULTILINE)
    flags = found[1].split() if found else []
    vector = sorted(flag for flag in flags if re.match(r"avx|amx|fma|sse|f16c", flag))
    optimized = not jax.config.read("jax_disable_most_optimizations")
    optimized = optimized and not os.environ.get("XLA_FLAGS")
    return {
        "machine": platform.machine(),
        "instructions": vector,
        "jaxlib": jaxlib.__version__,
        "optimized": optimized,
    }


@pytest.mark.filterwarnings("default:losses compared to 1e-5")
def test_fifty_losses_equal_the_recorded_losses():
    """Compare all bits if this machine computes as the recording's; else 1e-5, with a warning."""
    golden, losses = json.loads(GOLDEN.read_text()), fifty_losses()
    recorded = [float.fromhex(text) for text in golden["losses"]]
    differing = [
        name for name, value in arithmetic().items() if golden["arithmetic"][name] != value
    ]
    if differing:
        warnings.warn(
            "losses compared to 1e-5, not exactly: the recording has another "
            f"{', '.join(differing)}",
            stacklevel=1,
        )
        np.testing.assert_allclose(losses, recorded, rtol=1e-5)
    else:
        assert losses == recorded


if __name__ == "__main__":
    # Record new losses:
    # JAX_PLATFORMS=cpu JAX_DISABLE_MOST_OPTIMIZATIONS=true PYTHONPATH=. \
    #     python tests/optimization/test_golden_losses.py
    losses = [loss.hex() for loss in fifty_losses()]
    recording = {"arithmetic": arithmetic(), "losses": losses}
    GOLDEN.write_text(json.dumps(recording, indent=1) + "\n")
