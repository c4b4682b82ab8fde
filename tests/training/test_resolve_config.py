"""The resolved config of a run, whose resolved values a resume keeps."""

import dataclasses
import shutil
import types

import pytest

from signvit_jax.checkpoints.workdir import Workdir
from signvit_jax.config.errors import ConfigError
from signvit_jax.config.schema import (
    Config,
    from_mapping,
    to_json,
    with_ctc_target,
    with_init_from,
    with_norm_epsilon,
)
from signvit_jax.data.dataset import DatasetError
from signvit_jax.training import resolve_config as module
from signvit_jax.training.resolve_config import (
    inherit_resolved_values,
    resolve_config,
    resolve_norm_epsilon,
)


@pytest.fixture
def workdir(tmp_path):
    return Workdir.create(tmp_path / "run")


@pytest.fixture
def data_set(monkeypatch):
    """A function that makes `open_dataset` return a data set with the given training glosses."""

    def with_glosses(*glosses):
        index = [types.SimpleNamespace(gloss=gloss) for gloss in glosses]
        dataset = types.SimpleNamespace(split=lambda name: types.SimpleNamespace(index=index))
        monkeypatch.setattr(module, "open_dataset", lambda *_: dataset)
        return dataset

    return with_glosses


@pytest.mark.parametrize(("glosses", "target"), [(["", "A"], "gloss"), (["", ""], "text")])
def test_auto_becomes_gloss_if_a_training_clip_has_one(workdir, data_set, caplog, glosses, target):
    caplog.set_level("INFO")
    dataset = data_set(*glosses)
    resolved = resolve_config(with_ctc_target(Config(), "auto"), workdir)
    assert resolved.config.model.ctc.target == target
    assert resolved.dataset is dataset and resolved.earlier is None
    assert f"CTC is trained on {target}" in caplog.text


@pytest.mark.parametrize(("gloss", "reads"), [("A", True), ("", False)])
def test_the_gloss_memory_is_off_where_the_data_has_no_glosses(
    workdir, data_set, caplog, gloss, reads
):
    caplog.set_level("INFO")
    data_set(gloss)
    model = {"ctc": {"target": "auto"}, "decoder": {"gloss_memory": True}}
    resolved = resolve_config(from_mapping({"model": model}), workdir)
    assert resolved.config.model.decoder.gloss_memory is reads
    assert ("so the decoder has no gloss memory" in caplog.text) is not reads


def test_a_gloss_memory_needs_a_ctc_head_that_may_spell_glosses():
    model = {"ctc": {"target": "text"}, "decoder": {"gloss_memory": True}}
    with pytest.raises(ConfigError, match=r"gloss_memory is True, but .*target is 'text'"):
        from_mapping({"model": model})


@pytest.mark.parametrize("found", ["gloss", "text"])
def test_a_resumed_run_keeps_the_ctc_target_of_its_first_start(workdir, found):
    earlier = with_ctc_target(Config(), found)
    automatic = with_ctc_target(Config(), "auto")
    assert inherit_resolved_values(automatic, earlier, workdir).model.ctc.target == found
    other = "text" if found == "gloss" else "gloss"
    message = f"config.model.ctc.target: '{found}' in the workdir, '{other}' now"
    with pytest.raises(ConfigError, match=message):
        inherit_resolved_values(with_ctc_target(Config(), other), earlier, workdir)


def test_a_resumed_run_keeps_the_epsilon_of_its_first_start(workdir):
    assert Config().model.encoder.norm_epsilon == 0.0
    earlier = with_norm_epsilon(Config(), 1e-6)
    kept = inherit_resolved_values(Config(), earlier, workdir)
    assert kept.model.encoder.norm_epsilon == 1e-6
    with pytest.raises(ConfigError, match=r"norm_epsilon: 1e-06 in the workdir, 1e-05 now"):
        inherit_resolved_values(with_norm_epsilon(Config(), 1e-5), earlier, workdir)


@pytest.mark.parametrize("address", ["hf://a/b", "hf://a/b/", "hf://a/b@main"])
def test_a_resumed_run_keeps_the_model_commit_of_its_first_start(workdir, address):
    earlier = with_init_from(Config(), f"hf://a/b@{'1' * 40}")
    now = with_init_from(Config(), address)
    assert inherit_resolved_values(now, earlier, workdir) == earlier


