"""The collectives of a compiled program: over which axes of the mesh, and how many bytes each
device sends."""

import dataclasses
import math
import re
from collections.abc import Iterator, Mapping

import numpy as np

from signvit_jax.hlo.text import ArrayType, Computation, Instruction, Program

_KINDS = re.compile(
    r"(ragged-all-to-all|all-gather|all-reduce|reduce-scatter|all-to-all|collective-permute|"
    r"collective-broadcast)(-start)?"
)


@dataclasses.dataclass(frozen=True)
class Collective:
    """A collective, with the bytes that a device sends in one run, and its runs in a step.

    `axes`: mesh axes along which the devices of a group differ, such as "data" or "data+fsdp".
    `members`: the devices of the first group, by their place in the mesh.
    """

    kind: str
    axes: str
    members: tuple[int, ...]
    bytes: float
    runs: int
    op_name: str

    @property
    def step_bytes(self) -> float:
        """Bytes that a device sends in one step."""
        return self.bytes * self.runs


def collectives_of(program: Program, mesh: Mapping[str, int]) -> list[Collective]:
    """Return the collectives of a program for a mesh of these axes and sizes.

    Bytes are those of ring algorithms, which send the least: (n - 1) / n of an array that is
    gathered or scattered over n devices, and twice as much of an array that is reduced on all.
    """
    collectives = []
    for kind, runs, computation, instruction in _executed(program):
        groups = _groups(instruction, math.prod(mesh.values()))
        if len(groups[0]) < 2:
            continue
        operands = tuple(
            array for name in instruction.operands for array in computation[name].arrays
        )
        collectives.append(
            Collective(
                kind,
                _axes(groups, mesh),
                tuple(groups[0]),
                _bytes_sent(kind, operands, len(groups[0])),
                runs,
                instruction.op_name,
            )
        )
    return collectives


def _executed(program: Program) -> Iterator[tuple[str, int, Computation, Instruction]]:
    """Yield (kind, runs, computation, instruction) of all collectives, in fusions too."""
    for runs, computation, instruction in program.executed():
        if runs == 0:
            continue
        if match := _KINDS.fullmatch(instruction.operation):
            yield match[1], runs, computation, instruction
        elif instruction.operation == "fusion":
            for name in instruction.called("calls"):
                body = program.computations[name]
                if _is_later_part(name, body):
                    continue
                for inner in body.values():
                    if match := _KINDS.fullmatch(inner.operation):
                        # TPU programs fuse the sum with the slice of it that a device keeps.
                        scatters = name.startswith("all-reduce-scatter")
                        yield "reduce-scatter" if scatters else match[1], runs, body, inner


def _is_later_part(name: str, body: Computation) -> bool:
    """Return True for a later part of an asynchronous collective of a TPU program.

    Its text is repeated in fusions that start it, in those that compute beside it, and at its end.
    """
    ends = any(instruction.target == "AsyncCollectiveDone" for instruction in body.values())
    return ends or name.startswith("async_collective_fusion")


def bytes_by_axes(collectives: list[Collective]) -> dict[str, dict[str, float]]:
    """Return the bytes that a device sends in one step: axes -> kind -> bytes, most first."""
    sums: dict[str, dict[str, float]] = {}
    for collective in sorted(collectives, key=lambda one: -one.step_bytes):
        kinds = sums.setdefault(collective.axes, {})
        kinds[collective.kind] = kinds.get(collective.kind, 0.0) + collective.step_bytes
    return dict(sorted(sums.items(), key=lambda item: -sum(item[1].values())))


def _bytes_sent(kind: str, operands: tuple[ArrayType, ...], members: int) -> float:
    size = sum(array.bytes for array in operands)
    if kind == "all-gather":
        return size * (members - 1)
    if kind == "all-reduce":
        return 2.0 * size * (members - 1) / members
    if kind == "collective-permute":
        return size
    return size * (members - 1) / members


def _groups(instruction: Instruction, devices: int) -> list[list[int]]:
    """Return the groups of devices that work together; for a permute, (sender, receiver) pairs.

    XLA writes groups in several ways.
    """
    text = instruction.attributes
    # {{0,1},{1,0}}: a ring connects each device with the next.
    if pairs := re.search(r"source_target_pairs=\{((?:\{\d+,\d+\},?)*)\}", text):
        groups = [_integers(pair) for pair in re.findall(r"\d+,\d+", pairs[1])]
        return groups or [[0]]
    # {{0,1},{2,3}}, or {} for one group of all devices.
    if listed := re.search(r"replica_groups=\{((?:\{[\d,]*\},?)*)\}", text):
        groups = [_integers(group) for group in re.findall(r"\{([\d,]+)\}", listed[1])]
        return groups or [list(range(devices))]
    # [4,2]<=[2,4]T(1,0): the numbers 0 to 7 in the shape (2, 4), transposed, in 4 groups of 2.
    if iota := re.search(r"replica_groups=\[([\d,]+)\]<=\[([\d,]+)\](?:T\(([\d,]+)\))?", text):
        sizes, shape, order = (_integers(part) for part in iota.groups())
        numbers = np.arange(math.prod(shape)).reshape(shape)
        return numbers.transpose(order or range(len(shape))).reshape(sizes[0], -1).tolist()
    # mesh['data'=2,'fsdp'=4] {'fsdp'}: devices that differ only along the listed axes.
    if meshed := re.search(r"replica_groups=mesh\[([^\]]*)\] \{([^}]*)\}", text):
        sizes = {name: int(size) for name, size in re.findall(r"'([^']*)'=(\d+)", meshed[1])}
        grouped = re.findall(r"'([^']*)'", meshed[2])
        numbers = np.arange(math.prod(sizes.values())).reshape(tuple(sizes.values()))
        axes = [list(sizes).index(name) for name in grouped]
        others = [axis for axis in range(len(sizes)) if axis not in axes]
        members = math.prod(numbers.shape[axis] for axis in axes)
        return numbers.transpose(others + axes).reshape(-1, members).tolist()
    raise ValueError(f"replica groups that cannot be read: {instruction.name}{text[:300]}")


def _axes(groups: list[list[int]], mesh: Mapping[str, int]) -> str:
    """Return the axes of the mesh along which the members of any group differ."""
    sizes = tuple(mesh.values())
    varying = np.zeros(len(sizes), bool)
    for group in groups:
        places = np.array(np.unravel_index(group, sizes))
        varying |= (places != places[:, :1]).any(axis=1)
    return "+".join(name for name, varies in zip(mesh, varying) if varies)


def _integers(text: str | None) -> list[int]:
    return [int(item) for item in re.findall(r"\d+", text or "")]
