"""The teacher of a distillation run: its outputs join each batch, as targets of the student.

The teacher runs without dropout on the same augmented clips as the student. With its outputs in the
batch a step stays a pure function of (state, batch), in microbatches and on any mesh. The loss is
`optimization/distillation_loss.py` (Hinton et al. 2015).
"""

import logging
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from jaxtyping import Array, Int, PyTree

from signvit_jax.checkpoints.reader import CheckpointReader
from signvit_jax.config.errors import ConfigError
from signvit_jax.config.schema import Config
from signvit_jax.inference.trained_model import SHARED_KEYS, TrainedModel, load_trained
from signvit_jax.models.definition import bind_gathered
from signvit_jax.optimization.compiling_ahead import CompiledSteps, Shapes
from signvit_jax.optimization.distillation_loss import (
    PROJECTION,
    TEACHER_CTC_LOGITS,
    TEACHER_FEATURES,
    TEACHER_LOGITS,
)
from signvit_jax.optimization.losses import Batch, forward
from signvit_jax.parallel.sharding import batch_sharding, state_shardings
from signvit_jax.training.origin import TeacherIdentity, digest_of
from signvit_jax.training.run_data import RunData

log = logging.getLogger(__name__)


class Teacher:
    """A trained model on the student's mesh, compiled for the student's batches."""

    def __init__(self, trained: TrainedModel, mesh: Mesh):
        shardings = state_shardings(trained.params, mesh)
        self._params = jax.device_put(trained.params, shardings)
        targets = jax.jit(
            teacher_targets(trained, mesh),
            in_shardings=(shardings, batch_sharding(mesh)),
            out_shardings=batch_sharding(mesh),
        )
        self._targets = CompiledSteps(targets)
        self.width = trained.config.model.decoder.hidden_dim
        self.identity = TeacherIdentity(
            path=str(trained.workdir.path), step=trained.step, digest=digest_of(trained.params)
        )

    def add_targets(self, batch: dict[str, jax.Array]) -> dict[str, jax.Array]:
        """Return the batch with the teacher's outputs for it."""
        return batch | self._targets(self._params, batch)

    def compile(self, batch: Shapes) -> None:
        """Compile the program for batches of these shapes."""
        self._targets.compile(self._params, batch)

    def add_target_shapes(self, batch: Shapes) -> Shapes:
        """Return the shapes of `add_targets` for a batch of these shapes."""
        sharding = batch["video"].sharding
        targets = self._targets.shapes(self._params, batch)
        return batch | {
            name: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)
            for name, leaf in targets.items()
        }


def load_teacher(
    config: Config, data: RunData, mesh: Mesh, before: TeacherIdentity | None = None
) -> Teacher | None:
    """Return the teacher that the config names, or None if it names none.

    `before`: the teacher that the run began with. Its weights are loaded again, unless the config
    names another workdir now: then that teacher is used, with a warning. Raises ConfigError if the
    teacher does not fit the student, or if its workdir no longer has those weights, and the errors
    of reading a workdir.
    """
    if not config.training.distillation.teacher:
        return None
    trained = load_trained(config.training.distillation.teacher)
    check_teacher(trained, config, data)
    if before is not None and digest_of(trained.params) != before.digest:
        trained = _teacher_on_resume(trained, before)
    return Teacher(trained, mesh)


def _teacher_on_resume(now: TrainedModel, before: TeacherIdentity) -> TrainedModel:
    """Return the checkpoint that the run began with, if the workdir of `now` has it.

    If not: return `now`, with a warning, if it is in another workdir, which the user has named.
    Raise ConfigError if it is in the same workdir.
    """
    path = now.workdir.path
    if before.step in CheckpointReader(now.workdir.checkpoints).steps():
        trained = load_trained(path, before.step)
        if digest_of(trained.params) == before.digest:
            log.info(
                "the best checkpoint of the teacher %s is now that of step %d; this run keeps the "
                "one of step %d",
                path,
                now.step,
                before.step,
            )
            return trained
    if str(path) == before.path:
        raise ConfigError(
            f"the teacher in {path} differs from the one that this run began with: step "
            f"{before.step}, digest {before.digest} then; step {now.step}, digest "
            f"{digest_of(now.params)} now. Put its old checkpoint back, or start in a new --workdir"
        )
    log.warning(
        "the run resumes with another teacher: %s, step %d; it was %s, step %d",
        path,
        now.step,
        before.path,
        before.step,
    )
    return now


