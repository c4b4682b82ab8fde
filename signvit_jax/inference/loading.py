"""Load the model of a workdir or an export, for evaluation and translation."""

import dataclasses
import os
from collections.abc import Sequence
from pathlib import Path

import jax
import numpy as np
from jax.sharding import Mesh

from signvit_jax.checkpoints.best import best_rule
from signvit_jax.checkpoints.reader import CheckpointReader
from signvit_jax.checkpoints.workdir import Workdir, WorkdirError
from signvit_jax.config.errors import ConfigError
from signvit_jax.config.schema import Config, MeshConfig
from signvit_jax.files.local_paths import is_hub_address
from signvit_jax.inference.trained_model import (
    TrainedModel,
    inference_policy,
    load_trained,
    read_model_files,
    with_calibration,
)
from signvit_jax.layers.compute_policy import ComputePolicy
from signvit_jax.models.definition import ModelDefinition
from signvit_jax.parallel.mesh import AXES, make_mesh
from signvit_jax.parallel.sharding import replicated
from signvit_jax.serving.export_dir import ExportFolder, ExportManifest, is_export
from signvit_jax.serving.hub import fetch, local_folder
from signvit_jax.serving.modified_definition import ModifiedDefinition, without_encoder
from signvit_jax.serving.onnx_runtime import OnnxPrograms
from signvit_jax.serving.param_paths import flat, nested
from signvit_jax.serving.programs import EXPORT_POLICY, ModelPrograms, Programs
from signvit_jax.serving.stablehlo_runtime import StableHloPrograms
from signvit_jax.text.model_vocabularies import Vocabularies
from signvit_jax.weights.tensor_files import read_tensors
from signvit_jax.weights.transfer import SourceModel
from signvit_jax.weights.whole_model import parameters_from


def load_model(
    path: str | os.PathLike | Sequence[str | os.PathLike],
    checkpoint: str = "best",
    backend: str | None = None,
    *,
    calibrated: bool = True,
) -> TrainedModel:
    """Load the model of an export, or like `load_trained` that of a workdir or several workdirs.

    A single model gets the calibration of its folder, if there is one. An ensemble gets none,
    because its probabilities differ from those of its models.

    `backend` encodes the clips: 'jax', 'onnx' (onnxruntime), or None for the one that the folder is
    made for. `path` may be the address of an export on a model hub, hf://organization/name. Raises
    ExportError for a damaged export, HubError for an address without an export, ConfigError for a
    backend that the folder does not support, CalibrationError for a calibration that cannot be
    read, and the errors of `load_trained`.
    """
    model = _load(local_folder(path), checkpoint, backend)
    return with_calibration(model) if calibrated and not model.others else model


def _load(
    path: str | os.PathLike | Sequence[str | os.PathLike], checkpoint: str, backend: str | None
) -> TrainedModel:
    if not is_export(path):
        if backend == "onnx":
            raise ConfigError(
                f"backend 'onnx' needs an export, and {path} is none; make one with: "
                f"signvit export --workdir={path} --format=onnx --output=DIR"
            )
        return load_trained(path, checkpoint)
    folder = ExportFolder.open(path)
    manifest = folder.manifest()
    if backend is not None and (backend == "onnx") != (manifest.format == "onnx"):
        raise ConfigError(
            f"backend {backend!r} cannot run {path}, an export of format {manifest.format!r}; "
            "leave the backend out"
        )
    config, vocabularies = read_model_files(folder)
    policy = inference_policy(config)
    export = _OpenExport(folder, manifest, policy, config, vocabularies)
    return _LOADERS[manifest.format](export)


def read_source(path: str) -> SourceModel:
    """Read a trained model for another one to start from (`model.init_from`).

    It is the best checkpoint of a workdir, with the averaged weights if there are any, or an export
    that holds all parameters: all but ONNX, whose encoder is a program. Raises ConfigError for
    another path, and the errors of reading.
    """
    if is_hub_address(path):
        fetched = fetch(path)
        source = _source_of_export(fetched.folder)
        return source._replace(path=str(fetched.pinned))
    if not Path(path).is_dir():
        several = "," in path
        raise ConfigError(
            f"config.model.init_from is {path!r}, which "
            + ("names several models" if several else "is not a folder")
            + "; allowed: the workdir of one training run, or one export"
        )
    if is_export(path):
        return _source_of_export(path)
    try:
        workdir = Workdir.open(path)
    except WorkdirError as error:
        raise ConfigError(
            f"config.model.init_from is {path!r}, which is neither a workdir nor an export: it has "
            "no config.json; give the folder that `signvit train` or `signvit export` wrote to"
        ) from error
    config, vocabularies = read_model_files(workdir)
    reader = CheckpointReader(workdir.checkpoints, **best_rule(config.training.best_metric))
    restored = reader.restore_params("best")
    averaged = "averaged " if restored.averaged else ""
    return SourceModel(
        path,
        f"the {averaged}weights of step {restored.step:,}",
        config,
        vocabularies,
        flat(restored.params),
    )


