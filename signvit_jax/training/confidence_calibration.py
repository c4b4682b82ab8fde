"""Fit `calibration.json`, the scales of confidences: in a run's validation, or on request."""

import dataclasses
import functools
import logging
from collections.abc import Callable, Mapping, Sequence

import jax

from signvit_jax.checkpoints.workdir import Workdir, WorkdirError
from signvit_jax.config.errors import ConfigError
from signvit_jax.config.schema import Config
from signvit_jax.data.dataset import SignDataset, Split, open_dataset
from signvit_jax.data.pipeline import BatchIterator, make_batches
from signvit_jax.data.token_table import padded_text_length
from signvit_jax.decoding.confidence import (
    Calibration,
    CalibrationError,
    Scales,
    from_json,
    to_json,
)
from signvit_jax.decoding.lexicon import Lexicon
from signvit_jax.evaluation.confidence_scales import MOST_CLIPS, describe, fit, lexicon_of
from signvit_jax.inference.predictor import Hypothesis
from signvit_jax.inference.trained_model import TrainedModel
from signvit_jax.training.run_data import RunData

log = logging.getLogger(__name__)


class RunCalibration:
    """The scales of a run's best validation, kept in its workdir.

    It decodes nothing itself, and an error in it never ends a run.
    """

    def __init__(self, data: RunData, workdir: Workdir):
        self._data = data
        self._workdir = workdir
        # Nothing is kept if the split was trained on.
        self.is_kept = (
            data.validation is not data.train and not data.config.inference.min_confidence
        )
        self._spells_glosses = data.gloss_tokenizer is not None

    @functools.cached_property
    def lexicon(self) -> Lexicon | None:
        """The words of the training split's glosses, if CTC spells glosses."""
        return lexicon_of(self._data.train.index) if self._spells_glosses else None

    def without_scales(self, step: int) -> Calibration:
        """Return a calibration that ranks texts by the lexicon and leaves confidences raw."""
        validation = self._data.validation
        return Calibration(step, self._data.config.data.name, validation.name, 0, {}, self.lexicon)

    def keep(self, by_position: Mapping[int, Mapping[str, Hypothesis]], step: int) -> None:
        """Fit and write the scales, by the hypotheses of all validation clips.

        `by_position`: position in the split -> decoder -> hypothesis; every clip has the same
        decoders.
        """
        data, config = self._data, self._data.config
        if not self.is_kept or not by_position or jax.process_index() != 0:
            return
        pairs = [
            (data.validation.index[position], hypotheses)
            for position, hypotheses in by_position.items()
        ]
        try:
            calibration = fit(
                pairs,
                list(pairs[0][1]),
                spells_glosses=self._spells_glosses,
                lexicon=self.lexicon,
                step=step,
                dataset=config.data.name,
                split=data.validation.name,
                lowercase=config.tokenizer.lowercase,
            )
            self._workdir.write_text(self._workdir.calibration_json, to_json(calibration))
        except (CalibrationError, WorkdirError) as error:
            log.warning("no scale of confidence was kept: %s", error)
            return
        for line in describe(calibration):
            log.info("%s", line)


def calibrated(
    model: TrainedModel,
    config: Config,
    decoders: Sequence[str],
    *,
    should_stop: Callable[[], bool] = lambda: False,
    on_batch: Callable[[int], None] = lambda clips: None,
) -> TrainedModel | None:
    """Return the model with scales for `decoders`, fitted on `config.data.val_split`.

    They are kept in `calibration.json` of the model's folder; scales of other decoders for the same
    checkpoint stay there. At most `MOST_CLIPS` clips, evenly over the split, are decoded. Returns
    None if `should_stop()` ended it early. Raises ConfigError for an ensemble and for a split that
    was trained on, and DatasetError, CalibrationError and WorkdirError.
    """
    if model.others:
        raise ConfigError(
            "--calibrate fits one model; an ensemble has no calibration, and its confidences are "
            "mean probabilities"
        )
    data = config.data
    if data.val_split == data.train_split:
        raise ConfigError(
            "--calibrate needs clips that were not trained on, but config.data.val_split is "
            f"{data.val_split!r}, the training split"
        )
    dataset = open_dataset(data.data_dir, data.name)
    split = dataset.split(data.val_split).spread(MOST_CLIPS)
    lexicon = _training_lexicon(model, dataset, data.train_split)
    # Texts are ranked by the lexicon as they will be, but keep their raw confidences.
    unscaled = Calibration(model.step, data.name, split.name, 0, {}, lexicon)
    predictor = dataclasses.replace(model, calibration=unscaled).predictor(
        list(dict.fromkeys([*decoders, "ctc"])),
        **dataclasses.asdict(dataclasses.replace(config.inference, min_confidence=0.0)),
    )
    batches = _batches(split, model, config, predictor.mesh.size)
    by_position = predictor.predict_split(model.weights, batches, should_stop, on_batch)
    if should_stop():
        return None
    calibration = fit(
        [(split.index[position], hypotheses) for position, hypotheses in by_position.items()],
        decoders,
        spells_glosses=model.gloss_tokenizer is not None,
        lexicon=lexicon,
        step=model.step,
        dataset=data.name,
        split=split.name,
        lowercase=config.tokenizer.lowercase,
    )
    decoders_scales = {**_kept_scales(model, calibration), **calibration.decoders}
    calibration = dataclasses.replace(calibration, decoders=decoders_scales)
    if jax.process_index() == 0:
        model.workdir.write_text(model.workdir.calibration_json, to_json(calibration))
    return dataclasses.replace(model, calibration=calibration)


def _batches(split: Split, model: TrainedModel, config: Config, devices: int) -> BatchIterator:
    """Return the clips of a split in batches that the devices can share."""
    return make_batches(
        split,
        model.tokenizer,
        config,
        batch_size=-(-config.inference.batch_size // devices) * devices,
        training=False,
        text_length=padded_text_length(split, model.tokenizer, config.model.decoder.max_len),
        process_index=jax.process_index(),
        process_count=jax.process_count(),
    )


def _training_lexicon(
    model: TrainedModel, dataset: SignDataset, train_split: str
) -> Lexicon | None:
    """Return the words of the training split's glosses, if the model's CTC spells glosses."""
    if model.gloss_tokenizer is None or train_split not in dataset.splits:
        return None
    return lexicon_of(dataset.split(train_split).index)


def _kept_scales(model: TrainedModel, fitted: Calibration) -> dict[str, Scales]:
    """Return the kept scales of all decoders, if they belong to the same checkpoint and clips."""
    try:
        earlier = from_json(model.workdir.calibration_json.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    same = dataclasses.replace(earlier, decoders={}) == dataclasses.replace(fitted, decoders={})
    return dict(earlier.decoders) if same else {}
