"""Models from workdirs and exports alike, ready for evaluation or translation."""

import dataclasses
import os
from collections.abc import Sequence

import jax
import numpy as np
from jax.sharding import Mesh

from signvit_jax.config.errors import ConfigError
from signvit_jax.config.schema import Config, MeshConfig
from signvit_jax.inference.trained_model import (
    TrainedModel,
    described,
    inference_policy,
    load_trained,
    with_calibration,
)
from signvit_jax.layers.compute_policy import ComputePolicy
from signvit_jax.models.definition import ModelDefinition
from signvit_jax.parallel.mesh import AXES, make_mesh
from signvit_jax.parallel.sharding import replicated
from signvit_jax.serving.definition import ModifiedDefinition, without_encoder
from signvit_jax.serving.export_dir import ExportFolder, ExportManifest, is_export
from signvit_jax.serving.onnx_runtime import OnnxPrograms
from signvit_jax.serving.optional_deps import import_optional
from signvit_jax.serving.param_paths import nested
from signvit_jax.serving.programs import EXPORT_POLICY, ModelPrograms, Programs
from signvit_jax.serving.stablehlo import StableHloPrograms
from signvit_jax.text.tokenizer import Tokenizer
from signvit_jax.weights.tensor_files import read_tensors
from signvit_jax.weights.whole_model import parameters_from

BACKENDS = ("jax", "onnx")


def load_model(
    path: str | os.PathLike | Sequence[str | os.PathLike],
    checkpoint: str = "best",
    backend: str | None = None,
    *,
    calibrated: bool = True,
) -> TrainedModel:
    """The model of an export, or as `load_trained` that of a workdir or an ensemble of workdirs; with its calibration, if it has one.

    An ensemble has none: its probabilities are other than those of its models.

    `backend` is what encodes the clips, 'jax' or 'onnx' (onnxruntime); None: what the folder is for. Raises ExportError for an export that is
    damaged, ConfigError for a backend that the folder does not serve, CalibrationError for a calibration that cannot be read, and what `load_trained`
    raises.
    """
    model = _loaded(path, checkpoint, backend)
    return with_calibration(model) if calibrated and not model.others else model


def _loaded(
    path: str | os.PathLike | Sequence[str | os.PathLike], checkpoint: str, backend: str | None
) -> TrainedModel:
    if not is_export(path):
        if backend == "onnx":
            raise ConfigError(
                f"backend 'onnx' needs an export, and {path} is none; make one with: "
                f"python -m signvit_jax.export --workdir={path} --format=onnx --output=DIR"
            )
        return load_trained(path, checkpoint)
    folder = ExportFolder.open(path)
    contents = folder.contents()
    if backend is not None and (backend == "onnx") != (contents.format == "onnx"):
        raise ConfigError(
            f"backend {backend!r} cannot run {path}, an export of format {contents.format!r}; leave the backend out"
        )
    config, *tokenizers = described(folder)
    opened = _Opened(folder, contents, inference_policy(config), config, *tokenizers)
    return _LOADERS[contents.format](opened)


def open_programs(folder: ExportFolder) -> Programs:
    """The programs of an export, computing in float32. Raises ExportError."""
    contents, (config, *tokenizers) = folder.contents(), described(folder)
    if contents.format == "onnx":
        return OnnxPrograms(folder, config)
    opened = _Opened(folder, contents, EXPORT_POLICY, config, *tokenizers)
    model = _LOADERS[contents.format](opened)
    return (
        StableHloPrograms(folder, model.params, config)
        if contents.format == "stablehlo"
        else ModelPrograms(model.definition, model.params, opened.config)
    )


@dataclasses.dataclass(frozen=True)
class _Opened:
    folder: ExportFolder
    contents: ExportManifest
    policy: ComputePolicy
    config: Config
    tokenizer: Tokenizer
    gloss_tokenizer: Tokenizer | None

    @property
    def sizes(self) -> tuple[Config, int, int]:
        return (
            self.config,
            self.tokenizer.vocab_size,
            self.gloss_tokenizer.vocab_size if self.gloss_tokenizer else 0,
        )

    def model(
        self,
        definition: ModelDefinition | ModifiedDefinition,
        tensors: dict[str, np.ndarray],
        mesh: Mesh,
    ) -> TrainedModel:
        params = jax.device_put(
            nested(tensors, definition.abstract_params(), self.folder.weights), replicated(mesh)
        )
        return TrainedModel(
            self.folder,
            self.config,
            self.tokenizer,
            self.gloss_tokenizer,
            definition,
            mesh,
            params,
            self.contents.step,
        )


def _int8(opened: _Opened) -> TrainedModel:
    import_optional("qwix", "an INT8 export")
    from signvit_jax.serving.int8_linear import int8_layers, served_tensors

    definition = ModifiedDefinition(
        *opened.sizes,
        int8_layers(opened.contents.quantize == "weights_and_inputs"),
        opened.policy,
    )
    return opened.model(
        definition, served_tensors(read_tensors(opened.folder.weights)), make_mesh(MeshConfig())
    )


def _onnx(opened: _Opened) -> TrainedModel:
    definition = ModifiedDefinition(*opened.sizes, without_encoder, opened.policy)
    model = opened.model(definition, read_tensors(opened.folder.weights), _one_device())
    return dataclasses.replace(model, encode=OnnxPrograms(opened.folder, opened.config).encode)


def _stablehlo(opened: _Opened) -> TrainedModel:
    model = opened.model(
        ModelDefinition(*opened.sizes, opened.policy),
        read_tensors(opened.folder.weights),
        _one_device(),
    )
    return dataclasses.replace(
        model, encode=StableHloPrograms(opened.folder, model.params, opened.config).encode
    )


def _safetensors(opened: _Opened) -> TrainedModel:
    definition = ModelDefinition(*opened.sizes, opened.policy)
    mesh = make_mesh(MeshConfig())
    params = parameters_from(read_tensors(opened.folder.weights), definition.abstract_params())
    return TrainedModel(
        opened.folder,
        opened.config,
        opened.tokenizer,
        opened.gloss_tokenizer,
        definition,
        mesh,
        jax.device_put(params, replicated(mesh)),
        opened.contents.step,
    )


def _one_device() -> Mesh:
    """What programs of an export run on: they were compiled for one."""
    return Mesh(np.asarray(jax.local_devices()[:1]).reshape(1, 1, 1), AXES)


_LOADERS = {"int8": _int8, "onnx": _onnx, "stablehlo": _stablehlo, "safetensors": _safetensors}