def _source_of_export(path: str | os.PathLike) -> SourceModel:
    folder = ExportFolder.open(path)
    manifest = folder.manifest()
    if manifest.format == "onnx":
        raise ConfigError(
            f"config.model.init_from is {os.fspath(path)!r}, an ONNX export, whose encoder is a "
            "program without parameters that could be trained; give the run's workdir, or an "
            "export of format safetensors, int8 or stablehlo"
        )
    config, vocabularies = read_model_files(folder)
    tensors = read_tensors(folder.weights)
    kind = f"{manifest.format} export of step {manifest.step:,}"
    if manifest.format == "int8":
        from signvit_jax.serving.int8_linear import float_tensors

        tensors, kind = float_tensors(tensors), f"{kind}, rounded to INT8"
    definition = ModelDefinition(config, *vocabularies.sizes)
    params = parameters_from(tensors, definition.abstract_params())
    return SourceModel(os.fspath(path), kind, config, vocabularies, flat(params))


def open_programs(folder: ExportFolder) -> Programs:
    """The programs of an export, computing in float32. Raises ExportError."""
    manifest = folder.manifest()
    config, vocabularies = read_model_files(folder)
    if manifest.format == "onnx":
        return OnnxPrograms(folder, config)
    export = _OpenExport(folder, manifest, EXPORT_POLICY, config, vocabularies)
    model = _LOADERS[manifest.format](export)
    if manifest.format == "stablehlo":
        return StableHloPrograms(folder, model.params, config)
    return ModelPrograms(model.definition, model.params, export.config)


@dataclasses.dataclass(frozen=True)
class _OpenExport:
    """The files of an export without its weights."""

    folder: ExportFolder
    manifest: ExportManifest
    policy: ComputePolicy
    config: Config
    vocabularies: Vocabularies

    def model(
        self,
        definition: ModelDefinition | ModifiedDefinition,
        params: dict[str, object],
        mesh: Mesh,
    ) -> TrainedModel:
        """The export's model with these parameters, replicated over the mesh."""
        return TrainedModel(
            self.folder,
            self.config,
            *self.vocabularies,
            definition,
            mesh,
            jax.device_put(params, replicated(mesh)),
            self.manifest.step,
            validation=self.manifest.validation,
        )

    def nested_params(
        self,
        definition: ModelDefinition | ModifiedDefinition,
        tensors: dict[str, np.ndarray],
    ) -> dict[str, object]:
        return nested(tensors, definition.abstract_params(), self.folder.weights)


def _int8(export: _OpenExport) -> TrainedModel:
    from signvit_jax.serving.int8_linear import served_tensors, use_int8_layers

    int8_inputs = export.manifest.quantize == "weights_and_inputs"
    definition = ModifiedDefinition(
        export.config, *export.vocabularies.sizes, use_int8_layers(int8_inputs), export.policy
    )
    params = export.nested_params(definition, served_tensors(read_tensors(export.folder.weights)))
    return export.model(definition, params, make_mesh(MeshConfig()))


def _onnx(export: _OpenExport) -> TrainedModel:
    definition = ModifiedDefinition(
        export.config, *export.vocabularies.sizes, without_encoder, export.policy
    )
    params = export.nested_params(definition, read_tensors(export.folder.weights))
    model = export.model(definition, params, _one_device())
    return dataclasses.replace(model, encode=OnnxPrograms(export.folder, export.config).encode)


def _stablehlo(export: _OpenExport) -> TrainedModel:
    definition = ModelDefinition(export.config, *export.vocabularies.sizes, export.policy)
    params = export.nested_params(definition, read_tensors(export.folder.weights))
    model = export.model(definition, params, _one_device())
    programs = StableHloPrograms(export.folder, model.params, export.config)
    return dataclasses.replace(model, encode=programs.encode)


def _safetensors(export: _OpenExport) -> TrainedModel:
    definition = ModelDefinition(export.config, *export.vocabularies.sizes, export.policy)
    params = parameters_from(read_tensors(export.folder.weights), definition.abstract_params())
    return export.model(definition, params, make_mesh(MeshConfig()))


def _one_device() -> Mesh:
    """The mesh of an export's programs, which were compiled for one device."""
    return Mesh(np.asarray(jax.local_devices()[:1]).reshape(1, 1, 1), AXES)


_LOADERS = {"int8": _int8, "onnx": _onnx, "stablehlo": _stablehlo, "safetensors": _safetensors}
