"""Manipulated programs of an export, which must be refused before XLA compiles them."""

import dataclasses
import os
import subprocess
import sys

import jax
import numpy as np
import onnx
import pytest
from jax import export
from jax.extend.mlir import serialize_portable_artifact

from signvit_jax.config.schema import Config
from signvit_jax.exporting.stablehlo_files import _lower
from signvit_jax.exporting.writing import write_export
from signvit_jax.inference.loading import load_model
from signvit_jax.inference.trained_model import load_trained
from signvit_jax.models.definition import ModelDefinition
from signvit_jax.serving.export_dir import ExportError, ExportFolder, ExportManifest
from signvit_jax.serving.onnx_runtime import OnnxPrograms
from signvit_jax.serving.program_check import check_stablehlo
from signvit_jax.serving.programs import Program, programs
from signvit_jax.serving.stablehlo_runtime import StableHloPrograms
from tests.helpers import tiny_model, tiny_run

CONFIG = tiny_model.config()
ENCODED = np.ones((2, 5, 16), np.float32)
_STABLEHLO_VERSION = "1.9.0"


@dataclasses.dataclass
class LabelProgram:
    """The program of the CTC head of a tiny model (`label`), in a folder."""

    folder: ExportFolder
    params: dict
    exported: export.Exported
    config: Config = CONFIG

    def write(self, exported: export.Exported) -> None:
        self.folder.program("label", "stablehlo").write_bytes(exported.serialize())

    def write_text(self, text: str) -> None:
        module = serialize_portable_artifact(text, _STABLEHLO_VERSION)
        self.write(dataclasses.replace(self.exported, mlir_module_serialized=module))

    def run(self) -> np.ndarray:
        return StableHloPrograms(self.folder, self.params, self.config)("label", ENCODED)[0]


def program(name: str) -> Program:
    return next(program for program in programs(CONFIG) if program.name == name)


@pytest.fixture(scope="module")
def lowered():
    definition = ModelDefinition(CONFIG, tiny_model.VOCABULARY)
    return jax.jit(definition.init)(0), _lower(program("label"), definition)


@pytest.fixture
def label(tmp_path, lowered):
    return LabelProgram(ExportFolder(tmp_path), *lowered)


def at_end_of_main(text: str, operation: str) -> str:
    """Add an operation at the end of `main` of a module, whose arguments are %arg1, ..."""
    start = text.index("func.func public @main")
    end = text.index("    return ", start)
    return text[:end] + operation + "\n" + text[end:]


CALLBACK = (
    "%evil = stablehlo.custom_call @{}(%arg1) {{api_version = 4 : i32, "
    "backend_config = {{index = 123456789 : ui64}}, has_side_effect = true}} : "
)
OUTFEED = (
    "%t = stablehlo.create_token : !stablehlo.token\n"
    '%o = "stablehlo.outfeed"(%arg1, %t) {outfeed_config = ""} : '
    "(tensor<16xf32>, !stablehlo.token) -> !stablehlo.token"
)
FUNCTION = "tensor<16xf32>) -> tensor<16xf32>"


def calling_function(name: str, callee: str) -> str:
    """Return a function that only calls another function."""
    return (
        f"func.func private @{name}(%x: {FUNCTION} {{ "
        f"%y = func.call @{callee}(%x) : ({FUNCTION} return %y : tensor<16xf32> }}"
    )


def with_function(text: str, functions: str) -> str:
    """Add functions to a module, and a call of the function `evil` to `main`."""
    called = at_end_of_main(text, f"%evil = func.call @evil(%arg1) : ({FUNCTION}")
    return called.replace("func.func public @main", f"{functions}\nfunc.func public @main", 1)


def test_an_unchanged_program_runs(label):
    label.write(label.exported)
    assert label.run().shape == (2, 5, tiny_model.VOCABULARY)
    label.write_text(label.exported.mlir_module())  # the text that tests below change
    assert label.run().shape == (2, 5, tiny_model.VOCABULARY)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda text: at_end_of_main(
                text, CALLBACK.format("xla_ffi_python_cpu_callback") + f"({FUNCTION}"
            ),
            "custom call 'xla_ffi_python_cpu_callback'; allowed: shape_assertion",
        ),
        (
            lambda text: at_end_of_main(text, CALLBACK.format("no_such_target") + f"({FUNCTION}"),
            "'no_such_target'",
        ),
        (
            lambda text: with_function(
                text,
                calling_function("evil", "other") + "\n" + calling_function("other", "evil"),
            ),
            "calls itself",
        ),
        (lambda text: at_end_of_main(text, OUTFEED), "stablehlo.(create_token|outfeed)"),
        (
            lambda text: text.replace(
                "mhlo.num_replicas", 'mhlo.frontend_attributes = {a = "b"}, mhlo.num_replicas'
            ),
            "mhlo.frontend_attributes",
        ),
    ],
)
def test_a_program_that_does_more_than_compute_is_refused(label, change, message):
    label.write_text(change(label.exported.mlir_module()))
    with pytest.raises(ExportError, match=message) as caught:
        label.run()
    assert caught.value.exit_code == 2 and "label.stablehlo" in str(caught.value)


def test_a_function_without_a_body_is_refused(label):
    """This checks the text of the module, because jaxlib crashes when it serializes it."""

    class AsText(export.Exported):
        def mlir_module(self, serialized: bool = True) -> str:
            return with_function(
                label.exported.mlir_module(), f"func.func private @evil({FUNCTION}"
            )

    fields = {
        field.name: getattr(label.exported, field.name)
        for field in dataclasses.fields(label.exported)
    }
    with pytest.raises(ExportError, match="calls a function without a body"):
        check_stablehlo(AsText(**fields), program("label"), label.params, "label.stablehlo")


