"""synthetic_signs: an articulated signer drawn by our own code, about 20 signs, English sentences; nothing to download."""

from pathlib import Path
from typing import ClassVar

import tensorflow_datasets as tfds

from tfds_builders.base import BuildError, Option, SignDatasetBuilder
from tfds_builders.clips import ClipTable
from tfds_builders.synthetic_signs.clips import Options, clip


class Builder(SignDatasetBuilder):
    VERSION = tfds.core.Version("1.0.0")
    RELEASE_NOTES: ClassVar = {"1.0.0": "First release."}
    OPTIONS = (
        Option("num_train", "clips to train on (2000)", 2000, int),
        Option("num_validation", "clips of other signers and sentences, to watch the training (200)", 200, int),
        Option("num_test", "clips of other signers and sentences again, for the final figure (200)", 200, int),
        Option("size", "height and width of a frame in pixels (64)", 64, int),
        Option("seed", "another seed, another data set; sentences and signers never change their split (0)", 0, int),
        Option("rest_fraction", "share of the clips in which nobody signs, text '' (0)", 0.0, float),
    )
    SIGNER_INDEPENDENT = True

    def read_clips(self, manual_dir: Path | None) -> ClipTable:
        """Nothing is read: every clip follows from seed, split and number. Drawn at `frame_rate`, 12.5 a second unless given."""
        counts = {split: self.options[f"num_{split}"] for split in ("train", "validation", "test")}
        size, seed, rest_fraction = (self.options[name] for name in ("size", "seed", "rest_fraction"))
        if min(counts.values()) < 0 or not 16 <= size <= 1024 or seed < 0 or not 0.0 <= rest_fraction <= 1.0:
            numbers = ", ".join(f"num_{split} {count}" for split, count in counts.items())
            raise BuildError(
                f"{numbers}, size {size}, seed {seed}, rest_fraction {rest_fraction}; "
                "allowed: clips >= 0, size 16 to 1024 pixels, seed >= 0, rest_fraction from 0 to 1"
            )
        options = Options(size, self.encoding.frame_rate or Options.frame_rate, rest_fraction)
        return ClipTable([clip(seed, split, index, options) for split, count in counts.items() for index in range(count)])
