"""Trained models, loaded from workdirs for evaluation and translation.

Loading reads only JSON files and parameters. It executes no config file.
"""

import dataclasses
import logging
import math
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Unpack

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from jaxtyping import PyTree

from signvit_jax.checkpoints.best import best_rule
from signvit_jax.checkpoints.store import CheckpointReader
from signvit_jax.checkpoints.workdir import Workdir
from signvit_jax.config.errors import ConfigError
from signvit_jax.config.schema import Config, MeshConfig, from_mapping
from signvit_jax.decoding.confidence import Calibration, CalibrationError
from signvit_jax.decoding.confidence import from_json as calibration_from_json
from signvit_jax.decoding.decoders import CTC_DECODERS, DECODERS
from signvit_jax.inference.options import InferenceOptions
from signvit_jax.inference.predictor import Encode, Models, Predictor
from signvit_jax.layers.compute_policy import ComputePolicy, compute_policy
from signvit_jax.models.definition import ModelDefinition
from signvit_jax.models.translator import SignTranslator
from signvit_jax.parallel.mesh import make_mesh
from signvit_jax.parallel.sharding import state_shardings
from signvit_jax.serving.modified_definition import ModifiedDefinition
from signvit_jax.text.model_vocabularies import Vocabularies
from signvit_jax.text.tokenizer import Tokenizer

log = logging.getLogger(__name__)

# Keys of `config.data` that must have the same values in all models of an ensemble, and in a
# teacher and its student: these models get the same batches of clips.
SHARED_KEYS = ("num_frames", "image_size", "sampling", "frame_rate", "frame_buckets", "resize_mode")

# A CTC head counts as trained if its loss on the validation split is lower than this, in nats per
# label. A head that has learned nothing yet predicts only the blank or the most frequent labels;
# its loss stays near 2.3 (docs/learning.md, "The plateau"). The limit is about half of that.
_MAX_TRAINED_CTC_LOSS = 1.2


@dataclasses.dataclass(frozen=True)
class _BindEnsemble:
    """The `bind` of an ensemble; ensembles of equal models have equal ones."""

    binds: tuple[Callable[[PyTree], SignTranslator], ...]

    def __call__(self, weights: Sequence[PyTree]) -> Models:
        return tuple(bind(params) for bind, params in zip(self.binds, weights))


