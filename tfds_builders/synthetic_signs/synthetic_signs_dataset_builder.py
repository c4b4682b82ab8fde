"""synthetic_signs: drawn signers, about 20 signs and English sentences; nothing to download."""

from pathlib import Path
from typing import ClassVar

import tensorflow_datasets as tfds

from tfds_builders.base import SignDatasetBuilder
from tfds_builders.clips import ClipTable
from tfds_builders.options import FRACTION, Option, Range
from tfds_builders.synthetic_signs.clips import Options, clip
from tfds_builders.synthetic_signs.grammar import GLOSSES, MAX_GLOSSES, MIN_SIGNS

CLIPS = Range(0, 10_000_000)


class Builder(SignDatasetBuilder):
    VERSION = tfds.core.Version("1.0.0")
    RELEASE_NOTES: ClassVar = {"1.0.0": "First release."}
    OPTIONS = (
        Option("num_train", "clips to train on", 2000, int, allowed=CLIPS),
        Option(
            "num_validation",
            "clips of other signers and sentences, to watch the training",
            200,
            int,
            allowed=CLIPS,
        ),
        Option(
            "num_test",
            "clips of yet other signers and sentences, for the final scores",
            200,
            int,
            allowed=CLIPS,
        ),
        Option("size", "height and width of a frame in pixels", 64, int, allowed=Range(16, 1024)),
        Option(
            "seed",
            "other seeds give other data sets; sentences and signers keep their split",
            0,
            int,
            allowed=Range(0, 2**63 - 1),
        ),
        Option(
            "rest_fraction",
            "share of the clips in which nobody signs, text ''",
            0.0,
            float,
            allowed=FRACTION,
        ),
        Option(
            "num_signs",
            "signs in the vocabulary, the most useful first",
            len(GLOSSES),
            int,
            allowed=Range(MIN_SIGNS, len(GLOSSES)),
        ),
        Option(
            "max_signs",
            "signs in the longest sentence",
            MAX_GLOSSES,
            int,
            allowed=Range(4, MAX_GLOSSES),
        ),
    )
    SIGNER_INDEPENDENT = True

    def read_clips(self, manual_dir: Path | None) -> ClipTable:
        """Return the clips; no file is read, as a clip follows from seed, split and number.

        They are drawn at `frame_rate`, by default 12.5 frames per second.
        """
        counts = {split: self.options[f"num_{split}"] for split in ("train", "validation", "test")}
        seed = self.options["seed"]
        options = Options(
            size=self.options["size"],
            frame_rate=self.encoding.frame_rate or Options.frame_rate,
            rest_fraction=self.options["rest_fraction"],
            num_signs=self.options["num_signs"],
            max_glosses=self.options["max_signs"],
        )
        return ClipTable(
            [
                clip(seed, split, index, options)
                for split, count in counts.items()
                for index in range(count)
            ]
        )
