"""What the programs of an export may hold, checked before one is run: they come from elsewhere.

A StableHLO program is one function of the shapes that its config.json gives, and computes with numbers
alone. XLA believes what it compiles: a custom call with an index of the file's own, a function without a
body or one that calls itself ends the process with SIGSEGV. So operations and custom calls are held
against lists of what our own exports can have.
"""

from collections.abc import Iterator, Mapping, Sequence

import jax
import numpy as np
from jax import export
from jax.extend.mlir import ir
from jax.interpreters import mlir
from jaxtyping import PyTree

from signvit_jax.serving.export_dir import ExportError
from signvit_jax.serving.programs import Program, Shape

# Checks of open sizes, which XLA evaluates and takes out before it compiles. Nothing else is called.
_CUSTOM_CALLS = {"shape_assertion"}
_COMPOSITES = "chlo."  # operations such as erf, with what they come to beside them
# Of StableHLO what computes: nothing that reads or writes beyond the program, draws, or talks to other
# devices.
# fmt: off
_STABLEHLO = (
    "abs", "add", "and", "atan2", "batch_norm_inference", "bitcast_convert", "broadcast",
    "broadcast_in_dim", "case", "cbrt", "ceil", "clamp", "compare", "complex", "composite",
    "concatenate", "constant", "convert", "convolution", "cosine", "count_leading_zeros",
    "custom_call", "divide", "dot", "dot_general", "dynamic_broadcast_in_dim", "dynamic_conv",
    "dynamic_gather", "dynamic_iota", "dynamic_pad", "dynamic_reshape", "dynamic_slice",
    "dynamic_update_slice", "einsum", "exponential", "exponential_minus_one", "floor", "gather",
    "get_dimension_size", "get_tuple_element", "if", "imag", "iota", "is_finite", "log",
    "log_plus_one", "logistic", "map", "maximum", "minimum", "multiply", "negate", "not",
    "optimization_barrier", "or", "pad", "popcnt", "power", "real", "real_dynamic_slice",
    "reduce", "reduce_precision", "reduce_window", "remainder", "reshape", "return", "reverse",
    "round_nearest_afz", "round_nearest_even", "rsqrt", "scatter", "select",
    "select_and_scatter", "shift_left", "shift_right_arithmetic", "shift_right_logical", "sign",
    "sine", "slice", "sort", "sqrt", "subtract", "tan", "tanh", "torch_index_select",
    "transpose", "tuple", "unary_einsum", "while", "xor",
)
_CHLO = (
    "acos", "acosh", "asin", "asinh", "atan", "atanh", "cosh", "digamma", "erf", "erf_inv",
    "erfc", "lgamma", "sinh", "square", "tan", "top_k",
)
# fmt: on
_OPERATIONS = {
    "builtin.module",
    "func.call",
    "func.func",
    "func.return",
    *(f"stablehlo.{name}" for name in _STABLEHLO),
    *(f"chlo.{name}" for name in _CHLO),
}
# Attributes that carry a dialect's name say something to JAX or XLA.
_ATTRIBUTES = {
    "jax.const",
    "jax.global_constant",
    "jax.result_info",
    "jax.uses_shape_polymorphism",
    "mhlo.num_partitions",
    "mhlo.num_replicas",
}
_MLIR_TYPES = {"float32": "f32", "bfloat16": "bf16", "int32": "i32", "int8": "i8", "uint8": "ui8"}


def check_stablehlo(
    exported: export.Exported, program: Program, params: PyTree, path: object
) -> None:
    """Raises ExportError for a program that has other inputs or outputs than `program` of this model, or does more than compute."""
    inputs = (params, *program.abstract_inputs())
    expected = [(_sizes(leaf.shape), np.dtype(leaf.dtype).name) for leaf in jax.tree.leaves(inputs)]
    found = [(_sizes(aval.shape), np.dtype(aval.dtype).name) for aval in exported.in_avals]
    if exported.in_tree != jax.tree.structure((inputs, {})) or found != expected:
        raise _refused(path, "has other inputs than this model", _first_difference(expected, found))
    promised = [(shape, "float32") for shape in program.outputs.values()]
    found = [(_sizes(aval.shape), np.dtype(aval.dtype).name) for aval in exported.out_avals]
    if exported.out_tree != jax.tree.structure(
        tuple(promised), is_leaf=lambda leaf: leaf in promised
    ) or not _fit(promised, found):
        raise _refused(
            path, "has other outputs than this model", _first_difference(promised, found)
        )
    if (
        exported.nr_devices != 1
        or exported.ordered_effects
        or exported.unordered_effects
        or exported.disabled_safety_checks
    ):
        raise _refused(
            path,
            "does more than compute",
            "it has effects, several devices, or checks that are switched off",
        )
    _check_module(exported, path)


def check_outputs(
    program: Program, inputs: Sequence[np.ndarray], outputs: Sequence[np.ndarray], path: object
) -> None:
    """Raises ExportError where what a program said has other shapes than `program` of this model."""
    letters: dict[str, int] = {}
    for (shape, _), value in zip(program.inputs.values(), inputs):
        letters |= {
            size: actual for size, actual in zip(shape, value.shape) if isinstance(size, str)
        }
    promised = [
        (tuple(letters.get(size, size) for size in shape), "float32")
        for shape in program.outputs.values()
    ]
    found = [(value.shape, value.dtype.name) for value in outputs]
    if not _fit(promised, found):
        raise _refused(
            path, "has other outputs than this model", _first_difference(promised, found)
        )


