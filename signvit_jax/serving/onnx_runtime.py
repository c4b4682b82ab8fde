"""ONNX programs run in onnxruntime on this process's processor cores."""

import functools
import os

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int, PyTree, UInt8

from signvit_jax.config.schema import Config
from signvit_jax.models.translator import Encoded
from signvit_jax.runtime.exit_codes import is_out_of_memory
from signvit_jax.serving.export_dir import ExportError, ExportFolder
from signvit_jax.serving.optional_deps import import_optional
from signvit_jax.serving.program_check import check_outputs
from signvit_jax.serving.programs import programs

KIND = "onnx"


class OnnxPrograms:
    """The programs of an export by name. A file is read when its program is first run."""

    def __init__(self, folder: ExportFolder, config: Config):
        """Raises ExportError where a package is missing."""
        self.folder, self._ort = folder, import_optional("onnxruntime", "an ONNX export")
        self._known = {program.name: program for program in programs(config)}
        self._session = functools.cache(self._open)

    def __call__(self, name: str, *inputs: np.ndarray) -> tuple[np.ndarray, ...]:
        """Raises ExportError for a program that is not there, cannot be read, or is of another model."""
        session, path = self._session(name), self.folder.program(name, KIND)
        named = {
            given.name: np.asarray(value) for given, value in zip(session.get_inputs(), inputs)
        }
        try:
            found = tuple(session.run(None, named))
        except Exception as error:  # onnxruntime raises classes of its own that it does not name
            if is_out_of_memory(error):
                raise
            raise ExportError(f"{path} cannot be run ({error}); export the model again") from error
        check_outputs(self._known[name], inputs, found, path)
        return found

    def encode(
        self, params: PyTree, video: UInt8[Array, "b t h w 3"], frame_lengths: Int[Array, "b"]
    ) -> tuple[Encoded]:
        """As the model's own encoder; the parameters are the programs'. Frames that only pad a clip are not computed."""
        video, lengths = np.asarray(video), np.asarray(frame_lengths)
        features = [
            self("backbone", clip[None, :frames], lengths[row : row + 1])[0][0]
            for row, (clip, frames) in enumerate(zip(video, lengths))
        ]
        padded = np.zeros((*video.shape[:2], features[0].shape[-1]), np.float32)
        for row, found in enumerate(features):
            padded[row, : len(found)] = found
        pooled, frames = self(f"temporal_{video.shape[1]}", padded, lengths)
        return (Encoded(jnp.asarray(pooled), jnp.asarray(frames), jax.numpy.asarray(lengths)),)

    def _open(self, name: str):
        options = self._ort.SessionOptions()
        options.intra_op_num_threads = len(os.sched_getaffinity(0))
        options.log_severity_level = 3
        path = self.folder.program(name, KIND)
        try:
            return self._ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # onnxruntime raises classes of its own that it does not name
            raise ExportError(f"{path} cannot be run ({error}); export the model again") from error
