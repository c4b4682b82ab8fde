"""The optimizer: learning rates, parameter groups, weight decay, clipping, thaw and moments."""

import math
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from signvit_jax.models.definition import parameters_of
from signvit_jax.optimization.optimizer import (
    decayed_matrices,
    make_optimizer,
    parameter_groups,
    stochastic_round,
    with_backbone,
)
from signvit_jax.optimization.schedules import group_schedules, one_cycle
from tests.helpers import tiny_model


def slow_one_cycle(step, peak, total, warmup):
    """Return the rate of PyTorch's OneCycleLR, in double precision.

    Its options are anneal_strategy='cos', div_factor=25 and final_div_factor=1e4.
    """

    def anneal(start, end, share):
        return end + (start - end) / 2 * (math.cos(math.pi * share) + 1)

    top = warmup * total - 1
    if step <= top:
        return anneal(peak / 25, peak, step / top)
    return anneal(peak, peak / 25 / 1e4, (step - top) / (total - 1 - top))


@pytest.mark.parametrize(("total", "warmup"), [(10, 0.3), (480, 0.05), (200_000, 0.05)])
def test_rates_equal_those_of_pytorchs_one_cycle(total, warmup):
    schedule = jax.jit(one_cycle(3e-3, total, warmup))
    steps = sorted(
        {0, 1, int(warmup * total) - 1, int(warmup * total), total // 2, total - 2, total - 1}
    )
    np.testing.assert_allclose(
        [schedule(s) for s in steps],
        [slow_one_cycle(s, 3e-3, total, warmup) for s in steps],
        rtol=3e-5,
        atol=1e-11,
    )
    assert schedule(total + 5) == schedule(total - 1)


@pytest.mark.parametrize("total", [1, 2, 3])
def test_runs_of_a_few_steps_have_finite_rates(total):
    assert all(0 <= float(one_cycle(1e-3, total, 0.05)(step)) <= 1e-3 for step in range(total))


def test_encoder_and_rest_have_separate_rates():
    tiny = tiny_model.config(
        training__encoder_lr=1e-3, training__decoder_lr=0.0, training__weight_decay=0.0
    )
    params = parameters_of(tiny_model.model(tiny))
    groups_of_parts = {
        name: set(jax.tree.leaves(tree)) for name, tree in parameter_groups(params).items()
    }
    assert groups_of_parts == {"ctc_head": {"rest"}, "decoder": {"rest"}, "encoder": {"encoder"}}
    optimizer = make_optimizer(tiny.training, 10)
    updates, _ = jax.jit(
        lambda p: optimizer.update(jax.tree.map(jnp.ones_like, p), optimizer.init(p), p)
    )(params)
    first = float(group_schedules(tiny.training, 10)["encoder"](0))
    assert all(np.allclose(leaf, -first, rtol=1e-4) for leaf in jax.tree.leaves(updates["encoder"]))
    assert all(
        np.all(leaf == 0) for leaf in jax.tree.leaves((updates["decoder"], updates["ctc_head"]))
    )


@pytest.mark.parametrize("scope", ["all", "matrices"])
def test_weight_decay_acts_on_all_parameters_or_on_matrices(scope):
    tiny = tiny_model.config(training__weight_decay=0.5, training__weight_decay_on=scope)
    params = jax.tree.map(jnp.ones_like, parameters_of(tiny_model.model(tiny)))
    optimizer = make_optimizer(tiny.training, 10)
    updates, _ = jax.jit(
        lambda p: optimizer.update(jax.tree.map(jnp.zeros_like, p), optimizer.init(p), p)
    )(params)
    decayed = jax.tree.map(lambda leaf: bool(np.all(leaf < 0)), updates)
    matrices = decayed_matrices(params)
    assert decayed == (jax.tree.map(lambda _: True, params) if scope == "all" else matrices)
    assert not matrices["decoder"]["embedding"]
    assert matrices["ctc_head"]["out"]["kernel"]


def test_gradients_are_clipped_by_their_global_norm():
    """The second moment is compared, because Adam's first update does not depend on the scale."""
    tiny = tiny_model.config(training__max_grad_norm=0.5)
    params = parameters_of(tiny_model.model(tiny))
    optimizer = make_optimizer(tiny.training, 10)
    _, state = jax.jit(
        lambda p: optimizer.update(
            jax.tree.map(lambda x: 100.0 * jnp.ones_like(x), p), optimizer.init(p), p
        )
    )(params)
    second_moments = sum(float(leaf.sum()) for leaf in jax.tree.leaves(state[1].nu))
    np.testing.assert_allclose(second_moments, 0.001 * 0.5**2, rtol=1e-4)


@pytest.mark.parametrize("moments", ["float32", "bfloat16"])
def test_a_thawed_backbone_is_updated_like_by_a_fresh_adam_with_warm_up(moments):
    config = tiny_model.config(
        training__adam_moments=moments,
        training__weight_decay=0.0,
        training__max_grad_norm=1e9,
        training__warmup_ratio=0.01,
    ).training
    total, frozen_updates = 1000, 300
    draw = np.random.default_rng(0)
    params = {
        "encoder": {"backbone": jnp.zeros(50), "temporal": jnp.zeros(3)},
        "decoder": jnp.zeros(4),
    }

    def gradients(frozen):
        drawn = jax.tree.map(
            lambda leaf: draw.standard_normal(leaf.shape).astype(np.float32), params
        )
        return with_backbone(drawn, np.zeros(50, np.float32)) if frozen else drawn

    def thawed_updates(optimizer, with_thaw=False):
        """Yield (gradient, update) of the backbone for 12 updates after the frozen ones."""
        state = optimizer.init(params)
        update_of = jax.jit(optimizer.update, static_argnames="frozen")
        for step in range(frozen_updates + 12):
            frozen = step < frozen_updates
            thaw = {}
            if with_thaw:
                thaw = {"thawed_at": jnp.int32(min(step, frozen_updates)), "frozen": frozen}
            gradient = gradients(frozen)
            update, state = update_of(gradient, state, params, **thaw)
            if not frozen:
                yield gradient["encoder"]["backbone"], update["encoder"]["backbone"]

    fresh_adam = optax.scale_by_adam(b1=0.9, b2=0.999, eps=1e-8)
    fresh_state = fresh_adam.init(params["encoder"]["backbone"])
    rate = group_schedules(config, total)["encoder"]
    # Moments in bfloat16 are exact to one part in 256, and so are the updates on average.
    tolerance = {"float32": 1e-5, "bfloat16": 0.03}[moments]
    optimizer = make_optimizer(config, total, thaws=True)
    for number, (gradient, update) in enumerate(thawed_updates(optimizer, with_thaw=True)):
        direction, fresh_state = fresh_adam.update(gradient, fresh_state)
        share = min((number + 1) / 10, 1.0)  # the warm-up of this run takes 10 updates
        expected = -rate(frozen_updates + number) * share * direction
        np.testing.assert_allclose(
            update, expected, atol=tolerance * float(jnp.abs(expected).max())
        )
    # Without a thaw, Adam has one count for all parameters: the first update would be three times
    # the rate, and later ones even larger.
    first = next(thawed_updates(make_optimizer(config, total)))[1]
    assert float(jnp.abs(first).min()) > 1.6 * float(rate(frozen_updates))


def test_the_optimizer_state_is_the_same_tree_with_a_thaw():
    config = tiny_model.config().training
    params = {"encoder": {"backbone": jnp.zeros(5)}, "decoder": jnp.zeros(4)}
    states = [make_optimizer(config, 10, thaws=thaws).init(params) for thaws in (False, True)]
    assert jax.tree.structure(states[0]) == jax.tree.structure(states[1])


def test_a_backbone_frozen_again_starts_from_zero_moments():
    config = tiny_model.config(training__weight_decay=0.0, training__warmup_ratio=0.05).training
    params = {"encoder": {"backbone": jnp.zeros(5)}, "decoder": jnp.zeros(4)}
    optimizer = make_optimizer(config, 1000, thaws=True)
    ones = jax.tree.map(jnp.ones_like, params)
    state = optimizer.init(params)
    for frozen in (False, False, True):
        _, state = optimizer.update(ones, state, params, thawed_at=jnp.int32(0), frozen=frozen)
    assert all(not moment["encoder"]["backbone"].any() for moment in (state[1].mu, state[1].nu))
    update, _ = optimizer.update(ones, state, params, thawed_at=jnp.int32(3), frozen=False)
    share = 1 / 50  # the warm-up takes 0.05 x 1000 = 50 updates
    expected = -share * float(group_schedules(config, 1000)["encoder"](3))
    np.testing.assert_allclose(update["encoder"]["backbone"], expected, rtol=1e-4)


def test_bfloat16_moments_converge_like_float32_moments():
    """With rounding to the nearest number, small second moments would stop growing too early."""
    float32_optimizer, bfloat16_optimizer = (
        make_optimizer(tiny_model.config(training__adam_moments=kind).training, 4000)
        for kind in ("float32", "bfloat16")
    )
    params = {"encoder": {"kernel": jnp.zeros((200, 5))}, "decoder": jnp.zeros(3)}
    gradients = jax.tree.map(lambda leaf: jnp.full(leaf.shape, 1e-2), params)

    @partial(jax.jit, static_argnums=0)
    def run(optimizer):
        def step(_, params_and_state):
            params, state = params_and_state
            updates, state = optimizer.update(gradients, state, params)
            return jax.tree.map(jnp.add, params, updates), state

        return jax.lax.fori_loop(0, 2000, step, (params, optimizer.init(params)))

    exact, exact_state = run(float32_optimizer)
    rounded, rounded_state = run(bfloat16_optimizer)
    moments = jax.tree.leaves((rounded_state[1].mu, rounded_state[1].nu))
    assert {leaf.dtype for leaf in moments} == {jnp.dtype("bfloat16")}
    found, expected = (
        np.asarray(state[1].nu["encoder"]["kernel"], np.float64)
        for state in (rounded_state, exact_state)
    )
    np.testing.assert_allclose(found.mean(), expected.mean(), rtol=2e-3)
    assert expected.mean() > 0.8 * 1e-4  # it is near its limit, the squared gradient
    # Rounding changes single updates by a few percent, but not their mean.
    np.testing.assert_allclose(rounded["encoder"]["kernel"], exact["encoder"]["kernel"], rtol=0.06)
    np.testing.assert_allclose(
        rounded["encoder"]["kernel"].mean(), exact["encoder"]["kernel"].mean(), rtol=5e-3
    )


def test_stochastic_rounding_gives_a_neighbor_and_the_right_mean():
    x = jnp.full(100_000, 1.0 + 0.3 / 128)  # bfloat16 has 1 and 1 + 1/128
    rounded = np.asarray(stochastic_round(x, jax.random.key(0)), np.float32)
    assert set(rounded.tolist()) == {1.0, 1.0078125}
    np.testing.assert_allclose((rounded - 1).mean() * 128, 0.3, atol=0.01)
    exact = jnp.array([0.0, -2.5, 1.0078125, jnp.inf, -jnp.inf, jnp.nan])
    np.testing.assert_array_equal(
        stochastic_round(exact, jax.random.key(1)).astype(jnp.float32), exact
    )
