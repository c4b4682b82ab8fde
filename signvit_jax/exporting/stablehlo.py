"""Programs as StableHLO, by `jax.export`, with an open batch; they take the parameters as their first argument.

A file is a program that somebody else may have written: it is checked before it is run (`program_check`), and never trusted further.
"""

import functools
from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np
from jax import export
from jaxtyping import Array, Int, PyTree, UInt8

from signvit_jax.config import Config
from signvit_jax.exit_codes import is_out_of_memory
from signvit_jax.exporting.calibration import unrolled
from signvit_jax.exporting.extras import optional
from signvit_jax.exporting.folder import ExportError, ExportFolder
from signvit_jax.exporting.program_check import check_stablehlo
from signvit_jax.exporting.programs import Program, encode, programs
from signvit_jax.models.translator import Encoded
from signvit_jax.training.train_state import ModelDefinition
from signvit_jax.training.trained_model import TrainedModel

KIND = "stablehlo"
_PLATFORMS = ("cpu", "cuda", "tpu")


def write_stablehlo(model: TrainedModel, folder: ExportFolder) -> None:
    """Every program of the model, for all platforms; the parameters are not in them. Raises ExportError."""
    optional("flatbuffers", "--format=stablehlo")
    config = unrolled(model.config)
    definition = ModelDefinition(config, model.tokenizer.vocab_size, model.gloss_tokenizer.vocab_size if model.gloss_tokenizer else 0)
    for program in programs(config):
        folder.program(program.name, KIND).write_bytes(_lowered(program, definition).serialize())


def _lowered(program: Program, definition: ModelDefinition) -> export.Exported:
    run = jax.jit(lambda params, *inputs: program.run(definition.bind(params), *inputs))
    return export.export(run, platforms=_PLATFORMS)(definition.abstract_params(), *program.abstract_inputs())


class StableHloPrograms:
    """The programs of an export by name, with the parameters that they take. A file is read and checked when its program is first run."""

    def __init__(self, folder: ExportFolder, params: PyTree, config: Config):
        """Raises ExportError where a package is missing."""
        optional("flatbuffers", "a StableHLO export")
        self.folder, self.params = folder, params
        known = {program.name: program for program in programs(unrolled(config))}
        self._program = functools.cache(lambda name: _read(folder.program(name, KIND), known[name], params))

    def __call__(self, name: str, *inputs: Array) -> tuple[Array, ...]:
        """Raises ExportError for a program that is not there, cannot be read or is refused."""
        program = self._program(name)
        try:
            return program(self.params, *inputs)
        except Exception as error:  # XLA's many kinds, of a program that it cannot compile
            if is_out_of_memory(error):
                raise
            raise ExportError(_unusable(self.folder.program(name, KIND), error)) from error

    def encode(self, params: PyTree, video: UInt8[Array, "b t h w 3"], frame_lengths: Int[Array, "b"]) -> tuple[Encoded]:
        """As the model's own encoder; the parameters are those that the programs were given."""
        return (Encoded(*encode(self, video, frame_lengths.astype(np.int32)), frame_lengths),)


def _read(path: Path, program: Program, params: PyTree) -> Callable[..., tuple[Array, ...]]:
    try:
        exported = export.deserialize(bytearray(path.read_bytes()))
        check_stablehlo(exported, program, params, path)
    except ExportError:
        raise
    except Exception as error:  # JAX raises many kinds for what is no export of its own
        raise ExportError(_unusable(path, error)) from error
    return jax.jit(exported.call)


def _unusable(path: Path, error: Exception) -> str:
    reason = (str(error).strip().splitlines() or [""])[0]
    return f"{path} cannot be run ({type(error).__name__}: {reason}); export the model again"
