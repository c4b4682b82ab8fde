"""Models that workdirs hold, ready for evaluation or translation: nothing but JSON and parameters is read, no config file is run."""

import dataclasses
import logging
import math
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

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
from signvit_jax.inference.predictor import Encode, Models, Predictor
from signvit_jax.layers.compute_policy import ComputePolicy, compute_policy
from signvit_jax.models.definition import ModelDefinition
from signvit_jax.parallel.mesh import make_mesh
from signvit_jax.parallel.sharding import state_shardings
from signvit_jax.text.tokenizer import Tokenizer

log = logging.getLogger(__name__)

# What the models of an ensemble, or a teacher and its student, must agree in, so that one clip read once serves all of them.
SHARED_KEYS = ("num_frames", "image_size", "sampling", "frame_rate", "frame_buckets", "fit")

MUTE = 1.2  # nats a label: a CTC head that has not learned yet says the blank, or what is frequent, and its loss stands still near 2.3


@dataclasses.dataclass(frozen=True)
class _Ensemble:
    binds: tuple[Callable[[PyTree], Models], ...]

    def __call__(self, weights: Sequence[PyTree]) -> Models:
        return tuple(bind(params) for bind, params in zip(self.binds, weights))


@dataclasses.dataclass(frozen=True)
class TrainedModel:
    """One model, or with `others` an ensemble: each token's probability is then the mean of what its models say."""

    workdir: Workdir
    config: Config
    tokenizer: Tokenizer
    gloss_tokenizer: Tokenizer | None
    definition: ModelDefinition
    mesh: Mesh
    params: PyTree
    step: int  # of the checkpoint that the parameters are from
    others: tuple["TrainedModel", ...] = ()
    encode: Encode | None = None  # what encodes clips in place of the model's own encoder
    calibration: Calibration | None = (
        None  # what confidences are worth; of an ensemble nobody knows
    )
    validation: Mapping[str, float] = dataclasses.field(
        default_factory=dict
    )  # what the checkpoint scored on the validation split, where that is known

    @property
    def ctc_hears(self) -> bool:
        """Whether the CTC head can be asked if somebody signs: it was trained, and validation did not find it at guessing (see MUTE)."""
        members = (self, *self.others)
        alike = (
            len(
                {
                    (member.ctc_tokenizer.tokens, member.config.model.ctc.source)
                    for member in members
                }
            )
            == 1
        )
        return alike and all(
            member.config.training.ctc_weight > 0 and member.validation.get("ctc", 0.0) < MUTE
            for member in members
        )

    @property
    def ctc_tells_times(self) -> bool:
        """Whether it also tells when a sign is made."""
        return self.ctc_hears and self.config.model.ctc.source == "frames"

    @property
    def least_evidence(self) -> float:
        """The evidence (decoding.rest) that nearly all validation clips with signing have; infinite where it is not known."""
        return min(
            member.validation.get("ctc_evidence", math.inf) for member in (self, *self.others)
        )

    @property
    def ctc_tokenizer(self) -> Tokenizer:
        return self.gloss_tokenizer or self.tokenizer

    @property
    def bind(self) -> Callable[[PyTree], Models]:
        """Makes the model, or the tuple of models, of `weights`. Always equal to itself: compiled programs are kept by it."""
        return (
            _Ensemble(tuple(member.definition.bind for member in (self, *self.others)))
            if self.others
            else self.definition.bind
        )

    @property
    def weights(self) -> PyTree:
        """What `predictor` takes as parameters: those of one model, or a tuple for an ensemble."""
        return (
            (self.params, *(other.params for other in self.others)) if self.others else self.params
        )

    def predictor(self, decoders: Sequence[str], **inference: object) -> Predictor:
        """Compiled decoders with the config's inference values, those given replaced; call it with `weights`.

        Raises ConfigError for a decoder that there is not, values that the config refuses, and decoders that these models cannot serve.
        """
        if unknown := [name for name in decoders if name not in DECODERS]:
            raise ConfigError(f"decode is {unknown[0]!r}; allowed: {', '.join(DECODERS)}")
        values = dataclasses.asdict(self.config)
        config = from_mapping(values | {"inference": values["inference"] | inference}).inference
        if config.n_best > config.beam_size:
            raise ConfigError(
                f"config.inference.n_best is {config.n_best}; allowed: 1 to inference.beam_size = {config.beam_size}, which can be raised too"
            )
        members = (self, *self.others)
        uses_ctc = [
            name
            for name in decoders
            if name in CTC_DECODERS or (name == "beam" and config.ctc_weight)
        ]
        if "beam" in uses_ctc and (
            glosses := [member for member in members if member.gloss_tokenizer]
        ):
            raise ConfigError(
                f"config.inference.ctc_weight is {config.ctc_weight:g}, but the CTC head of {glosses[0].workdir.path} spells glosses "
                "(model.ctc.target 'gloss'); set inference.ctc_weight to 0: only a head that spells text can score the decoder's sentences"
            )
        if (
            uses_ctc
            and len(
                {
                    (member.ctc_tokenizer.tokens, member.config.model.ctc.source)
                    for member in members
                }
            )
            > 1
        ):
            raise ConfigError(
                f"the CTC heads of this ensemble read or spell different things, so {uses_ctc[0]!r} cannot average them; "
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


def load_trained(
    path: str | os.PathLike | Sequence[str | os.PathLike], checkpoint: str | int = "best"
) -> TrainedModel:
    """The `checkpoint` ("best", "last" or that of a step) of a workdir, averaged weights where the run kept them, on all devices of this process.

    Several workdirs, in a list or with commas between them, are an ensemble. Raises WorkdirError for a path that is no workdir, ConfigError for
    models that cannot be averaged, and the checkpoint's errors for weights that cannot be read.
    """
    paths = _workdirs(path)
    opened = [(Workdir.open(one), *described(Workdir.open(one))) for one in paths]
    _check_ensemble([(workdir, config, tokenizer) for workdir, config, tokenizer, _ in opened])
    first, *others = [_load(*one, checkpoint) for one in opened]
    return dataclasses.replace(first, others=tuple(others))


def with_calibration(model: TrainedModel) -> TrainedModel:
    """The model with the `calibration.json` of its folder, if there is one. Raises CalibrationError for one that cannot be read."""
    file = model.workdir.calibration_json
    if not file.exists():
        return model
    try:
        calibration = calibration_from_json(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        advice = f"fit it again with: python -m signvit_jax.eval --workdir={model.workdir.path} --calibrate, or remove it"
        raise CalibrationError(f"{file} cannot be read: {error}; {advice}") from error
    if calibration.step != model.step:
        log.warning(
            "confidences are by the scale of step %d, and this is the checkpoint of step %d: eval --calibrate fits it",
            calibration.step,
            model.step,
        )
    return dataclasses.replace(model, calibration=calibration)


def _workdirs(path: str | os.PathLike | Sequence[str | os.PathLike]) -> list[str | os.PathLike]:
    if not isinstance(path, str | os.PathLike):
        paths = list(path)
    else:
        # A folder whose name has a comma is one folder.
        paths = (
            [path] if Path(path).exists() else [part for part in os.fspath(path).split(",") if part]
        )
    if not paths:
        raise ConfigError("no workdir to load a model from: give one, or several for an ensemble")
    return paths


def described(workdir: Workdir) -> tuple[Config, Tokenizer, Tokenizer | None]:
    """What the JSON files of a workdir or an export say."""
    config = workdir.read_config()
    tokenizer = workdir.read_tokenizer(workdir.tokenizer_json)
    gloss_tokenizer = None
    if config.model.ctc.target == "gloss":
        gloss_tokenizer = workdir.read_tokenizer(workdir.gloss_tokenizer_json)
    return config, tokenizer, gloss_tokenizer


def inference_policy(config: Config) -> ComputePolicy:
    """Return how the model of a run computes on the devices of this process."""
    # The run's attention was chosen for the devices that it trained on; choose for these instead.
    policy = dataclasses.replace(compute_policy(config), attention="auto")
    # bfloat16 saves nothing on a CPU, and one row of the output matrix takes many times as long.
    if jax.default_backend() == "cpu":
        policy = dataclasses.replace(policy, dtype=jnp.float32)
    return policy


def _check_ensemble(opened: list[tuple[Workdir, Config, Tokenizer]]) -> None:
    """Raises ConfigError, before any weights are read, for models that cannot be averaged."""
    (first, config, tokenizer), *others = opened
    for workdir, its_config, its_tokenizer in others:
        if its_tokenizer.tokens != tokenizer.tokens:
            raise ConfigError(
                f"the models of an ensemble need one vocabulary, but {first.path} has {tokenizer.vocab_size} tokens and {workdir.path} "
                f"{its_tokenizer.vocab_size}, and they are not the same; train the models on one data set with the same config.tokenizer"
            )
        for key in SHARED_KEYS:
            own, its = getattr(config.data, key), getattr(its_config.data, key)
            if own != its:
                raise ConfigError(
                    f"the models of an ensemble must read clips alike, but config.data.{key} is {own!r} in {first.path} and {its!r} in {workdir.path}"
                )


def _load(
    workdir: Workdir,
    config: Config,
    tokenizer: Tokenizer,
    gloss_tokenizer: Tokenizer | None,
    checkpoint: str | int,
) -> TrainedModel:
    definition = ModelDefinition(
        config,
        tokenizer.vocab_size,
        gloss_tokenizer.vocab_size if gloss_tokenizer else 0,
        inference_policy(config),
    )
    # Inference is data parallel, on however many devices there are: the training mesh may not exist here.
    mesh = make_mesh(MeshConfig())
    abstract = definition.abstract_params()
    target = jax.tree.map(
        lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding),
        abstract,
        state_shardings(abstract, mesh),
    )
    reader = CheckpointReader(workdir.checkpoints, **best_rule(config.training.best_metric))
    of_step = isinstance(checkpoint, int)
    restored = (
        reader.restore_params(target=target, step=checkpoint)
        if of_step
        else reader.restore_params(checkpoint, target)
    )
    validation = restored.meta.get("validation") or {}
    return TrainedModel(
        workdir,
        config,
        tokenizer,
        gloss_tokenizer,
        definition,
        mesh,
        restored.params,
        restored.step,
        validation=validation,
    )
