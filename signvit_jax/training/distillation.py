"""A teacher's knowledge as a loss: what its decoder and its CTC head say (Hinton et al. 2015), and what its encoder hands to the decoder.

The teacher runs first, without dropout, on the very pictures that the student sees; what it says joins the batch. A step with a teacher is therefore
the same pure function of (state, batch), in parts and on any mesh.
"""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from jaxtyping import Array, Float, PyTree

from signvit_jax.config import Config, ConfigError, DistillationConfig
from signvit_jax.models.attention import length_mask
from signvit_jax.models.decoder import PAD
from signvit_jax.models.translator import SignTranslator
from signvit_jax.parallel.sharding import batch_sharding, put_together, state_shardings
from signvit_jax.training.compiled_steps import CompiledSteps
from signvit_jax.training.losses import Batch, LossCounts, Outputs, outputs
from signvit_jax.training.run_data import RunData
from signvit_jax.training.trained_model import SHARED_KEYS, TrainedModel, load_trained

LOGITS, CTC_LOGITS, FEATURES = "teacher_logits", "teacher_ctc_logits", "teacher_features"  # what joins the batch
LESSONS = ("soft_ce", "soft_ctc", "features")  # what is added to the loss, by the names that the log has


class Teacher:
    """A trained model that answers for batches on the student's mesh."""

    def __init__(self, trained: TrainedModel, mesh: Mesh):
        shardings = state_shardings(trained.params, mesh)
        self._params = jax.device_put(trained.params, shardings)
        answer = jax.jit(answers(trained, mesh), in_shardings=(shardings, batch_sharding(mesh)), out_shardings=batch_sharding(mesh))
        self._answer = CompiledSteps(answer)
        self.width = trained.config.model.decoder.hidden_dim

    def taught(self, batch: dict[str, jax.Array]) -> dict[str, jax.Array]:
        """The batch with what the teacher says of it."""
        return batch | self._answer(self._params, batch)

    def compile(self, batch: dict[str, jax.ShapeDtypeStruct]) -> None:
        """Makes the program that answers for batches of these shapes."""
        self._answer.compile(self._params, batch)

    def taught_shapes(self, batch: dict[str, jax.ShapeDtypeStruct]) -> dict[str, jax.ShapeDtypeStruct]:
        sharding = batch["video"].sharding
        said = self._answer.shapes(self._params, batch)
        return batch | {name: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding) for name, leaf in said.items()}


def load_teacher(config: Config, data: RunData, mesh: Mesh) -> Teacher | None:
    """The teacher that the config names, or None. Raises ConfigError where it cannot teach this student, and what reading a workdir raises."""
    if not config.training.distillation.teacher:
        return None
    trained = load_trained(config.training.distillation.teacher)
    check_teacher(trained, config, data)
    return Teacher(trained, mesh)


def check_teacher(trained: TrainedModel, config: Config, data: RunData) -> None:
    """Raises ConfigError unless teacher and student read the same clips alike and speak of the same words at the same places."""
    name, theirs = trained.workdir.path, trained.config
    if trained.others:
        raise ConfigError(f"config.training.distillation.teacher names {1 + len(trained.others)} workdirs; allowed: one")
    for key in ("name", *SHARED_KEYS):
        own, its = getattr(config.data, key), getattr(theirs.data, key)
        if own != its:
            raise ConfigError(f"teacher and student must see the same clips, but config.data.{key} is {own!r} and {its!r} in {name}; set it to that")
    for kind, own, its in (("tokens", data.tokenizer, trained.tokenizer), ("CTC labels", data.ctc_tokenizer, trained.ctc_tokenizer)):
        if own.tokens != its.tokens:
            raise ConfigError(
                f"teacher and student need one vocabulary, but the student has {own.vocab_size} {kind} and {name} {its.vocab_size}, and they are not "
                "the same; use the teacher's config.tokenizer, config.model.ctc.target and training split, or train a teacher on this data set"
            )
    for key, own, its in (
        ("model.ctc.source", config.model.ctc.source, theirs.model.ctc.source),
        ("model.decoder.memory", config.model.decoder.memory, theirs.model.decoder.memory),
        ("model.temporal.num_queries", config.model.temporal.num_queries, theirs.model.temporal.num_queries),
    ):
        if own != its and (key != "model.temporal.num_queries" or "queries" in (theirs.model.ctc.source, theirs.model.decoder.memory)):
            raise ConfigError(f"the teacher's answers do not fit the student's: config.{key} is {own!r} and {its!r} in {name}; set it to that")


