"""ONNX and StableHLO programs of models whose options differ from those of the tiny run."""

import dataclasses

import jax
import numpy as np
import pytest
from jaxtyping import PyTree

from signvit_jax.config.schema import Config
from signvit_jax.exporting.comparison import outputs
from signvit_jax.exporting.onnx_files import write_onnx
from signvit_jax.exporting.stablehlo_files import write_stablehlo
from signvit_jax.layers.compute_policy import ComputePolicy
from signvit_jax.models.definition import ModelDefinition
from signvit_jax.serving.export_dir import ExportFolder
from signvit_jax.serving.onnx_runtime import OnnxPrograms
from signvit_jax.serving.programs import EXPORT_POLICY, ModelPrograms
from signvit_jax.serving.stablehlo_runtime import StableHloPrograms
from tests.helpers import tiny_model

LIKE_SMALL = {
    "model__encoder__zoom": "motion",
    "model__encoder__motion": "clip_mean",
    "model__encoder__stem": "conv",
    "model__encoder__frame_pooling": "concat",
    "model__temporal__num_attention_layers": 1,
    "model__temporal__time_positions": "sincos",
    "model__decoder__memory": "frames",
    "model__decoder__final_norm": True,
    "data__sampling": "rate",
    "data__frame_buckets": (4, 6),
}


@dataclasses.dataclass
class Model:
    """The part of a TrainedModel that an export of its programs needs."""

    config: Config
    params: PyTree

    def define(self, policy: ComputePolicy) -> ModelDefinition:
        sizes = tiny_model.vocabulary_sizes(self.config)
        return ModelDefinition(self.config, *sizes, policy=policy)


@pytest.fixture(
    scope="module",
    params=[
        pytest.param(LIKE_SMALL, id="like small", marks=pytest.mark.long),
        pytest.param(
            LIKE_SMALL | tiny_model.READS_GLOSSES | {"model__encoder__motion": "magnitude"},
            id="like the quickstart",
        ),
        pytest.param(
            LIKE_SMALL
            | {
                "model__encoder__motion": "magnitude",
                "model__encoder__crops": "hands",
                "model__encoder__crop_size": 16,
                "model__encoder__crop_width": 8,
                "model__encoder__view_size": 16,
                "data__image_size": 32,
            },
            id="crops of hands",
            marks=pytest.mark.long,
        ),
        pytest.param(
            tiny_model.MOBILENET | tiny_model.READS_GLOSSES, id="mobilenet", marks=pytest.mark.long
        ),
    ],
)
def computed(request):
    """Return a model, and pairs of (inputs of its programs, their outputs)."""
    config = tiny_model.config(**request.param)
    sizes = tiny_model.vocabulary_sizes(config)
    definition = ModelDefinition(config, *sizes, policy=EXPORT_POLICY)
    params = jax.jit(definition.init)(0)
    model_programs = ModelPrograms(definition, params, config)
    batches = [
        tiny_model.batch(clips, frames)
        for clips, frames in ((1, config.frame_buckets[0]), (3, config.frame_buckets[-1]))
    ]
    size = config.data.image_size
    inputs = []
    for batch in batches:
        clips, frames = batch["video"].shape[:2]
        video = np.random.default_rng(0).integers(0, 256, (clips, frames, size, size, 3), np.uint8)
        inputs.append((config, video, batch["frame_lengths"], batch["tokens"]))
    return Model(config, params), [
        (arguments, outputs(model_programs, *arguments)) for arguments in inputs
    ]


@pytest.mark.parametrize(
    "write",
    [
        pytest.param(write_stablehlo, id="stablehlo"),
        pytest.param(
            lambda model, folder: write_onnx(model, folder, None), id="onnx", marks=pytest.mark.long
        ),  # covered by test_export_command
    ],
)
def test_exported_programs_compute_what_the_model_computes(tmp_path, computed, write):
    model, cases = computed
    folder = ExportFolder(tmp_path)
    write(model, folder)
    is_stablehlo = list(tmp_path.glob("*.stablehlo"))
    programs = (
        StableHloPrograms(folder, model.params, model.config)
        if is_stablehlo
        else OnnxPrograms(folder, model.config)
    )
    for arguments, expected in cases:
        actual = outputs(programs, *arguments)
        for name, value in expected.items():
            np.testing.assert_allclose(actual[name], value, atol=1e-4, err_msg=name)
            assert np.abs(value).max() > 1e-3, name
