"""Programs as ONNX files, by jax2onnx, and the backbone's linear layers in static INT8, by onnxruntime.

Weights lie beside a file of the same name (`<name>.onnx.data`), as one ONNX file holds no more than 2 GB. Matrices are INT8 with 7 bits and one scale
an output channel, inputs 8 bits without sign: on processors with nothing but AVX2 the sum of two products of 8 bits each does not fit into 16, and
onnxruntime would cut it off. Outputs stay float32, and so does everything that is no linear layer, where there is no time to be won.
"""

import logging
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

import jax
import numpy as np
from jax.extend.core import Jaxpr, Literal, Var
from jaxtyping import Array

from signvit_jax.inference.trained_model import TrainedModel
from signvit_jax.models.definition import ModelDefinition
from signvit_jax.serving.export_dir import ExportError, ExportFolder
from signvit_jax.serving.onnx_runtime import KIND
from signvit_jax.serving.optional_deps import import_optional
from signvit_jax.serving.programs import EXPORT_POLICY, Program, programs

_OPSET = 21
_CALLS = {
    "jit": "jaxpr",
    "custom_jvp_call": "call_jaxpr",
    "custom_vjp_call": "call_jaxpr",
}  # operation -> where its program is
_EXTERNAL_BYTES = 1_000_000_000  # a program of more has its weights in a file of its own


def write_onnx(
    model: TrainedModel,
    folder: ExportFolder,
    calibration: Iterable[Mapping[str, np.ndarray]] | None,
) -> None:
    """Every program of the model; with batches of clips for `calibration` the backbone in INT8. Raises ExportError."""
    gloss_words = model.gloss_tokenizer.vocab_size if model.gloss_tokenizer else 0
    definition = ModelDefinition(
        model.config, model.tokenizer.vocab_size, gloss_words, EXPORT_POLICY
    )
    for program in programs(model.config):
        with tempfile.TemporaryDirectory(dir=folder.path) as scratch:
            raw, folded, quantized = (
                Path(scratch) / f"{stage}.onnx" for stage in ("raw", "folded", "quantized")
            )
            _convert(program, definition, model.params, raw)
            _fold(raw, folded)
            is_int8 = program.name == "backbone" and calibration is not None
            if is_int8:
                _quantize(folded, quantized, calibration)
            _move(quantized if is_int8 else folded, folder.program(program.name, KIND))


def _convert(program: Program, definition: ModelDefinition, params, path: Path) -> None:
    jax2onnx = import_optional("jax2onnx", "--format=onnx")
    logging.getLogger("jax2onnx.plugins.plugin_system").addFilter(_is_of_no_example)
    logging.getLogger("onnx_ir").setLevel(
        logging.ERROR
    )  # it warns of every shape that it leaves out
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
    except (
        NotImplementedError,
        TypeError,
        ValueError,
        AttributeError,
    ) as error:  # what jax2onnx meets in an operation that it does not know
        raise ExportError(
            f"jax2onnx cannot convert program {program.name!r} of this model ({type(error).__name__}: {error}); use --format=stablehlo or int8"
        ) from error


def _is_of_no_example(record: logging.LogRecord) -> bool:
    """jax2onnx imports its own examples too, and gives a traceback for each whose packages are not here; no conversion needs them."""
    return "jax2onnx.plugins.examples" not in record.getMessage()


def _without_calls(function: Callable[..., Sequence[Array]]) -> Callable[..., list[Array]]:
    """The same operations with those of inner `jax.jit`s among them: jax2onnx 0.17 builds such calls of classes that JAX 0.12 has no more."""

    def run(*inputs: Array) -> list[Array]:
        closed = jax.make_jaxpr(function)(*inputs)
        return _evaluated(closed.jaxpr, closed.consts, inputs)

    return run


def _evaluated(jaxpr: Jaxpr, constants: Sequence[Array], inputs: Sequence[Array]) -> list[Array]:
    values = dict(zip((*jaxpr.constvars, *jaxpr.invars), (*constants, *inputs)))

    def read(atom: Literal | Var) -> Array:
        return atom.val if isinstance(atom, Literal) else values[atom]

    for equation in jaxpr.eqns:
        given = [read(atom) for atom in equation.invars]
        if called := _CALLS.get(equation.primitive.name):
            inner = equation.params[called]
            found = _evaluated(inner.jaxpr, inner.consts, given)
        else:
            found = equation.primitive.bind(
                *given, **equation.primitive.get_bind_params(equation.params)
            )
            found = found if equation.primitive.multiple_results else [found]
        values.update(zip(equation.outvars, found))
    return [read(atom) for atom in jaxpr.outvars]


def _fold(source: Path, target: Path) -> None:
    """Writes each layer's weights by themselves, which the model keeps stacked, and leaves out what comes to a constant."""
    ort = import_optional("onnxruntime", "--format=onnx")
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.optimized_model_filepath = str(target)
    options.log_severity_level = 3
    if _weight_bytes(source) > _EXTERNAL_BYTES:
        options.add_session_config_entry(
            "session.optimized_model_external_initializers_file_name", f"{target.name}.data"
        )
    ort.InferenceSession(source, options, providers=["CPUExecutionProvider"])


def _quantize(source: Path, target: Path, calibration: Iterable[Mapping[str, np.ndarray]]) -> None:
    quantization = import_optional("onnxruntime.quantization", "--format=onnx")
    feeds = _feeds(calibration)

    class Reader(quantization.CalibrationDataReader):
        def get_next(self) -> dict[str, np.ndarray] | None:
            return next(feeds, None)

    logging.disable(logging.WARNING)  # it advises what `_fold` has done
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
    """With all its weights, wherever they lay: in the file, or beside it where they are too many."""
    onnx = import_optional("onnx", "--format=onnx")
    beside = (
        {"save_as_external_data": True, "location": f"{target.name}.data"}
        if _weight_bytes(source) > _EXTERNAL_BYTES
        else {}
    )
    onnx.save(onnx.load(source), target, **beside)


def _feeds(calibration: Iterable[Mapping[str, np.ndarray]]) -> Iterable[dict[str, np.ndarray]]:
    """A clip at a time, without the frames that pad it."""
    for batch in calibration:
        for video, frames in zip(batch["video"], batch["frame_lengths"]):
            yield {"video": video[None, :frames], "frame_lengths": np.asarray([frames], np.int32)}


def _weight_bytes(path: Path) -> int:
    return sum(file.stat().st_size for file in path.parent.glob(f"{path.name}*"))
