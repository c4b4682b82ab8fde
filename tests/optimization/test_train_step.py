"""The training step and the evaluation step of the tiny model."""

import jax
import numpy as np
import pytest

from signvit_jax.config.schema import DistillationConfig
from signvit_jax.models.definition import ModelDefinition
from signvit_jax.optimization.distillation_loss import DISTILL_LOSSES, TEACHER_LOGITS
from signvit_jax.optimization.optimizer import make_optimizer
from signvit_jax.optimization.train_state import abstract_on_mesh, new_state
from signvit_jax.optimization.train_step import loss_terms, make_eval_step, make_train_step
from signvit_jax.parallel.mesh import make_mesh
from tests.helpers import tiny_model

pytestmark = pytest.mark.xdist_group("train_step")  # one process compiles for all of them

NO_DROPOUT = {
    "model__encoder__dropout": 0.0,
    "model__encoder__attention_dropout": 0.0,
    "model__temporal__dropout": 0.0,
    "model__decoder__dropout": 0.0,
    "model__ctc__dropout": 0.0,
}


class Run:
    """A compiled step of the tiny model, and fresh states for it."""

    def __init__(self, frozen=False, steps=10, thaws=False, **changes):
        config = tiny_model.config(**changes)
        training = config.training
        self.definition = ModelDefinition(config, *tiny_model.vocabulary_sizes(config))
        optimizer = make_optimizer(training, steps, thaws=thaws)
        mesh = make_mesh(config.mesh)
        self.new_state = lambda: new_state(self.definition, optimizer, 0, thaws=thaws)
        _, self.shardings = abstract_on_mesh(self.new_state, mesh)
        self.step = make_train_step(
            self.definition, optimizer, training, mesh, self.shardings, frozen_backbone=frozen
        )
        self.evaluate = make_eval_step(self.definition, training, mesh, self.shardings.params)

    def fresh(self):
        """Return a fresh state, sharded like the states of the step, which is compiled once."""
        return jax.jit(self.new_state, out_shardings=self.shardings)()


@pytest.fixture(scope="module")
def plain():
    return Run(**NO_DROPOUT, training__ema_decay=0.9)


def same(ours, theirs):
    return all(
        np.array_equal(a, b)
        for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True)
    )


def test_ten_steps_on_one_batch_lower_its_loss(plain):
    state, losses = plain.fresh(), []
    for _ in range(10):
        state, report = plain.step(state, tiny_model.batch())
        losses.append(float(report.loss.total))
    assert losses[-1] < 0.7 * losses[0]
    assert int(state.step) == 10


def test_a_step_is_a_pure_function_of_state_and_batch(plain):
    first, again = (plain.step(plain.fresh(), tiny_model.batch()) for _ in range(2))
    assert same(first, again)


def test_microbatches_add_up_to_the_batch(plain):
    batch = tiny_model.batch()
    batch["weights"][3] = 0
    state, report = plain.step(plain.fresh(), batch)
    halves = Run(**NO_DROPOUT, training__ema_decay=0.9, training__gradient_accumulation=2)
    split_state, split_report = halves.step(plain.fresh(), batch)
    np.testing.assert_allclose(split_report.grad_norm, report.grad_norm, rtol=1e-5)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), split_report.loss, report.loss
    )
    # Where the gradient is zero up to rounding errors, Adam still makes an update as large as the
    # learning rate, with a random sign. So a few parameters may differ by twice the rate.
    leaves = zip(jax.tree.leaves(state.params), jax.tree.leaves(split_state.params), strict=True)
    close = [np.mean(np.isclose(a, b, atol=1e-5)) for a, b in leaves]
    assert min(close) > 0.8 and np.mean(close) > 0.99


def test_a_non_finite_update_is_skipped_and_counted(plain):
    state, before = plain.fresh(), plain.fresh()
    broken = dict(tiny_model.batch(), weights=np.full(4, np.nan, np.float32))

    def counts(report):
        in_row, total = int(report.nonfinite_in_row), int(report.nonfinite_total)
        return in_row, total, float(report.finite)

    for times in (1, 2):
        state, report = plain.step(state, broken)
        assert counts(report) == (times, times, 0.0)
    assert same(
        (state.params, state.opt_state, state.ema), (before.params, before.opt_state, before.ema)
    )
    state, report = plain.step(state, tiny_model.batch())
    assert counts(report) == (0, 2, 1.0)
    assert int(state.step) == 3


def test_the_average_follows_the_parameters_with_its_decay(plain):
    state, report = plain.step(plain.fresh(), tiny_model.batch())
    start = plain.fresh().params
    # The decay of the first step is (1 + 0) / (10 + 0).
    expected = jax.tree.map(lambda old, new: 0.1 * old + 0.9 * new, start, state.params)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), state.ema, expected)
    assert float(report.finite) == 1.0


