"""Read, check and run the StableHLO programs of an export.

A file may come from anybody: `program_check` checks it before it is compiled.
"""

import functools
from collections.abc import Callable
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jax import export
from jaxtyping import Array, ArrayLike, Int, PyTree, UInt8

from signvit_jax.config.schema import Config
from signvit_jax.models.translator import Encoded
from signvit_jax.runtime.exit_codes import is_out_of_memory
from signvit_jax.runtime.optional_deps import import_optional
from signvit_jax.serving.export_dir import ExportError, ExportFolder
from signvit_jax.serving.program_check import check_stablehlo
from signvit_jax.serving.programs import Program, encode, programs

KIND = "stablehlo"


class StableHloPrograms:
    """The programs of an export by name, with their parameters.

    A file is read and checked when its program is first run.
    """

    def __init__(self, folder: ExportFolder, params: PyTree, config: Config):
        """Raise ExportError if a package is missing."""
        import_optional("flatbuffers", "a StableHLO export", ExportError)
        self.folder = folder
        self.params = params
        expected = {program.name: program for program in programs(config)}
        self._program = functools.cache(
            lambda name: _read(folder.program(name, KIND), expected[name], params)
        )

    def __call__(self, name: str, *inputs: ArrayLike) -> tuple[Array, ...]:
        """Run a program. Raises ExportError if it is missing, damaged or refused."""
        program = self._program(name)
        try:
            return program(self.params, *inputs)
        except Exception as error:  # XLA raises many classes for a program that it cannot compile
            if is_out_of_memory(error):
                raise
            raise ExportError(_unusable(self.folder.program(name, KIND), error)) from error

    def encode(
        self, params: PyTree, video: UInt8[Array, "b t h w 3"], frame_lengths: Int[Array, "b"]
    ) -> tuple[Encoded]:
        """Encode clips like the model's encoder.

        `params` is ignored: the programs have their own.
        """
        pooled, frames = encode(self, video, frame_lengths.astype(np.int32))
        return (Encoded(jnp.asarray(pooled), jnp.asarray(frames), frame_lengths),)


def _read(path: Path, program: Program, params: PyTree) -> Callable[..., tuple[Array, ...]]:
    try:
        exported = export.deserialize(bytearray(path.read_bytes()))
        check_stablehlo(exported, program, params, path)
    except ExportError:
        raise
    except (
        Exception
    ) as error:  # JAX raises many classes for a file that is not an export of its own
        raise ExportError(_unusable(path, error)) from error
    return jax.jit(exported.call)


def _unusable(path: Path, error: Exception) -> str:
    reason = (str(error).strip().splitlines() or [""])[0]
    return f"{path} cannot be run ({type(error).__name__}: {reason}); export the model again"
