"""Confidence scales: their fit, also to few examples, their statistics, and their file."""

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
# Glosses are spelled like their words.
LEXICON = learn_lexicon(([noun, verb], ["the", noun, verb]) for noun in NOUNS for verb in VERBS)
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
    """Return (statistics, right) of examples that are right with a probability given by `useful`.

    The probability is a logistic function, with weight 1.5 and bias 2; `useless` has no influence.
    """
    rng = np.random.default_rng(seed)
    values = rng.normal(-1.0, 1.0, (count, 2))
    right = rng.random(count) < 1 / (1 + np.exp(-(2.0 + 1.5 * values[:, 0])))
    return [{"useful": a, "useless": b} for a, b in values], right.tolist()


def test_the_fit_finds_the_scale_that_generated_the_examples():
    scale = fit_scale(*examples(20_000))
    assert scale.weights["useful"] == pytest.approx(1.5, abs=0.08)
    assert scale.bias == pytest.approx(2.0, abs=0.1)
    assert scale.weights.get("useless", 0.0) < 0.05
    assert (scale.examples, scale.note) == (20_000, "")


def test_the_fit_minimizes_the_documented_loss():
    inputs, right = examples(60)
    values = np.array([example["useful"] for example in inputs])
    scale = fit_scale([{"useful": value} for value in values], right)
    is_right = np.array(right)
    num_right, num_wrong = is_right.sum(), (~is_right).sum()
    targets = np.where(is_right, (num_right + 1) / (num_right + 2), 1 / (num_wrong + 2))

    def loss(weight, bias):
        logits = weight * values + bias
        ridge = 0.1 / 2 * (weight * values.std()) ** 2
        return (np.logaddexp(0, logits) - targets * logits).sum() + ridge

    fitted = loss(scale.weights["useful"], scale.bias)
    for step in ((1e-3, 0), (-1e-3, 0), (0, 1e-3), (0, -1e-3)):
        assert loss(scale.weights["useful"] + step[0], scale.bias + step[1]) > fitted


def test_a_statistic_with_a_negative_weight_is_removed():
    inputs, right = examples(500)
    with_inverse = [example | {"inverse": -example["useful"]} for example in inputs]
    scale = fit_scale(with_inverse, right)
    assert "inverse" not in scale.weights and scale.weights["useful"] > 1.0


@pytest.mark.parametrize("right", [True, False])
def test_examples_that_are_all_right_or_all_wrong_give_no_certainty(right):
    scale = fit_scale([{"log_prob": -0.1 * i} for i in range(20)], [right] * 20)
    confidences = [scale({"log_prob": -0.1 * i}) for i in range(20)]
    assert np.mean(confidences) == pytest.approx(21 / 22 if right else 1 / 22, abs=0.01)
    assert "a guess: of 20 examples" in scale.note


def test_separable_examples_give_finite_weights():
    right = [True, False] * 20
    scale = fit_scale([{"log_prob": 0.0 if is_right else -1.0} for is_right in right], right)
    assert 0.9 < scale({"log_prob": 0.0}) < 0.99 and 0.01 < scale({"log_prob": -1.0}) < 0.1


def test_without_examples_there_is_no_scale():
    with pytest.raises(CalibrationError, match="no example"):
        fit_scale([], [])


def test_statistics_of_a_sentence_and_its_words():
    words = (Word("The", 0.9), Word("dog", 0.5), Word("eats.", 0.8))
    sentence, of_words = statistics(
        "greedy", -1.0, (0.9, 0.5, 0.8, 1.0), words, "DOG RUNS", LEXICON
    )
    assert sentence["log_prob"] == pytest.approx(math.log(0.9 * 0.5 * 0.8))
    assert sentence["least_log_probs"] == sentence["log_prob"]
    assert sentence["explained"] == -1.0  # RUNS has no word, and nobody signed "eats"
    assert [round(word["own_explained"]) for word in of_words] == [0, 0, -1]
    assert of_words[1]["log_prob"] == pytest.approx(math.log(0.5))
    assert of_words[1]["sentence_log_prob"] == sentence["log_prob"]


def test_words_without_any_sign_are_not_explained():
    sentence, _ = statistics("greedy", -1.0, (0.9,), (Word("The", 0.9),), "", LEXICON)
    assert sentence["explained"] == -1.0


def test_text_of_ctc_is_compared_word_by_word():
    words = (Word("the", 0.9), Word("dog", 0.5), Word("eats", 0.8))
    sentence, of_words = statistics("beam", -1.0, (0.9, 0.5, 0.8), words, "the dog runs now", None)
    assert sentence["agreement"] == pytest.approx(2 * 2 / 7)
    assert [word["own_agreement"] for word in of_words] == [1.0, 1.0, 0.0]


