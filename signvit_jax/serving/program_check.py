"""Checks of an export's programs, which may come from anybody, before they are run.

A StableHLO program is accepted if it is one function of the shapes that its config.json gives, and
only computes. XLA trusts what it compiles: a custom call with an index chosen by the file, a
function without a body, or one that calls itself ends the process with SIGSEGV. So operations and
custom calls must be on lists of those that our own exports can have.
"""

from collections.abc import Iterator, Mapping, Sequence

import jax
import numpy as np
from jax import export
from jax.core import ShapedArray
from jax.extend.mlir import ir
from jax.interpreters import mlir
from jaxtyping import PyTree

from signvit_jax.serving.export_dir import ExportError
from signvit_jax.serving.programs import Program, Shape

# Checks of open sizes, which XLA evaluates and removes before it compiles. No other call is
# allowed.
_CUSTOM_CALLS = {"shape_assertion"}
_COMPOSITES = "chlo."  # operations such as erf, with their decomposition
# The operations of StableHLO that only compute. Left out are those that read or write outside the
# program, draw random numbers, or communicate with other devices.
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
# The attributes with the name of a dialect, which JAX or XLA interpret.
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
    """Check a StableHLO program against `program` of this model.

    Raises ExportError if its inputs or outputs differ, or if it does more than compute.
    """
    inputs = (params, *program.abstract_inputs())
    expected = [(_sizes(leaf.shape), np.dtype(leaf.dtype).name) for leaf in jax.tree.leaves(inputs)]
    found = [(_sizes(aval.shape), np.dtype(aval.dtype).name) for aval in exported.in_avals]
    if exported.in_tree != jax.tree.structure((inputs, {})) or found != expected:
        difference = _first_difference(expected, found)
        raise _refused(path, "has other inputs than this model", difference)
    expected = [(shape, "float32") for shape in program.outputs.values()]
    found = [(_sizes(aval.shape), np.dtype(aval.dtype).name) for aval in exported.out_avals]
    structure = jax.tree.structure(tuple(expected), is_leaf=lambda leaf: leaf in expected)
    if exported.out_tree != structure or not _fit(expected, found):
        difference = _first_difference(expected, found)
        raise _refused(path, "has other outputs than this model", difference)
    if (
        exported.nr_devices != 1
        or exported.ordered_effects
        or exported.unordered_effects
        or exported.disabled_safety_checks
    ):
        detail = "it has effects, several devices, or disabled safety checks"
        raise _refused(path, "does more than compute", detail)
    _check_module(exported, path)


def check_outputs(
    program: Program, inputs: Sequence[np.ndarray], outputs: Sequence[np.ndarray], path: object
) -> None:
    """Check the outputs of a program that was run, given its inputs.

    Raises ExportError if their shapes or dtypes differ from those of `program` of this model.
    """
    sizes: dict[str, int] = {}  # symbol of a shape, such as "b" -> its size in these inputs
    for (shape, _), value in zip(program.inputs.values(), inputs):
        for size, actual in zip(shape, value.shape):
            if isinstance(size, str):
                sizes[size] = actual
    expected = [
        (tuple(sizes.get(str(size), size) for size in shape), "float32")
        for shape in program.outputs.values()
    ]
    found = [(value.shape, value.dtype.name) for value in outputs]
    if not _fit(expected, found):
        difference = _first_difference(expected, found)
        raise _refused(path, "has other outputs than this model", difference)


def _check_module(exported: export.Exported, path: object) -> None:
    with mlir.make_ir_context():
        module = ir.Module.parse(exported.mlir_module())
        calls: dict[str, set[str]] = {}
        for name, operation in _operations(module, path):
            if operation.name not in _OPERATIONS:
                raise _refused(path, "does more than compute", f"operation {operation.name}")
            if operation.name == "func.func" and not operation.regions[0].blocks:
                raise _refused(path, "calls a function without a body", f"function {name}")
            calls.setdefault(name, set()).update(_called(operation, path))
        _check_main(module, exported, path)
    for name in calls:
        if _reaches(name, name, calls):
            raise _refused(path, "never ends", f"function {name} calls itself")


