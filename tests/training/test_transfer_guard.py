"""Inside the guarded part of the train loop nothing is read from a device implicitly.

The guard of JAX does not see such reads on a CPU, where they copy nothing; on a GPU it would end
the run. So reads are counted here instead.
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
    """Return True if the read is `jax.device_get`'s, or in a function that allows transfers."""
    return any(
        frame.function in ("device_get", "_device_get")
        or frame.filename.endswith("learning_rates.py")
        for frame in inspect.stack(0)
    )


@pytest.fixture
def implicit_reads(monkeypatch):
    """Where arrays are read implicitly within `jax.transfer_guard`."""
    inside, found = [], []
    array = type(jax.numpy.zeros(()))

    @contextlib.contextmanager
    def guard(mode):
        inside.append(mode == "disallow")
        try:
            yield
        finally:
            inside.pop()

    def counted(name):
        original = getattr(array, name)

        def read(self, *arguments, **named):
            if inside and inside[-1] and not _is_explicit():
                found.append("".join(traceback.format_stack(limit=3)[:2]))
            return original(self, *arguments, **named)

        return read

    for name in READS:
        monkeypatch.setattr(array, name, counted(name))
    monkeypatch.setattr(jax, "transfer_guard", guard)
    return found


@pytest.mark.long
def test_the_train_loop_reads_no_device_implicitly(trained, tmp_path, implicit_reads):
    with tiny_run.light_jax(trained.cache):
        code = tiny_run.command(
            train.main, f"--config={trained.config}", f"--workdir={tmp_path / 'run'}"
        )
    assert code == 0
    assert implicit_reads == []
