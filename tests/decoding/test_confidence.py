"""Scales of confidence: the fit against a slow minimization, what they do where examples are few, the statistics, and the file."""

import dataclasses
import json
import math

import numpy as np
import pytest

from signvit_jax.decoding.confidence import (
    Calibration,
    CalibrationError,
    Scale,
    Scales,
    fit_scale,
    from_json,
    statistics,
    to_json,
)
from signvit_jax.decoding.lexicon import learn_lexicon
from signvit_jax.text.words import Word

NOUNS, VERBS = ("dog", "cat", "bird"), ("runs", "eats", "sleeps")
LEXICON = learn_lexicon(
    ([noun, verb], ["the", noun, verb]) for noun in NOUNS for verb in VERBS
)  # signs have the names of their words
GREEDY = Scales(
    Scale({"log_prob": 2.0, "explained": 1.5}, 3.0, 200, 150),
    Scale({"log_prob": 1.0}, 2.0, 900, 850),
)
CALIBRATION = Calibration(
    1500,
    "signs",
    "validation",
    200,
    {"greedy": GREEDY, "ctc": Scales(Scale({}, 0.5, 5, 3), None)},
    LEXICON,
)


def examples(count: int, seed: int = 0):
    """Right with the probability that a logistic scale of one of the two statistics says; the other says nothing."""
    rng = np.random.default_rng(seed)
    values = rng.normal(-1.0, 1.0, (count, 2))
    right = rng.random(count) < 1 / (1 + np.exp(-(2.0 + 1.5 * values[:, 0])))
    return [{"telling": a, "idle": b} for a, b in values], right.tolist()


def test_the_fit_finds_the_scale_that_made_the_examples():
    scale = fit_scale(*examples(20_000))
    assert scale.weights["telling"] == pytest.approx(1.5, abs=0.08) and scale.bias == pytest.approx(
        2.0, abs=0.1
    )
    assert scale.weights.get("idle", 0.0) < 0.05
    assert (scale.examples, scale.note) == (20_000, "")


def test_the_fit_is_the_minimum_of_what_it_says():
    given, right = examples(60)
    scale = fit_scale([{"telling": one["telling"]} for one in given], right)
    values, hits = np.array([one["telling"] for one in given]), np.array(right)
    targets = np.where(hits, (hits.sum() + 1) / (hits.sum() + 2), 1 / ((~hits).sum() + 2))

    def loss(weight, bias):
        logits = weight * values + bias
        return (np.logaddexp(0, logits) - targets * logits).sum() + 0.1 / 2 * (
            weight * values.std()
        ) ** 2

    found = loss(scale.weights["telling"], scale.bias)
    for move in ((1e-3, 0), (-1e-3, 0), (0, 1e-3), (0, -1e-3)):
        assert loss(scale.weights["telling"] + move[0], scale.bias + move[1]) > found


def test_a_statistic_that_would_count_against_itself_is_left_out():
    given, right = examples(500)
    scale = fit_scale([one | {"turned": -one["telling"]} for one in given], right)
    assert "turned" not in scale.weights and scale.weights["telling"] > 1.0


@pytest.mark.parametrize("right", [True, False])
def test_no_split_makes_a_scale_certain(right):
    scale = fit_scale([{"log_prob": -0.1 * i} for i in range(20)], [right] * 20)
    said = [scale({"log_prob": -0.1 * i}) for i in range(20)]
    assert np.mean(said) == pytest.approx(21 / 22 if right else 1 / 22, abs=0.01)
    assert "a guess: of 20 examples" in scale.note


def test_separable_examples_leave_finite_weights_and_chances_for_both():
    scale = fit_scale(
        [{"log_prob": float(-(i % 2))} for i in range(40)], [i % 2 == 0 for i in range(40)]
    )
    assert 0.9 < scale({"log_prob": 0.0}) < 0.99 and 0.01 < scale({"log_prob": -1.0}) < 0.1


def test_without_examples_there_is_no_scale():
    with pytest.raises(CalibrationError, match="no example"):
        fit_scale([], [])


def test_statistics_of_a_sentence_and_its_words():
    words = (Word("The", 0.9), Word("dog", 0.5), Word("eats.", 0.8))
    sentence, of_words = statistics(
        "greedy", -1.0, (0.9, 0.5, 0.8, 1.0), words, "DOG RUNS", LEXICON
    )
    assert (
        sentence["log_prob"] == pytest.approx(math.log(0.9 * 0.5 * 0.8))
        and sentence["least_log_probs"] == sentence["log_prob"]
    )
    assert sentence["explained"] == -1.0  # RUNS has no word, and nobody signed "eats"
    assert [round(one["own_explained"]) for one in of_words] == [0, 0, -1]
    assert (
        of_words[1]["log_prob"] == pytest.approx(math.log(0.5))
        and of_words[1]["sentence_log_prob"] == sentence["log_prob"]
    )
    assert (
        statistics("greedy", -1.0, (0.9,), words[:1], "", LEXICON)[0]["explained"] == -1.0
    )  # CTC heard nothing


