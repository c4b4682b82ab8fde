"""Config keys that a resumed run may change, and keys that it must not change."""

import dataclasses

import pytest

from signvit_jax.checkpoints.resume_rules import _FIXED, _FREE_IN_GROUPS, _is_fixed, check_resume
from signvit_jax.config.errors import ConfigError
from signvit_jax.config.schema import Config, from_mapping


def changed(**groups):
    return from_mapping(groups)


def test_a_resumed_run_may_change_rates_and_epochs():
    new = changed(
        training={
            "encoder_lr": 1e-5,
            "num_epochs": 400,
            "patience": 3,
            "use_amp": False,
            "gradient_accumulation": 2,
        },
        model={"encoder": {"dropout": 0.1, "freeze_epochs": 2}},
        data={"data_dir": "elsewhere", "num_workers": 2, "augment": {"rotate": 5.0}},
        mesh={"fsdp": 2},
    )
    differences = check_resume(Config(), new)
    assert ("training.encoder_lr", 5e-5, 1e-5) in differences
    assert ("training.num_epochs", 200, 400) in differences
    assert len(differences) == 11


def test_the_list_of_keys_that_are_fixed_on_resume():
    """Each key is changed alone, so that this test fails if resume_rules.py loses a key."""
    fixed = {
        "data.resize_mode": "crop",
        "data.frame_buckets": [32, 64],
        "data.frame_rate": 25.0,
        "data.image_size": 160,
        "data.mean": [0.4, 0.4, 0.4],
        "data.name": "isign",
        "data.num_frames": 65,
        "data.sampling": "rate",
        "data.std": [0.4, 0.4, 0.4],
        "data.train_split": "all",
        "training.batch_size": 3,
        "training.seed": 7,
        "training.weight_decay_on": "matrices",
    }
    before = dataclasses.asdict(Config())
    not_refused = []
    for key, value in fixed.items():
        group, name = key.split(".")
        old = before[group][name]
        # Only one key may change; from_mapping would check it against the other keys.
        section = dataclasses.replace(getattr(Config(), group), **{name: value})
        new = dataclasses.replace(Config(), **{group: section})
        assert new != Config(), f"{key}: {old!r} is the default; the test needs another value"
        try:
            check_resume(Config(), new)
            not_refused.append(key)
        except ConfigError as error:
            assert f"config.{key}: " in str(error)
    assert not_refused == []
    assert set(fixed) == set(_FIXED)


def test_the_list_of_model_keys_that_may_change_on_resume():
    free = {
        "model.encoder.dropout": 0.3,
        "model.encoder.attention_dropout": 0.3,
        "model.encoder.drop_path": 0.1,
        "model.encoder.freeze_epochs": 3,
        "model.encoder.pretrained": "weights.npz",
        "model.init_from": "runs/old",
        "model.encoder.attention": "xla",
        "model.encoder.frames_per_chunk": 8,
        "model.encoder.patch_drop": 0.2,
        "model.encoder.token_merge": 2,
        "model.encoder.dropout_rng_impl": "rbg",
        "model.decoder.gloss_corruption": 0.2,
    }
    assert {key.rsplit(".", 1)[-1] for key in free} == set(_FREE_IN_GROUPS)
    for key, value in free.items():
        assert not _is_fixed(key, None, value), key


@pytest.mark.parametrize(
    "new",
    [
        {"model": {"decoder": {"num_layers": 2}}},
        {"model": {"ctc": {"source": "frames"}}},
        {"tokenizer": {"vocab_size": 100}},
        {"data": {"name": "isign"}},
        {"data": {"num_frames": 32}},
        {"training": {"batch_size": 8}},
        {"training": {"seed": 1}},
        {"training": {"ema_decay": 0.99}},
    ],
    ids=str,
)
def test_a_resumed_run_must_not_change_shapes_or_data(new):
    with pytest.raises(ConfigError) as caught:
        check_resume(Config(), from_mapping(new | {"inference": {"beam_size": 2}}))
    group, value = next(iter(new.items()))
    name = next(iter(value))
    assert f"config.{group}.{name}" in str(caught.value) and "in the workdir" in str(caught.value)
    assert "beam_size" not in str(caught.value)


def test_averaging_cannot_be_switched_on_or_off_on_resume():
    def with_ema(decay):
        return changed(training={"ema_decay": decay})

    assert check_resume(with_ema(0.9), with_ema(0.99)) == [("training.ema_decay", 0.9, 0.99)]
    with pytest.raises(ConfigError, match="ema_decay"):
        check_resume(with_ema(0.9), with_ema(0.0))
