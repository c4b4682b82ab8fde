"""Mutants of source files: copies with one small change each, for scripts/mutate.py."""

import ast
import copy
import dataclasses
import hashlib
import json
from collections.abc import Iterator, Sequence
from pathlib import Path

_OPPOSITES = [("Eq", "NotEq"), ("Lt", "LtE"), ("Gt", "GtE"), ("In", "NotIn"), ("Is", "IsNot")]
COMPARISONS = dict(_OPPOSITES) | {b: a for a, b in _OPPOSITES}  # each to the other of its pair
OPERATORS = {
    "Add": "Sub",
    "Sub": "Add",
    "Mult": "Add",
    "FloorDiv": "Mult",
    "Div": "Mult",
    "Mod": "Mult",
    "BitOr": "BitAnd",
    "BitAnd": "BitOr",
}

Located = ast.expr | ast.stmt  # a node with its place in the source


def mutants(source: str) -> Iterator[tuple[Located, ast.AST | None, str]]:
    """Yield (node, its replacement or None for `pass`, kind of change)."""
    tree = ast.parse(source)
    skipped = _without_effect(tree)
    for node in ast.walk(tree):
        if id(node) in skipped:
            continue
        if isinstance(node, ast.Compare) and len(node.ops) == 1:
            yield (
                node,
                _with(node, ops=[getattr(ast, COMPARISONS[type(node.ops[0]).__name__])()]),
                "comparison",
            )
        elif isinstance(node, ast.BoolOp):
            yield (
                node,
                _with(node, op=ast.And() if isinstance(node.op, ast.Or) else ast.Or()),
                "and/or",
            )
        elif isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
            yield node, node.operand, "not removed"
        elif (
            isinstance(node, ast.BinOp)
            and type(node.op).__name__ in OPERATORS
            and not _is_text(node)
        ):
            yield (
                node,
                _with(node, op=getattr(ast, OPERATORS[type(node.op).__name__])()),
                "operator",
            )
        elif isinstance(node, ast.Constant) and isinstance(node.value, bool):
            yield node, ast.Constant(not node.value), "constant"
        elif isinstance(node, ast.Constant) and isinstance(node.value, int | float):
            yield node, ast.Constant(node.value + 1), "constant"
        elif isinstance(node, ast.Expr | ast.Raise | ast.AugAssign | ast.Continue | ast.Break):
            yield node, None, "statement removed"
        elif (
            isinstance(node, ast.Return)
            and node.value is not None
            and ast.unparse(node.value) not in ("None", "False")
        ):
            yield node, ast.Return(ast.Constant(None)), "returns None"
        elif isinstance(node, ast.If | ast.While | ast.IfExp) and not isinstance(
            node.test, ast.Compare | ast.UnaryOp
        ):
            yield node.test, ast.UnaryOp(ast.Not(), node.test), "condition negated"
    for node in tree.body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) != "__all__":
            yield from _smaller_constants(node.value)


def _without_effect(tree: ast.Module) -> set[int]:
    """Return the id() of nodes that no test can notice: docstrings, annotations, decorators."""
    skipped = set()
    for node in ast.walk(tree):
        documented = isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef)
        if documented and ast.get_docstring(node):
            skipped.add(id(node.body[0]))
        parts = [getattr(node, "annotation", None), getattr(node, "returns", None)]
        parts += getattr(node, "decorator_list", ())
        skipped |= {id(inner) for part in parts if part for inner in ast.walk(part)}
    return skipped


def _smaller_constants(container: ast.expr) -> Iterator[tuple[Located, ast.AST, str]]:
    """Yield mutants of a container in a module's constant, each without one of its elements."""
    if isinstance(container, ast.Tuple | ast.List | ast.Set):
        for i, element in enumerate(container.elts):
            smaller = _with(container, elts=container.elts[:i] + container.elts[i + 1 :])
            yield container, smaller, f"without {ast.unparse(element)}"
    elif isinstance(container, ast.Dict):
        for i, key in enumerate(container.keys):
            keys = container.keys[:i] + container.keys[i + 1 :]
            values = container.values[:i] + container.values[i + 1 :]
            smaller = _with(container, keys=keys, values=values)
            yield container, smaller, f"without {'**' if key is None else ast.unparse(key)}"


def _with(node: ast.AST, **fields: object) -> ast.AST:
    """Return a shallow copy of a node with other values of some fields."""
    other = copy.copy(node)
    for name, value in fields.items():
        setattr(other, name, value)
    return other


def _is_text(node: ast.BinOp) -> bool:
    """Return True for operators on text, such as `+` of strings and `%` of a format."""
    sides = (node.left, node.right)
    return any(
        isinstance(side, ast.JoinedStr)
        or (isinstance(side, ast.Constant) and isinstance(side.value, str | bytes))
        for side in sides
    )


@dataclasses.dataclass(frozen=True)
class Mutant:
    """One change of a file."""

    id: str  # a hash of the change and the text of its line
    file: str  # relative to the repository
    line: int  # first line of the changed code, from 1
    end: int  # its last line
    kind: str
    change: str  # for the report: the old code -> the new code or the kind
    content: bytes  # of the changed file
    original: bytes  # of the file


def all_mutants(root: Path, files: Sequence[str], lines: range) -> list[Mutant]:
    """Return the mutants in `lines` of files, in an order that is random but always the same."""
    mutants = [mutant for file in files for mutant in _mutants_of_file(root, file, lines)]
    return sorted(mutants, key=lambda mutant: mutant.id)


def _mutants_of_file(root: Path, file: str, lines: range) -> Iterator[Mutant]:
    original = (root / file).read_bytes()
    source_lines = original.splitlines(keepends=True)
    starts = [0]  # of each line, in bytes, as ast counts columns
    for line in source_lines:
        starts.append(starts[-1] + len(line))
    num_same: dict[str, int] = {}  # change -> how often it was made to a line with the same text
    for node, replacement, kind in mutants(original.decode()):
        if node.lineno not in lines:
            continue
        assert node.end_lineno is not None and node.end_col_offset is not None
        begin = starts[node.lineno - 1] + node.col_offset
        end = starts[node.end_lineno - 1] + node.end_col_offset
        before = original[begin:end].decode()
        text = "pass" if replacement is None else ast.unparse(replacement)
        if isinstance(node, ast.expr):
            text = f"({text})"
        # The id depends on the change and the text of its line, so that it stays when other lines
        # of the file change.
        line_text = source_lines[node.lineno - 1].strip().decode()
        key = json.dumps([file, kind, before, text, line_text])
        num_same[key] = num_same.get(key, 0) + 1
        shown = kind if replacement is None or kind.startswith("without") else text
        yield Mutant(
            id=hashlib.sha256(f"{key} {num_same[key]}".encode()).hexdigest()[:16],
            file=file,
            line=node.lineno,
            end=node.end_lineno,
            kind=kind,
            change=f"{' '.join(before.split())[:100]} -> {shown}",
            content=original[:begin] + text.encode() + original[end:],
            original=original,
        )
