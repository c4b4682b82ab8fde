"""Operations and bytes of compiled programs, compared with counts by hand."""

import pytest

from signvit_jax.hlo.kernels import kernels_of
from signvit_jax.hlo.text import parse_hlo
from tests.helpers.compiled_texts import texts


def kernels_of_program(name):
    return kernels_of(parse_hlo(texts()[name]))


def kernels_of_lines(*lines):
    """Return the kernels of a program whose main computation has these lines."""
    body = "\n".join(f"  {line}" for line in lines)
    return kernels_of(parse_hlo(f"ENTRY %main (a: f32[1]) -> f32[1] {{\n{body}\n}}\n"))


def test_a_product_reads_two_matrices_and_writes_one():
    kernels = kernels_of_program("product")
    assert kernels.flops == 2 * 64 * 32 * 48
    assert kernels.bytes == 4 * (64 * 32 + 32 * 48 + 64 * 48)
    assert kernels.launches == 1


def test_a_fusion_reads_each_operand_once():
    """The program reads 1000 floats twice and writes 1000 floats once."""
    kernels = kernels_of_program("control")
    assert (kernels.flops, kernels.bytes) == (0, 3 * 4 * 1000)


def test_a_loop_of_products_counts_each_of_them():
    once = 2 * 64**3
    assert kernels_of_program("repeated").flops == 5 * once
    assert kernels_of_program("nested").flops == 15 * once
    assert 15 * 2 * 4 * 64**2 < kernels_of_program("nested").bytes < 15 * 7 * 4 * 64**2


def test_a_slice_counts_only_the_bytes_it_reads_and_writes():
    assert kernels_of_program("sliced").bytes == pytest.approx(2 * 4 * 300, abs=100)


def test_a_convolution_counts_no_products_with_padding():
    positions = (9 * 2 - 1) ** 2  # at the last row and column, the kernel extends into the padding
    assert kernels_of_program("convolution").flops == 2 * positions * 3 * 5


def test_a_tpus_batched_product_is_a_dilated_convolution():
    kernels = kernels_of_lines(
        "%a = bf16[6,4,50,64]{3,2,1,0} parameter(0)",
        "%b = bf16[6,4,64,50]{3,2,1,0} parameter(1)",
        "ROOT %c = bf16[6,4,50,50]{3,2,1,0} convolution(%a, %b), "
        "window={size=6x4 stride=5x3 pad=0_0x0_0 lhs_dilate=6x4}, dim_labels=01bf_01io->01bf",
    )
    assert kernels.flops == 2 * 6 * 4 * 50 * 50 * 64


ATTENTION = (
    "%q = bf16[96,50,4,64]{3,2,1,0} parameter(0)",
    "%k = bf16[96,60,4,64]{3,2,1,0} parameter(1)",
    "%v = bf16[96,60,4,64]{3,2,1,0} parameter(2)",
    "ROOT %c = (bf16[96,4,50,64]{3,1,2,0}, f32[96,4,50]{2,1,0}, u8[0]{0}) custom-call(%q, %k, %v), "
    'custom_call_target="TARGET", backend_config={"cudnn_fmha_backend_config": {"fmha_scale": '
    '0.125, "intermediate_tensor_shape": {"element_type": "BF16", "dimensions": ["96", "4", "50", '
    '"60"], "tuple_shapes": []}}}',
)


@pytest.mark.parametrize(
    ("target", "products"), [("__cudnn$fmhaSoftmax", 2), ("__cudnn$fmhaSoftmaxBackward", 5)]
)
def test_fused_attention_counts_its_products(target, products):
    kernels = kernels_of_lines(*(line.replace("TARGET", target) for line in ATTENTION))
    assert kernels.flops == products * 2 * 96 * 4 * 50 * 60 * 64
    heads = 96 * 4 * 64
    assert kernels.bytes == 2 * heads * (50 + 60 + 60 + 50) + 4 * 96 * 4 * 50


def test_a_product_by_cublas_counts_like_other_products():
    kernels = kernels_of_lines(
        "%a = bf16[32,64]{1,0} parameter(0)",
        "%b = bf16[64,16]{1,0} parameter(1)",
        "ROOT %c = (bf16[32,16]{1,0}, s8[1024]{0}) custom-call(%a, %b), "
        'custom_call_target="__cublas$lt$matmul", backend_config={"gemm_backend_config":'
        '{"dot_dimension_numbers":{"lhs_contracting_dimensions":["1"]}}}',
    )
    assert kernels.flops == 2 * 32 * 64 * 16


@pytest.mark.parametrize(
    ("target", "operands", "result"),
    [
        ("__cudnn$convForward", ("8,7,7,16", "32,3,3,16"), "8,7,7,32"),
        ("__cudnn$convBackwardInput", ("8,7,7,32", "32,3,3,16"), "8,7,7,16"),
        ("__cudnn$convBackwardFilter", ("8,7,7,16", "8,7,7,32"), "32,3,3,16"),
    ],
)
def test_cudnns_convolutions_count_outputs_times_kernel(target, operands, result):
    kernels = kernels_of_lines(
        f"%a = f32[{operands[0]}]{{3,2,1,0}} parameter(0)",
        f"%b = f32[{operands[1]}]{{3,2,1,0}} parameter(1)",
        f"ROOT %c = (f32[{result}]{{3,2,1,0}}, u8[0]{{0}}) custom-call(%a, %b), "
        f'dim_labels=b01f_o01i->b01f, custom_call_target="{target}"',
    )
    assert kernels.flops == 2 * (8 * 7 * 7 * 32) * (3 * 3 * 16)


def test_an_unknown_custom_call_is_reported():
    kernels = kernels_of_lines(
        "%a = f32[8]{0} parameter(0)",
        'ROOT %c = f32[8]{0} custom-call(%a), custom_call_target="a_new_kernel"',
    )
    assert kernels.uncounted == {"a_new_kernel": 1} and kernels.bytes == 64


def test_an_asynchronous_copy_counts_at_its_start():
    kernels = kernels_of_lines(
        "%a = f32[100]{0} parameter(0)",
        "%s = (f32[100]{0:S(1)}, f32[100]{0}, u32[]{:S(2)}) copy-start(%a)",
        "%d = f32[100]{0:S(1)} copy-done(%s)",
        "%t = ((f32[100]{0}), f32[10]{0:S(1)}, u32[]{:S(2)}) slice-start(%a), slice={[0:10]}",
        "ROOT %e = f32[10]{0:S(1)} slice-done(%t)",
    )
    assert [kernel.bytes for kernel in kernels.kernels] == [400, 40]
