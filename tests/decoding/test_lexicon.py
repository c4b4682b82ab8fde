"""The lexicon of a small language, compared with expectation maximization in plain loops."""

import dataclasses
import itertools
import math
from collections import defaultdict

import pytest

from signvit_jax.decoding.lexicon import learn_lexicon

NOUNS = {"DOG": "dog", "CAT": "cat", "BIRD": "bird"}
VERBS = {"RUN": "runs", "EAT": "eats", "SLEEP": "sleeps"}
SENTENCES = [
    ([noun, verb], ["the", NOUNS[noun], VERBS[verb]])
    for noun, verb in itertools.product(NOUNS, VERBS)
]


@pytest.fixture(scope="module")
def lexicon():
    return learn_lexicon(SENTENCES)


def test_a_sentence_like_those_of_training_is_explained(lexicon):
    for glosses, words in SENTENCES:
        assert max(lexicon.unexplained_glosses(glosses, words)) < 0.2
        assert max(lexicon.unexplained_words(glosses, words)) < 0.2


def test_a_sign_without_its_word_is_not_explained(lexicon):
    dog, run = lexicon.unexplained_glosses(["DOG", "RUN"], ["the", "runs"])
    assert dog > 1.0 and run < 0.2


def test_a_word_that_nobody_signed_is_not_explained(lexicon):
    the, dog, eats = lexicon.unexplained_words(["DOG", "RUN"], ["the", "dog", "eats"])
    assert eats > 1.0 and the < 0.2 and dog < 0.2


def test_the_shortfall_of_a_sentence_is_the_sum_over_signs_and_words(lexicon):
    assert lexicon.shortfall(["DOG", "RUN"], ["the", "dog", "runs"]) < 0.5
    glosses, words = ["DOG", "RUN"], ["the", "cat", "runs"]
    of_glosses = lexicon.unexplained_glosses(glosses, words)
    of_words = lexicon.unexplained_words(glosses, words)
    assert len(of_glosses) == 2 and len(of_words) == 3
    expected = sum(of_glosses) + sum(of_words)
    assert lexicon.shortfall(glosses, words) == pytest.approx(expected) and expected > 2


def test_unknown_glosses_and_words_have_no_shortfall(lexicon):
    assert lexicon.unexplained_glosses(["HORSE"], ["the"]) == [0.0]
    assert lexicon.unexplained_words([], ["zebra"]) == [0.0]


def test_without_annotated_sentences_there_is_no_lexicon():
    assert learn_lexicon([]) is None
    assert learn_lexicon([([], ["word"]), (["SIGN"], [])]) is None


def test_probabilities_equal_those_of_model_1_in_loops(lexicon):
    probabilities = defaultdict(lambda: 1.0)
    for _ in range(5):
        counts, totals = defaultdict(float), defaultdict(float)
        for glosses, words in SENTENCES:
            for gloss in glosses:
                total = sum(probabilities[gloss, word] for word in ["", *words])
                for word in ["", *words]:
                    counts[gloss, word] += probabilities[gloss, word] / total
                    totals[word] += probabilities[gloss, word] / total
        probabilities = defaultdict(
            float, {pair: count / totals[pair[1]] for pair, count in counts.items()}
        )
    for gloss, entry in lexicon.glosses.items():
        for word, probability in entry.by.items():
            assert probability == pytest.approx(probabilities[gloss, word], abs=1e-4)
    # In a usual sentence, DOG is explained by the word "dog".
    usual = math.log(probabilities["DOG", "dog"])
    assert lexicon.glosses["DOG"].usual == pytest.approx(usual, abs=0.01)


# A noun that is signed twice is a plural: one word for two signs.
PLURALS = [
    ([noun, noun, verb], [f"{NOUNS[noun]}s", VERBS[verb]])
    for noun, verb in itertools.product(NOUNS, VERBS)
]


@pytest.fixture(scope="module")
def lexicon_with_plurals():
    return learn_lexicon(SENTENCES * 2 + PLURALS)


def test_a_sign_explains_one_occurrence_of_a_word(lexicon):
    _, dog, _, repeated, _ = lexicon.unexplained_words(
        ["DOG", "CAT", "RUN"], ["the", "dog", "the", "dog", "runs"]
    )
    assert dog < 0.2 and repeated > 2
    assert lexicon.unexplained_words(["DOG", "DOG"], ["dog", "dog"])[1] < 0.2


def test_a_word_explains_one_occurrence_of_a_sign_unless_training_has_it_otherwise(
    lexicon, lexicon_with_plurals
):
    _, repeated, _ = lexicon.unexplained_glosses(["DOG", "DOG", "RUN"], ["the", "dog", "runs"])
    assert repeated > 1
    plural = lexicon_with_plurals.unexplained_glosses(["DOG", "DOG", "RUN"], ["dogs", "runs"])
    assert max(plural) < 0.5


def test_repetitions_have_no_shortfall_by_a_lexicon_of_an_earlier_release(lexicon):
    earlier = dataclasses.replace(
        lexicon,
        words={
            word: dataclasses.replace(entry, usual_again=None)
            for word, entry in lexicon.words.items()
        },
    )
    assert earlier.unexplained_words(["DOG"], ["dog", "dog"])[1] == 0.0
    assert lexicon.unexplained_words(["DOG"], ["dog", "dog"])[1] > 2