def exported_as(label: LabelProgram, function, *inputs) -> export.Exported:
    """Export another function of params and `inputs` in place of the program."""
    return export.export(jax.jit(function), platforms=("cpu", "cuda", "tpu"))(
        jax.eval_shape(lambda: label.params), *inputs
    )


def symbols(shape: str, dtype=np.float32) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(export.symbolic_shape(shape), dtype)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda label: exported_as(
                label, lambda params, encoded: (encoded[..., :4],), symbols("b,s,24")
            ),
            "float32\\[b,s,16\\], found float32\\[b,s,24\\]",
        ),
        (
            lambda label: exported_as(
                label, lambda params, encoded: (encoded[0],), symbols("b,s,16")
            ),
            "float32\\[b,s,v\\], found float32\\[s,16\\]",
        ),
        (
            lambda label: exported_as(
                label, lambda params, encoded: (encoded > 0,), symbols("b,s,16")
            ),
            "bool\\[b,s,16\\]",
        ),
        (
            lambda label: exported_as(label, lambda params, encoded: encoded, symbols("b,s,16")),
            "has other outputs",
        ),
        (
            lambda label: exported_as(
                label, lambda params, encoded: (encoded[..., :4],), symbols("2,s,16")
            ),
            "found float32\\[2,s,16\\]",
        ),
        (
            lambda label: exported_as(
                label, lambda params, encoded, more: (encoded,), symbols("b,s,16"), symbols("4")
            ),
            "has other inputs",
        ),
        (lambda label: dataclasses.replace(label.exported, nr_devices=2), "several devices"),
        (
            lambda label: dataclasses.replace(
                label.exported, module_kept_var_idx=label.exported.module_kept_var_idx[1:]
            ),
            "another signature",
        ),
        (
            lambda label: dataclasses.replace(label.exported, mlir_module_serialized=b"ML\xefRno"),
            "cannot be run",
        ),
        (
            lambda label: dataclasses.replace(label.exported, platforms=("tpu",)),
            "another signature|cannot be run",
        ),
    ],
    ids=lambda value: "" if callable(value) else value,
)
def test_a_program_of_another_model_is_refused(label, make, message):
    label.write(make(label))
    with pytest.raises(ExportError, match=message) as caught:
        label.run()
    assert "\n" not in str(caught.value)


def onnx_file(path, operation: str, dtype: int) -> None:
    """Write a program of one operation, whose output has the ONNX type `dtype`."""
    inputs = onnx.helper.make_tensor_value_info(
        "frames", onnx.TensorProto.FLOAT, ["b", "s", 16] if operation == "Shape" else ["b", "s"]
    )
    output = onnx.helper.make_tensor_value_info("ctc_logits", dtype, None)
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node(operation, ["frames"], ["ctc_logits"])], "label", [inputs], [output]
    )
    onnx.save(
        onnx.helper.make_model(
            graph, opset_imports=[onnx.helper.make_opsetid("", 21)], ir_version=10
        ),
        path,
    )


def test_onnx_programs_of_another_model_are_refused(tmp_path):
    path = tmp_path / "label.onnx"
    for operation, kind, expected in (
        ("Identity", onnx.TensorProto.FLOAT, "label.onnx cannot be run"),
        ("Shape", onnx.TensorProto.INT64, r"expected float32\[2,5,v\], found int64\[3\]"),
    ):
        onnx_file(path, operation, kind)
        with pytest.raises(ExportError, match=expected) as caught:
            OnnxPrograms(ExportFolder(tmp_path), CONFIG)("label", ENCODED)
        assert caught.value.exit_code == 2


@pytest.mark.usefixtures("light_jax")
def test_translate_refuses_an_export_that_calls_into_python(trained, tmp_path):
    folder = ExportFolder(tmp_path / "export")
    folder.path.mkdir()
    write_export(
        load_trained(trained.workdir),
        folder,
        ExportManifest("stablehlo", "none", 18),
        tiny_run.no_batches,
    )
    assert load_model(folder.path).encode
    path = folder.program("backbone", "stablehlo")
    exported = export.deserialize(bytearray(path.read_bytes()))
    first = exported.in_avals[0]
    array = f"tensor<{'x'.join(map(str, first.shape))}xf32>"
    text = at_end_of_main(
        exported.mlir_module(),
        CALLBACK.format("xla_ffi_python_cpu_callback") + f"({array}) -> {array}",
    )
    evil = dataclasses.replace(
        exported, mlir_module_serialized=serialize_portable_artifact(text, _STABLEHLO_VERSION)
    )
    path.write_bytes(evil.serialize())
    command = [
        sys.executable,
        "-m",
        "signvit_jax.translate",
        f"--workdir={folder.path}",
        str(trained.video(0)),
    ]
    done = subprocess.run(
        command,
        cwd=tiny_run.REPOSITORY,
        capture_output=True,
        text=True,
        timeout=250,
        env=os.environ | {"JAX_PLATFORMS": "cpu"},
    )
    assert done.returncode == 2, (done.returncode, done.stderr[-2000:])
    assert (
        "custom call 'xla_ffi_python_cpu_callback'" in done.stderr
        and "Traceback" not in done.stderr
    )
