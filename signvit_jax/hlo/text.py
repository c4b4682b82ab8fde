"""A compiled program's text (XLA's HLO) as instructions, and how often each of them runs.

XLA's own cost analysis counts the body of a loop once, and is empty for programs of absent GPUs.
"""

import dataclasses
import math
import re
from collections.abc import Iterator
from functools import cached_property

_BITS = {"pred": 8, "token": 0, "bf16": 16, "tf32": 32, "c64": 64, "c128": 128}
_ARRAY = re.compile(r"\b(pred|token|bf16|tf32|c64|c128|[suf]\d+\w*)\[([\d,<=]*)\](?:\{([^{}]*)\})?")
_COMMENT = re.compile(r"/\*.*?\*/")
_COMPUTATION = re.compile(r"(ENTRY\s+)?%?([\w.\-]+)\s.*\{\s*$")
_INSTRUCTION = re.compile(r"\s+(ROOT\s+)?%?([\w.\-]+)\s*=\s*")
_OPERATION = re.compile(r"\s*([a-z][\w\-]*)\(")
_TRIP_COUNT = re.compile(r"known_trip_count\W+n\W+(\d+)")
_CONTROL = ("while", "conditional", "call", "async-start")


@dataclasses.dataclass(frozen=True)
class ArrayType:
    """An array of a program. `space`: the memory it is in; 0 is the device's main memory."""

    dtype: str
    shape: tuple[int, ...]
    space: int = 0

    @property
    def size(self) -> int:
        """Number of entries."""
        return math.prod(self.shape)

    @property
    def bytes(self) -> int:
        bits = _BITS.get(self.dtype)
        if bits is None:
            bits = int(re.sub(r"\D.*", "", self.dtype[1:]))  # "f32", "u4", "f8e4m3fn"
        return math.ceil(self.size * bits / 8)

    @property
    def main_bytes(self) -> int:
        """Bytes in the device's main memory: none if the array is kept on the chip."""
        return 0 if self.space else self.bytes

    def __str__(self) -> str:
        return f"{self.dtype}[{','.join(map(str, self.shape))}]"


@dataclasses.dataclass(frozen=True)
class Instruction:
    """A line of a program: `name = arrays operation(operands), attributes`."""

    name: str
    arrays: tuple[ArrayType, ...]  # of the result; several for a tuple
    operation: str
    operands: tuple[str, ...]
    arguments: str  # the text between the parentheses
    attributes: str  # the text behind them
    is_root: bool

    @property
    def main_bytes(self) -> int:
        return sum(array.main_bytes for array in self.arrays)

    @property
    def target(self) -> str:
        """Return what a custom call calls; "" for other instructions."""
        return self._quoted("custom_call_target")

    @property
    def op_name(self) -> str:
        """Return JAX's name of the operation that this one was compiled from."""
        return self._quoted("op_name")

    def called(self, *names: str) -> list[str]:
        """Return the computations in the attributes `names`."""
        computations: list[str] = []
        for name in names:
            match = re.search(rf"\b{name}=(?:\{{([^}}]*)\}}|%?([\w.\-]+))", self.attributes)
            if match:
                listed = match[1].split(",") if match[1] is not None else [match[2]]
                computations += [item.strip().lstrip("%") for item in listed]
        return computations

    def integers(self, name: str) -> list[int]:
        """Return the numbers of an attribute such as `lhs_contracting_dims={1,2}`."""
        match = re.search(rf"\b{name}=\{{([\d,]*)\}}", self.attributes)
        return [int(item) for item in match[1].split(",") if item] if match else []

    def _quoted(self, name: str) -> str:
        match = re.search(rf'\b{name}="([^"]*)"', self.attributes)
        return match[1] if match else ""


Computation = dict[str, Instruction]  # by name, in the order of the text


