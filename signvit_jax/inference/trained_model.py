"""Trained models of workdirs, for evaluation and translation.

Only JSON files and parameters are read; no config file is executed.
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

# Keys of `config.data` on which the models of an ensemble, or a teacher and its student, must
# agree: one batch of clips then serves all of them.
SHARED_KEYS = ("num_frames", "image_size", "sampling", "frame_rate", "frame_buckets", "resize_mode")

# CTC loss on the validation split, in nats per label. A head that has learned nothing yet predicts
# the blank, or the most frequent labels, and its loss stays near 2.3.
_UNTRAINED_CTC_LOSS = 1.2


@dataclasses.dataclass(frozen=True)
class _BindEnsemble:
    binds: tuple[Callable[[PyTree], SignTranslator], ...]

    def __call__(self, weights: Sequence[PyTree]) -> Models:
        return tuple(bind(params) for bind, params in zip(self.binds, weights))


@dataclasses.dataclass(frozen=True)
class TrainedModel:
    """A model and its parameters. With `others` it is an ensemble, which averages probabilities."""

    workdir: Workdir
    config: Config
    tokenizer: Tokenizer
    gloss_tokenizer: Tokenizer | None
    definition: ModelDefinition | ModifiedDefinition
    mesh: Mesh
    params: PyTree
    step: int  # of the checkpoint that the parameters are from
    others: tuple["TrainedModel", ...] = ()
    encode: Encode | None = None  # runs in place of the model's own encoder
    calibration: Calibration | None = None  # of confidences; always None for an ensemble
    # The checkpoint's metrics on the validation split, if they are known.
    validation: Mapping[str, float] = dataclasses.field(default_factory=dict)

    @property
    def has_trained_ctc(self) -> bool:
        """Return True if the CTC head has learned its labels and so can tell if somebody signs."""
        return self._same_ctc_labels() and all(
            member.config.training.ctc_weight > 0
            and member.validation.get("ctc", 0.0) < _UNTRAINED_CTC_LOSS
            for member in self.members
        )

    @property
    def reads_glosses(self) -> bool:
        """Return True if the decoder has a memory of the glosses that CTC spells."""
        return self.config.model.decoder.gloss_memory

    @property
    def ctc_gives_times(self) -> bool:
        """Return True if the CTC head also tells when a sign is made.

        False for a head that finds no sign in some signed clips: it was trained on too few.
        """
        return (
            self.has_trained_ctc
            and self.config.model.ctc.source == "frames"
            and self.min_evidence > 0.0
        )

    @property
    def min_evidence(self) -> float:
        """Evidence (inference.resting) that nearly all signed validation clips reach.

        Infinite if validation did not measure it.
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
        """A definition of this model with another compute policy."""
        return ModelDefinition(self.config, *self.vocabularies.sizes, policy)

    @property
    def bind(self) -> Callable[[PyTree], Models]:
        """The function that makes the model, or a tuple of models, of `weights`.

        Equal models have equal functions: compiled programs are cached by them.
        """
        if not self.others:
            return self.definition.bind
        return _BindEnsemble(tuple(member.definition.bind for member in self.members))

    @property
    def weights(self) -> PyTree:
        """The parameters for `predictor`: those of the model, or a tuple for an ensemble."""
        if not self.others:
            return self.params
        return tuple(member.params for member in self.members)

    def predictor(
        self, decoders: Sequence[str], **inference: Unpack[InferenceOptions]
    ) -> Predictor:
        """Compiled decoders, to be called with `weights`; `inference` replaces the config's values.

        Raises ConfigError for an unknown decoder, for values outside their range, and for decoders
        that these models cannot run.
        """
        if unknown := [name for name in decoders if name not in DECODERS]:
            raise ConfigError(f"decode is {unknown[0]!r}; allowed: {', '.join(DECODERS)}")
        values = dataclasses.asdict(self.config)
        config = from_mapping(values | {"inference": values["inference"] | inference}).inference
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
        glosses = [member for member in self.members if member.gloss_tokenizer]
        if "beam" in uses_ctc and glosses:
            raise ConfigError(
                f"config.inference.ctc_weight is {config.ctc_weight:g}, but the CTC head of "
                f"{glosses[0].workdir.path} spells glosses (model.ctc.target 'gloss'); set "
                "inference.ctc_weight to 0: only a head that spells text can score the decoder's "
                "sentences"
            )
        reads_glosses = [member for member in self.members if member.reads_glosses]
        if inference.get("gloss_weight") and not reads_glosses:
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
    """Load a checkpoint of a workdir, on all devices of this process.

    The weights are the averaged ones if the run kept them. `checkpoint` is "best", "last" or a
    step. Several workdirs, in a list or separated by commas, are an ensemble. Raises WorkdirError
    for a path that is not a workdir, ConfigError for models that cannot be averaged, and
    CheckpointError for weights that cannot be read.
    """
    workdirs = [Workdir.open(one) for one in _workdirs(path)]
    opened = [(workdir, *read_model_files(workdir)) for workdir in workdirs]
    _check_ensemble(opened)
    first, *others = [_load(*files, checkpoint) for files in opened]
    return dataclasses.replace(first, others=tuple(others))


def with_calibration(model: TrainedModel) -> TrainedModel:
    """The model with the `calibration.json` of its folder, if there is one.

    Raises CalibrationError.
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
    elif Path(path).exists():  # a folder whose name has a comma is one folder
        paths = [path]
    else:
        paths = [part for part in os.fspath(path).split(",") if part]
    if not paths:
        raise ConfigError("no workdir to load a model from: give one, or several for an ensemble")
    return paths


def inference_policy(config: Config) -> ComputePolicy:
    """Return how the model of a run computes on the devices of this process."""
    # The run's attention was chosen for the devices that it trained on; choose for these instead.
    policy = dataclasses.replace(compute_policy(config), attention="auto")
    # bfloat16 saves nothing on a CPU, and one row of the output matrix takes many times as long.
    if jax.default_backend() == "cpu":
        policy = dataclasses.replace(policy, dtype=jnp.float32)
    return policy


def _check_ensemble(opened: list[tuple[Workdir, Config, Vocabularies]]) -> None:
    """Raise ConfigError for models that cannot be averaged, before any weights are read."""
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
    # Inference is data parallel over the devices of this process: the mesh of the run may not
    # exist.
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
