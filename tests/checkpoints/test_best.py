"""The best epoch, and the epoch from which patience counts."""

import pytest

from signvit_jax.checkpoints.best import HIGHER_IS_BETTER, PERFECT, BestSoFar


def after(metric, *values):
    """Return the best epoch after epochs with these values of the metric."""
    best = BestSoFar(metric)
    for epoch, value in enumerate(values, start=1):
        best.update(value, epoch)
    return best


def test_a_non_finite_result_is_never_the_best():
    best = after("loss", float("nan"), 2.0, float("nan"), float("inf"), 1.0, 1.5)
    assert best == BestSoFar("loss", 1.0, 5, since=5)


@pytest.mark.parametrize(
    ("metric", "values"),
    [("bleu4", (0.0, 0.0, 0.0)), ("chrf", (7.0, 7.0, 5.0)), ("wer", (1.0, 2.0, 1.0))],
)
def test_the_later_of_equal_results_is_the_best(metric, values):
    best = after(metric, *values)
    last = max(epoch for epoch, value in enumerate(values, start=1) if value == values[0])
    assert (best.value, best.epoch) == (values[0], last)


def test_patience_counts_from_the_first_of_equal_results():
    assert after("chrf", 5.0, 7.0, 7.0, 5.0).since == 2
    assert after("bleu4", 0.0, 0.0, 0.0).since == 1


def test_a_record_of_an_earlier_release_is_read():
    best = BestSoFar(metric="loss", value=1.0, epoch=4)
    assert best.since == 4


def test_every_text_metric_has_a_perfect_value():
    assert PERFECT.keys() == HIGHER_IS_BETTER.keys() - {"loss"}
