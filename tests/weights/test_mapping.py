"""The conversion of single tensors: no value is dropped, and tensors that do not fit are listed."""

import numpy as np
import pytest

from signvit_jax.weights import reference
from signvit_jax.weights.mapping import NameTable, Source, WeightsError, from_ours, to_ours


def table(kind: str) -> NameTable:
    return NameTable("another system", lambda path: Source("weight", kind))


@pytest.mark.parametrize(
    ("kind", "fitting", "larger"),
    [
        ("pointwise", (4, 2, 1), (4, 2, 3)),
        ("depthwise", (4, 1, 5), (4, 2, 5)),
        ("conv1x1", (4, 2, 1, 1), (4, 2, 3, 3)),
        ("conv1x1", (4, 2, 1, 1), (4, 2, 1, 3)),
    ],
)
def test_a_kernel_with_more_taps_than_ours_is_refused(kind, fitting, larger):
    tensor = np.arange(np.prod(fitting), dtype=np.float32).reshape(fitting)
    shape = {"pointwise": (2, 4), "depthwise": (5, 4), "conv1x1": (2, 4)}[kind]
    ours = to_ours(table(kind), {"weight": tensor}, {"kernel": shape})
    np.testing.assert_array_equal(from_ours(table(kind), ours)["weight"], tensor)
    with pytest.raises(WeightsError, match=r"weight: shape .*our kernel, it must have shape"):
        to_ours(table(kind), {"weight": np.ones(larger, np.float32)}, {"kernel": shape})


@pytest.mark.parametrize("kernel", [(8, 3, 2, 8), (8, 12, 2, 2), (8, 48, 1, 1)])
def test_patches_of_another_form_but_equal_size_are_refused(kernel):
    with pytest.raises(WeightsError, match="weight: shape"):
        to_ours(table("patch"), {"weight": np.ones(kernel, np.float32)}, {"kernel": (48, 8)})


@pytest.mark.parametrize("size", [4, 16])
def test_a_patch_kernel_with_motion_channels_has_no_reference_tensor(size):
    path = "encoder/backbone/embed/project/kernel"
    with pytest.raises(WeightsError, match=f"the reference has no tensor for our parameter {path}"):
        reference.from_ours({path: np.ones((size * size * 6, 36), np.float32)})
    kernel = np.ones((size * size * 3, 36), np.float32)
    assert list(reference.from_ours({path: kernel})) == ["encoder.backbone.patch_embed.weight"]


@pytest.mark.parametrize(
    ("missing", "message"),
    [
        (1, r"\(1 problem\)"),
        (20, r"\(20 problems\)"),
        (23, r"\(23 problems\):(\n.*){20}\n.*3 more$"),
    ],
)
def test_problems_are_counted_and_twenty_are_shown(missing, message):
    shapes = {f"layer{number}": (2,) for number in range(missing)}
    our_names = NameTable("this model", source=Source)
    with pytest.raises(WeightsError, match=message):
        to_ours(our_names, {}, shapes)
