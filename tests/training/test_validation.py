"""What the trainer makes of a validation's texts, without a model."""

from types import SimpleNamespace

import pytest

from signvit_jax.checkpoints.best import BestSoFar
from signvit_jax.config.schema import from_mapping
from signvit_jax.telemetry.observers import Observer
from signvit_jax.training import trainer
from signvit_jax.training.trainer import Trainer


def bare_trainer(**attributes) -> Trainer:
    made = object.__new__(Trainer)
    vars(made).update(attributes)
    return made


def said(text: str) -> dict:
    return {"ctc": SimpleNamespace(text=text)}


def test_ctc_is_scored_against_the_glosses_of_the_clips_that_have_them():
    index = [
        SimpleNamespace(text="it rains", gloss="RAIN NOW"),
        SimpleNamespace(text="the sun shines", gloss=""),
    ]
    data = SimpleNamespace(validation=SimpleNamespace(index=index), gloss_tokenizer=object())
    made = bare_trainer(config=from_mapping({}), data=data)
    assert made._ctc_error({0: said("RAIN NOW"), 1: said("SUN SHINE HERE")}) == {"ctc_wer": 0.0}
    assert made._ctc_error({1: said("SUN")}) == {}  # nothing to hold it against
    data.gloss_tokenizer = None
    assert made._ctc_error({0: said("it rains"), 1: said("the sun shines")}) == {"ctc_wer": 0.0}


@pytest.mark.parametrize("tokenize", ["auto", "none", "zh"])
def test_validation_scores_as_the_config_says(tokenize):
    made = bare_trainer(config=from_mapping({"evaluation": {"tokenize": tokenize}}))
    scores = made._scores(["今天天气很好"] * 2 + ["a b"], ["今天天气不好"] * 2 + ["a b"])
    assert scores.wer == pytest.approx(2 / (12 + 2))
    assert f"tok:{'char' if tokenize == 'auto' else tokenize}" in scores.signature


def test_the_plot_is_told_which_checkpoint_is_the_best_and_by_what(monkeypatch):
    drawn = []
    monkeypatch.setattr(trainer, "plot_metrics", lambda *given: drawn.append(given))
    workdir = SimpleNamespace(metrics_csv="csv", metrics_png="png")
    plot = Observer(workdir.metrics_png)
    bare_trainer(
        workdir=workdir,
        plot=plot,
        best=BestSoFar("wer"),
        checkpoints=SimpleNamespace(best_step=lambda: 20),
    )._plot(at_once=True)
    assert drawn == [("csv", "png", "wer", 20)]
