"""Write the programs of a model as ONNX files, and quantize the backbone's linear layers to INT8.

jax2onnx converts the programs; onnxruntime quantizes them statically. An ONNX file holds at most 2
GB, so the weights of a larger program are in a file beside it (`<name>.onnx.data`).

Matrices have 7 bits and one scale per output channel, inputs 8 bits without sign. With 8 bits each,
the sum of two products does not fit into 16 bits on CPUs that have only AVX2, and onnxruntime
saturates it. Outputs and all other layers stay float32: quantizing them would save no time.
"""

import logging
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

import jax
import numpy as np
from jax.extend.core import Jaxpr, Literal, Var
from jaxtyping import Array, PyTree

from signvit_jax.exporting.exportable import Exportable
from signvit_jax.inference.predictor import Clips
from signvit_jax.models.definition import ModelDefinition
from signvit_jax.runtime.optional_deps import import_optional
from signvit_jax.serving.export_dir import ExportError, ExportFolder
from signvit_jax.serving.onnx_runtime import KIND
from signvit_jax.serving.programs import EXPORT_POLICY, Program, programs

_OPSET = 21
# Primitive that calls a function -> the parameter that holds the function's jaxpr.
_CALLS = {"jit": "jaxpr", "custom_jvp_call": "call_jaxpr", "custom_vjp_call": "call_jaxpr"}
_EXTERNAL_BYTES = 1_000_000_000  # larger weights go into a separate file
_PURPOSE = "--format=onnx"


def write_onnx(
    model: Exportable,
    folder: ExportFolder,
    calibration: Iterable[Clips] | None,
) -> None:
    """Write every program of the model. Raises ExportError.

    With batches of clips for `calibration` the linear layers of the backbone are INT8.
    """
    definition = model.define(EXPORT_POLICY)
    for program in programs(model.config):
        with tempfile.TemporaryDirectory(dir=folder.path) as scratch:
            raw, folded, quantized = (
                Path(scratch) / f"{stage}.onnx" for stage in ("raw", "folded", "quantized")
            )
            _convert(program, definition, model.params, raw)
            _fold(raw, folded)
            converted = folded
            if program.name == "backbone" and calibration is not None:
                _quantize(folded, quantized, calibration)
                converted = quantized
            _move(converted, folder.program(program.name, KIND))


def _convert(program: Program, definition: ModelDefinition, params: PyTree, path: Path) -> None:
    jax2onnx = import_optional("jax2onnx", _PURPOSE, ExportError)
    logging.getLogger("jax2onnx.plugins.plugin_system").addFilter(_is_about_the_program)
    # onnx_ir warns of every shape that it leaves out.
    logging.getLogger("onnx_ir").setLevel(logging.ERROR)
    try:
        jax2onnx.to_onnx(
            _without_calls(lambda *inputs: program.run(definition.bind(params), *inputs)),
            inputs=[jax.ShapeDtypeStruct(shape, dtype) for shape, dtype in program.inputs.values()],
            input_names=list(program.inputs),
            output_names=list(program.outputs),
            normalization_mode="prefer_native",
            opset=_OPSET,
            return_mode="file",
            output_path=str(path),
        )
    # jax2onnx raises any of these for an operation that it does not support.
    except (NotImplementedError, TypeError, ValueError, AttributeError) as error:
        raise ExportError(
            f"jax2onnx cannot convert program {program.name!r} of this model "
            f"({type(error).__name__}: {error}); use --format=stablehlo or int8"
        ) from error


def _is_about_the_program(record: logging.LogRecord) -> bool:
    """Return True if a record of jax2onnx is not about its own examples.

    It imports them all and logs a traceback for each whose packages are not installed. No
    conversion needs them.
    """
    return "jax2onnx.plugins.examples" not in record.getMessage()


