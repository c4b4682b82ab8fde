"""Random streams: their keys, their numbers, and the modules that use them."""

import re
from collections import defaultdict
from pathlib import Path

import jax
import pytest

from signvit_jax.layers.random_streams import STREAMS, fold

PACKAGE = Path(__file__).parents[2] / "signvit_jax"


def key_data(rng):
    return jax.random.key_data(rng).tolist()


def test_the_key_of_a_stream_has_its_number_folded_in():
    rng = jax.random.key(3)
    expected = jax.random.fold_in(rng, 4 + 2)
    assert key_data(fold(rng, "decoder_layer.feed_forward_dropout", 2)) == key_data(expected)


def test_evaluation_has_no_streams():
    assert fold(None, "vit.block", 3) is None


def test_a_misspelled_stream_is_refused():
    with pytest.raises(KeyError, match=r"vit\.blocks"):
        fold(jax.random.key(0), "vit.blocks")


# Streams that a module uses several times. Their numbers begin after those of the other streams.
REPEATED = {"vit.chunk", "vit.block", "vit.embedding_dropout", "vit.patch_drop"}
REPEATED |= {"temporal.conv", "temporal.attention", "decoder.layer", "decoder.embedding_dropout"}


def test_streams_of_a_module_have_different_numbers():
    numbers = defaultdict(list)
    for stream, number in STREAMS.items():
        if stream not in REPEATED:
            numbers[stream.partition(".")[0]].append(number)
    for module, found in numbers.items():
        assert len(set(found)) == len(found), module


def test_every_stream_is_used_by_one_module():
    uses = defaultdict(set)  # stream -> names of files
    for path in PACKAGE.glob("**/*.py"):
        for stream in re.findall(r'fold\(\s*\w+,\s*f?"([\w.{}]+)"', path.read_text()):
            names = [stream]
            if "{name}" in stream:
                names = [stream.format(name=name) for name in ("attention", "feed_forward")]
            for name in names:
                uses[name].add(path.name)
    assert uses.keys() == STREAMS.keys()
    assert [stream for stream, files in uses.items() if len(files) > 1] == []
