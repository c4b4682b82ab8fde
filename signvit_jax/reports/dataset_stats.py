"""Statistics of a built split, from its index alone: no frame is read."""

import dataclasses
import itertools
import json
import unicodedata
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float

from signvit_jax.config.schema import Config
from signvit_jax.data.dataset import SignDataset, Split
from signvit_jax.data.frame_sampling import clip_length
from signvit_jax.data.schema import BuildReport, IndexEntry
from signvit_jax.text import writing_systems
from signvit_jax.text.tokenizer import learn_gloss_vocabulary, make_tokenizer

_MAX_EXAMPLE_WORDS = 12
_MAX_EXAMPLE_CLIPS = 5


@dataclasses.dataclass(frozen=True)
class Vocabulary:
    """Words of a split's texts or glosses, ignoring case.

    In scripts without spaces the words of a text are its characters.
    """

    words: int  # running words
    distinct: int
    unseen: int  # distinct words that the training split does not have
    unseen_running: int
    once: int  # distinct words that occur once
    examples: tuple[str, ...]  # of unseen words, the most frequent first


@dataclasses.dataclass(frozen=True)
class SplitFacts:
    """Statistics of a split; the arrays have one value per clip."""

    name: str
    frames: Float[np.ndarray, " n"]  # stored
    seconds: Float[np.ndarray, " n"]
    words: Float[np.ndarray, " n"]  # of the text
    glosses: Float[np.ndarray, " n"]
    sampled: Float[np.ndarray, " n"]  # frames that evaluation samples
    keypoints: Float[np.ndarray, " n"]  # share of the stored frames with a known keypoint
    text: Vocabulary
    gloss: Vocabulary
    signers: Counter[str]  # clips of each
    videos: int  # source videos
    ctc_target: str  # "text" or "gloss"
    ctc_impossible: int  # clips whose labels need more steps than the CTC head has
    ctc_examples: tuple[str, ...]

    @property
    def clips(self) -> int:
        return len(self.frames)


def split_facts(split: Split, config: Config, dataset: SignDataset) -> SplitFacts:
    """Return the statistics of a split.

    Words count as unseen if the training split of `config` does not have them.
    """
    entries = split.index
    train = _training_split(split, config, dataset).index
    target = config.model.ctc.target
    if target == "auto":
        target = "gloss" if any(entry.gloss for entry in train) else "text"
    sampled = [clip_length(entry.num_frames, entry.fps, config.data) for entry in entries]
    if config.model.ctc.source == "frames":
        steps = sampled
    else:
        steps = [config.model.temporal.num_queries] * len(entries)
    labels = _labels(entries, train, target, config)
    impossible = [
        entry.id
        for entry, ids, limit in zip(entries, labels, steps, strict=True)
        if ctc_steps(ids) > limit
    ]
    seconds = [entry.num_frames / entry.fps if entry.fps > 0 else 0.0 for entry in entries]
    return SplitFacts(
        name=split.name,
        frames=np.array([entry.num_frames for entry in entries], float),
        seconds=np.array(seconds, float),
        words=np.array([len(writing_systems.units(entry.text)) for entry in entries], float),
        glosses=np.array([len(entry.gloss.split()) for entry in entries], float),
        sampled=np.array(sampled, float),
        keypoints=np.array([entry.keypoints or 0.0 for entry in entries], float),
        text=vocabulary([entry.text for entry in entries], [entry.text for entry in train]),
        gloss=vocabulary(
            [entry.gloss for entry in entries], [entry.gloss for entry in train], by_spaces=True
        ),
        signers=Counter(entry.signer for entry in entries if entry.signer),
        videos=len({entry.video_id or entry.id for entry in entries}),
        ctc_target=target,
        ctc_impossible=len(impossible),
        ctc_examples=tuple(impossible[:_MAX_EXAMPLE_CLIPS]),
    )


def vocabulary(
    texts: Sequence[str], train: Sequence[str], *, by_spaces: bool = False
) -> Vocabulary:
    """Count words. `by_spaces` is for glosses, which spaces separate in every script."""

    def words(texts: Sequence[str]) -> Iterator[str]:
        for text in texts:
            yield from writing_systems.units(
                unicodedata.normalize("NFC", text.casefold()), by_spaces
            )

    counts = Counter(words(texts))
    known = set(words(train))
    unseen = Counter({word: count for word, count in counts.items() if word not in known})
    return Vocabulary(
        words=counts.total(),
        distinct=len(counts),
        unseen=len(unseen),
        unseen_running=unseen.total(),
        once=sum(count == 1 for count in counts.values()),
        examples=tuple(word for word, _ in unseen.most_common(_MAX_EXAMPLE_WORDS)),
    )


def ctc_steps(ids: Sequence[int]) -> int:
    """Steps that CTC needs for these labels: one each, and a blank between two equal ones."""
    return len(ids) + sum(a == b for a, b in itertools.pairwise(ids))


def read_build_report(folder: Path) -> BuildReport:
    """Read the builder's build_report.json; return {} if there is none that can be read."""
    try:
        report = json.loads((folder / "build_report.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return BuildReport(**report) if isinstance(report, dict) else {}


def _training_split(split: Split, config: Config, dataset: SignDataset) -> Split:
    """The training split of `config`, or `split` itself where the data set does not have it."""
    name = config.data.train_split
    return split if name == split.name or name not in dataset.splits else dataset.split(name)


def _labels(
    entries: Sequence[IndexEntry], train: Sequence[IndexEntry], target: str, config: Config
) -> list[list[int]]:
    """CTC labels of each clip by a vocabulary of `train`; empty if `train` has no text or gloss."""
    if target == "gloss":
        glosses = [entry.gloss for entry in train if entry.gloss]
        if not glosses:
            return [[] for _ in entries]
        tokenizer = learn_gloss_vocabulary(glosses)
        return tokenizer.encode_all([entry.gloss for entry in entries])
    texts = [entry.text for entry in train]
    if not any(text.strip() for text in texts):
        return [[] for _ in entries]
    return make_tokenizer(texts, config.tokenizer).encode_all([entry.text for entry in entries])