def _without_calls(function: Callable[..., Sequence[Array]]) -> Callable[..., list[Array]]:
    """Inline the functions that `function` calls through `jax.jit`.

    jax2onnx 0.17 converts such calls with classes that JAX 0.12 has removed.
    """

    def run(*inputs: Array) -> list[Array]:
        closed = jax.make_jaxpr(function)(*inputs)
        return _evaluate(closed.jaxpr, closed.consts, inputs)

    return run


def _evaluate(jaxpr: Jaxpr, constants: Sequence[Array], inputs: Sequence[Array]) -> list[Array]:
    """Evaluate a jaxpr and the jaxprs that it calls, primitive by primitive."""
    values = dict(zip((*jaxpr.constvars, *jaxpr.invars), (*constants, *inputs)))

    def read(atom: Literal | Var) -> Array:
        return atom.val if isinstance(atom, Literal) else values[atom]

    for equation in jaxpr.eqns:
        operands = [read(atom) for atom in equation.invars]
        if called := _CALLS.get(equation.primitive.name):
            inner = equation.params[called]
            results = _evaluate(inner.jaxpr, inner.consts, operands)
        else:
            results = equation.primitive.bind(
                *operands, **equation.primitive.get_bind_params(equation.params)
            )
            results = results if equation.primitive.multiple_results else [results]
        values.update(zip(equation.outvars, results))
    return [read(atom) for atom in jaxpr.outvars]


def _fold(source: Path, target: Path) -> None:
    """Fold constants, which also gives every layer its own weights in place of stacked ones."""
    ort = import_optional("onnxruntime", _PURPOSE, ExportError)
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.optimized_model_filepath = str(target)
    options.log_severity_level = 3
    if _weight_bytes(source) > _EXTERNAL_BYTES:
        options.add_session_config_entry(
            "session.optimized_model_external_initializers_file_name", f"{target.name}.data"
        )
    ort.InferenceSession(source, options, providers=["CPUExecutionProvider"])


def _quantize(source: Path, target: Path, calibration: Iterable[Clips]) -> None:
    quantization = import_optional("onnxruntime.quantization", _PURPOSE, ExportError)
    feeds = _feeds(calibration)

    class Reader(quantization.CalibrationDataReader):
        def get_next(self) -> dict[str, np.ndarray] | None:
            return next(feeds, None)

    logging.disable(logging.WARNING)  # onnxruntime advises to fold constants, which `_fold` did
    try:
        quantization.quantize_static(
            source,
            target,
            Reader(),
            quant_format=quantization.QuantFormat.QDQ,
            op_types_to_quantize=["Gemm"],
            per_channel=True,
            reduce_range=True,
            activation_type=quantization.QuantType.QUInt8,
            weight_type=quantization.QuantType.QInt8,
            use_external_data_format=_weight_bytes(source) > _EXTERNAL_BYTES,
            extra_options={
                "OpTypesToExcludeOutputQuantization": ["Gemm"],
                "WeightSymmetric": True,
                "CalibMovingAverage": True,
            },
        )
    finally:
        logging.disable(logging.NOTSET)


def _move(source: Path, target: Path) -> None:
    """Write the program with its weights, which go into a separate file if they are large."""
    onnx = import_optional("onnx", _PURPOSE, ExportError)
    external = {}
    if _weight_bytes(source) > _EXTERNAL_BYTES:
        external = {"save_as_external_data": True, "location": f"{target.name}.data"}
    onnx.save(onnx.load(source), target, **external)


def _feeds(calibration: Iterable[Clips]) -> Iterator[dict[str, np.ndarray]]:
    """The inputs of the backbone, one clip at a time and without its padding frames."""
    for batch in calibration:
        for video, frames in zip(batch["video"], batch["frame_lengths"]):
            yield {"video": video[None, :frames], "frame_lengths": np.asarray([frames], np.int32)}


def _weight_bytes(path: Path) -> int:
    """Bytes of a program's file and of the file with its weights."""
    return sum(file.stat().st_size for file in path.parent.glob(f"{path.name}*"))
