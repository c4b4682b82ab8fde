"""Write a trained model as an export."""

from collections.abc import Callable, Iterable

from signvit_jax.config.schema import from_json, to_json, without_local_paths
from signvit_jax.exporting.int8_input_ranges import input_ranges
from signvit_jax.exporting.onnx_files import write_onnx
from signvit_jax.exporting.stablehlo_files import write_stablehlo
from signvit_jax.inference.predictor import Clips
from signvit_jax.inference.trained_model import TrainedModel
from signvit_jax.serving.export_dir import ExportFolder, ExportManifest
from signvit_jax.serving.param_paths import flat
from signvit_jax.weights.tensor_files import write_safetensors
from signvit_jax.weights.whole_model import export_safetensors

Batches = Iterable[Clips]


def write_export(
    model: TrainedModel,
    folder: ExportFolder,
    manifest: ExportManifest,
    calibration: Callable[[], Batches],
) -> None:
    """Write all files that `load_model` needs, `export.json` last. Raises ExportError.

    `calibration` returns batches of training clips; it is called only for a quantization of inputs.
    """
    # The config as the run wrote it: `model.config` may have been changed for this process.
    config = from_json(model.workdir.config_json.read_text(encoding="utf-8"))
    folder.write_text(folder.config_json, to_json(without_local_paths(config)))
    folder.write_text(folder.tokenizer_json, model.tokenizer.to_json())
    if model.gloss_tokenizer:
        folder.write_text(folder.gloss_tokenizer_json, model.gloss_tokenizer.to_json())
    if model.workdir.calibration_json.is_file():
        folder.write_text(
            folder.calibration_json, model.workdir.calibration_json.read_text(encoding="utf-8")
        )
    batches = calibration() if manifest.quantize == "weights_and_inputs" else None
    _WRITERS[manifest.format](model, folder, batches)
    folder.write_manifest(manifest)


def _int8(model: TrainedModel, folder: ExportFolder, batches: Batches | None) -> None:
    from signvit_jax.exporting.int8 import int8_tensors

    ranges = None if batches is None else input_ranges(model, batches)
    write_safetensors(folder.weights, int8_tensors(model, ranges))


def _stablehlo(model: TrainedModel, folder: ExportFolder, batches: Batches | None) -> None:
    write_safetensors(folder.weights, flat(model.params))
    write_stablehlo(model, folder)


def _onnx(model: TrainedModel, folder: ExportFolder, batches: Batches | None) -> None:
    tensors = flat(model.params)
    decoder = {path: value for path, value in tensors.items() if not path.startswith("encoder/")}
    write_safetensors(folder.weights, decoder)
    write_onnx(model, folder, batches)


def _safetensors(model: TrainedModel, folder: ExportFolder, batches: Batches | None) -> None:
    description = {
        "config": to_json(without_local_paths(model.config)),
        "tokenizer": model.tokenizer.to_json(),
    }
    if model.gloss_tokenizer:
        description["gloss_tokenizer"] = model.gloss_tokenizer.to_json()
    export_safetensors(folder.weights, model.params, description)


_WRITERS = {"int8": _int8, "onnx": _onnx, "stablehlo": _stablehlo, "safetensors": _safetensors}
