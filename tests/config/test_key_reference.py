"""Tests of the list of config keys: it is complete, and every key has a description."""

import re
from dataclasses import asdict

from signvit_jax.config.key_reference import describe_keys
from signvit_jax.config.schema import Config
from signvit_jax.config.typed_sections import flatten

KEYS = describe_keys()


def test_every_key_is_listed_once_with_its_default():
    assert {key.key: key.default for key in KEYS} == flatten(asdict(Config()))
    assert len({key.key for key in KEYS}) == len(KEYS)


def test_every_key_has_a_description():
    wrong = [key.key for key in KEYS if not re.fullmatch(r"[A-Z].{10,}\.", key.description)]
    assert wrong == []


def test_every_key_has_a_type_and_allowed_values():
    types = {"int", "float", "bool", "str", "tuple[int, ...]", "tuple[float, ...]"}
    assert {key.type for key in KEYS} == types
    assert all(key.allowed for key in KEYS)
    by_key = {key.key: key for key in KEYS}
    assert by_key["training.batch_size"].allowed == "an integer >= 1 and < 2^31"
    assert by_key["training.use_amp"].allowed == "True or False"
    assert by_key["data.name"].allowed == "a string"
    assert by_key["data.frame_buckets"].allowed == "a list of integers"
    assert by_key["data.mean"].allowed == "a list of numbers"
    assert by_key["data.resize_mode"].allowed == "one of 'squash', 'pad', 'crop'"
