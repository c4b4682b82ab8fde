"""Checkpoints of PyTorch, from which only weights are read."""

import sys

import numpy as np
import pytest

from signvit_jax.weights.mapping import WeightsError
from signvit_jax.weights.tensor_files import read_tensors


def test_without_torch_the_error_shows_how_to_install_it(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    (tmp_path / "a.pt").write_bytes(b"")
    with pytest.raises(WeightsError, match=r"not installed: pip install .torch>="):
        read_tensors(tmp_path / "a.pt")


def test_a_checkpoint_is_read_without_prefixes_of_wrappers(tmp_path):
    torch = pytest.importorskip("torch")
    weights = {
        "module.a.weight": torch.arange(6.0).reshape(2, 3).to(torch.bfloat16),
        "module.steps": torch.tensor(3),
    }
    torch.save({"epoch": 3, "model_state_dict": weights}, tmp_path / "a.pt")
    found = read_tensors(tmp_path / "a.pt")
    assert found.keys() == {"a.weight", "steps"}
    np.testing.assert_array_equal(found["a.weight"], np.arange(6, dtype=np.float32).reshape(2, 3))


def test_a_checkpoint_with_other_objects_is_not_unpickled(tmp_path):
    torch = pytest.importorskip("torch")
    torch.save({"model": {"a": torch.ones(1)}, "other": _OtherObject()}, tmp_path / "a.pt")
    with pytest.raises(WeightsError, match="weights alone"):
        read_tensors(tmp_path / "a.pt")
    assert not _OtherObject.was_unpickled


class _OtherObject:
    was_unpickled = False

    def __setstate__(self, state):
        type(self).was_unpickled = True

    def __getstate__(self):
        return {"a": 1}
