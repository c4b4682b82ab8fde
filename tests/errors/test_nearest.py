from signvit_jax.errors.nearest import did_you_mean


def test_a_near_name_is_suggested_and_a_far_one_is_not():
    known = ["phoenix14t", "how2sign", "video_folder"]
    assert did_you_mean("phoenix14", known) == "; did you mean 'phoenix14t'?"
    assert did_you_mean("xyz", known) == did_you_mean("phoenix", []) == ""
    assert did_you_mean("how2sing", dict.fromkeys(known)) == "; did you mean 'how2sign'?"
