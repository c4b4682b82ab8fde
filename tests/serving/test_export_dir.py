"""Export folders: written completely or not at all, one writer at a time, checked manifests."""

import json
import os

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from signvit_jax.serving.export_dir import ExportError, ExportFolder, ExportManifest
from signvit_jax.weights.tensor_files import write_safetensors

VALID = {"version": 1, "format": "int8", "quantize": "weights", "step": 18}


@pytest.fixture
def umask():
    old_umask = os.umask(0o027)
    yield 0o027
    os.umask(old_umask)


def test_a_second_export_to_one_output_is_refused(tmp_path):
    output = tmp_path / "model"
    with ExportFolder.new(output) as first:
        (first.path / "weights").write_text("of the first")
        with (
            pytest.raises(ExportError, match="is being written by another export") as caught,
            ExportFolder.new(output) as second,
        ):
            (second.path / "weights").write_text("of the second")
        assert caught.value.exit_code == 2
    assert (output / "weights").read_text() == "of the first"
    assert [path.name for path in tmp_path.iterdir()] == ["model"]
    with pytest.raises(ExportError, match="exists already"), ExportFolder.new(output):
        pass
    assert (output / "weights").read_text() == "of the first"
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_files_of_a_killed_export_are_not_in_the_next(tmp_path):
    unfinished = tmp_path / "model.unfinished"
    (unfinished / "scratch").mkdir(parents=True)
    (unfinished / "backbone.onnx").write_text("of an export that was killed")
    with ExportFolder.new(tmp_path / "model") as folder:
        (folder.path / "weights").touch()
    assert [path.name for path in (tmp_path / "model").iterdir()] == ["weights"]


def test_a_waiting_export_does_not_empty_a_finished_one(tmp_path, monkeypatch):
    """Another process finishes its export after this one opened the folder, but before the lock."""
    import fcntl

    real_flock = fcntl.flock
    output = tmp_path / "model"

    def finish_other_export_and_lock(descriptor, operation):
        if not output.exists():
            (tmp_path / "model.unfinished" / "weights").write_text("of the other")
            (tmp_path / "model.unfinished").rename(output)
        real_flock(descriptor, operation)

    monkeypatch.setattr(fcntl, "flock", finish_other_export_and_lock)
    with pytest.raises(ExportError, match="exists already"), ExportFolder.new(output):
        pass
    assert (output / "weights").read_text() == "of the other"


def test_weights_have_the_permissions_of_the_umask(tmp_path, umask):
    path = tmp_path / "weights.safetensors"
    for _ in range(2):  # a new file, and one that replaces another
        write_safetensors(path, {"a": np.ones(3, np.float32)})
        assert path.stat().st_mode & 0o777 == 0o666 & ~umask
    assert [file.name for file in tmp_path.iterdir()] == ["weights.safetensors"]


@pytest.mark.parametrize(
    "text",
    [
        json.dumps(VALID | {"step": float("inf")}),
        json.dumps(VALID | {"step": float("nan")}),
        json.dumps(VALID | {"step": "18"}),
        json.dumps(VALID | {"step": True}),
        json.dumps(VALID | {"step": -1}),
        json.dumps(VALID | {"step": [18]}),
        json.dumps(VALID | {"format": ["int8"]}),
        json.dumps(VALID | {"format": {}}),
        json.dumps(VALID | {"quantize": None}),
        json.dumps(VALID | {"version": 1e400}),
        json.dumps(VALID).replace("18", "9" * 5000),
        "[" * 100_000,
        '{"step":' * 100_000,
        "[1]",
        "3",
        "\ud800",
    ],
    ids=lambda text: ascii(text[:40]),
)
def test_an_invalid_export_json_is_an_export_error(tmp_path, text):
    folder = ExportFolder(tmp_path)
    folder.export_json.write_bytes(text.encode("utf-8", "surrogatepass"))
    with pytest.raises(ExportError, match="export the model again") as caught:
        folder.manifest()
    assert caught.value.exit_code == 2 and str(folder.export_json) in str(caught.value)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=2),
)


@settings(max_examples=80, deadline=None)
@given(st.dictionaries(st.sampled_from(sorted(VALID)), json_values))
def test_any_export_json_is_read_or_is_an_export_error(tmp_path_factory, changes):
    folder = ExportFolder(tmp_path_factory.getbasetemp())
    folder.export_json.write_text(json.dumps(VALID | changes))
    try:
        manifest = folder.manifest()
        assert isinstance(manifest, ExportManifest) and type(manifest.step) is int
    except ExportError as error:
        assert str(error)
    finally:
        folder.export_json.unlink()


def test_changed_and_missing_files_are_found_by_digest(tmp_path):
    folder = ExportFolder(tmp_path)
    for name in ("config.json", "tokenizer.json", "calibration.json"):
        (tmp_path / name).write_text("{}")
    folder.write_manifest(ExportManifest("int8", "weights", 3))
    assert folder.manifest().files.keys() == {"config.json", "tokenizer.json"}
    (tmp_path / "calibration.json").write_text("fitted again")
    (tmp_path / "report.json").write_text("written later")
    folder.check_files()
    (tmp_path / "config.json").write_text("{ }")
    (tmp_path / "tokenizer.json").unlink()
    with pytest.raises(ExportError, match=r"config\.json, tokenizer\.json \(missing\) differ"):
        folder.check_files()


def test_a_digest_of_a_file_elsewhere_is_refused(tmp_path):
    folder = ExportFolder(tmp_path)
    folder.write_manifest(ExportManifest("int8", "weights", 3))
    content = json.loads(folder.export_json.read_text())
    content["files"] = {"../secret": "0" * 64}
    folder.export_json.write_text(json.dumps(content))
    with pytest.raises(ExportError, match=r"files has the name '\.\./secret'"):
        folder.manifest()