@pytest.mark.parametrize("other", ["hf://a/c", f"hf://a/b@{'2' * 40}", "runs/b"])
def test_a_changed_source_of_the_weights_is_logged(workdir, caplog, other):
    earlier = with_init_from(Config(), f"hf://a/b@{'1' * 40}")
    now = with_init_from(Config(), other)
    assert inherit_resolved_values(now, earlier, workdir).model.init_from == other
    assert f"config.model.init_from is now {other!r}" in caplog.text


def test_the_earlier_config_is_read_before_it_is_replaced(workdir, data_set):
    data_set("A")
    config = from_mapping({"data": {"data_dir": str(workdir.path)}})
    (workdir.path / config.data.name).mkdir()
    earlier = with_ctc_target(config, "text")
    workdir.write_text(workdir.config_json, to_json(earlier))
    resolved = resolve_config(with_ctc_target(config, "auto"), workdir)
    assert resolved.earlier == resolved.config == earlier


def test_a_change_that_a_resumed_run_may_make_is_logged(workdir, caplog):
    changed = from_mapping({"training": {"patience": 3}})
    assert inherit_resolved_values(changed, Config(), workdir) == changed
    assert "config.training.patience is now 3; it was" in caplog.text


@pytest.mark.parametrize(
    ("recorded", "logged"),
    [
        ("data", False),
        ("a/data", False),
        ("other", True),
        ("/b/data", True),
        ("/a/../a/data", True),
    ],
)
def test_a_relative_data_dir_of_an_earlier_release_is_no_change(workdir, caplog, recorded, logged):
    earlier, now = (from_mapping({"data": {"data_dir": path}}) for path in (recorded, "/a/data"))
    inherit_resolved_values(now, earlier, workdir)
    assert (f"config.data.data_dir is now '/a/data'; it was '{recorded}'" in caplog.text) == logged


def test_the_teacher_flag_becomes_part_of_the_config(workdir, data_set):
    data_set("")
    resolved = resolve_config(Config(), workdir, "runs/teacher")
    assert resolved.config.training.distillation.teacher == "runs/teacher"


def test_the_data_dir_becomes_absolute(workdir, data_set, tmp_path, monkeypatch):
    data_set("")
    monkeypatch.chdir(tmp_path)
    resolved = resolve_config(from_mapping({"data": {"data_dir": "data"}}), workdir)
    assert resolved.config.data.data_dir == str(tmp_path / "data")


def test_pretrained_weights_are_read_at_the_first_start_only(
    workdir, data_set, trained, monkeypatch
):
    data_set("")
    backbone = types.SimpleNamespace(epsilon=1e-6)
    monkeypatch.setattr(module, "read_pretrained", lambda path: backbone)
    monkeypatch.setattr(module, "check_data_of_resumed", lambda config, workdir: None)
    config = from_mapping({"model": {"encoder": {"pretrained": "weights.npz"}}})
    first = resolve_config(config, workdir)
    assert first.pretrained is backbone and first.config.model.encoder.norm_epsilon == 1e-6
    assert resolve_config(with_norm_epsilon(config, 1e-5), workdir).pretrained is backbone
    shutil.copytree(trained.workdir / "checkpoints", workdir.checkpoints, dirs_exist_ok=True)
    workdir.write_text(workdir.config_json, to_json(first.config))
    assert resolve_config(config, workdir).pretrained is None


def test_the_epsilon_of_the_weights_replaces_0_only():
    backbone = types.SimpleNamespace(epsilon=1e-6)
    source = types.SimpleNamespace(config=with_norm_epsilon(Config(), 1e-4))
    with_epsilon = with_norm_epsilon(Config(), 1e-5)
    for weights, epsilon in (((None, backbone), 1e-6), ((source, None), 1e-4), ((None, None), 0.0)):
        assert resolve_norm_epsilon(Config(), *weights) == with_norm_epsilon(Config(), epsilon)
        assert resolve_norm_epsilon(with_epsilon, *weights) == with_epsilon


def test_a_missing_data_set_stops_a_resumed_run(workdir):
    config = dataclasses.replace(
        Config(), data=dataclasses.replace(Config().data, data_dir=str(workdir.path / "none"))
    )
    workdir.write_text(workdir.config_json, to_json(config))
    with pytest.raises(DatasetError, match="no data set"):
        resolve_config(config, workdir)