@dataclasses.dataclass(frozen=True)
class Program:
    """A compiled program of one device."""

    entry: str
    computations: dict[str, Computation]
    frames: dict[int, tuple[str, int]] = dataclasses.field(default_factory=dict)

    def source_line(self, frame: int, package: str) -> str:
        """Return "file:line" of a stack frame's innermost call from a file of `package`.

        The file is named from below `package`, a part of its path; "" if there is none.
        """
        while frame in self.frames:
            place, frame = self.frames[frame]
            _, separator, name = place.rpartition(package)
            if separator:
                return name
        return ""

    @cached_property
    def runs(self) -> dict[str, int]:
        """How often each computation runs in one call of the program.

        Bodies of loops count with their trip counts. Each branch of a conditional counts as if it
        were taken. Computations inside of fusions, reductions and the like are not listed.
        """
        return self._walk[0]

    @cached_property
    def unknown_loops(self) -> int:
        """Number of loops whose trip count the text does not tell; they count once."""
        return self._walk[1]

    def executed(self) -> Iterator[tuple[int, Computation, Instruction]]:
        """Yield (runs, its computation, instruction) for all instructions that run."""
        for name, runs in self.runs.items():
            computation = self.computations[name]
            for instruction in computation.values():
                yield runs, computation, instruction

    def trip_count(self, loop: Instruction) -> int | None:
        """Return how often the body of a `while` runs; None if the text does not tell."""
        if match := _TRIP_COUNT.search(loop.attributes):
            return int(match[1])
        # TPU programs have the bound as the only constant of the condition.
        bounds = [
            int(instruction.arguments)
            for name in loop.called("condition")
            for instruction in self.computations.get(name, {}).values()
            if instruction.operation == "constant" and instruction.arguments.strip().isdigit()
        ]
        return max(bounds, default=None)

    @cached_property
    def _walk(self) -> tuple[dict[str, int], int]:
        """Visit all computations that run; return `runs` and `unknown_loops`."""
        runs: dict[str, int] = {}
        unknown = 0

        def visit(name: str, times: int) -> None:
            nonlocal unknown
            runs[name] = runs.get(name, 0) + times
            for instruction in self.computations[name].values():
                if instruction.operation not in _CONTROL:
                    continue
                repeats = 1
                if instruction.operation == "while":
                    trips = self.trip_count(instruction)
                    unknown += trips is None
                    repeats = 1 if trips is None else trips
                for inner in instruction.called(
                    "body",
                    "condition",
                    "to_apply",
                    "calls",
                    "branch_computations",
                    "true_computation",
                    "false_computation",
                ):
                    visit(inner, times * repeats)

        visit(self.entry, 1)
        return runs, unknown


def parse_hlo(text: str) -> Program:
    """Return the program of `jax.stages.Compiled.as_text()`.

    Raises ValueError for a text without an ENTRY computation.
    """
    computations: dict[str, Computation] = {}
    entry, current = None, None
    for line in text.splitlines():
        if line[:1].isspace():
            if current is not None and (instruction := _instruction(line)):
                current[instruction.name] = instruction
        elif match := _COMPUTATION.match(line):
            current = computations.setdefault(match[2], {})
            entry = match[2] if match[1] else entry
        else:
            current = None
    if entry is None:
        raise ValueError("the text has no ENTRY computation: it is not that of a compiled program")
    return Program(entry, computations, _frames(text))


def arrays_in(text: str) -> tuple[ArrayType, ...]:
    """Return the arrays that a text of types names, such as `(f32[2,3]{1,0}, bf16[8])`."""
    arrays = []
    for dtype, shape, layout in _ARRAY.findall(text):
        space = re.search(r"S\((\d+)\)", layout)
        sizes = tuple(int(size.lstrip("<=")) for size in shape.split(",") if size)
        arrays.append(ArrayType(dtype, sizes, int(space[1]) if space else 0))
    return tuple(arrays)


def _frames(text: str) -> dict[int, tuple[str, int]]:
    """Return the stack frames of the text's tables: number -> ("file:line", the caller's number).

    Frames are numbered from 1; the table has the callers' numbers plus one.
    """
    files = dict(re.findall(r'^(\d+) "(.*)"$', _table(text, "FileNames"), re.MULTILINE))
    places = {
        number: f"{files.get(file, '')}:{line}"
        for number, file, line in re.findall(
            r"^(\d+) \{file_name_id=(\d+) .*?\bline=(\d+)",
            _table(text, "FileLocations"),
            re.MULTILINE,
        )
    }
    rows = re.findall(
        r"^(\d+) \{file_location_id=(\d+)(?: parent_frame_id=(\d+))?",
        _table(text, "StackFrames"),
        re.MULTILINE,
    )
    return {int(row): (places.get(place, ""), int(parent or 1) - 1) for row, place, parent in rows}


def _table(text: str, name: str) -> str:
    match = re.search(rf"^{name}\n((?:\d.*\n)*)", text, re.MULTILINE)
    return match[1] if match else ""


def _instruction(line: str) -> Instruction | None:
    line = _COMMENT.sub("", line)
    head = _INSTRUCTION.match(line)
    if head is None:
        return None
    start = head.end()
    types_end = _closing(line, start) if line[start] == "(" else line.find(" ", start)
    operation = _OPERATION.match(line, types_end)
    if operation is None:
        return None
    end = _closing(line, operation.end() - 1)
    arguments = line[operation.end() : end - 1]
    return Instruction(
        name=head[2],
        arrays=arrays_in(line[start:types_end]),
        operation=operation[1],
        operands=tuple(re.findall(r"%([\w.\-]+)", arguments)),
        arguments=arguments,
        attributes=line[end:],
        is_root=head[1] is not None,
    )


def _closing(line: str, start: int) -> int:
    """Return the position behind the parenthesis that closes the one at `start`."""
    depth = 0
    for match in re.finditer(r"[()]", line[start:]):
        depth += 1 if match[0] == "(" else -1
        if depth == 0:
            return start + match.end()
    return len(line)