def check_teacher(trained: TrainedModel, config: Config, data: RunData) -> None:
    """Raise ConfigError unless the teacher's outputs are targets for the student's.

    Both must read clips alike, share their vocabularies, and have outputs of the same length.
    """
    name, teacher_config = trained.workdir.path, trained.config
    if trained.others:
        raise ConfigError(
            f"config.training.distillation.teacher names {1 + len(trained.others)} workdirs; "
            "allowed: one"
        )
    for key in ("name", *SHARED_KEYS):
        value, teacher_value = getattr(config.data, key), getattr(teacher_config.data, key)
        if value != teacher_value:
            raise ConfigError(
                f"teacher and student must see the same clips, but config.data.{key} is {value!r} "
                f"and {teacher_value!r} in {name}; set it to that"
            )
    for kind, student, teacher in (
        ("tokens", data.vocabularies.text, trained.tokenizer),
        ("CTC labels", data.vocabularies.ctc, trained.ctc_tokenizer),
    ):
        if student.tokens != teacher.tokens:
            raise ConfigError(
                "teacher and student need one vocabulary, but the student has "
                f"{student.vocab_size} {kind} and {name} {teacher.vocab_size}, and they are not "
                "the same; use the teacher's config.tokenizer, config.model.ctc.target and "
                "training split, or train a teacher on this data set"
            )
    model, teacher_model = config.model, teacher_config.model
    pairs: dict[str, tuple[str, str] | tuple[int, int]] = {
        "model.ctc.source": (model.ctc.source, teacher_model.ctc.source),
        "model.decoder.memory": (model.decoder.memory, teacher_model.decoder.memory),
    }
    if "queries" in (teacher_model.ctc.source, teacher_model.decoder.memory):
        numbers = model.temporal.num_queries, teacher_model.temporal.num_queries
        pairs["model.temporal.num_queries"] = numbers
    for key, (value, teacher_value) in pairs.items():
        if value != teacher_value:
            raise ConfigError(
                f"the teacher's outputs do not fit the student's: config.{key} is {value!r} and "
                f"{teacher_value!r} in {name}; set it to that"
            )


def teacher_targets(
    trained: TrainedModel, mesh: Mesh
) -> Callable[[PyTree, Batch], dict[str, Array]]:
    """Return the function (teacher's parameters, batch) -> its outputs, by their batch names."""

    def targets(params: PyTree, batch: Batch) -> dict[str, Array]:
        model = bind_gathered(trained.definition, params, mesh)
        outputs = forward(model, batch)
        return {
            TEACHER_LOGITS: outputs.logits,
            TEACHER_CTC_LOGITS: outputs.ctc_logits,
            TEACHER_FEATURES: model.memory(outputs.encoded)[0].astype(jnp.float32),
        }

    return targets


def initial_projection(
    width: int, teacher_width: int, seed: int | Int[Array, ""]
) -> dict[str, PyTree]:
    """Return {"projection": a linear map from student to teacher features} (traceable).

    It is trained with the model. Without a teacher (`teacher_width` 0), or if both widths are
    the same, there is none: {}.
    """
    if not teacher_width or width == teacher_width:
        return {}
    key = jax.random.fold_in(jax.random.key(seed), teacher_width)
    kernel = jax.nn.initializers.xavier_uniform()(key, (width, teacher_width))
    return {PROJECTION: {"kernel": kernel, "bias": jnp.zeros(teacher_width)}}
