"""StableHLO programs of an export, read, checked and run.

A file is a program that somebody else may have written: it is checked before it is run
(`program_check`), and never trusted further.
"""

import functools
from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np
from jax import export
from jaxtyping import Array, Int, PyTree, UInt8

from signvit_jax.config.schema import Config
from signvit_jax.models.translator import Encoded
from signvit_jax.runtime.exit_codes import is_out_of_memory
from signvit_jax.serving.export_dir import ExportError, ExportFolder
from signvit_jax.serving.optional_deps import import_optional
from signvit_jax.serving.program_check import check_stablehlo
from signvit_jax.serving.programs import Program, encode, programs

KIND = "stablehlo"


class StableHloPrograms:
    """The programs of an export by name, with the parameters that they take. A file is read and checked when its program is first run."""

    def __init__(self, folder: ExportFolder, params: PyTree, config: Config):
        """Raises ExportError where a package is missing."""
        import_optional("flatbuffers", "a StableHLO export")
        self.folder, self.params = folder, params
        known = {program.name: program for program in programs(config)}
        self._program = functools.cache(
            lambda name: _read(folder.program(name, KIND), known[name], params)
        )

    def __call__(self, name: str, *inputs: Array) -> tuple[Array, ...]:
        """Raises ExportError for a program that is not there, cannot be read or is refused."""
        program = self._program(name)
        try:
            return program(self.params, *inputs)
        except Exception as error:  # XLA's many kinds, of a program that it cannot compile
            if is_out_of_memory(error):
                raise
            raise ExportError(_unusable(self.folder.program(name, KIND), error)) from error

    def encode(
        self, params: PyTree, video: UInt8[Array, "b t h w 3"], frame_lengths: Int[Array, "b"]
    ) -> tuple[Encoded]:
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
