"""Tests that scripts/check_reference.py agrees with the reference and detects a difference."""

import sys
from pathlib import Path

import numpy as np
import pytest

from tests.helpers.scripts import load_script

ROOT = Path(__file__).parents[2]
VECTORS = ROOT / "tests" / "fixtures" / "translator_small.npz"


@pytest.fixture(scope="module")
def script():
    return load_script("check_reference")


@pytest.fixture(scope="module")
def vectors():
    with np.load(VECTORS) as file:
        return dict(file)


def test_all_reference_numbers_agree(script, vectors):
    checks = list(script.compare_translator(vectors))
    groups = " ".join(check.group for check in checks)
    for expected in (
        "vit tokens",
        "encoder",
        "decoder logits",
        "losses",
        "gradient norms",
        "10 training steps",
        "learning rates",
        "trained_decode/beam8",
    ):
        assert expected in groups
    assert [check for check in checks if not check.passed] == []


def test_a_changed_parameter_is_noticed(script, vectors, monkeypatch, tmp_path, capsys):
    name = "params/encoder.temporal_attn.temporal_convs.1.conv_depthwise.weight"
    changed = vectors | {name: vectors[name] * np.float16(1.5)}
    file = tmp_path / "changed.npz"
    np.savez(
        file,
        **{
            key: value
            for key, value in changed.items()
            if not key.startswith(("trained", "train/", "decode/beam"))
        },
        **_train_keys(changed),
    )
    monkeypatch.setattr(sys, "argv", ["check_reference.py", f"--vectors={file}"])
    assert script.main() == 1
    printed = capsys.readouterr().out
    assert "DIFFERS" in printed and " 0e+00" not in printed


def _train_keys(vectors):
    """Return the numbers of two of the ten training steps, to save time."""
    return {key: vectors[key][:2] for key in ("train/losses", "train/grad_norms", "train/lrs")}


@pytest.mark.parametrize("content", [{"a": np.zeros(3)}, None], ids=["foreign npz", "no npz"])
def test_a_file_of_unknown_layout_is_refused(script, monkeypatch, tmp_path, capsys, content):
    file = tmp_path / "foreign.npz"
    np.savez(file, **content) if content else file.write_bytes(b"nothing")
    monkeypatch.setattr(sys, "argv", ["check_reference.py", f"--vectors={file}"])
    assert script.main() == 2
    assert "foreign.npz" in capsys.readouterr().err


def test_a_missing_key_is_named(script, vectors, monkeypatch, tmp_path, capsys):
    file = tmp_path / "cut.npz"
    np.savez(file, **{name: value for name, value in vectors.items() if name != "in/video"})
    monkeypatch.setattr(sys, "argv", ["check_reference.py", f"--vectors={file}"])
    assert script.main() == 2
    assert f"error: {file}: has no key 'in/video'" in capsys.readouterr().err
