"""Search options: allowed values, and the options that an inference config sets."""

import dataclasses

import pytest

from signvit_jax.config.schema import InferenceConfig
from signvit_jax.decoding.search_options import DecodingError, SearchOptions
from tests.helpers.tiny_decoder import options


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"no_repeat_ngram_size": -1}, "no_repeat_ngram_size is -1; allowed: an integer >= 0"),
        ({"length_penalty": -1.0}, "length_penalty is -1.0; allowed: a number >= 0"),
        ({"length_formula": "google"}, "length_formula is 'google'; allowed: 'power' or 'gnmt'"),
        ({"beam_size": 0}, "beam_size is 0; allowed: an integer >= 1"),
        ({"n_best": 0}, "n_best is 0; allowed: an integer >= 1"),
        ({"ctc_weight": -0.1}, "ctc_weight is -0.1; allowed: a number from 0 to 1"),
        ({"ctc_weight": 1.1}, "ctc_weight is 1.1; allowed: a number from 0 to 1"),
        ({"temperature": 0.0}, "temperature is 0.0; allowed: a number > 0"),
        ({"top_k": -1}, "top_k is -1; allowed: an integer >= 0"),
        ({"top_p": 1.5}, "top_p is 1.5; allowed: a number > 0 and <= 1"),
    ],
)
def test_values_out_of_range_are_refused(values, message):
    with pytest.raises(DecodingError, match=message):
        options(**values)


def test_search_options_are_read_from_the_config():
    config = InferenceConfig(
        temperature=0.5,
        top_k=3,
        top_p=0.9,
        beam_size=6,
        n_best=2,
        length_penalty=0.7,
        length_formula="gnmt",
        ctc_weight=0.3,
        no_repeat_ngram_size=2,
    )
    found = dataclasses.asdict(SearchOptions.from_config(config, bos_id=1, eos_id=2))
    assert (found.pop("bos_id"), found.pop("eos_id"), found.pop("max_len")) == (1, 2, None)
    assert found == {name: getattr(config, name) for name in found}


def test_host_only_values_of_a_config_give_equal_options():
    """Equal options share a compiled program."""
    configs = [
        InferenceConfig(),
        InferenceConfig(min_confidence=0.5, batch_size=1, max_clip_seconds=9.0, rest_evidence=0.0),
    ]
    first, second = (SearchOptions.from_config(config, bos_id=1, eos_id=2) for config in configs)
    assert first == second and hash(first) == hash(second)
