"""Arrays that are kept for the backward pass."""

from signvit_jax.hlo.residuals import residuals_of
from signvit_jax.hlo.text import ArrayType, parse_hlo
from tests.helpers.compiled_texts import texts


def test_arrays_that_a_loop_over_layers_stacks_are_listed():
    kept = residuals_of(parse_hlo(texts()["gradients"]))
    stacks = {residual.array.shape for residual in kept if residual.array.shape[:1] == (6,)}
    assert stacks == {(6, 32, 128)}  # the inputs of all layers, and the cosines of their products
    sizes = [residual.bytes for residual in kept]
    assert sizes == sorted(sizes, reverse=True)
    sources = " ".join(residual.source for residual in kept)
    assert "cos" in sources or "dot_general" in sources


def test_a_program_without_a_backward_pass_keeps_nothing():
    assert residuals_of(parse_hlo(texts()["repeated"])) == []


def test_arrays_have_a_short_form():
    assert str(ArrayType("bf16", (24, 256))) == "bf16[24,256]"
