"""Programs as StableHLO, by `jax.export`, with an open batch; they take the parameters as their first argument."""

import functools
from pathlib import Path

import jax
import numpy as np
from jax import export
from jaxtyping import Array, Int, PyTree, UInt8

from signvit_jax.exporting.calibration import unrolled
from signvit_jax.exporting.folder import ExportError, ExportFolder
from signvit_jax.exporting.programs import Program, encode, programs
from signvit_jax.models.translator import Encoded
from signvit_jax.training.train_state import ModelDefinition
from signvit_jax.training.trained_model import TrainedModel

KIND = "stablehlo"
_PLATFORMS = ("cpu", "cuda", "tpu")


def write_stablehlo(model: TrainedModel, folder: ExportFolder) -> None:
    """Every program of the model, for all platforms; the parameters are not in them."""
    config = unrolled(model.config)
    definition = ModelDefinition(config, model.tokenizer.vocab_size, model.gloss_tokenizer.vocab_size if model.gloss_tokenizer else 0)
    for program in programs(config):
        folder.program(program.name, KIND).write_bytes(_lowered(program, definition).serialize())


def _lowered(program: Program, definition: ModelDefinition) -> export.Exported:
    run = jax.jit(lambda params, *inputs: program.run(definition.bind(params), *inputs))
    return export.export(run, platforms=_PLATFORMS)(definition.abstract_params(), *program.abstract_inputs())


class StableHloPrograms:
    """The programs of an export by name, with the parameters that they take. A file is read when its program is first run."""

    def __init__(self, folder: ExportFolder, params: PyTree):
        self.folder, self.params = folder, params
        self._program = functools.cache(lambda name: _read(folder.program(name, KIND)))

    def __call__(self, name: str, *inputs: Array) -> tuple[Array, ...]:
        """Raises ExportError for a program that is not there or cannot be read."""
        return self._program(name)(self.params, *inputs)

    def encode(self, params: PyTree, video: UInt8[Array, "b t h w 3"], frame_lengths: Int[Array, "b"]) -> tuple[Encoded]:
        """As the model's own encoder; the parameters are those that the programs were given."""
        return (Encoded(*encode(self, video, frame_lengths.astype(np.int32)), frame_lengths),)


def _read(path: Path):
    try:
        return jax.jit(export.deserialize(bytearray(path.read_bytes())).call)
    except Exception as error:  # JAX raises many kinds for what is no export of its own
        raise ExportError(f"{path} cannot be read ({type(error).__name__}: {error}); export the model again") from error
