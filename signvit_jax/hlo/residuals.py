"""What a compiled training step keeps from the forward pass for the backward pass, by name."""

import collections
import dataclasses
import re
from collections.abc import Iterator

from signvit_jax.hlo.text import ArrayType, Computation, Instruction, Program

_PACKAGE = "signvit_jax/"
_SAME_ARRAY = ("bitcast", "copy", "reshape", "transpose", "convert", "copy-start", "copy-done")
_ZEROS = "broadcast_in_dim"  # what sums of gradients begin with
_FRAME = re.compile(r"stack_frame_id=(\d+)")


@dataclasses.dataclass(frozen=True)
class Residual:
    """Equal arrays that are kept. `source`: the operation and the line that it comes from."""

    array: ArrayType
    count: int
    source: str

    @property
    def bytes(self) -> int:
        return self.count * self.array.bytes


def residuals_of(program: Program) -> list[Residual]:
    """Return the arrays that the forward pass makes and the backward pass reads, largest first.

    JAX's names tell the passes apart: `jvp(...)` forward, `transpose(...)` backward. Arrays that a
    loop over layers stacks are named after what the loop writes into them.
    """
    counts: collections.Counter[tuple[ArrayType, str]] = collections.Counter()
    for name in program.runs:
        computation = program.computations[name]
        read_backward: set[tuple[str, int]] = set()
        for instruction in computation.values():
            if _is_backward(instruction):
                read_backward.update(_origins(computation, instruction))
        for producer, index in read_backward:
            instruction = computation[producer]
            if not _is_forward(instruction) or index >= len(instruction.arrays):
                continue
            source = _source(program, computation, producer, index)
            if not source.startswith(_ZEROS):
                counts[instruction.arrays[index], source] += 1
    residuals = [Residual(array, count, source) for (array, source), count in counts.items()]
    return sorted(
        residuals,
        key=lambda residual: (-residual.bytes, residual.source, str(residual.array)),
    )


def _is_backward(instruction: Instruction) -> bool:
    return "transpose(" in instruction.op_name and instruction.operation not in (
        "tuple",
        "get-tuple-element",
        "bitcast",
    )


def _is_forward(instruction: Instruction) -> bool:
    return "jvp(" in instruction.op_name and "transpose(" not in instruction.op_name


def _origins(computation: Computation, instruction: Instruction) -> Iterator[tuple[str, int]]:
    """Yield (instruction, index in its result) of all arrays that an instruction reads."""
    for operand in instruction.operands:
        yield from _origin(computation, operand, 0)


def _origin(computation: Computation, name: str, index: int) -> Iterator[tuple[str, int]]:
    instruction = computation.get(name)
    if instruction is None:
        return
    if instruction.operation == "tuple":
        for element in instruction.operands:
            yield from _origin(computation, element, 0)
    elif instruction.operation == "get-tuple-element":
        place = re.search(r"index=(\d+)", instruction.attributes)
        yield from _element(computation, instruction.operands[0], int(place[1]) if place else 0)
    elif instruction.operation == "bitcast":
        yield from _origin(computation, instruction.operands[0], index)
    else:
        yield name, index


def _element(computation: Computation, name: str, index: int) -> Iterator[tuple[str, int]]:
    """Follow element `index` of the tuple `name`."""
    instruction = computation.get(name)
    if instruction is not None and instruction.operation == "tuple":
        yield from _origin(computation, instruction.operands[index], 0)
    elif instruction is not None:
        yield name, index


def _source(program: Program, computation: Computation, name: str, index: int) -> str:
    """Return the operation and the source line that an array comes from."""
    instruction = computation[name]
    if instruction.operation == "while":
        body = program.computations[instruction.called("body")[0]]
        root = next(part for part in body.values() if part.is_root)
        if root.operation == "tuple":
            for origin, element in _origin(body, root.operands[index], 0):
                return _source(program, body, origin, element)
    written = _computed_by(program, computation, instruction, index)
    if written.operation == "parameter":  # the carry of a loop: what its layers have as input
        return "input of each run of the loop"
    # Combined operations have several names: "(add:add)".
    words = re.findall(r"[\w.]+", written.op_name.rpartition("/")[2])
    operation = words[0] if words else written.operation
    return f"{operation} {program.source_line(_frame(written), _PACKAGE)}".strip()


def _computed_by(
    program: Program, computation: Computation, instruction: Instruction, index: int
) -> Instruction:
    """Return the instruction that computed an array.

    Look through fusions, writes of slices, casts and copies.
    """
    origin = instruction
    if instruction.operation == "fusion-done":
        instruction = computation[instruction.operands[0]]
    if instruction.operation in ("fusion", "fusion-start"):
        body = program.computations[instruction.called("calls")[0]]
        root = next(part for part in body.values() if part.is_root)
        if root.operation == "tuple":
            root = body[root.operands[index]]
        inner = _through_copies(body, root)
        if inner.operation != "parameter":
            return inner
        number = int(inner.arguments)
        origin = computation.get(instruction.operands[number], instruction)
        if origin is instruction:
            return origin
        return _computed_by(program, computation, origin, 0)
    inner = _through_copies(computation, origin)
    return inner if inner is origin else _computed_by(program, computation, inner, 0)


def _through_copies(computation: Computation, instruction: Instruction) -> Instruction:
    """Follow writes of slices, copies and casts back to the instruction that made the values."""
    while True:
        if instruction.operation == "dynamic-update-slice":
            instruction = computation[instruction.operands[1]]
        elif (
            instruction.operation in _SAME_ARRAY and instruction.operands[0] in computation
        ) or instruction.operation == "get-tuple-element":
            instruction = computation[instruction.operands[0]]
        else:
            return instruction


def _frame(instruction: Instruction) -> int:
    match = _FRAME.search(instruction.attributes)
    return int(match[1]) if match else 0
