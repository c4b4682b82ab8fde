"""Tests of the checks of config keys and values: messages name key, value and allowed values."""

from pathlib import Path

import pytest
from ml_collections import ConfigDict

from signvit_jax.commands import train
from signvit_jax.config import files
from signvit_jax.config.errors import ConfigError
from signvit_jax.config.files import load_config
from signvit_jax.config.schema import (
    Config,
    from_json,
    from_mapping,
    key_differences,
    to_json,
    without_local_paths,
)
from signvit_jax.runtime.exit_codes import run_command


def nested(key: str, value) -> dict:
    """Return nested dictionaries with `value` at the dotted key."""
    for part in reversed(key.split(".")):
        value = {part: value}
    return value


def test_defaults_are_allowed_and_survive_json():
    config = from_mapping(
        {"data": {"num_frames": 32, "sampling": "rate", "frame_buckets": [16, 32]}}
    )
    assert from_json(to_json(config)) == config
    assert config.frame_buckets == (16, 32)
    assert from_mapping({}).frame_buckets == (16,)


def test_config_dicts_are_accepted():
    assert from_mapping(ConfigDict(nested("training.batch_size", 8))).training.batch_size == 8


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        (
            "training.batchsize",
            8,
            ["config.training.batchsize", "8", "did you mean training.batch_size?"],
        ),
        ("model.encoder.vit_layers", 2, ["config.model.encoder.vit_layers", "vit_num_layers"]),
        ("batch_size", 8, ["config.batch_size", "did you mean training.batch_size?"]),
        ("trainin", {}, ["config.trainin", "did you mean training?"]),
    ],
)
def test_a_misspelled_key_is_refused_with_the_nearest(key, value, words):
    with pytest.raises(ConfigError) as error:
        from_mapping(nested(key, value))
    assert all(word in str(error.value) for word in words)
    assert error.value.exit_code == 2


@pytest.mark.parametrize(
    ("key", "value", "allowed"),
    [
        ("training.batch_size", "many", "an integer >= 1"),
        ("training.batch_size", 2.5, "an integer >= 1"),
        ("training.batch_size", True, "an integer >= 1"),
        ("training.use_amp", "yes", "True or False"),
        ("training.encoder_lr", -1e-4, "a number >= 0"),
        ("training.encoder_lr", float("nan"), "a number >= 0"),
        ("training.label_smoothing", 1.0, "a rate from 0"),
        ("training.remat", "al", "one of 'none', 'names', 'dots', 'full'"),
        ("data.num_frames", 0, "an integer >= 1"),
        ("inference.top_k", 2**31, "an integer >= 0 and < 2^31"),
        ("training.seed", 2**63, "an integer from 0 to 2^63 - 1"),
        ("data.frame_buckets", "16", "a list of"),
        ("data.resize_mode", "padd", "did you mean 'pad'?"),
        ("data.augment.rotate", 90.0, "from 0 to 45"),
        ("model.temporal.kernel_size", 4, "an odd integer"),
        ("model.encoder", 3, "must be a group"),
    ],
)
def test_a_wrong_value_is_refused_with_the_allowed_values(key, value, allowed):
    with pytest.raises(ConfigError) as error:
        from_mapping(nested(key, value))
    assert f"config.{key} is {value!r}" in str(error.value)
    assert allowed in str(error.value)


