"""Write the programs of a model as StableHLO, by `jax.export`.

Their batch size is open, and they take the parameters as their first argument.
"""

import contextlib
from collections.abc import Iterator

import jax
from jax import export

from signvit_jax.inference.trained_model import TrainedModel
from signvit_jax.models.definition import ModelDefinition
from signvit_jax.runtime.optional_deps import import_optional
from signvit_jax.serving.export_dir import ExportError, ExportFolder
from signvit_jax.serving.programs import EXPORT_POLICY, Program, programs
from signvit_jax.serving.stablehlo_runtime import KIND

_REMOVED_FROM_PATHS = "jax_hlo_source_file_canonicalization_regex"
_PLATFORMS = ("cpu", "cuda", "tpu")


def write_stablehlo(model: TrainedModel, folder: ExportFolder) -> None:
    """Write every program of the model, for all platforms. Raises ExportError."""
    import_optional("flatbuffers", "--format=stablehlo", ExportError)
    definition = model.define(EXPORT_POLICY)
    with _without_source_folders():
        for program in programs(model.config):
            content = _lower(program, definition).serialize()
            folder.program(program.name, KIND).write_bytes(content)


@contextlib.contextmanager
def _without_source_folders() -> Iterator[None]:
    """Make JAX write the names of source files into a program without their folders.

    The folders are those of this machine. Those in a home folder contain the user's name.
    """
    before = jax.config.jax_hlo_source_file_canonicalization_regex
    jax.config.update(_REMOVED_FROM_PATHS, r".*[/\\]")
    try:
        yield
    finally:
        jax.config.update(_REMOVED_FROM_PATHS, before)


def _lower(program: Program, definition: ModelDefinition) -> export.Exported:
    run = jax.jit(lambda params, *inputs: program.run(definition.bind(params), *inputs))
    return export.export(run, platforms=_PLATFORMS)(
        definition.abstract_params(), *program.abstract_inputs()
    )
