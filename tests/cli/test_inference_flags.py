"""Tests that the choices of flags agree with what exists."""

import pytest

from signvit_jax.cli.inference_flags import DECODER_NAMES
from signvit_jax.commands import translate
from signvit_jax.commands.eval import DEFAULT_DECODERS
from signvit_jax.decoding.decoders import DECODERS
from signvit_jax.demo import command as demo


def test_the_flags_offer_exactly_the_existing_decoders():
    assert set(DECODER_NAMES) == DECODERS.keys()
    assert set(demo.DECODERS) <= set(DECODER_NAMES)
    assert set(DEFAULT_DECODERS) <= set(DECODER_NAMES)


def test_the_help_of_every_choice_names_its_default(capsys):
    with pytest.raises(SystemExit):
        translate.main(["--help"])
    shown = " ".join(capsys.readouterr().out.split())
    assert "or the last (best)" in shown
    assert "search for the text (greedy)" in shown
