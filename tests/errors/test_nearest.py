"""Tests of suggestions for misspelled names and flags."""

from signvit_jax.errors.nearest import did_you_mean, unknown_flag


def test_a_similar_name_is_suggested_and_a_different_one_is_not():
    known = ["phoenix14t", "how2sign", "video_folder"]
    assert did_you_mean("phoenix14", known) == "; did you mean 'phoenix14t'?"
    assert did_you_mean("xyz", known) == did_you_mean("phoenix", []) == ""
    assert did_you_mean("how2sing", dict.fromkeys(known)) == "; did you mean 'how2sign'?"


def test_an_unknown_flag_is_named_with_the_nearest():
    known = {"--beam_size": ["--config.inference.beam_size"], "--out": ["--out"]}
    assert unknown_flag("--ot", known) == "unknown argument --ot; did you mean --out?"
    meant = "did you mean --config.inference.beam_size?"
    assert unknown_flag("--config.beam_siz", known).endswith(meant)
    assert unknown_flag("--xyz", known, "; see --help") == "unknown argument --xyz; see --help"