def answers(trained: TrainedModel, mesh: Mesh) -> Callable[[PyTree, Batch], dict[str, Array]]:
    """(the teacher's parameters, batch) to what it says of the batch."""

    def answer(params: PyTree, batch: Batch) -> dict[str, Array]:
        model = trained.definition.bind(put_together(params, mesh))
        said = outputs(model, batch)
        return {LOGITS: said.logits, CTC_LOGITS: said.ctc_logits, FEATURES: model.memory(said.encoded)[0].astype(jnp.float32)}

    return answer


def initial_projection(width: int, teacher_width: int, seed: int) -> dict[str, Array] | None:
    """A linear map from the student's features to the teacher's, to be trained beside the model (traceable); None where both are of one width."""
    if not teacher_width or width == teacher_width:
        return None
    key = jax.random.fold_in(jax.random.key(seed), teacher_width)
    return {"kernel": jax.nn.initializers.xavier_uniform()(key, (width, teacher_width)), "bias": jnp.zeros(teacher_width)}


def distillation_loss(
    model: SignTranslator,
    said: Outputs,
    batch: Batch,
    counts: LossCounts,
    config: DistillationConfig,
    projection: Mapping[str, Array] | None = None,
) -> tuple[Float[Array, ""], dict[str, Array]]:
    """What is added to the student's own loss, and its parts by name, as shares of a whole whose size is `counts`.

    Decoder: Kullback-Leibler divergence from the teacher, in nats a token. CTC: the same, in nats a step. Both at `temperature` and times its square.
    Features (what the decoder reads): mean squared difference after each is brought to mean 0 and variance 1 over its width.
    """
    weights, temperature = batch["weights"], config.temperature
    per_token = divergence(said.logits, batch[LOGITS], temperature) * (batch["tokens"][:, 1:] != PAD)
    per_step = divergence(said.ctc_logits, batch[CTC_LOGITS], temperature)
    features, lengths = model.memory(said.encoded)
    if projection is not None:
        features = features @ projection["kernel"].astype(features.dtype) + projection["bias"].astype(features.dtype)
    per_place = jnp.square(standardised(features) - standardised(batch[FEATURES])).mean(axis=-1)
    soft_ce = jnp.sum(per_token * weights[:, None]) / counts.tokens
    soft_ctc = jnp.sum(_mean_over(per_step, said.ctc_steps) * weights) / counts.clips
    matched = jnp.sum(_mean_over(per_place, lengths) * weights) / counts.clips
    total = config.decoder_weight * soft_ce + config.ctc_weight * soft_ctc + config.feature_weight * matched
    return total, dict(zip(LESSONS, (soft_ce, soft_ctc, matched)))


def divergence(logits: Float[Array, "b s v"], teacher: Float[Array, "b s v"], temperature: float) -> Float[Array, "b s"]:
    """temperature^2 * KL(teacher || student) of the distributions at that temperature, in nats."""
    ours = jax.nn.log_softmax(logits.astype(jnp.float32) / temperature)
    theirs = jax.nn.log_softmax(teacher.astype(jnp.float32) / temperature)
    return temperature**2 * jnp.sum(jnp.exp(theirs) * (theirs - ours), axis=-1)


def standardised(features: Float[Array, "b s d"]) -> Float[Array, "b s d"]:
    return jax.nn.standardize(features.astype(jnp.float32), axis=-1, epsilon=1e-5)


def _mean_over(values: Float[Array, "b s"], lengths: Any) -> Float[Array, "b"]:
    """Over the first `lengths` places of each row; over all of them where there are none given."""
    if lengths is None:
        return values.mean(axis=1)
    return jnp.sum(values * length_mask(lengths, values.shape[1]), axis=1) / jnp.maximum(lengths, 1)
