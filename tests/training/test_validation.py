"""The metrics of a validation and the plot of a run, tested without a model."""

from types import SimpleNamespace

import pytest

from signvit_jax.checkpoints.best import BestSoFar
from signvit_jax.config.schema import from_mapping
from signvit_jax.telemetry.observers import Observer
from signvit_jax.training import hooks
from signvit_jax.training.hooks import StepHooks
from signvit_jax.training.validation import PlateauNotice, ValidationPass, reached_evidence


def without_init(kind: type, **attributes):
    """Return an instance of `kind` with these attributes; its `__init__` is not called."""
    instance = object.__new__(kind)
    vars(instance).update(attributes)
    return instance


def ctc_text(text: str) -> dict:
    return {"ctc": SimpleNamespace(text=text)}


def test_ctc_is_scored_on_the_clips_that_have_glosses():
    index = [
        SimpleNamespace(text="it rains", gloss="RAIN NOW"),
        SimpleNamespace(text="the sun shines", gloss=""),
    ]
    data = SimpleNamespace(validation=SimpleNamespace(index=index), gloss_tokenizer=object())
    validation = without_init(ValidationPass, _config=from_mapping({}), _data=data)
    found = {0: ctc_text("RAIN NOW"), 1: ctc_text("SUN SHINE HERE")}
    assert validation._ctc_error(found) == {"ctc_wer": 0.0}
    assert validation._ctc_error({1: ctc_text("SUN")}) == {}  # clip 1 has no reference gloss
    data.gloss_tokenizer = None  # CTC is trained on text, which every clip has
    found = {0: ctc_text("it rains"), 1: ctc_text("the sun shines")}
    assert validation._ctc_error(found) == {"ctc_wer": 0.0}


@pytest.mark.parametrize("tokenize", ["auto", "none", "zh"])
def test_validation_tokenizes_as_the_config_says(tokenize):
    config = from_mapping({"evaluation": {"tokenize": tokenize}})
    validation = without_init(ValidationPass, _config=config)
    scores = validation._score(["今天天气很好"] * 2 + ["a b"], ["今天天气不好"] * 2 + ["a b"])
    assert scores.wer == pytest.approx(2 / (12 + 2))
    assert f"tok:{'char' if tokenize == 'auto' else tokenize}" in scores.signature


def test_the_plot_marks_the_best_checkpoint_by_its_metric(monkeypatch):
    drawn = []
    monkeypatch.setattr(hooks, "plot_metrics", lambda *arguments: drawn.append(arguments))
    workdir = SimpleNamespace(metrics_csv="csv", metrics_png="png")
    store = SimpleNamespace(best_step=lambda: 20)
    without_init(
        StepHooks,
        _workdir=workdir,
        _plot=Observer(workdir.metrics_png),
        _checkpoints=SimpleNamespace(best=BestSoFar("wer"), store=store),
        _last_plot=0.0,
    ).plot(at_once=True)
    assert drawn == [("csv", "png", "wer", 20)]


def test_ctc_that_predicts_only_blanks_is_logged_once(caplog):
    caplog.set_level("INFO")
    notice = PlateauNotice(due=100)
    for step, share in ((50, 1.0), (100, 0.97), (150, 1.0), (200, 0.4), (250, 0.3)):
        notice.check(step, share)
    messages = [record.getMessage() for record in caplog.records]
    assert len(messages) == 2
    assert "CTC has not left the blank after 100 steps" in messages[0] and "97%" in messages[0]
    assert "finds signs in 60%" in messages[1]


def test_ctc_that_soon_predicts_signs_is_not_logged(caplog):
    caplog.set_level("INFO")
    notice = PlateauNotice(due=100)
    for step, share in ((50, 1.0), (100, 0.5), (150, None)):
        notice.check(step, share)
    assert caplog.text == ""


def test_clips_of_rest_do_not_count_in_the_blank_share():
    index = [SimpleNamespace(text=text) for text in ("one", "", "two", "three")]
    validation = without_init(
        ValidationPass, _data=SimpleNamespace(validation=SimpleNamespace(index=index))
    )
    found = {i: ctc_text(text) for i, text in enumerate(("", "", "two", "x"))}
    assert validation._blank_share(found) == pytest.approx(1 / 3)
    assert validation._blank_share({1: ctc_text("")}) is None


@pytest.mark.parametrize(
    ("signed", "reached"),  # evidence of signing in clips with a text; what most of them reach
    [
        ([0.05, 0.3, *[0.9] * 58], 0.9),  # 2 of 60 are below the limit of 0.7: fewer than 1 in 20
        ([0.05, 0.3, 0.5, 0.6, *[0.9] * 56], 0.05),  # 4 of 60: more than 1 in 20
        ([0.05, *[0.3] * 100, *[0.9] * 300], 0.3),  # 400 of 401 reach 0.3: more than 199 in 200
        ([0.4] * 5, 0.4),
        ([0.8], 0.8),
    ],
)
def test_a_few_clips_with_little_evidence_do_not_lower_the_limit(signed, reached):
    assert reached_evidence(signed, 0.7) == reached
    assert reached_evidence(signed[::-1], 0.7) == reached


def test_the_evidence_is_compared_with_the_limit_of_the_config():
    signed = [0.1, *[0.5] * 39]  # 39 of 40 clips reach 0.5, all of them 0.1
    assert reached_evidence(signed, 0.4) == 0.5
    assert reached_evidence(signed, 0.6) == 0.1


@pytest.mark.parametrize(
    ("is_last", "weight", "stopped", "decoders"),
    [
        (True, 1.0, False, ["greedy", "ctc", "beam"]),
        (False, 1.0, False, ["greedy", "ctc"]),
        (True, 0.0, False, ["greedy", "ctc"]),
        (True, 1.0, True, ["greedy", "ctc"]),
    ],
    ids=["last", "not the last", "no lexicon", "a signal"],
)
def test_texts_ranked_by_the_lexicon_get_a_scale_at_the_end(is_last, weight, stopped, decoders):
    kept, ranked = [], {0: {"beam": "text"}}
    validation = without_init(
        ValidationPass,
        _config=from_mapping({"inference": {"lexicon_weight": weight}}),
        _complete={0: {"greedy": "text", "ctc": "TEXT"}},
        _calibration=SimpleNamespace(
            is_kept=True, lexicon=object(), keep=lambda found, step: kept.append((found, step))
        ),
        _ranked_beam=lambda params, step: None if stopped else ranked,
    )
    validation.keep_calibration({}, 7, is_last=is_last)
    [(found, step)] = kept
    assert step == 7
    assert {position: list(texts) for position, texts in found.items()} == {0: decoders}
