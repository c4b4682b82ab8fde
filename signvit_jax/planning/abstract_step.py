"""The training step of a config as shapes on a mesh: the function that the trainer compiles."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

from jax.sharding import Mesh

from signvit_jax.config.schema import Config, with_ctc_target
from signvit_jax.models.definition import ModelDefinition
from signvit_jax.optimization.compiling_ahead import JittedStep, Shapes
from signvit_jax.optimization.optimizer import make_optimizer
from signvit_jax.optimization.train_state import TrainState, abstract_on_mesh, new_state
from signvit_jax.optimization.train_step import StepReport, make_train_step
from signvit_jax.parallel.current_mesh import Device
from signvit_jax.parallel.mesh import make_mesh
from signvit_jax.planning.memory import batch_shapes

_BERT_VOCABULARY = 30_522  # of bert-base-uncased, used if its vocabulary file is not found


@dataclasses.dataclass(frozen=True)
class TextSizes:
    """Sizes that the data set of a run decides.

    `vocab_size`: tokens of the decoder; None: the most that the tokenizer may learn, or the size of
    a BERT vocabulary. `gloss_vocab_size`: glosses of the CTC head; None: as many as `vocab_size`,
    if CTC spells glosses. `text_length`: tokens per text; None: `config.model.decoder.max_len`.
    """

    vocab_size: int | None = None
    gloss_vocab_size: int | None = None
    text_length: int | None = None


@dataclasses.dataclass(frozen=True)
class AbstractStep:
    """A step of `config` that can be lowered: `step.lower(state, batch)`. No array is allocated."""

    config: Config
    definition: ModelDefinition
    mesh: Mesh
    state: TrainState
    batch: Shapes
    step: JittedStep[TrainState, tuple[TrainState, StepReport]]
    text_length: int


def abstract_step(
    config: Config, sizes: TextSizes, devices: Sequence[Device] | None = None
) -> AbstractStep:
    """Return the step for the longest clips on `devices` (None: those of all processes).

    Raises ConfigError for a mesh that does not fit the devices or the batch.
    """
    if config.model.ctc.target == "auto":
        config = with_ctc_target(config, "gloss" if sizes.gloss_vocab_size else "text")
    vocab_size = sizes.vocab_size or largest_vocabulary(config)
    spells_glosses = config.model.ctc.target == "gloss"
    gloss_vocab_size = (sizes.gloss_vocab_size or vocab_size) if spells_glosses else 0
    text_length = sizes.text_length or config.model.decoder.max_len
    training = config.training

    mesh = make_mesh(config.mesh, training.batch_size // training.gradient_accumulation, devices)
    definition = ModelDefinition(config, vocab_size, gloss_vocab_size)
    # Any number of steps will do: it changes neither shapes nor operations.
    optimizer = make_optimizer(training, training.num_epochs)
    state, shardings = abstract_on_mesh(
        lambda: new_state(definition, optimizer, training.seed, mesh), mesh
    )
    batch = batch_shapes(
        config, mesh, config.data.num_frames, text_length, text_length if gloss_vocab_size else 0
    )
    step = make_train_step(definition, optimizer, training, mesh, shardings, frozen_backbone=False)
    return AbstractStep(config, definition, mesh, state, batch, step, text_length)


def largest_vocabulary(config: Config) -> int:
    """Return the most tokens that the config's tokenizer can have."""
    if config.tokenizer.name != "bert":
        return config.tokenizer.vocab_size
    path = Path(config.tokenizer.vocab_file)
    if not path.is_file():
        return _BERT_VOCABULARY
    return len(path.read_text(encoding="utf-8").splitlines())
