"""Which word stands for which sign, learned from annotated sentences.

With it a sign whose word was left out is seen, and a word that nobody signed.
"""

import dataclasses
import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from jaxtyping import Float, Int

Sentence = tuple[Sequence[str], Sequence[str]]  # glosses, words

_ROUNDS = 5  # of expectation maximization
_LEAST = 0.01  # smaller probabilities are not kept, and count as this
_USUAL = (
    5  # percentile of the training sentences: nearly all of them explain a word at least so well
)


@dataclasses.dataclass(frozen=True)
class Entry:
    """A word (or a gloss): the best of what explains it in nearly every training sentence, and the probabilities of all that may."""

    usual: float  # log-probability
    by: Mapping[str, float]

    def shortfall(self, others: Sequence[str]) -> float:
        """How far, in nats, its best explanation among `others` falls short of the usual; 0 where it does not."""
        best = max((self.by.get(other, _LEAST) for other in others), default=_LEAST)
        return max(self.usual - math.log(best), 0.0)


@dataclasses.dataclass(frozen=True)
class Lexicon:
    """IBM model 1 (Brown et al. 1993) in both directions."""

    glosses: Mapping[str, Entry]
    words: Mapping[str, Entry]

    def unexplained_glosses(self, glosses: Sequence[str], words: Sequence[str]) -> list[float]:
        """The shortfall of each gloss, in nats; 0 for one that the lexicon does not know."""
        return [
            self.glosses[gloss].shortfall(words) if gloss in self.glosses else 0.0
            for gloss in glosses
        ]

    def unexplained_words(self, glosses: Sequence[str], words: Sequence[str]) -> list[float]:
        """The shortfall of each word, in nats; 0 for one that the lexicon does not know."""
        return [
            self.words[word].shortfall(glosses) if word in self.words else 0.0 for word in words
        ]


def learn_lexicon(sentences: Iterable[Sentence]) -> Lexicon | None:
    """The lexicon of sentences with their glosses; None where there are none."""
    pairs = [(list(glosses), list(words)) for glosses, words in sentences if glosses and words]
    if not pairs:
        return None
    return Lexicon(_direction(pairs), _direction([(words, glosses) for glosses, words in pairs]))


def _direction(pairs: Sequence[Sentence]) -> dict[str, Entry]:
    """Entries of what stands first in each pair, explained by what stands second."""
    explained, first = _numbered(one for one, _ in pairs)
    explaining, second = _numbered(
        ["", *other] for _, other in pairs
    )  # "" explains what nothing else does
    # A row for each occurrence beside each of what may explain it.
    occurrence, pair = [], []
    count = 0
    for ones, others in zip(first, second):
        occurrence.append(np.repeat(np.arange(count, count + len(ones)), len(others)))
        pair.append(np.repeat(ones, len(others)) * len(explaining) + np.tile(others, len(ones)))
        count += len(ones)
    occurrences = np.concatenate(occurrence)
    kinds, kind = np.unique(np.concatenate(pair), return_inverse=True)
    probabilities = _expectation_maximization(occurrences, kind, kinds % len(explaining))

    best = np.full(count, _LEAST)
    spoken = (kinds % len(explaining) != 0)[kind]
    np.maximum.at(best, occurrences[spoken], probabilities[kind[spoken]])
    of_occurrence = np.concatenate(first)
    by: dict[int, dict[str, float]] = defaultdict(dict)
    for number, probability in zip(kinds.tolist(), probabilities.tolist()):
        one, other = divmod(number, len(explaining))
        if other and probability >= _LEAST:
            by[one][explaining[other]] = round(probability, 4)
    order = np.argsort(of_occurrence, kind="stable")
    groups = np.split(np.log(best[order]), np.cumsum(np.bincount(of_occurrence))[:-1])
    return {
        name: Entry(round(float(np.percentile(group, _USUAL)), 4), by[number])
        for number, (name, group) in enumerate(zip(explained, groups))
    }


def _numbered(sentences: Iterable[Sequence[str]]) -> tuple[list[str], list[Int[np.ndarray, "n"]]]:
    """Names in the order of their numbers, and the sentences in numbers."""
    numbers: dict[str, int] = {}
    found = [
        np.asarray([numbers.setdefault(name, len(numbers)) for name in sentence], np.int64)
        for sentence in sentences
    ]
    return list(numbers), found


def _expectation_maximization(
    occurrences: Int[np.ndarray, "n"], kind: Int[np.ndarray, "n"], explaining: Int[np.ndarray, "k"]
) -> Float[np.ndarray, "k"]:
    """P(explained | explaining) of each kind of pair."""
    probabilities = np.ones(len(explaining))
    for _ in range(_ROUNDS):
        shares = probabilities[kind]
        shares /= np.bincount(occurrences, shares)[occurrences]
        counts = np.bincount(kind, shares, minlength=len(explaining))
        probabilities = counts / np.bincount(explaining, counts)[explaining]
    return probabilities
