"""Word-gloss lexicon, learned from annotated sentences.

It finds signs whose word is missing in a hypothesis, and words that nobody signed.
"""

import dataclasses
import math
from collections import Counter, defaultdict
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
    """A word and the glosses that explain it, or a gloss and the words that explain it.

    The explanations of a sentence are the glosses, or the words, of its translation. Each of them
    explains one occurrence of the entry at most, so that a word that a text repeats needs a sign
    for each of its occurrences, where it has one in training.
    """

    usual: float  # log-probability that its best explanation has in nearly all training sentences
    by: Mapping[str, float]  # explanation -> probability
    # The same as `usual`, for its second and further occurrences in a sentence. None: not known, as
    # in files of earlier releases; then these occurrences have no shortfall.
    usual_again: float | None = None

    def best_explanations(self, others: Sequence[str], occurrences: int) -> list[float]:
        """Return the log-probability of the best explanation of each occurrence, from the best on.

        An occurrence for which none of the `others` is left has that of _MIN_PROBABILITY.
        """
        probabilities = [self.by.get(other, _MIN_PROBABILITY) for other in others]
        probabilities += [_MIN_PROBABILITY] * occurrences
        return [math.log(p) for p in sorted(probabilities, reverse=True)[:occurrences]]

    def shortfalls(self, others: Sequence[str], occurrences: int) -> list[float]:
        """Return by how much `others` explain each occurrence worse than usual, in nats, >= 0."""
        first, *again = self.best_explanations(others, occurrences)
        usual_again = -math.inf if self.usual_again is None else self.usual_again
        return [max(self.usual - first, 0.0), *(max(usual_again - log, 0.0) for log in again)]


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
        return _unexplained(self.glosses, glosses, words)

    def unexplained_words(self, glosses: Sequence[str], words: Sequence[str]) -> list[float]:
        """Return the shortfall of each word, in nats; 0 for an unknown word."""
        return _unexplained(self.words, words, glosses)


def _unexplained(
    entries: Mapping[str, Entry], targets: Sequence[str], others: Sequence[str]
) -> list[float]:
    """Return the shortfall of each target, in nats; 0 for a target without an entry."""
    counts = Counter(target for target in targets if target in entries)
    shortfalls = {
        target: iter(entries[target].shortfalls(others, count)) for target, count in counts.items()
    }
    return [next(shortfalls[target]) if target in shortfalls else 0.0 for target in targets]


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
    entries = {
        name: Entry(_usual(logs), explanations[number])
        for number, (name, logs) in enumerate(zip(target_names, best_by_target))
    }
    again: dict[str, list[float]] = defaultdict(list)
    for target, source in pairs:
        for name, count in Counter(target).items():
            if count > 1:
                again[name] += entries[name].best_explanations(source, count)[1:]
    return {
        name: dataclasses.replace(
            entry, usual_again=_usual(again[name]) if name in again else entry.usual
        )
        for name, entry in entries.items()
    }


def _usual(logs: Sequence[float] | Float[np.ndarray, "n"]) -> float:
    """Return the log-probability that nearly all of the given ones reach."""
    return round(float(np.percentile(logs, _PERCENTILE)), 4)


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