def test_where_ctc_spells_text_its_words_are_compared():
    words = (Word("the", 0.9), Word("dog", 0.5), Word("eats", 0.8))
    sentence, of_words = statistics("beam", -1.0, (0.9, 0.5, 0.8), words, "the dog runs now", None)
    assert sentence["agreement"] == pytest.approx(2 * 2 / 7) and [
        one["own_agreement"] for one in of_words
    ] == [1.0, 1.0, 0.0]


def test_a_ctc_decoder_is_not_compared_with_itself():
    sentence, _ = statistics(
        "ctc", -3.0, (0.9, 0.8), (Word("DOG", 0.9), Word("RUN", 0.8)), "DOG RUNS", LEXICON
    )
    assert sentence.keys() == {"log_prob", "least_log_probs", "path"} and sentence["path"] == -3.0


def test_no_tokens_have_statistics_that_are_numbers():
    sentence, of_words = statistics("ctc", -2.0, (), (), None, None)
    assert sentence == {"log_prob": 0.0, "least_log_probs": 0.0, "path": -2.0} and of_words == []


@pytest.mark.parametrize("value", [math.nan, 0.0, -math.inf])
@pytest.mark.parametrize("decoder", ["greedy", "ctc"])
def test_a_model_with_broken_weights_has_statistics_that_are_numbers(decoder, value):
    sentence, (word,) = statistics(decoder, value, (value, 0.5), (Word("a", value),), "A", LEXICON)
    assert all(map(math.isfinite, [*sentence.values(), *word.values()]))


def test_a_scale_says_probabilities_however_far_the_statistics():
    scale = Scale({"log_prob": 10.0}, 0.0, 100, 50)
    assert (
        scale({"log_prob": -1e6}) == 0.0
        and scale({"log_prob": 0.0}) == 0.5
        and scale({"log_prob": 1e6}) == 1.0
    )


def test_the_file_reads_back_as_written():
    assert from_json(to_json(CALIBRATION)) == CALIBRATION
    without = dataclasses.replace(CALIBRATION, lexicon=None)
    assert from_json(to_json(without)) == without


def test_a_guess_says_so_in_the_file():
    values = json.loads(to_json(CALIBRATION))
    assert values["decoders"]["greedy"]["sentence"]["note"] == ""
    assert values["decoders"]["ctc"]["sentence"]["note"].startswith(
        "a guess: of 5 examples 3 are right and 2 wrong"
    )
    assert "a guess" in CALIBRATION.fitted_on("ctc") and "a guess" not in CALIBRATION.fitted_on(
        "greedy"
    )


def test_beam_search_takes_the_scale_of_greedy_until_it_has_one():
    assert CALIBRATION.of("beam") is CALIBRATION.of("greedy") is CALIBRATION.of("sample")
    assert CALIBRATION.of("ctc_beam") is CALIBRATION.of("ctc")
    own = Scales(Scale({}, 0.0, 100, 50), None)
    assert (
        dataclasses.replace(CALIBRATION, decoders={**CALIBRATION.decoders, "beam": own}).of("beam")
        is own
    )
    assert dataclasses.replace(CALIBRATION, decoders={}).of("beam") is None


def changed(**changes) -> str:
    return json.dumps(json.loads(to_json(CALIBRATION)) | changes)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{", "not a calibration file"),
        ("[]", "not a calibration file"),
        ("{}", "'format'"),
        (changed(version=2), "version 2"),
        (changed(format="other"), "'other'"),
        (changed(decoders={"greedy": {}}), "'sentence'"),
        (
            changed(
                decoders={
                    "greedy": {
                        "sentence": {
                            "weights": {"log_prob": 1e999},
                            "bias": 0,
                            "examples": 1,
                            "right": 1,
                        },
                        "word": None,
                    }
                }
            ),
            "inf",
        ),
        (
            changed(
                decoders={
                    "greedy": {
                        "sentence": {"weights": {"luck": 1}, "bias": 0, "examples": 1, "right": 1},
                        "word": None,
                    }
                }
            ),
            "luck",
        ),
        (changed(decoders={"greedy": {"sentence": None, "word": None}}), "not a calibration file"),
        (
            changed(lexicon={"glosses": {"A": {"usual": 0, "by": {"a": 0}}}, "words": {}}),
            "probabilities above 0",
        ),
        ("[" * 100_000, "not a calibration file"),
    ],
)
def test_other_files_are_refused_with_the_reason(text, said):
    with pytest.raises(CalibrationError, match=said):
        from_json(text)


def test_a_text_that_leaves_a_sign_out_is_less_sure_though_its_tokens_are_as_probable():
    whole, part = (
        [Word(word, 0.9) for word in text.split()] for text in ("the dog runs", "the the runs")
    )
    said = [
        statistics("greedy", -0.3, [0.9] * 3, words, "DOG RUNS", LEXICON)[0]
        for words in (whole, part)
    ]
    scale = fit_scale(said * 20, [True, False] * 20)
    assert said[0]["log_prob"] == said[1]["log_prob"]
    assert scale(said[0]) > 0.9 and scale(said[1]) < 0.1
