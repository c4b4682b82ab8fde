"""The sentences of each step: a function of the step, and every one as often as the others."""

import collections

import numpy as np
import pytest

from signvit_jax.data.sentences import SentenceDraws
from signvit_jax.data.token_table import gloss_table, text_table
from signvit_jax.text.tokenizer import learn, learn_gloss_vocabulary
from tests.helpers import tiny_model

TEXTS = [f"number {i}" for i in range(7)]
GLOSSES = ["ZERO", "", "TWO", "THREE NUMBER", "FOUR", "", "SIX"]
ANNOTATED = [0, 2, 3, 4, 6]
BATCH, PER_CLIP = 4, 2


@pytest.fixture(scope="module")
def draws():
    words = learn(TEXTS, tiny_model.config(tokenizer__name="word").tokenizer)
    glosses = learn_gloss_vocabulary(GLOSSES)
    return SentenceDraws(
        text_table(words, TEXTS, 8, "train"),
        gloss_table(glosses, GLOSSES, 8, "train"),
        PER_CLIP,
        np.array(ANNOTATED),
        seed=3,
    )


def of_steps(draws, steps, rows=slice(0, BATCH)):
    found = [draws.arrays(step, BATCH, rows) for step in steps]
    return {name: np.concatenate([one[name] for one in found]) for name in found[0]}


def test_every_sentence_is_drawn_once_before_any_again(draws):
    """40 sentences in 5 steps: 8 passes over 5."""
    tokens = of_steps(draws, range(5))["sentence_tokens"].reshape(40, 8)
    texts = [tuple(row) for row in tokens.tolist()]
    wanted = np.zeros((len(ANNOTATED), 8), np.int32)
    for row, clip in enumerate(ANNOTATED):
        draws.texts.write(clip, wanted[row])
    for start in range(0, 40, 5):
        assert sorted(texts[start : start + 5]) == sorted(map(tuple, wanted.tolist()))
    assert len({tuple(texts[start : start + 5]) for start in range(0, 40, 5)}) > 4  # other orders


def test_texts_stand_beside_their_glosses(draws):
    found = of_steps(draws, range(3))
    assert found["sentence_tokens"].shape == found["sentence_glosses"].shape == (12, 2, 8)
    pairs = collections.Counter(
        (tuple(text), tuple(glosses), length)
        for text, glosses, length in zip(
            found["sentence_tokens"].reshape(24, 8).tolist(),
            found["sentence_glosses"].reshape(24, 8).tolist(),
            found["sentence_gloss_lengths"].reshape(24).tolist(),
        )
    )
    assert len(pairs) == 5
    assert all(np.count_nonzero(glosses) == length for _, glosses, length in pairs)
    assert sorted(length for _, _, length in pairs) == [1, 1, 1, 1, 2]


def test_the_rows_of_all_processes_are_those_of_one(draws):
    complete = draws.arrays(7, BATCH, slice(0, BATCH))
    parts = [draws.arrays(7, BATCH, rows) for rows in (slice(0, 2), slice(2, 4))]
    for name, value in complete.items():
        np.testing.assert_array_equal(np.concatenate([part[name] for part in parts]), value)
