"""Tests that configs of earlier releases still load, with the meaning that they had."""

import json

import pytest

from signvit_jax.checkpoints.resume_rules import check_resume
from signvit_jax.config.files import load_config
from signvit_jax.config.legacy import RENAMED
from signvit_jax.config.schema import Config, from_json, from_mapping, key_differences, to_json

WITH_OLD_NAMES = {
    "data": {"fit": "crop", "short_first_epochs": 2},
    "model": {"encoder": {"dropout_random": "rbg"}},
}
WITH_CURRENT_NAMES = {
    "data": {"resize_mode": "crop", "sortagrad_epochs": 2},
    "model": {"encoder": {"dropout_rng_impl": "rbg"}},
}


def old_config_json(config: Config) -> str:
    """Return the config.json of a release that used the earlier names."""
    values = json.loads(to_json(config))
    for old, new in RENAMED.items():
        *groups, name = new.split(".")
        section = values
        for group in groups:
            section = section[group]
        section[old.split(".")[-1]] = section.pop(name)
    return json.dumps(values)


def write_config_file(path, values) -> str:
    path.write_text(f"def get_config():\n    return {values!r}\n")
    return str(path)


def test_config_json_with_earlier_names_keeps_its_values():
    assert from_json(old_config_json(from_mapping(WITH_CURRENT_NAMES))) == from_mapping(
        WITH_CURRENT_NAMES
    )


def test_config_json_is_written_with_current_names():
    values = json.loads(to_json(from_mapping(WITH_OLD_NAMES)))
    assert values["data"]["resize_mode"] == "crop" and "fit" not in values["data"]
    assert values["data"]["sortagrad_epochs"] == 2 and "short_first_epochs" not in values["data"]
    assert values["model"]["encoder"]["dropout_rng_impl"] == "rbg"


def test_a_run_with_earlier_names_can_be_resumed():
    assert check_resume(from_json(old_config_json(Config())), Config()) == []


def test_a_resume_still_compares_renamed_keys():
    old = from_json(old_config_json(from_mapping({"data": {"fit": "crop"}})))
    assert key_differences(old, Config()) == [("data.resize_mode", "crop", "squash")]


def test_a_config_file_with_earlier_names_loads(tmp_path):
    assert load_config(write_config_file(tmp_path / "old.py", WITH_OLD_NAMES)) == from_mapping(
        WITH_CURRENT_NAMES
    )


@pytest.mark.parametrize("key", ["data.fit", "data.resize_mode"])
def test_both_names_of_a_key_can_be_overridden(tmp_path, key):
    for values in (WITH_OLD_NAMES, WITH_CURRENT_NAMES):
        file = write_config_file(tmp_path / "config.py", values)
        assert load_config(file, [(key, "pad")]).data.resize_mode == "pad"


def test_an_earlier_name_replaces_the_value_of_a_shipped_config(tmp_path, caplog):
    values = {"data": {"resize_mode": "pad", "fit": "crop"}}
    config = load_config(write_config_file(tmp_path / "config.py", values))
    assert config.data.resize_mode == "crop"
    assert "config.data.fit is the earlier name of config.data.resize_mode" in caplog.text


def test_missing_keys_mean_that_an_option_is_off():
    values = json.loads(to_json(Config()))
    del values["model"]["encoder"]["drop_path"], values["mesh"]
    assert from_json(json.dumps(values)) == Config()


def old_inference(**limits: float) -> str:
    """Return the config.json of a release whose inference keys had these limits."""
    values = json.loads(to_json(Config()))
    del values["inference"]["rest_seconds"], values["inference"]["rest_evidence"]
    values["inference"] |= {"window_seconds": 6.0, "window_overlap": 0.25} | limits
    return json.dumps(values)


def test_default_limits_of_an_earlier_release_are_dropped():
    read = from_json(old_inference(max_clip_seconds=30.0)).inference
    assert (read.max_clip_seconds, read.window_seconds, read.window_overlap) == (0.0, 0.0, 0.25)


def test_limits_that_a_user_chose_stay():
    assert from_json(old_inference(max_clip_seconds=12.0)).inference.max_clip_seconds == 12.0


def test_limits_of_a_current_config_stay():
    values = json.loads(to_json(Config()))
    values["inference"]["max_clip_seconds"] = 30.0
    assert from_json(json.dumps(values)).inference.max_clip_seconds == 30.0
