"""The part of the train loop in `jax.transfer_guard` makes no implicit reads from a device.

JAX's transfer guard does not detect such reads on a CPU, because there they copy nothing. On a GPU
the guard would end the run. So this test records the reads itself.
"""

import contextlib
import inspect
import traceback

import jax
import pytest

from signvit_jax.commands import train
from tests.helpers import tiny_run

READS = ("__float__", "__int__", "__bool__", "__index__", "__array__", "item", "tolist")


def _is_explicit() -> bool:
    """Return True if `jax.device_get`, or a module that may read from the device, reads."""
    return any(
        frame.function in ("device_get", "_device_get")
        or frame.filename.endswith("learning_rates.py")
        for frame in inspect.stack(0)
    )


@pytest.fixture
def implicit_reads(monkeypatch):
    """The call stacks of implicit reads of arrays within `jax.transfer_guard`."""
    guards, stacks = [], []  # guards: for each open guard, True if it disallows implicit reads
    array_type = type(jax.numpy.zeros(()))

    @contextlib.contextmanager
    def guard(mode):
        guards.append(mode == "disallow")
        try:
            yield
        finally:
            guards.pop()

    def recording(name):
        original = getattr(array_type, name)

        def read(self, *arguments, **named):
            if guards and guards[-1] and not _is_explicit():
                stacks.append("".join(traceback.format_stack(limit=3)[:2]))
            return original(self, *arguments, **named)

        return read

    for name in READS:
        monkeypatch.setattr(array_type, name, recording(name))
    monkeypatch.setattr(jax, "transfer_guard", guard)
    return stacks


@pytest.mark.long
def test_the_train_loop_makes_no_implicit_device_reads(trained, tmp_path, implicit_reads):
    with tiny_run.light_jax(trained.cache):
        code = tiny_run.command(
            train.main, f"--config={trained.config}", f"--workdir={tmp_path / 'run'}"
        )
    assert code == 0
    assert implicit_reads == []
