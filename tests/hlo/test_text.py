"""The instructions of an HLO text, and how often they run."""

import pytest

from signvit_jax.hlo.text import ArrayType, arrays_in, parse_hlo
from tests.helpers.compiled_texts import texts

TPU_LOOP = """HloModule m

%body (p: (s32[], f32[4])) -> (s32[], f32[4]) {
  %p = (s32[]{:T(128)}, f32[4]{0:T(128)S(1)}) parameter(0)
  %x = f32[4]{0:T(128)S(1)} get-tuple-element(%p), index=1
  %i = s32[]{:T(128)} get-tuple-element(%p), index=0
  %y = f32[4]{0:T(128)S(1)} negate(%x)
  ROOT %out = (s32[]{:T(128)}, f32[4]{0:T(128)S(1)}) tuple(%i, %y)
}

%condition (p.1: (s32[], f32[4])) -> pred[] {
  %p.1 = (s32[], f32[4]{0}) parameter(0)
  %i.1 = s32[] get-tuple-element(%p.1), index=0
  %limit = s32[]{:T(128)} constant(BOUND)
  ROOT %less = pred[] compare(%i.1, %limit), direction=LT
}

ENTRY %main (a: f32[4]) -> (s32[], f32[4]) {
  %a = f32[4]{0} parameter(0)
  %zero = s32[] constant(0)
  %start = (s32[], f32[4]{0}) tuple(%zero, /*index=1*/%a)
  ROOT %loop = (s32[], f32[4]{0}) while(%start), condition=%condition, body=%body
}
"""


def runs_of(program, operation):
    """Return how often each instruction with this operation runs."""
    return [
        runs for runs, _, instruction in program.executed() if instruction.operation == operation
    ]


def test_loops_run_as_often_as_their_trip_counts():
    assert max(parse_hlo(texts()["repeated"]).runs.values()) == 5
    nested = parse_hlo(texts()["nested"])
    assert max(nested.runs.values()) == 15 and nested.unknown_loops == 0


def test_the_bound_of_a_tpu_loop_is_in_its_condition():
    program = parse_hlo(TPU_LOOP.replace("BOUND", "7"))
    assert runs_of(program, "negate") == [7] and program.unknown_loops == 0


def test_a_loop_of_unknown_length_counts_once_and_is_reported():
    text = TPU_LOOP.replace("  %limit = s32[]{:T(128)} constant(BOUND)\n", "")
    program = parse_hlo(text.replace("%limit)", "%i.1)"))
    assert runs_of(program, "negate") == [1] and program.unknown_loops == 1


def test_arrays_on_the_chip_take_no_main_memory():
    first, second = arrays_in("(bf16[2,96,50]{2,1,0:T(8,128)(2,1)S(1)}, f32[3,4]{1,0})")
    assert first == ArrayType("bf16", (2, 96, 50), 1)
    assert (first.bytes, first.main_bytes) == (2 * 96 * 50 * 2, 0)
    assert second.bytes == second.main_bytes == 48


@pytest.mark.parametrize(
    ("text", "size"),
    [("pred[3]", 3), ("s4[3]", 2), ("u8[0]", 0), ("f8e4m3fn[5]", 5), ("s64[]", 8), ("c64[2]", 16)],
)
def test_arrays_have_the_bytes_of_their_type(text, size):
    (array,) = arrays_in(text)
    assert array.bytes == size


def test_instructions_have_operands_and_names():
    program = parse_hlo(TPU_LOOP.replace("BOUND", "7"))
    main = program.computations["main"]
    assert main["start"].operands == ("zero", "a")
    assert main["loop"].called("body", "condition") == ["body", "condition"]
    assert main["loop"].is_root


def test_source_lines_are_those_of_the_package():
    text = texts()["gradients"]
    assert "StackFrames" in text
    program = parse_hlo(text)
    assert program.source_line(0, "signvit_jax/") == ""
    frames = {1: ("/x/signvit_jax/layers/a.py:5", 0), 2: ("/x/flax/linear.py:9", 1)}
    program = type(program)(program.entry, program.computations, frames)
    assert program.source_line(2, "signvit_jax/") == "layers/a.py:5"


def test_a_text_that_is_not_a_compiled_program_is_refused():
    with pytest.raises(ValueError, match="ENTRY"):
        parse_hlo("module @jit_f { }")