@dataclasses.dataclass(frozen=True)
class TrainedModel:
    """A model and its parameters.

    With `others` it is the first member of an ensemble, whose predicted probabilities are averaged.
    """

    workdir: Workdir
    config: Config
    tokenizer: Tokenizer
    gloss_tokenizer: Tokenizer | None
    definition: ModelDefinition | ModifiedDefinition
    mesh: Mesh
    params: PyTree
    step: int  # the training step of the checkpoint with these parameters
    others: tuple["TrainedModel", ...] = ()
    encode: Encode | None = None  # replaces the model's own encoder, as in an export; usually None
    calibration: Calibration | None = None  # scales of confidences; always None for an ensemble
    # Metrics on the validation split: name -> value. Empty if the checkpoint has none, because it
    # was saved before the first validation, was converted, or was exported by an earlier release.
    validation: Mapping[str, float] = dataclasses.field(default_factory=dict)

    @property
    def has_trained_ctc(self) -> bool:
        """True if the CTC head has learned its labels: then it also shows whether somebody signs.

        In an ensemble every member must have such a head, and all heads the same labels. If the
        checkpoint has no validation loss of CTC, the head counts as trained: training gave it a
        weight, and nothing shows that it failed.
        """
        if not self._same_ctc_labels():
            return False
        for member in self.members:
            ctc_loss = member.validation.get("ctc")
            is_trained = ctc_loss is None or ctc_loss < _MAX_TRAINED_CTC_LOSS
            if not is_trained or member.config.training.ctc_weight <= 0:
                return False
        return True

    @property
    def reads_glosses(self) -> bool:
        """Return True if the decoder has a memory of the glosses that CTC spells."""
        return self.config.model.decoder.gloss_memory

    @property
    def ctc_gives_times(self) -> bool:
        """True if the CTC head also shows at what time each sign is made.

        A head that reads queries instead of frames has no times. A head that finds no sign in some
        signed clips (`min_evidence` is 0) was trained on too few clips, and its times are
        unreliable.
        """
        return (
            self.has_trained_ctc
            and self.config.model.ctc.source == "frames"
            and self.min_evidence > 0.0
        )

    @property
    def min_evidence(self) -> float:
        """Evidence of signing, in nats per frame, that nearly all signed validation clips reach.

        A clip with less evidence counts as rest: see `inference.resting.evidence`. The minimum over
        the members of an ensemble. math.inf, which limits nothing in a minimum with another
        threshold, if validation has measured the evidence of no member.
        """
        return min(member.validation.get("ctc_evidence", math.inf) for member in self.members)

    @property
    def members(self) -> tuple["TrainedModel", ...]:
        """The models of an ensemble, or this single model."""
        return (self, *self.others)

    @property
    def vocabularies(self) -> Vocabularies:
        return Vocabularies(self.tokenizer, self.gloss_tokenizer)

    @property
    def ctc_tokenizer(self) -> Tokenizer:
        return self.vocabularies.ctc

    def define(self, policy: ComputePolicy) -> ModelDefinition:
        """Return the definition of this model with another compute policy."""
        return ModelDefinition(self.config, *self.vocabularies.sizes, policy)

    @property
    def bind(self) -> Callable[[PyTree], Models]:
        """The function from `weights` to the model, or to the tuple of an ensemble's models.

        Equal models have equal functions. Compiled programs are cached with this function as the
        key, so equal models share them.
        """
        if not self.others:
            return self.definition.bind
        return _BindEnsemble(tuple(member.definition.bind for member in self.members))

    @property
    def weights(self) -> PyTree:
        """The argument of `bind`: the model's parameters, or a tuple of them for an ensemble."""
        if not self.others:
            return self.params
        return tuple(member.params for member in self.members)

    def predictor(
        self, decoders: Sequence[str], **inference: Unpack[InferenceOptions]
    ) -> Predictor:
        """Return a predictor that runs `decoders`; call it with `weights` and a batch.

        `inference`: options that replace values of `config.inference`. Raises ConfigError for an
        unknown decoder, for values outside their range, and for decoders that this model or this
        ensemble cannot run.
        """
        if unknown := [name for name in decoders if name not in DECODERS]:
            raise ConfigError(f"decode is {unknown[0]!r}; allowed: {', '.join(DECODERS)}")
        values = dataclasses.asdict(self.config)
        values["inference"] |= inference
        config = from_mapping(values).inference  # checks the ranges
        if config.n_best > config.beam_size:
            raise ConfigError(
                f"config.inference.n_best is {config.n_best}; allowed: 1 to inference.beam_size = "
                f"{config.beam_size}, which can be raised too"
            )
        uses_ctc = [
            name
            for name in decoders
            if name in CTC_DECODERS or (name == "beam" and config.ctc_weight)
        ]
        spelling_glosses = [member for member in self.members if member.gloss_tokenizer]
        if "beam" in uses_ctc and spelling_glosses:
            raise ConfigError(
                f"config.inference.ctc_weight is {config.ctc_weight:g}, but the CTC head of "
                f"{spelling_glosses[0].workdir.path} spells glosses (model.ctc.target 'gloss'); "
                "set inference.ctc_weight to 0: only a head that spells text can score the "
                "decoder's sentences"
            )
        reads_glosses = any(member.reads_glosses for member in self.members)
        # The model's own value, such as the default, has no effect on a model without glosses.
        is_changed = config.gloss_weight not in (0.0, self.config.inference.gloss_weight)
        if is_changed and not reads_glosses:
            raise ConfigError(
                f"config.inference.gloss_weight is {config.gloss_weight:g}, but the decoder of "
                f"{self.workdir.path} reads no glosses (model.decoder.gloss_memory); allowed: 0"
            )
        if uses_ctc and not self._same_ctc_labels():
            raise ConfigError(
                "the CTC heads of this ensemble read or spell different things, so "
                f"{uses_ctc[0]!r} cannot average them; "
                "use decode 'greedy', or 'beam' with inference.ctc_weight 0"
            )
        return Predictor(
            self.bind,
            self.tokenizer,
            self.ctc_tokenizer,
            config,
            self.mesh,
            decoders,
            self.encode,
            self.calibration,
        )

    def _same_ctc_labels(self) -> bool:
        labels = {
            (member.ctc_tokenizer.tokens, member.config.model.ctc.source) for member in self.members
        }
        return len(labels) == 1


def load_trained(
    path: str | os.PathLike | Sequence[str | os.PathLike], checkpoint: str | int = "best"
) -> TrainedModel:
    """Load the model of a workdir, on all devices of this process.

    `path`: a workdir. Several workdirs, in a list or separated by commas, become an ensemble.
    `checkpoint`: "best", "last" or a step. If the run kept averaged weights (EMA), the model has
    those.

    Raises WorkdirError for a path that is not a workdir, ConfigError for models that cannot form an
    ensemble, and CheckpointError for weights that cannot be read.
    """
    workdirs = [Workdir.open(folder) for folder in _workdirs(path)]
    opened = [(workdir, *read_model_files(workdir)) for workdir in workdirs]
    _check_ensemble(opened)
    first, *others = [_load(*files, checkpoint) for files in opened]
    return dataclasses.replace(first, others=tuple(others))


