"""Run the ONNX programs of an export in onnxruntime, on the CPU cores of this process."""

import functools
import os
from typing import TYPE_CHECKING

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Int, PyTree, UInt8

from signvit_jax.config.schema import Config
from signvit_jax.models.translator import Encoded
from signvit_jax.runtime.exit_codes import is_out_of_memory
from signvit_jax.runtime.optional_deps import import_optional
from signvit_jax.serving.export_dir import ExportError, ExportFolder
from signvit_jax.serving.program_check import check_outputs
from signvit_jax.serving.programs import programs

if TYPE_CHECKING:
    from onnxruntime import InferenceSession

KIND = "onnx"


class OnnxPrograms:
    """The programs of an export by name. A file is read when its program is first run."""

    def __init__(self, folder: ExportFolder, config: Config):
        """Raise ExportError if a package is missing."""
        self.folder = folder
        self._ort = import_optional("onnxruntime", "an ONNX export", ExportError)
        self._expected = {program.name: program for program in programs(config)}
        self._session = functools.cache(self._open)

    def __call__(self, name: str, *inputs: ArrayLike) -> tuple[np.ndarray, ...]:
        """Run a program.

        Raises ExportError if it is missing, damaged, or belongs to another model.
        """
        session, path = self._session(name), self.folder.program(name, KIND)
        arrays = [np.asarray(value) for value in inputs]
        by_name = {given.name: value for given, value in zip(session.get_inputs(), arrays)}
        try:
            # Programs of ours return arrays only; check_outputs refuses the rest.
            outputs = tuple(np.asarray(value) for value in session.run(None, by_name))
        except Exception as error:  # onnxruntime's own exception classes are not public
            if is_out_of_memory(error):
                raise
            raise _unusable(path, error) from error
        check_outputs(self._expected[name], arrays, outputs, path)
        return outputs

    def encode(
        self, params: PyTree, video: UInt8[Array, "b t h w 3"], frame_lengths: Int[Array, "b"]
    ) -> tuple[Encoded]:
        """Encode clips like the model's encoder. `params` is ignored: the programs have their own.

        The backbone does not compute the frames that pad a clip.
        """
        clips, lengths = np.asarray(video), np.asarray(frame_lengths)
        features = [
            self("backbone", clip[None, :frames], lengths[row : row + 1])[0][0]
            for row, (clip, frames) in enumerate(zip(clips, lengths))
        ]
        padded = np.zeros((*clips.shape[:2], features[0].shape[-1]), np.float32)
        for row, found in enumerate(features):
            padded[row, : len(found)] = found
        pooled, frames = self(f"temporal_{clips.shape[1]}", padded, lengths)
        return (Encoded(jnp.asarray(pooled), jnp.asarray(frames), jnp.asarray(lengths)),)

    def _open(self, name: str) -> "InferenceSession":
        options = self._ort.SessionOptions()
        options.intra_op_num_threads = len(os.sched_getaffinity(0))
        options.log_severity_level = 3
        path = self.folder.program(name, KIND)
        try:
            return self._ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # onnxruntime's own exception classes are not public
            raise _unusable(path, error) from error


def _unusable(path: object, error: Exception) -> ExportError:
    return ExportError(f"{path} cannot be run ({error}); export the model again")