def _check_module(exported: export.Exported, path: object) -> None:
    with mlir.make_ir_context():
        module = ir.Module.parse(exported.mlir_module())
        calls: dict[str, set[str]] = {}
        for name, operation in _operations(module, path):
            if operation.name not in _OPERATIONS:
                raise _refused(path, "does more than compute", f"operation {operation.name}")
            if operation.name == "func.func" and not operation.regions[0].blocks:
                raise _refused(path, "calls what it does not hold", f"function {name}")
            calls.setdefault(name, set()).update(_called(operation, path))
        _check_main(module, exported, path)
    for name in calls:
        if _reaches(name, name, calls):
            raise _refused(path, "never ends", f"function {name} calls itself")


def _operations(module: ir.Module, path: object) -> Iterator[tuple[str, ir.Operation]]:
    """Every operation with the name of the function that it stands in; the names of attributes are checked on the way."""
    found: list[tuple[str, ir.Operation]] = []

    def visit(operation: ir.Operation, function: str) -> None:
        for name in _attribute_names(operation):
            if "." in name and name not in _ATTRIBUTES:
                raise _refused(
                    path,
                    "asks for what a model does not need",
                    f"attribute {name} of {operation.name}",
                )
        found.append((function, operation))
        for region in operation.regions:
            for block in region:
                for inner in block.operations:
                    below = (
                        ir.StringAttr(inner.operation.attributes["sym_name"]).value
                        if inner.operation.name == "func.func"
                        else function
                    )
                    visit(inner.operation, below)

    visit(module.operation, "")
    return iter(found)


def _attribute_names(operation: ir.Operation) -> Iterator[str]:
    for name, value in _named(operation.attributes):
        yield name
        if name in ("arg_attrs", "res_attrs"):
            for one in ir.ArrayAttr(value):
                yield from (inner for inner, _ in _named(ir.DictAttr(one)))


def _named(attributes: object) -> list[tuple[str, ir.Attribute]]:
    """(name, value); iterating gives names or named attributes, by the version of MLIR."""
    names = [entry if isinstance(entry, str) else entry.name for entry in attributes]
    return [(name, attributes[name]) for name in names]


def _called(operation: ir.Operation, path: object) -> set[str]:
    """Names of the functions that an operation calls. Raises ExportError for a custom call that no export of ours has."""
    given: Mapping[str, ir.Attribute] = dict(_named(operation.attributes))
    if operation.name == "stablehlo.custom_call":
        target = ir.StringAttr(given["call_target_name"]).value
        if target not in _CUSTOM_CALLS or "called_computations" in given:
            raise _refused(
                path,
                "does more than compute",
                f"custom call {target!r}; allowed: {', '.join(sorted(_CUSTOM_CALLS))}",
            )
    if operation.name == "stablehlo.composite":
        name = ir.StringAttr(given["name"]).value
        if not name.startswith(_COMPOSITES):
            raise _refused(
                path, "does more than compute", f"composite {name!r}; allowed: {_COMPOSITES}*"
            )
        return {ir.FlatSymbolRefAttr(given["decomposition"]).value}
    return {ir.FlatSymbolRefAttr(given["callee"]).value} if operation.name == "func.call" else set()


def _reaches(start: str, goal: str, calls: Mapping[str, set[str]]) -> bool:
    seen, pending = set(), list(calls.get(start, ()))
    while pending:
        name = pending.pop()
        if name == goal:
            return True
        if name not in seen:
            seen.add(name)
            pending += calls.get(name, ())
    return False


def _check_main(module: ir.Module, exported: export.Exported, path: object) -> None:
    """The function that is called has the shapes that the file says it has."""
    mains = [
        operation
        for operation in module.body.operations
        if operation.operation.name == "func.func"
        and ir.StringAttr(operation.operation.attributes["sym_name"]).value == "main"
    ]
    if len(mains) != 1:
        raise _refused(path, "has no program", "function main")
    kept = [exported.in_avals[number] for number in exported.module_kept_var_idx]
    platform = ["tensor<i32>"] if len(exported.platforms) > 1 else []
    signature = ir.FunctionType(ir.TypeAttr(mains[0].operation.attributes["function_type"]).value)
    said = [*platform, *map(_mlir_type, kept)], [*map(_mlir_type, exported.out_avals)]
    if ([str(one) for one in signature.inputs], [str(one) for one in signature.results]) != said:
        raise _refused(path, "has another signature than it says", "function main")


def _mlir_type(aval: jax.core.ShapedArray) -> str:
    sizes = ["?" if isinstance(size, str) else str(size) for size in _sizes(aval.shape)]
    return f"tensor<{'x'.join([*sizes, _MLIR_TYPES.get(np.dtype(aval.dtype).name, '')])}>"


def _sizes(shape: Sequence[object]) -> Shape:
    """Symbols of any scope by their names."""
    return tuple(size if isinstance(size, int) else str(size) for size in shape)


def _fit(promised: Sequence[tuple[Shape, str]], found: Sequence[tuple[Shape, str]]) -> bool:
    return len(promised) == len(found) and all(
        len(ours[0]) == len(theirs[0])
        and ours[1] == theirs[1]
        and all(a == b or (a == "v" and isinstance(b, int)) for a, b in zip(ours[0], theirs[0]))
        for ours, theirs in zip(promised, found)
    )


def _first_difference(expected: Sequence[object], found: Sequence[object]) -> str:
    for ours, theirs in zip(expected, found):
        if ours != theirs and not (isinstance(ours, tuple) and _fit([ours], [theirs])):
            return f"expected {_said(ours)}, found {_said(theirs)}"
    return f"expected {len(expected)} arrays, found {len(found)}"


def _said(array: tuple[Shape, str]) -> str:
    return f"{array[1]}[{','.join(map(str, array[0]))}]"


def _refused(path: object, what: str, which: str) -> ExportError:
    return ExportError(
        f"{path} is no program of this export, and is not run: it {what} ({which}); export the model again, from a checkpoint of your own"
    )