def with_calibration(model: TrainedModel) -> TrainedModel:
    """Return the model with the `calibration.json` of its folder, if there is one.

    Raises CalibrationError if that file cannot be read.
    """
    file = model.workdir.calibration_json
    if not file.exists():
        return model
    try:
        calibration = calibration_from_json(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CalibrationError(
            f"{file} cannot be read: {error}; fit it again with: signvit eval "
            f"--workdir={model.workdir.path} --calibrate, or remove it"
        ) from error
    if calibration.step != model.step:
        log.warning(
            "confidences were calibrated at step %d, and this is the checkpoint of step %d: "
            "eval --calibrate fits them again",
            calibration.step,
            model.step,
        )
    return dataclasses.replace(model, calibration=calibration)


def read_model_files(workdir: Workdir) -> tuple[Config, Vocabularies]:
    """Read the config and the vocabularies of a workdir or an export.

    Raises ConfigError, TokenizerError and WorkdirError.
    """
    config = workdir.read_config()
    tokenizer = workdir.read_tokenizer(workdir.tokenizer_json)
    gloss_tokenizer = None
    if config.model.ctc.target == "gloss":
        gloss_tokenizer = workdir.read_tokenizer(workdir.gloss_tokenizer_json)
    return config, Vocabularies(tokenizer, gloss_tokenizer)


def _workdirs(path: str | os.PathLike | Sequence[str | os.PathLike]) -> list[str | os.PathLike]:
    if not isinstance(path, str | os.PathLike):
        paths = list(path)
    elif Path(path).exists():  # one folder, even if its name has a comma
        paths = [path]
    else:
        paths = [part for part in os.fspath(path).split(",") if part]
    if not paths:
        raise ConfigError("no workdir to load a model from: give one, or several for an ensemble")
    return paths


def inference_policy(config: Config) -> ComputePolicy:
    """Return how the model of a run computes on the devices of this process."""
    # The config's attention kernel was chosen for the devices of the training run; choose one for
    # the devices of this process instead.
    policy = dataclasses.replace(compute_policy(config), attention="auto")
    # bfloat16 saves no time on a CPU. Decoding even becomes slower: the product of one row (one
    # token) with the output matrix takes many times as long as in float32.
    if jax.default_backend() == "cpu":
        policy = dataclasses.replace(policy, dtype=jnp.float32)
    return policy


def _check_ensemble(opened: list[tuple[Workdir, Config, Vocabularies]]) -> None:
    """Raise ConfigError for models that cannot form an ensemble, before weights are read."""
    (first, config, (tokenizer, _)), *others = opened
    for workdir, other_config, (other_tokenizer, _) in others:
        if other_tokenizer.tokens != tokenizer.tokens:
            raise ConfigError(
                f"the models of an ensemble need one vocabulary, but {first.path} has "
                f"{tokenizer.vocab_size} tokens and {workdir.path} {other_tokenizer.vocab_size}, "
                "and they are not the same; train the models on one data set with the same "
                "config.tokenizer"
            )
        for key in SHARED_KEYS:
            value, other_value = getattr(config.data, key), getattr(other_config.data, key)
            if value != other_value:
                raise ConfigError(
                    "the models of an ensemble must read clips alike, but config.data."
                    f"{key} is {value!r} in {first.path} and {other_value!r} in {workdir.path}"
                )


def _load(
    workdir: Workdir, config: Config, vocabularies: Vocabularies, checkpoint: str | int
) -> TrainedModel:
    definition = ModelDefinition(config, *vocabularies.sizes, inference_policy(config))
    # The default mesh: data parallel over the devices of this process, which may have too few
    # devices for the mesh of the training run.
    mesh = make_mesh(MeshConfig())
    abstract = definition.abstract_params()
    target = jax.tree.map(
        lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding),
        abstract,
        state_shardings(abstract, mesh),
    )
    reader = CheckpointReader(workdir.checkpoints, **best_rule(config.training.best_metric))
    if isinstance(checkpoint, int):
        restored = reader.restore_params(target=target, step=checkpoint)
    else:
        restored = reader.restore_params(checkpoint, target)
    return TrainedModel(
        workdir,
        config,
        *vocabularies,
        definition,
        mesh,
        restored.params,
        restored.step,
        validation=restored.meta.get("validation") or {},
    )