@pytest.mark.parametrize(
    ("values", "words"),
    [
        (
            nested("model.encoder.vit_num_heads", 7),
            ["vit_num_heads is 7", "vit_hidden_dim = 1024", "8"],
        ),
        (
            nested("model.temporal.num_heads", 3),
            ["model.temporal.num_heads is 3", "hidden_dim = 512"],
        ),
        (nested("model.decoder.num_heads", 5), ["model.decoder.num_heads is 5"]),
        (nested("model.encoder.output_dim", 512), ["output_dim is 512", "1024"]),
        (nested("data.image_size", 220), ["image_size is 220", "patch_size = 16", "224"]),
        (nested("data.frame_buckets", [8, 16]), ["sampling 'even'"]),
        ({"data": {"sampling": "rate", "frame_buckets": [8, 12]}}, ["data.num_frames = 16"]),
        ({"data": {"sampling": "rate", "frame_buckets": [12, 8, 16]}}, ["rising lengths"]),
        (nested("data.std", [0.1, 0.1, 0.0]), ["std > 0"]),
        (
            nested("training.gradient_accumulation", 3),
            ["gradient_accumulation is 3", "batch_size = 16"],
        ),
        ({"training": {"ctc_weight": 0.0, "ce_weight": 0.0}}, ["nothing would be trained"]),
        (nested("tokenizer.name", "bert"), ["vocab_file is empty"]),
        (nested("tokenizer.vocab_file", "v.txt"), ["only tokenizer.name='bert'"]),
        ({"model": {"encoder": {"stem": "conv", "patch_size": 14}}}, ["power of two"]),
        (nested("model.encoder.backbone", "mobilenet_v3_large"), ["output_dim is 1024", "960"]),
        (
            {
                "model": {
                    "encoder": {"backbone": "mobilenet_v3_large", "output_dim": 960, "stem": "conv"}
                }
            },
            ["stem is 'conv'", "'patch'"],
        ),
        (
            nested("model.encoder.colors", False),
            ["motion is 'none'", "colors=True"],
        ),
        (
            nested("model.encoder.mobilenet_width", 0.5),
            ["mobilenet_width is 0.5", "backbone='mobilenet_v3_large'"],
        ),
        (
            {
                "model": {
                    "encoder": {
                        "position_init": "sincos2d",
                        "vit_hidden_dim": 18,
                        "output_dim": 18,
                        "vit_num_heads": 2,
                    }
                }
            },
            ["vit_hidden_dim is 18", "multiple of 4"],
        ),
        (
            {
                "model": {
                    "decoder": {"hidden_dim": 15, "num_heads": 3},
                    "temporal": {"num_heads": 3},
                }
            },
            ["hidden_dim is 15", "even"],
        ),
        ({"data": {"sampling": "rate", "frame_buckets": [0, 16]}}, ["rising lengths"]),
        (nested("data.mean", [0.5, 0.5]), ["three numbers each"]),
    ],
    ids=str,
)
def test_conflicting_values_are_refused(values, words):
    with pytest.raises(ConfigError) as error:
        from_mapping(values)
    assert all(word in str(error.value) for word in words), str(error.value)


def test_overrides_get_the_type_of_their_key(tmp_path):
    file = tmp_path / "c.py"
    file.write_text(
        "from ml_collections import ConfigDict\n"
        "def get_config():\n    return ConfigDict({'data': {'name': 'a'}})\n"
    )
    config = load_config(
        str(file),
        [
            ("data.name", "7"),
            ("training.encoder_lr", "1e-3"),
            ("training.use_amp", "false"),
            ("data.std", "(1,1,1)"),
        ],
    )
    assert (
        config.data.name,
        config.training.encoder_lr,
        config.training.use_amp,
        config.data.std,
    ) == ("7", 1e-3, False, (1.0, 1.0, 1.0))


@pytest.mark.parametrize("key", ["data.frame_buckets", "data.mean", "data.std"])
@pytest.mark.parametrize(
    ("text", "expected"),
    [("4", (4,)), ("4,", (4,)), ("4,8", (4, 8)), ("[4, 8]", (4, 8)), ("()", ())],
)
def test_a_list_is_set_by_one_number_or_by_several(monkeypatch, key, text, expected):
    mappings = []
    monkeypatch.setattr(files, "from_mapping", mappings.append)
    load_config("small", [(key, text)])
    group, name = key.split(".")
    assert mappings[0][group][name] in (expected, list(expected))


def test_one_frame_bucket_is_enough():
    overrides = [("data.frame_buckets", "48"), ("data.num_frames", "48")]
    assert load_config("small", overrides).data.frame_buckets == (48,)


