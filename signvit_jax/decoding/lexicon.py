"""Word-gloss lexicon, learned from annotated sentences.

It finds signs whose word is missing in a hypothesis, and words that nobody signed.
"""

import dataclasses
import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from jaxtyping import Float, Int

Sentence = tuple[Sequence[str], Sequence[str]]  # glosses, words

_ITERATIONS = 5  # of expectation maximization
_MIN_PROBABILITY = 0.01  # smaller probabilities are not stored, and count as this
# "Usual" is what nearly all occurrences in the training sentences reach: all but 5 percent.
_PERCENTILE = 5


@dataclasses.dataclass(frozen=True)
class Entry:
    """A word and the glosses that explain it, or a gloss and the words that explain it."""

    usual: float  # log-probability that its best explanation has in nearly all training sentences
    by: Mapping[str, float]  # explanation -> probability

    def shortfall(self, others: Sequence[str]) -> float:
        """Return by how much the best of `others` explains it worse than usual, in nats, >= 0."""
        probabilities = (self.by.get(other, _MIN_PROBABILITY) for other in others)
        best = max(probabilities, default=_MIN_PROBABILITY)
        return max(self.usual - math.log(best), 0.0)


@dataclasses.dataclass(frozen=True)
class Lexicon:
    """IBM model 1 (Brown et al. 1993) in both directions."""

    glosses: Mapping[str, Entry]
    words: Mapping[str, Entry]

    def shortfall(self, glosses: Sequence[str], words: Sequence[str]) -> float:
        """Return the sum of all shortfalls, in nats: how badly the glosses and words fit."""
        return math.fsum(
            self.unexplained_glosses(glosses, words) + self.unexplained_words(glosses, words)
        )

    def unexplained_glosses(self, glosses: Sequence[str], words: Sequence[str]) -> list[float]:
        """Return the shortfall of each gloss, in nats; 0 for an unknown gloss."""
        return [
            self.glosses[gloss].shortfall(words) if gloss in self.glosses else 0.0
            for gloss in glosses
        ]

    def unexplained_words(self, glosses: Sequence[str], words: Sequence[str]) -> list[float]:
        """Return the shortfall of each word, in nats; 0 for an unknown word."""
        return [
            self.words[word].shortfall(glosses) if word in self.words else 0.0 for word in words
        ]


def learn_lexicon(sentences: Iterable[Sentence]) -> Lexicon | None:
    """Learn the lexicon of sentences and their glosses; None if no sentence has both."""
    pairs = [(list(glosses), list(words)) for glosses, words in sentences if glosses and words]
    if not pairs:
        return None
    return Lexicon(
        glosses=_learn_direction(pairs),
        words=_learn_direction([(words, glosses) for glosses, words in pairs]),
    )


def _learn_direction(pairs: Sequence[Sentence]) -> dict[str, Entry]:
    """Return the entry of each target; a pair has the targets and the sources of a sentence."""
    target_names, targets = _numbered(target for target, _ in pairs)
    # The empty source explains the targets that no other source explains.
    source_names, sources = _numbered(["", *source] for _, source in pairs)
    num_sources = len(source_names)

    # One row for each occurrence of a target with each source that may explain it.
    occurrence_parts, pair_parts = [], []
    num_occurrences = 0
    for target, source in zip(targets, sources):
        numbers = np.arange(num_occurrences, num_occurrences + len(target))
        occurrence_parts.append(np.repeat(numbers, len(source)))
        pair_parts.append(
            np.repeat(target, len(source)) * num_sources + np.tile(source, len(target))
        )
        num_occurrences += len(target)
    occurrences = np.concatenate(occurrence_parts)
    pair_ids, pair_index = np.unique(np.concatenate(pair_parts), return_inverse=True)
    probabilities = _expectation_maximization(occurrences, pair_index, pair_ids % num_sources)

    # The best explanation of each occurrence, without the empty source.
    best = np.full(num_occurrences, _MIN_PROBABILITY)
    not_empty = (pair_ids % num_sources != 0)[pair_index]
    np.maximum.at(best, occurrences[not_empty], probabilities[pair_index[not_empty]])
    target_of_occurrence = np.concatenate(targets)
    order = np.argsort(target_of_occurrence, kind="stable")
    ends = np.cumsum(np.bincount(target_of_occurrence))
    best_by_target = np.split(np.log(best[order]), ends[:-1])

    explanations: dict[int, dict[str, float]] = defaultdict(dict)
    for pair_id, probability in zip(pair_ids.tolist(), probabilities.tolist()):
        target, source = divmod(pair_id, num_sources)
        if source and probability >= _MIN_PROBABILITY:
            explanations[target][source_names[source]] = round(probability, 4)
    return {
        name: Entry(round(float(np.percentile(logs, _PERCENTILE)), 4), explanations[number])
        for number, (name, logs) in enumerate(zip(target_names, best_by_target))
    }


def _numbered(sentences: Iterable[Sequence[str]]) -> tuple[list[str], list[Int[np.ndarray, "n"]]]:
    """Return names in the order of their numbers, and the sentences as numbers."""
    numbers: dict[str, int] = {}
    numbered = [
        np.asarray([numbers.setdefault(name, len(numbers)) for name in sentence], np.int64)
        for sentence in sentences
    ]
    return list(numbers), numbered


def _expectation_maximization(
    occurrences: Int[np.ndarray, "n"],
    pair_index: Int[np.ndarray, "n"],
    pair_sources: Int[np.ndarray, "k"],
) -> Float[np.ndarray, "k"]:
    """Return P(target | source) of each of the k pairs."""
    num_pairs = len(pair_sources)
    probabilities = np.ones(num_pairs)
    for _ in range(_ITERATIONS):
        shares = probabilities[pair_index]
        shares /= np.bincount(occurrences, shares)[occurrences]
        counts = np.bincount(pair_index, shares, minlength=num_pairs)
        probabilities = counts / np.bincount(pair_sources, counts)[pair_sources]
    return probabilities