def test_a_ctc_decoder_is_not_compared_with_itself():
    sentence, _ = statistics(
        "ctc", -3.0, (0.9, 0.8), (Word("DOG", 0.9), Word("RUN", 0.8)), "DOG RUNS", LEXICON
    )
    assert sentence.keys() == {"log_prob", "least_log_probs", "path"} and sentence["path"] == -3.0


def test_statistics_of_an_empty_text_are_numbers():
    sentence, of_words = statistics("ctc", -2.0, (), (), None, None)
    assert sentence == {"log_prob": 0.0, "least_log_probs": 0.0, "path": -2.0} and of_words == []


@pytest.mark.parametrize("value", [math.nan, 0.0, -math.inf])
@pytest.mark.parametrize("decoder", ["greedy", "ctc"])
def test_statistics_of_a_broken_model_are_finite(decoder, value):
    sentence, (word,) = statistics(decoder, value, (value, 0.5), (Word("a", value),), "A", LEXICON)
    assert all(map(math.isfinite, [*sentence.values(), *word.values()]))


def test_a_scale_gives_probabilities_for_extreme_statistics():
    scale = Scale({"log_prob": 10.0}, 0.0, 100, 50)
    found = [scale({"log_prob": value}) for value in (-1e6, 0.0, 1e6)]
    assert found == [0.0, 0.5, 1.0]


def test_a_calibration_file_is_read_back_as_written():
    assert from_json(to_json(CALIBRATION)) == CALIBRATION
    without = dataclasses.replace(CALIBRATION, lexicon=None)
    assert from_json(to_json(without)) == without


def test_a_guess_is_marked_in_the_file():
    values = json.loads(to_json(CALIBRATION))
    assert values["decoders"]["greedy"]["sentence"]["note"] == ""
    note = values["decoders"]["ctc"]["sentence"]["note"]
    assert note.startswith("a guess: of 5 examples 3 are right and 2 wrong")
    assert "a guess" in CALIBRATION.fitted_on("ctc")
    assert "a guess" not in CALIBRATION.fitted_on("greedy")


def test_a_decoder_without_scales_uses_those_of_a_related_decoder():
    assert CALIBRATION.of("beam") is CALIBRATION.of("greedy") is CALIBRATION.of("sample")
    assert CALIBRATION.of("ctc_beam") is CALIBRATION.of("ctc")
    own = Scales(Scale({}, 0.0, 100, 50), None)
    with_own = dataclasses.replace(CALIBRATION, decoders={**CALIBRATION.decoders, "beam": own})
    assert with_own.of("beam") is own
    assert dataclasses.replace(CALIBRATION, decoders={}).of("beam") is None


def changed(**changes) -> str:
    return json.dumps(json.loads(to_json(CALIBRATION)) | changes)


def with_weights(weights) -> str:
    """Return a file in which the sentence scale of greedy has these weights."""
    scale = {"weights": weights, "bias": 0, "examples": 1, "right": 1}
    return changed(decoders={"greedy": {"sentence": scale, "word": None}})


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("{", "not a calibration file"),
        ("[]", "not a calibration file"),
        ("{}", "'format'"),
        (changed(version=2), "version 2"),
        (changed(format="other"), "'other'"),
        (changed(decoders={"greedy": {}}), "'sentence'"),
        (with_weights({"log_prob": 1e999}), "inf is not a finite number"),
        (with_weights({"luck": 1}), "luck"),
        (changed(decoders={"greedy": {"sentence": None, "word": None}}), "not a calibration file"),
        (
            changed(lexicon={"glosses": {"A": {"usual": 0, "by": {"a": 0}}}, "words": {}}),
            "probabilities above 0",
        ),
        ("[" * 100_000, "not a calibration file"),
    ],
)
def test_other_files_are_refused_with_the_reason(text, reason):
    with pytest.raises(CalibrationError, match=reason):
        from_json(text)


def test_a_missing_sign_lowers_confidence_at_equal_probability():
    def sentence_statistics(text):
        words = [Word(word, 0.9) for word in text.split()]
        sentence, _ = statistics("greedy", -0.3, [0.9] * 3, words, "DOG RUNS", LEXICON)
        return sentence

    complete = sentence_statistics("the dog runs")
    incomplete = sentence_statistics("the the runs")
    scale = fit_scale([complete, incomplete] * 20, [True, False] * 20)
    assert complete["log_prob"] == incomplete["log_prob"]
    assert scale(complete) > 0.9 and scale(incomplete) < 0.1