def _operations(module: ir.Module, path: object) -> Iterator[tuple[str, ir.Operation]]:
    """(name of the function around it, operation) for every operation of the module.

    Raises ExportError for an attribute that is not on the list.
    """
    found: list[tuple[str, ir.Operation]] = []

    def visit(operation: ir.Operation, function: str) -> None:
        for name in _attribute_names(operation):
            if "." in name and name not in _ATTRIBUTES:
                detail = f"attribute {name} of {operation.name}"
                raise _refused(path, "has an attribute that no model needs", detail)
        found.append((function, operation))
        for region in operation.regions:
            for block in region:
                for inner in block.operations:
                    inner_function = function
                    if inner.operation.name == "func.func":
                        inner_function = ir.StringAttr(inner.operation.attributes["sym_name"]).value
                    visit(inner.operation, inner_function)

    visit(module.operation, "")
    return iter(found)


def _attribute_names(operation: ir.Operation) -> Iterator[str]:
    for name, value in _items(operation.attributes):
        yield name
        if name in ("arg_attrs", "res_attrs"):
            for attributes in ir.ArrayAttr(value):
                yield from (inner for inner, _ in _items(ir.DictAttr(attributes)))


def _items(attributes: ir.OpAttributeMap | ir.DictAttr) -> list[tuple[str, ir.Attribute]]:
    """(name, value) pairs. Iterating gives names, or named attributes in older versions of MLIR."""
    names = [entry if isinstance(entry, str) else entry.name for entry in attributes]
    return [(name, attributes[name]) for name in names]


def _called(operation: ir.Operation, path: object) -> set[str]:
    """Names of the functions that an operation calls. Raises ExportError for other custom calls."""
    attributes: Mapping[str, ir.Attribute] = dict(_items(operation.attributes))
    if operation.name == "stablehlo.custom_call":
        target = ir.StringAttr(attributes["call_target_name"]).value
        if target not in _CUSTOM_CALLS or "called_computations" in attributes:
            detail = f"custom call {target!r}; allowed: {', '.join(sorted(_CUSTOM_CALLS))}"
            raise _refused(path, "does more than compute", detail)
    if operation.name == "stablehlo.composite":
        name = ir.StringAttr(attributes["name"]).value
        if not name.startswith(_COMPOSITES):
            detail = f"composite {name!r}; allowed: {_COMPOSITES}*"
            raise _refused(path, "does more than compute", detail)
        return {ir.FlatSymbolRefAttr(attributes["decomposition"]).value}
    if operation.name == "func.call":
        return {ir.FlatSymbolRefAttr(attributes["callee"]).value}
    return set()


def _reaches(start: str, goal: str, calls: Mapping[str, set[str]]) -> bool:
    """Return True if the function `goal` is called by `start`, directly or through others."""
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
    """Check that `main`, which is called, has the shapes that the file's header declares."""
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
    inputs = [str(one) for one in signature.inputs]
    outputs = [str(one) for one in signature.results]
    if inputs != [*platform, *map(_mlir_type, kept)] or outputs != [
        _mlir_type(aval) for aval in exported.out_avals
    ]:
        raise _refused(path, "has another signature than it declares", "function main")


def _mlir_type(aval: ShapedArray) -> str:
    sizes = ["?" if isinstance(size, str) else str(size) for size in _sizes(aval.shape)]
    return f"tensor<{'x'.join([*sizes, _MLIR_TYPES.get(np.dtype(aval.dtype).name, '')])}>"


def _sizes(shape: Sequence[object]) -> Shape:
    """The shape with symbols, of whatever scope, as their names."""
    return tuple(size if isinstance(size, int) else str(size) for size in shape)


def _fit(expected: Sequence[tuple[Shape, str]], found: Sequence[tuple[Shape, str]]) -> bool:
    """Return True if shapes and dtypes are equal; `v`, the vocabulary, may have any size."""
    if len(expected) != len(found):
        return False
    for (shape, dtype), (found_shape, found_dtype) in zip(expected, found):
        if len(shape) != len(found_shape) or dtype != found_dtype:
            return False
        for size, found_size in zip(shape, found_shape):
            if size != found_size and not (size == "v" and isinstance(found_size, int)):
                return False
    return True


def _first_difference(
    expected: Sequence[tuple[Shape, str]], found: Sequence[tuple[Shape, str]]
) -> str:
    for wanted, actual in zip(expected, found):
        if wanted != actual and not _fit([wanted], [actual]):
            return f"expected {_array(wanted)}, found {_array(actual)}"
    return f"expected {len(expected)} arrays, found {len(found)}"


def _array(array: tuple[Shape, str]) -> str:
    shape, dtype = array
    return f"{dtype}[{','.join(map(str, shape))}]"


def _refused(path: object, reason: str, detail: str) -> ExportError:
    return ExportError(
        f"{path} is not a program of this export, and is not run: it {reason} ({detail}); "
        "export the model again, from a checkpoint of your own"
    )