@pytest.mark.parametrize("text", ["x", "4;8", "True", "4.5"])
def test_a_list_of_something_else_is_refused(text):
    with pytest.raises(ConfigError, match=r"frame_buckets is .*; allowed: a list of integers"):
        load_config("small", [("data.frame_buckets", text)])


@pytest.mark.parametrize(
    ("key", "words"),
    [
        ("training.batchsize", "did you mean training.batch_size?"),
        ("model.encoder", "group of keys"),
    ],
)
def test_an_override_of_an_unknown_key_or_a_group_is_refused(tmp_path, key, words):
    file = tmp_path / "c.py"
    file.write_text("def get_config():\n    return {}\n")
    with pytest.raises(ConfigError, match=words):
        load_config(str(file), [(key, "3")])


@pytest.mark.parametrize(
    ("values", "key", "words"),
    [
        ({"data": 3}, "data.num_frames", r"config\.data is 3; it must be a group with keys among"),
        ({"data": None}, "data.augment.rotate", r"config\.data is None; it must be a group"),
        ({"model": {"encoder": []}}, "model.encoder.dropout", r"config\.model\.encoder is \[\]"),
        ({"data": {"name": "a"}}, "data.name.part", r"unknown key config\.data\.name\.part"),
    ],
)
def test_an_override_below_a_key_that_is_no_group_is_refused(tmp_path, values, key, words):
    file = tmp_path / "c.py"
    file.write_text(f"def get_config():\n    return {values!r}\n")
    with pytest.raises(ConfigError, match=words):
        load_config(str(file), [(key, "3")])


@pytest.mark.parametrize(
    "content",
    [
        "",
        "def get_config():\n    raise KeyError('x')\n",
        "def get_config():\n    return 3\n",
        "import nothing_like_it",
    ],
)
def test_a_file_that_is_not_a_config_is_refused_by_name(tmp_path, content):
    file = tmp_path / "broken.py"
    file.write_text(content)
    with pytest.raises(ConfigError, match=r"broken\.py"):
        load_config(str(file))


def test_a_misspelled_override_exits_with_2_before_a_workdir_is_created(tmp_path, capsys):
    quickstart = Path(__file__).parents[2] / "configs" / "quickstart.py"
    arguments = [
        f"--config={quickstart}",
        f"--workdir={tmp_path / 'run'}",
        "--config.training.batchsize=8",
    ]
    assert run_command(lambda: train.main(arguments)) == 2
    message = capsys.readouterr().err
    assert all(
        words in message
        for words in ("config.training.batchsize", "'8'", "did you mean training.batch_size?")
    )
    assert not (tmp_path / "run").exists()


def test_a_missing_file_is_refused_by_name():
    with pytest.raises(ConfigError, match="no config file"):
        load_config("configs/nothing.py")


def test_a_shared_config_has_no_path_in_any_key():
    local = {
        "data": {"data_dir": "/home/me/data", "num_frames": 9},
        "model": {"encoder": {"pretrained": "/home/me/vit.npz"}},
        "training": {"distillation": {"teacher": "/home/me/teacher"}},
        "tokenizer": {"name": "bert", "vocab_file": "/home/me/vocab.txt"},
    }
    shared = without_local_paths(from_mapping(local))
    expected = {"data": {"num_frames": 9}, "tokenizer": {"name": "bert", "vocab_file": "vocab.txt"}}
    assert shared == from_mapping(expected)
    assert from_json(to_json(shared)) == shared


@pytest.mark.parametrize(
    ("init_from", "shared"), [("/home/me/runs/a", ""), ("hf://me/signs@v1", "hf://me/signs@v1")]
)
def test_a_shared_config_keeps_only_hub_addresses(init_from, shared):
    config = from_mapping({"model": {"init_from": init_from}})
    assert without_local_paths(config).model.init_from == shared


def test_differences_name_the_key_and_both_values():
    assert key_differences(Config(), from_mapping(nested("training.seed", 3))) == [
        ("training.seed", 0, 3)
    ]
