"""Collectives of programs on eight devices, as data x fsdp x tensor = 2 x 2 x 2."""

import pytest

from signvit_jax.hlo.collectives import bytes_by_axes, collectives_of
from signvit_jax.hlo.text import parse_hlo
from tests.helpers.compiled_texts import texts

MESH = {"data": 2, "fsdp": 2, "tensor": 2}
ARRAY = 4 * 64 * 64  # bytes of the unsharded array


@pytest.mark.parametrize(
    ("name", "axes", "kind", "sent"),
    [
        ("all", "data+fsdp+tensor", "all-reduce", 2 * ARRAY * 7 / 8),
        ("data", "data", "all-reduce", 2 * (ARRAY / 2) * 1 / 2),
        ("gather", "fsdp", "all-gather", ARRAY / 2),
        ("scatter", "tensor", "reduce-scatter", ARRAY / 2),
        ("permute", "tensor", "collective-permute", ARRAY / 2),
        ("exchange", "data+fsdp", "all-to-all", (ARRAY / 4) * 3 / 4),
    ],
)
def test_a_collective_has_its_axes_and_bytes(name, axes, kind, sent):
    (collective,) = collectives_of(parse_hlo(texts()[name]), MESH)
    assert (collective.axes, collective.kind, collective.runs) == (axes, kind, 1)
    assert collective.bytes == sent
    assert bytes_by_axes([collective]) == {axes: {kind: sent}}


def with_groups(groups):
    """Return a program with one all-reduce among these groups of devices."""
    return parse_hlo(
        "ENTRY %main (a: f32[8]) -> f32[8] {\n  %a = f32[8]{0} parameter(0)\n"
        f"  ROOT %r = f32[8]{{0}} all-reduce(%a), {groups}, to_apply=%add\n}}\n"
    )


@pytest.mark.parametrize(
    ("groups", "axes", "members"),
    [
        ("replica_groups={{0,4},{1,5},{2,6},{3,7}}", "data", (0, 4)),
        ("replica_groups={}", "data+fsdp+tensor", tuple(range(8))),
        ("replica_groups=[4,2]<=[8]", "tensor", (0, 1)),
        ("replica_groups=[4,2]<=[2,2,2]T(0,2,1)", "fsdp", (0, 2)),
        ("replica_groups=[2,4]<=[2,4]", "fsdp+tensor", (0, 1, 2, 3)),
        ("replica_groups=mesh['data'=2,'fsdp'=2,'tensor'=2] {'data','fsdp'}", "data+fsdp", None),
        ("replica_groups=mesh['axis_0'=4,'axis_1'=2] {'axis_1'}", "tensor", (0, 1)),
    ],
)
def test_every_way_to_write_groups_is_read(groups, axes, members):
    (collective,) = collectives_of(with_groups(groups), MESH)
    assert collective.axes == axes
    assert members is None or collective.members == members


def test_groups_that_cannot_be_read_are_an_error():
    with pytest.raises(ValueError, match="replica groups"):
        collectives_of(with_groups("replica_groups=something_new"), MESH)


TPU = """
%fused.1 (p: bf16[4]) -> bf16[8] {
  %p = bf16[4]{0} parameter(0)
  %g = bf16[8]{0} all-gather(%p), replica_groups=[4,2]<=[8], dimensions={0}
  ROOT %s = (bf16[4]{0}, bf16[8]{0}) custom-call(%g), custom_call_target="AsyncCollectiveStart"
}

%async_collective_fusion.2 (p.1: bf16[4]) -> bf16[8] {
  %p.1 = bf16[4]{0} parameter(0)
  ROOT %g.1 = bf16[8]{0} all-gather(%p.1), replica_groups=[4,2]<=[8], dimensions={0}
}

%fused.3 (p.2: bf16[4]) -> bf16[8] {
  %p.2 = bf16[4]{0} parameter(0)
  %g.2 = bf16[8]{0} all-gather(%p.2), replica_groups=[4,2]<=[8], dimensions={0}
  ROOT %d = bf16[8]{0} custom-call(%g.2), custom_call_target="AsyncCollectiveDone"
}

%all-reduce-scatter.4 (p.3: bf16[8]) -> bf16[4] {
  %p.3 = bf16[8]{0} parameter(0)
  ROOT %r = bf16[8]{0} all-reduce(%p.3), replica_groups=[4,2]<=[8], to_apply=%add
}

ENTRY %main (a: bf16[4]) -> bf16[4] {
  %a = bf16[4]{0} parameter(0)
  %x = bf16[8]{0} fusion(%a), kind=kCustom, calls=%fused.1
  %y = bf16[8]{0} fusion(%a), kind=kOutput, calls=%async_collective_fusion.2
  %z = bf16[8]{0} fusion(%a), kind=kCustom, calls=%fused.3
  ROOT %w = bf16[4]{0} fusion(%z), kind=kCustom, calls=%all-reduce-scatter.4
}
"""


def test_parts_of_one_tpu_collective_count_once():
    found = collectives_of(parse_hlo(TPU), MESH)
    assert [(collective.kind, collective.axes, collective.bytes) for collective in found] == [
        ("all-gather", "tensor", 8),
        ("reduce-scatter", "tensor", 8),
    ]
