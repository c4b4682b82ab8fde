"""What a run reads: its splits, the tokenizers learned from the training text, and the batches made of both."""

import logging
import math

import jax

from signvit_jax.checkpoints.best import PERFECT
from signvit_jax.config.errors import ConfigError
from signvit_jax.config.schema import Config, TrainingConfig, with_ctc_target
from signvit_jax.data.dataset import DatasetError, SignDataset, Split, open_dataset
from signvit_jax.data.epoch_plan import steps_per_epoch
from signvit_jax.data.pipeline import BatchIterator, make_batches
from signvit_jax.data.token_table import padded_gloss_length, padded_text_length
from signvit_jax.evaluation.metrics import check_tokenization, score
from signvit_jax.text.tokenizer import (
    Tokenizer,
    learn_gloss_vocabulary,
    make_tokenizer,
    unknown_note,
)

log = logging.getLogger(__name__)

STAND_IN_CLIPS = 500  # training clips, evenly over the split, that stand in for a validation split


class RunData:
    """The data of one run. Raises DatasetError for splits that are not there and ConfigError for a target that the data does not have."""

    def __init__(
        self,
        config: Config,
        tokenizer: Tokenizer | None = None,
        gloss_tokenizer: Tokenizer | None = None,
    ):
        """Tokenizers given are those of an earlier start of the same run; else they are learned from the training split."""
        dataset = open_dataset(config.data.data_dir, config.data.name)
        self.dataset = dataset
        self.train = dataset.split(config.data.train_split)
        self.config = self._settled(config)
        self.validation = self._validation(dataset)
        self.tokenizer = tokenizer or make_tokenizer(
            (entry.text for entry in self.train.index), config.tokenizer
        )
        self.gloss_tokenizer = gloss_tokenizer or self._learn_glosses()
        self.text_length = padded_text_length(
            self.train, self.tokenizer, config.model.decoder.max_len
        )
        self.gloss_length = (
            padded_gloss_length(self.train, self.gloss_tokenizer) if self.gloss_tokenizer else 0
        )
        self._check_best_metric()
        self._say_what_is_unknown()

    @property
    def gloss_vocab_size(self) -> int:
        return self.gloss_tokenizer.vocab_size if self.gloss_tokenizer else 0

    @property
    def ctc_tokenizer(self) -> Tokenizer:
        """What spells the CTC head's labels."""
        return self.gloss_tokenizer or self.tokenizer

    @property
    def num_epochs(self) -> int:
        return num_epochs(self.config.training, len(self.train))

    def train_batches(self) -> BatchIterator:
        """Shuffled, augmented, over all epochs of the run."""
        return self._batches(
            self.train, self.config.training.batch_size, training=True, num_epochs=self.num_epochs
        )

    def validation_batches(self) -> BatchIterator:
        """Each validation clip once, in a fixed order."""
        return self._batches(
            self.validation, self.config.training.batch_size, training=False, num_epochs=1
        )

    def _batches(
        self, split: Split, batch_size: int, *, training: bool, num_epochs: int
    ) -> BatchIterator:
        return make_batches(
            split,
            self.tokenizer,
            self.config,
            batch_size=batch_size,
            training=training,
            seed=self.config.training.seed,
            num_epochs=num_epochs,
            text_length=self.text_length,
            gloss_tokenizer=self.gloss_tokenizer,
            gloss_length=self.gloss_length,
            process_index=jax.process_index(),
            process_count=jax.process_count(),
        )

    def _validation(self, dataset: SignDataset) -> Split:
        name = self.config.data.val_split
        try:
            return dataset.split(name)
        except DatasetError:
            if name in dataset.splits:
                raise
            stand_in = self.train.spread(STAND_IN_CLIPS)
            log.warning(
                "the data set has no split %r: validation figures are taken on %s of %r and say nothing about new clips",
                name,
                f"{len(stand_in):,} of the {len(self.train):,} clips"
                if len(stand_in) < len(self.train)
                else "all clips",
                self.train.name,
            )
            return stand_in

    def _check_best_metric(self) -> None:
        """Raises ConfigError for a `training.best_metric` that perfect outputs would not reach: BLEU-4 of texts under four words is always 0."""
        check_tokenization(self.config.evaluation.tokenize)
        metric, texts = (
            self.config.training.best_metric,
            [entry.text for entry in self.validation.index],
        )
        if metric == "loss" or not texts:
            return
        perfect = score(
            texts,
            texts,
            tokenize=self.config.evaluation.tokenize,
            lowercase=self.config.tokenizer.lowercase,
        )
        reached = {
            name: abs(getattr(perfect, name) - best) < 1e-6 for name, best in PERFECT.items()
        }
        if not reached[metric]:
            others = ", ".join(
                repr(name) for name in ("chrf", "wer", "loss") if reached.get(name, True)
            )
            raise ConfigError(
                f"config.training.best_metric is {metric!r}, but on the {len(texts):,} texts of {self.validation.name!r} even perfect outputs would "
                f"have {getattr(perfect, metric):.4g} (no text has four words?): no checkpoint could be told to be the best; allowed here: {others}"
            )

    def _say_what_is_unknown(self) -> None:
        """Logs, of each split, what the vocabularies lack; a test split that cannot be read is no reason not to train."""
        names = dict.fromkeys((self.train.name, self.validation.name, self.config.data.test_split))
        for name in names:
            try:
                index = self.dataset.split(name).index
            except DatasetError:
                continue
            notes = [unknown_note(self.tokenizer.unknown([entry.text for entry in index]))]
            if self.gloss_tokenizer:
                notes.append(
                    unknown_note(
                        self.gloss_tokenizer.unknown([entry.gloss for entry in index]), "glosses"
                    )
                )
            for note in filter(None, notes):
                log.warning("split %r: %s", name, note)

    def _settled(self, config: Config) -> Config:
        """`ctc.target` 'auto' becomes what the training split has."""
        if config.model.ctc.target != "auto":
            return config
        target = "gloss" if any(entry.gloss for entry in self.train.index) else "text"
        log.info(
            "CTC spells %s",
            "glosses" if target == "gloss" else "text: the training split has no glosses",
        )
        return with_ctc_target(config, target)

    def _learn_glosses(self) -> Tokenizer | None:
        if self.config.model.ctc.target == "text":
            return None
        glosses = [entry.gloss for entry in self.train.index]
        if not any(glosses):
            raise ConfigError(
                f"config.model.ctc.target is 'gloss', but no clip of {self.config.data.name}/{self.train.name} has a gloss; allowed here: 'text'"
            )
        return learn_gloss_vocabulary(glosses)


def num_epochs(training: TrainingConfig, clips: int) -> int:
    """`training.num_epochs`, or as many as `training.min_steps` takes with so many training clips."""
    steps = max(steps_per_epoch(clips, training.batch_size), 1)
    return max(training.num_epochs, math.ceil(training.min_steps / steps))
