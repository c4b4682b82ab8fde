"""A teacher's knowledge as a loss: what its decoder and its CTC head say (Hinton et al. 2015), and what its encoder hands to the decoder.

The teacher runs first, without dropout, on the very pictures that the student sees; what it says joins the batch. A step with a teacher is therefore
the same pure function of (state, batch), in parts and on any mesh.
"""

import logging
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from jaxtyping import Array, PyTree

from signvit_jax.checkpoints.reader import CheckpointReader
from signvit_jax.config.errors import ConfigError
from signvit_jax.config.schema import Config
from signvit_jax.inference.trained_model import SHARED_KEYS, TrainedModel, load_trained
from signvit_jax.optimization.compiled_steps import CompiledSteps
from signvit_jax.optimization.distillation_loss import CTC_LOGITS, FEATURES, LOGITS
from signvit_jax.optimization.losses import Batch, outputs
from signvit_jax.parallel.sharding import batch_sharding, gather_fsdp, state_shardings
from signvit_jax.training.origin import TeacherIdentity, digest_of
from signvit_jax.training.run_data import RunData

log = logging.getLogger(__name__)


class Teacher:
    """A trained model that answers for batches on the student's mesh."""

    def __init__(self, trained: TrainedModel, mesh: Mesh):
        shardings = state_shardings(trained.params, mesh)
        self._params = jax.device_put(trained.params, shardings)
        answer = jax.jit(
            answers(trained, mesh),
            in_shardings=(shardings, batch_sharding(mesh)),
            out_shardings=batch_sharding(mesh),
        )
        self._answer = CompiledSteps(answer)
        self.width = trained.config.model.decoder.hidden_dim
        self.identity = TeacherIdentity(
            str(trained.workdir.path), trained.step, digest_of(trained.params)
        )

    def taught(self, batch: dict[str, jax.Array]) -> dict[str, jax.Array]:
        """The batch with what the teacher says of it."""
        return batch | self._answer(self._params, batch)

    def compile(self, batch: dict[str, jax.ShapeDtypeStruct]) -> None:
        """Makes the program that answers for batches of these shapes."""
        self._answer.compile(self._params, batch)

    def taught_shapes(
        self, batch: dict[str, jax.ShapeDtypeStruct]
    ) -> dict[str, jax.ShapeDtypeStruct]:
        sharding = batch["video"].sharding
        said = self._answer.shapes(self._params, batch)
        return batch | {
            name: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)
            for name, leaf in said.items()
        }


def load_teacher(
    config: Config, data: RunData, mesh: Mesh, before: TeacherIdentity | None = None
) -> Teacher | None:
    """The teacher that the config names, or None; with `before`, the very weights that the run began with.

    Raises ConfigError where it cannot teach this student or has changed, and what reading a workdir raises.
    """
    if not config.training.distillation.teacher:
        return None
    trained = load_trained(config.training.distillation.teacher)
    check_teacher(trained, config, data)
    if before is not None and digest_of(trained.params) != before.digest:
        trained = _as_before(trained, before)
    return Teacher(trained, mesh)


def _as_before(now: TrainedModel, before: TeacherIdentity) -> TrainedModel:
    """The checkpoint that taught until now, where the teacher's workdir still has it; a teacher in another workdir was asked for by the config."""
    path = now.workdir.path
    if before.step in CheckpointReader(now.workdir.checkpoints).steps():
        trained = load_trained(path, before.step)
        if digest_of(trained.params) == before.digest:
            log.info(
                "the best checkpoint of the teacher %s is that of step %d by now; step %d teaches, as before",
                path,
                now.step,
                before.step,
            )
            return trained
    if str(path) == before.path:
        raise ConfigError(
            f"the teacher in {path} is another than this run began with: step {before.step}, digest {before.digest} then; "
            f"step {now.step}, digest {digest_of(now.params)} now. Put its old checkpoint back, or start in a new --workdir"
        )
    log.warning(
        "the run goes on with another teacher: %s, step %d; it was %s, step %d",
        path,
        now.step,
        before.path,
        before.step,
    )
    return now


def check_teacher(trained: TrainedModel, config: Config, data: RunData) -> None:
    """Raises ConfigError unless teacher and student read the same clips alike and speak of the same words at the same places."""
    name, theirs = trained.workdir.path, trained.config
    if trained.others:
        raise ConfigError(
            f"config.training.distillation.teacher names {1 + len(trained.others)} workdirs; allowed: one"
        )
    for key in ("name", *SHARED_KEYS):
        own, its = getattr(config.data, key), getattr(theirs.data, key)
        if own != its:
            raise ConfigError(
                f"teacher and student must see the same clips, but config.data.{key} is {own!r} and {its!r} in {name}; set it to that"
            )
    for kind, own, its in (
        ("tokens", data.tokenizer, trained.tokenizer),
        ("CTC labels", data.ctc_tokenizer, trained.ctc_tokenizer),
    ):
        if own.tokens != its.tokens:
            raise ConfigError(
                f"teacher and student need one vocabulary, but the student has {own.vocab_size} {kind} and {name} {its.vocab_size}, and they are not "
                "the same; use the teacher's config.tokenizer, config.model.ctc.target and training split, or train a teacher on this data set"
            )
    for key, own, its in (
        ("model.ctc.source", config.model.ctc.source, theirs.model.ctc.source),
        ("model.decoder.memory", config.model.decoder.memory, theirs.model.decoder.memory),
        (
            "model.temporal.num_queries",
            config.model.temporal.num_queries,
            theirs.model.temporal.num_queries,
        ),
    ):
        if own != its and (
            key != "model.temporal.num_queries"
            or "queries" in (theirs.model.ctc.source, theirs.model.decoder.memory)
        ):
            raise ConfigError(
                f"the teacher's answers do not fit the student's: config.{key} is {own!r} and {its!r} in {name}; set it to that"
            )


def answers(trained: TrainedModel, mesh: Mesh) -> Callable[[PyTree, Batch], dict[str, Array]]:
    """(the teacher's parameters, batch) to what it says of the batch."""

    def answer(params: PyTree, batch: Batch) -> dict[str, Array]:
        model = trained.definition.bind(gather_fsdp(params, mesh))
        said = outputs(model, batch)
        return {
            LOGITS: said.logits,
            CTC_LOGITS: said.ctc_logits,
            FEATURES: model.memory(said.encoded)[0].astype(jnp.float32),
        }

    return answer


def initial_projection(width: int, teacher_width: int, seed: int) -> dict[str, Array] | None:
    """A linear map from the student's features to the teacher's, to be trained beside the model (traceable); None where both are of one width."""
    if not teacher_width or width == teacher_width:
        return None
    key = jax.random.fold_in(jax.random.key(seed), teacher_width)
    return {
        "kernel": jax.nn.initializers.xavier_uniform()(key, (width, teacher_width)),
        "bias": jnp.zeros(teacher_width),
    }
