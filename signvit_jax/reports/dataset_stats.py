"""Counts of a built split, from its index alone: no frame is read."""

import dataclasses
import itertools
import json
import unicodedata
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from signvit_jax.config.schema import Config
from signvit_jax.data.dataset import SignDataset, Split
from signvit_jax.data.sampling import clip_length
from signvit_jax.text import scripts
from signvit_jax.text.tokenizer import Tokenizer, learn_gloss_vocabulary, make_tokenizer


@dataclasses.dataclass(frozen=True)
class Vocabulary:
    """Words of a split's texts (characters where a script has no spaces), without regard to case, and how many of them the training split lacks."""

    words: int  # running
    distinct: int
    unseen: int  # distinct words that training does not have
    unseen_running: int
    once: int  # distinct words that occur once
    examples: tuple[str, ...]  # of unseen words, the most frequent first


@dataclasses.dataclass(frozen=True)
class SplitFacts:
    """One value a clip in the arrays."""

    name: str
    frames: Float[np.ndarray, " n"]  # stored
    seconds: Float[np.ndarray, " n"]
    words: Float[np.ndarray, " n"]  # of the text
    glosses: Float[np.ndarray, " n"]
    sampled: Float[np.ndarray, " n"]  # frames that evaluation takes of it
    text: Vocabulary
    gloss: Vocabulary
    signers: Counter
    videos: int
    ctc_target: str  # "text" or "gloss"
    ctc_impossible: int  # clips whose labels need more steps than the CTC head has
    ctc_examples: tuple[str, ...]

    @property
    def clips(self) -> int:
        return len(self.frames)


def inspect(split: Split, config: Config, dataset: SignDataset) -> SplitFacts:
    """What there is to say of a split; the training split of the config is what words are unseen in."""
    entries, train = split.index, _training_split(split, config, dataset).index
    target = config.model.ctc.target
    if target == "auto":
        target = "gloss" if any(entry.gloss for entry in train) else "text"
    sampled = np.array(
        [clip_length(entry.num_frames, entry.fps, config.data) for entry in entries], float
    )
    steps = (
        sampled
        if config.model.ctc.source == "frames"
        else np.full(len(entries), config.model.temporal.num_queries)
    )
    labels = _labels(entries, train, target, config)
    impossible = [
        entry.id
        for entry, ids, limit in zip(entries, labels, steps, strict=True)
        if ctc_steps(ids) > limit
    ]
    return SplitFacts(
        name=split.name,
        frames=np.array([entry.num_frames for entry in entries], float),
        seconds=np.array(
            [entry.num_frames / entry.fps if entry.fps > 0 else 0.0 for entry in entries]
        ),
        words=np.array([len(scripts.units(entry.text)) for entry in entries], float),
        glosses=np.array([len(entry.gloss.split()) for entry in entries], float),
        sampled=sampled,
        text=vocabulary([entry.text for entry in entries], [entry.text for entry in train]),
        gloss=vocabulary(
            [entry.gloss for entry in entries], [entry.gloss for entry in train], by_spaces=True
        ),
        signers=Counter(entry.signer for entry in entries if entry.signer),
        videos=len({entry.video_id or entry.id for entry in entries}),
        ctc_target=target,
        ctc_impossible=len(impossible),
        ctc_examples=tuple(impossible[:5]),
    )


def vocabulary(
    texts: Sequence[str], train: Sequence[str], *, by_spaces: bool = False
) -> Vocabulary:
    """`by_spaces`: of glosses, which spaces set apart in every script."""

    def words(texts: Sequence[str]) -> Iterator[str]:
        for text in texts:
            yield from scripts.units(unicodedata.normalize("NFC", text.casefold()), by_spaces)

    counts, known = Counter(words(texts)), set(words(train))
    unseen = Counter({word: count for word, count in counts.items() if word not in known})
    return Vocabulary(
        words=counts.total(),
        distinct=len(counts),
        unseen=len(unseen),
        unseen_running=unseen.total(),
        once=sum(count == 1 for count in counts.values()),
        examples=tuple(word for word, _ in unseen.most_common(12)),
    )


def ctc_steps(ids: Sequence[int]) -> int:
    """Steps that CTC needs for these labels: one each, and a blank between two that are equal."""
    return len(ids) + sum(a == b for a, b in itertools.pairwise(ids))


def read_build_report(folder: Path) -> dict[str, Any]:
    """What the builder left beside the records; {} where there is none that can be read."""
    try:
        found = json.loads((folder / "build_report.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _training_split(split: Split, config: Config, dataset: SignDataset) -> Split:
    name = config.data.train_split
    return split if name == split.name or name not in dataset.splits else dataset.split(name)


def _labels(
    entries: Sequence[Any], train: Sequence[Any], target: str, config: Config
) -> list[list[int]]:
    if target == "gloss":
        glosses = [entry.gloss for entry in train if entry.gloss]
        tokenizer: Tokenizer | None = learn_gloss_vocabulary(glosses) if glosses else None
        return (
            tokenizer.encode_all([entry.gloss for entry in entries])
            if tokenizer
            else [[] for _ in entries]
        )
    texts = [entry.text for entry in train]
    if not any(text.strip() for text in texts):
        return [[] for _ in entries]
    return make_tokenizer(texts, config.tokenizer).encode_all([entry.text for entry in entries])
