"""The metrics of a validation and the plot of a run, without a model."""

from types import SimpleNamespace

import pytest

from signvit_jax.checkpoints.best import BestSoFar
from signvit_jax.config.schema import from_mapping
from signvit_jax.telemetry.observers import Observer
from signvit_jax.training import hooks
from signvit_jax.training.hooks import StepHooks
from signvit_jax.training.validation import PlateauNotice, ValidationPass, reached_evidence


def bare(kind: type, **attributes):
    """Return an object with these attributes and no others."""
    made = object.__new__(kind)
    vars(made).update(attributes)
    return made


def ctc_text(text: str) -> dict:
    return {"ctc": SimpleNamespace(text=text)}


def test_ctc_is_scored_on_the_clips_that_have_glosses():
    index = [
        SimpleNamespace(text="it rains", gloss="RAIN NOW"),
        SimpleNamespace(text="the sun shines", gloss=""),
    ]
    data = SimpleNamespace(validation=SimpleNamespace(index=index), gloss_tokenizer=object())
    validation = bare(ValidationPass, _config=from_mapping({}), _data=data)
    found = {0: ctc_text("RAIN NOW"), 1: ctc_text("SUN SHINE HERE")}
    assert validation._ctc_error(found) == {"ctc_wer": 0.0}
    assert validation._ctc_error({1: ctc_text("SUN")}) == {}  # there is no reference
    data.gloss_tokenizer = None
    found = {0: ctc_text("it rains"), 1: ctc_text("the sun shines")}
    assert validation._ctc_error(found) == {"ctc_wer": 0.0}


@pytest.mark.parametrize("tokenize", ["auto", "none", "zh"])
def test_validation_tokenizes_as_the_config_says(tokenize):
    config = from_mapping({"evaluation": {"tokenize": tokenize}})
    validation = bare(ValidationPass, _config=config)
    scores = validation._score(["今天天气很好"] * 2 + ["a b"], ["今天天气不好"] * 2 + ["a b"])
    assert scores.wer == pytest.approx(2 / (12 + 2))
    assert f"tok:{'char' if tokenize == 'auto' else tokenize}" in scores.signature


def test_the_plot_marks_the_best_checkpoint_by_its_metric(monkeypatch):
    drawn = []
    monkeypatch.setattr(hooks, "plot_metrics", lambda *given: drawn.append(given))
    workdir = SimpleNamespace(metrics_csv="csv", metrics_png="png")
    store = SimpleNamespace(best_step=lambda: 20)
    bare(
        StepHooks,
        _workdir=workdir,
        _plot=Observer(workdir.metrics_png),
        _checkpoints=SimpleNamespace(best=BestSoFar("wer"), store=store),
        _last_plot=0.0,
    ).plot(at_once=True)
    assert drawn == [("csv", "png", "wer", 20)]


def test_staying_on_the_blank_is_logged_once(caplog):
    caplog.set_level("INFO")
    notice = PlateauNotice(due=100)
    for step, share in ((50, 1.0), (100, 0.97), (150, 1.0), (200, 0.4), (250, 0.3)):
        notice.check(step, share)
    told = [record.getMessage() for record in caplog.records]
    assert len(told) == 2
    assert "CTC has not left the blank after 100 steps" in told[0] and "97%" in told[0]
    assert "finds signs in 60%" in told[1]


def test_leaving_the_blank_in_time_is_not_logged(caplog):
    caplog.set_level("INFO")
    notice = PlateauNotice(due=100)
    for step, share in ((50, 1.0), (100, 0.5), (150, None)):
        notice.check(step, share)
    assert caplog.text == ""


def test_clips_of_rest_are_not_on_the_blank():
    index = [SimpleNamespace(text=text) for text in ("one", "", "two", "three")]
    validation = bare(
        ValidationPass, _data=SimpleNamespace(validation=SimpleNamespace(index=index))
    )
    found = {i: ctc_text(text) for i, text in enumerate(("", "", "two", "x"))}
    assert validation._blank_share(found) == pytest.approx(1 / 3)
    assert validation._blank_share({1: ctc_text("")}) is None


@pytest.mark.parametrize(
    ("signed", "reached"),
    [
        ([0.05, 0.3, *[0.9] * 58], 0.9),  # two of 60 below: the default limit stays
        ([0.05, 0.3, 0.5, 0.6, *[0.9] * 56], 0.05),  # four of 60
        ([0.05, *[0.3] * 100, *[0.9] * 300], 0.3),  # one of 401 below what all others reach
        ([0.4] * 5, 0.4),
        ([0.8], 0.8),
    ],
)
def test_a_few_clips_with_little_evidence_do_not_lower_the_limit(signed, reached):
    assert reached_evidence(signed, 0.7) == reached
    assert reached_evidence(signed[::-1], 0.7) == reached


def test_the_limit_is_that_of_the_config():
    signed = [0.1, *[0.5] * 39]
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
    validation = bare(
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
