"""Which epoch is the best, and since when nothing was better."""

import pytest

from signvit_jax.checkpoints.best import HIGHER_IS_BETTER, PERFECT, BestSoFar


def after(metric, *values):
    best = BestSoFar(metric)
    for epoch, value in enumerate(values, start=1):
        best.update(value, epoch)
    return best


def test_a_figure_that_is_not_a_number_is_never_the_best():
    assert after("loss", float("nan"), 2.0, float("nan"), float("inf"), 1.0, 1.5) == BestSoFar(
        "loss", 1.0, 5, since=5
    )


@pytest.mark.parametrize(
    ("metric", "values"),
    [("bleu4", (0.0, 0.0, 0.0)), ("chrf", (7.0, 7.0, 5.0)), ("wer", (1.0, 2.0, 1.0))],
)
def test_the_later_of_equals_is_the_best_and_patience_counts_from_the_first(metric, values):
    best = after(metric, *values)
    assert best.value == values[0] and best.since == 1
    assert best.epoch == max(
        epoch for epoch, value in enumerate(values, start=1) if value == values[0]
    )


def test_the_record_of_an_earlier_release_is_read():
    best = BestSoFar(metric="loss", value=1.0, epoch=4)
    assert best.since == 4


def test_every_metric_of_texts_says_what_perfect_is():
    assert PERFECT.keys() == HIGHER_IS_BETTER.keys() - {"loss"}
