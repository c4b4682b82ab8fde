"""The data of a run: its splits, the tokenizers learned from the training texts, and batches."""

import logging
import math

import jax

from signvit_jax.checkpoints.best import PERFECT
from signvit_jax.config.errors import ConfigError
from signvit_jax.config.schema import Config, TrainingConfig
from signvit_jax.data.dataset import DatasetError, SignDataset, Split
from signvit_jax.data.epoch_plan import steps_per_epoch
from signvit_jax.data.keypoints import part_weights
from signvit_jax.data.pipeline import BatchIterator, batch_layout, make_batches
from signvit_jax.data.token_table import padded_gloss_length, padded_text_length
from signvit_jax.evaluation.metrics import check_tokenization, score
from signvit_jax.text.model_vocabularies import Vocabularies
from signvit_jax.text.tokenizer import (
    Tokenizer,
    learn_gloss_vocabulary,
    make_tokenizer,
    unknown_note,
)

log = logging.getLogger(__name__)

STAND_IN_CLIPS = 500  # at most, of the training split if there is no validation split


class RunData:
    """Splits, vocabularies and batches of one run.

    Raises DatasetError for a split that does not exist, and ConfigError for a CTC target, a best
    metric or keypoints that the data does not allow.
    """

    def __init__(
        self,
        config: Config,
        dataset: SignDataset,
        tokenizer: Tokenizer | None = None,
        gloss_tokenizer: Tokenizer | None = None,
    ):
        """`config` is resolved. The tokenizers are those of the run's first start, if given."""
        self.config = config
        self.dataset = dataset
        self.train = dataset.split(config.data.train_split)
        self.validation = self._open_validation_split()
        # The points of the batches' "keypoints"; None if they have none.
        self.keypoint_layout = batch_layout(self.train, config.data)
        self.tokenizer = tokenizer or make_tokenizer(
            (entry.text for entry in self.train.index), config.tokenizer
        )
        self.gloss_tokenizer = gloss_tokenizer or self._learn_glosses()
        self.text_length = padded_text_length(
            self.train, self.tokenizer, config.model.decoder.max_len
        )
        self.gloss_length = 0
        if self.gloss_tokenizer:
            self.gloss_length = padded_gloss_length(self.train, self.gloss_tokenizer)
        self._check_keypoints()
        self._check_best_metric()
        self._log_unknown_tokens()

    @property
    def vocabularies(self) -> Vocabularies:
        return Vocabularies(self.tokenizer, self.gloss_tokenizer)

    @property
    def num_epochs(self) -> int:
        return num_epochs(self.config.training, len(self.train))

    def train_batches(self) -> BatchIterator:
        """Shuffled and augmented batches, over all epochs of the run."""
        return self._batches(self.train, training=True, num_epochs=self.num_epochs)

    def validation_batches(self) -> BatchIterator:
        """Every validation clip once, in a fixed order."""
        return self._batches(self.validation, training=False, num_epochs=1)

    def _batches(self, split: Split, *, training: bool, num_epochs: int) -> BatchIterator:
        return make_batches(
            split,
            self.tokenizer,
            self.config,
            batch_size=self.config.training.batch_size,
            training=training,
            seed=self.config.training.seed,
            num_epochs=num_epochs,
            text_length=self.text_length,
            gloss_tokenizer=self.gloss_tokenizer,
            gloss_length=self.gloss_length,
            process_index=jax.process_index(),
            process_count=jax.process_count(),
        )

    def _open_validation_split(self) -> Split:
        """The validation split, or clips evenly over the training split if there is none."""
        name = self.config.data.val_split
        try:
            return self.dataset.split(name)
        except DatasetError:
            if name in self.dataset.splits:
                raise
        stand_in = self.train.spread(STAND_IN_CLIPS)
        taken = "all clips"
        if len(stand_in) < len(self.train):
            taken = f"{len(stand_in):,} of the {len(self.train):,} clips"
        log.warning(
            "the data set has no split %r: validation runs on %s of %r and says nothing about "
            "new clips",
            name,
            taken,
            self.train.name,
        )
        return stand_in

    @property
    def num_keypoints(self) -> int:
        """Number of keypoints in each frame of a batch."""
        return 0 if self.keypoint_layout is None else len(self.keypoint_layout.points)

    def _check_keypoints(self) -> None:
        layout, crops = self.keypoint_layout, self.config.model.encoder.crops
        weight = self.config.training.keypoint_weight
        if weight and layout is None:
            raise ConfigError(
                f"config.training.keypoint_weight is {weight:g}, but the batches have no "
                "keypoints; allowed here: 0, or data.keypoints='auto' and a data set that was "
                "built with keypoints (docs/keypoints.md)"
            )
        if crops == "hands_face" and (layout is None or not part_weights(layout)[-1].any()):
            shown = "no keypoints" if layout is None else f"the keypoints of {layout.name!r}"
            raise ConfigError(
                f"config.model.encoder.crops is 'hands_face', but the batches have {shown}, which "
                "do not show where a face is; allowed here: 'hands' or 'none', or "
                "data.keypoints='auto' and a data set with a point 'nose' or 'face' "
                "(docs/keypoints.md)"
            )

    def _check_best_metric(self) -> None:
        """Raise ConfigError for a `training.best_metric` that perfect outputs would not reach.

        BLEU-4 of texts with fewer than four words, for one, is always 0.
        """
        evaluation, metric = self.config.evaluation, self.config.training.best_metric
        check_tokenization(evaluation.tokenize)
        texts = [entry.text for entry in self.validation.index]
        if metric == "loss" or not texts:
            return
        lowercase = self.config.tokenizer.lowercase
        perfect = score(texts, texts, tokenize=evaluation.tokenize, lowercase=lowercase)
        reached = {
            name: abs(getattr(perfect, name) - best) < 1e-6 for name, best in PERFECT.items()
        }
        if not reached[metric]:
            allowed = [name for name in ("chrf", "wer", "loss") if reached.get(name, True)]
            raise ConfigError(
                f"config.training.best_metric is {metric!r}, but on the {len(texts):,} texts of "
                f"{self.validation.name!r} even perfect outputs would have "
                f"{getattr(perfect, metric):.4g} (no text has four words?), so no checkpoint could "
                f"be the best; allowed here: {', '.join(map(repr, allowed))}"
            )

    def _log_unknown_tokens(self) -> None:
        """Warn of words that the vocabularies lack in each split; skip a missing split."""
        names = dict.fromkeys((self.train.name, self.validation.name, self.config.data.test_split))
        for name in names:
            try:
                index = self.dataset.split(name).index
            except DatasetError:
                continue
            texts = [entry.text for entry in index]
            notes = [unknown_note(self.tokenizer.unknown(texts))]
            if self.gloss_tokenizer:
                glosses = [entry.gloss for entry in index]
                notes.append(unknown_note(self.gloss_tokenizer.unknown(glosses), "glosses"))
            for note in filter(None, notes):
                log.warning("split %r: %s", name, note)

    def _learn_glosses(self) -> Tokenizer | None:
        if self.config.model.ctc.target == "text":
            return None
        glosses = [entry.gloss for entry in self.train.index]
        if not any(glosses):
            raise ConfigError(
                "config.model.ctc.target is 'gloss', but no clip of "
                f"{self.config.data.name}/{self.train.name} has a gloss; allowed here: 'text'"
            )
        return learn_gloss_vocabulary(glosses)


def num_epochs(training: TrainingConfig, clips: int) -> int:
    """Return `training.num_epochs`, or the epochs that `training.min_steps` takes if more."""
    steps = max(steps_per_epoch(clips, training.batch_size), 1)
    return max(training.num_epochs, math.ceil(training.min_steps / steps))