def test_a_frozen_backbone_gets_no_update_and_no_weight_decay():
    run = Run(frozen=True, **NO_DROPOUT, training__weight_decay=0.5)
    start = run.fresh()
    state, _ = run.step(run.fresh(), tiny_model.batch())
    assert same(state.params["encoder"]["backbone"], start.params["encoder"]["backbone"])
    assert not same(state.params["encoder"]["temporal"], start.params["encoder"]["temporal"])
    moments = jax.tree.leaves(state.opt_state[1].mu["encoder"]["backbone"])
    assert all(np.all(leaf == 0) for leaf in moments)


@pytest.mark.long
def test_thawed_at_counts_applied_updates_not_skipped_ones():
    frozen, thawed = (Run(frozen=frozen, thaws=True, **NO_DROPOUT) for frozen in (True, False))
    broken = dict(tiny_model.batch(), weights=np.full(4, np.nan, np.float32))
    state, reported = frozen.fresh(), []
    for batch in (tiny_model.batch(), broken, tiny_model.batch()):
        state, report = frozen.step(state, batch)
        reported.append(int(report.thawed_at))
    assert reported == [1, 1, 2]
    for batch in (tiny_model.batch(), broken):
        state, report = thawed.step(state, batch)
        assert int(state.thawed_at) == int(report.thawed_at) == 2


def test_a_backbone_that_is_not_frozen_learns(plain):
    start = plain.fresh().params["encoder"]["backbone"]
    state, _ = plain.step(plain.fresh(), tiny_model.batch())
    leaves = zip(
        jax.tree.leaves(start), jax.tree.leaves(state.params["encoder"]["backbone"]), strict=True
    )
    assert not any(np.array_equal(a, b) for a, b in leaves)


def with_dropout() -> Run:
    """Return the run of the golden losses, so that both tests use one compiled program."""
    return Run(steps=50, training__encoder_lr=3e-4, training__decoder_lr=1e-3)


def test_dropout_differs_between_steps_and_not_between_runs():
    run = with_dropout()
    state = run.fresh()
    after_one_step, first = run.step(run.fresh(), tiny_model.batch())
    _, again = run.step(run.fresh(), tiny_model.batch())
    assert int(after_one_step.step) == 1
    _, later = run.step(state.replace(step=after_one_step.step), tiny_model.batch())
    assert float(first.loss.total) == float(again.loss.total) != float(later.loss.total)


def test_evaluation_sums_add_up_without_padding_rows(plain):
    params = plain.fresh().params
    batch = tiny_model.batch()
    complete = plain.evaluate(params, batch)
    parts = []
    for keep in (slice(0, 1), slice(1, 4)):
        weights = np.zeros(4, np.float32)
        weights[keep] = 1
        parts.append(plain.evaluate(params, dict(batch, weights=weights)))
    for name, value in complete.items():
        total = sum(part[name] for part in parts)
        np.testing.assert_allclose(value, total, rtol=1e-5, err_msg=name)
    assert float(complete["clips"]) == 4
    assert float(complete["tokens"]) == (batch["token_lengths"] - 1).sum()


@pytest.mark.long
def test_a_step_with_a_gloss_memory_trains_its_encoder_and_adds_up():
    """With corrupted glosses, the same in each run; microbatches would draw other errors."""
    reads = Run(**NO_DROPOUT, **tiny_model.READS_GLOSSES, model__decoder__gloss_corruption=0.0)
    batch = tiny_model.with_glosses(tiny_model.batch())
    batch["weights"][3] = 0
    state, report = reads.step(reads.fresh(), batch)
    halves = Run(
        **NO_DROPOUT,
        **tiny_model.READS_GLOSSES,
        model__decoder__gloss_corruption=0.0,
        training__gradient_accumulation=2,
    )
    split_report = halves.step(reads.fresh(), batch)[1]
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), split_report.loss, report.loss
    )
    assert not same(state.params["gloss_encoder"], reads.fresh().params["gloss_encoder"])
    sums = reads.evaluate(state.params, batch)
    assert set(sums) == {"ctc", "ctc_impossible", "ce", "gloss_ce", "clips", "tokens"}


def test_distillation_is_the_last_term_of_a_batch_with_a_teacher():
    training = tiny_model.config().training
    plain = loss_terms(training, tiny_model.batch())
    taught = loss_terms(training, tiny_model.batch() | {TEACHER_LOGITS: np.zeros((4, 5, 17))})
    assert taught[:-1] == plain and taught[-1].config == DistillationConfig()
    names = [name for term in taught for name in term.metrics]
    assert names == ["ctc", "ctc_impossible", "ce", *DISTILL_LOSSES]


@pytest.mark.parametrize("scope", ["gradients", "update", "apply", "average"])
def test_a_profile_shows_the_parts_of_a_step_by_name(plain, scope):
    text = plain.step.lower(plain.fresh(), tiny_model.batch()).as_text(debug_info=True)
    assert f"jit(train_step)/{scope}/" in text
