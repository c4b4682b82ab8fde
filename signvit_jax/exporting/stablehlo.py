"""Programs as StableHLO, by `jax.export`, with an open batch; they take the parameters as their first argument.

A file is a program that somebody else may have written: it is checked before it is run (`program_check`), and never trusted further.
"""

import jax
from jax import export

from signvit_jax.inference.trained_model import TrainedModel
from signvit_jax.models.definition import ModelDefinition
from signvit_jax.serving.export_dir import ExportFolder
from signvit_jax.serving.optional_deps import import_optional
from signvit_jax.serving.programs import EXPORT_POLICY, Program, programs
from signvit_jax.serving.stablehlo import KIND

_PLATFORMS = ("cpu", "cuda", "tpu")


def write_stablehlo(model: TrainedModel, folder: ExportFolder) -> None:
    """Every program of the model, for all platforms; the parameters are not in them. Raises ExportError."""
    import_optional("flatbuffers", "--format=stablehlo")
    definition = ModelDefinition(
        model.config,
        model.tokenizer.vocab_size,
        model.gloss_tokenizer.vocab_size if model.gloss_tokenizer else 0,
        EXPORT_POLICY,
    )
    for program in programs(model.config):
        folder.program(program.name, KIND).write_bytes(_lowered(program, definition).serialize())


def _lowered(program: Program, definition: ModelDefinition) -> export.Exported:
    run = jax.jit(lambda params, *inputs: program.run(definition.bind(params), *inputs))
    return export.export(run, platforms=_PLATFORMS)(
        definition.abstract_params(), *program.abstract_inputs()
    )
