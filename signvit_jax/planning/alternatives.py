"""Other settings for a config that does not fit a device: same result, less memory, more time."""

import dataclasses
from collections.abc import Callable, Iterator

from signvit_jax.config.fields import options_of
from signvit_jax.config.schema import Config, TrainingConfig
from signvit_jax.planning.plan_report import COMFORTABLE
from signvit_jax.planning.step_plan import StepPlan

_CAUTION = 1.1  # safety factor on activations that are expected, not yet compiled


def alternatives(
    config: Config, plan: StepPlan, plan_for: Callable[[Config], StepPlan]
) -> Iterator[StepPlan]:
    """Yield plans that fit comfortably, for a config whose plan does not.

    Each is compiled by `plan_for`, in this order: parameters sharded over the devices, then each
    `training.remat` that keeps less, each with the fewest microbatches that are expected to fit.
    The search ends at the first that fits without more microbatches: what keeps less is slower.
    """
    if plan.mesh["data"] > 1:
        ways = plan.mesh["data"] * plan.mesh["fsdp"]
        mesh = dataclasses.replace(config.mesh, data=1, fsdp=ways)
        config = dataclasses.replace(config, mesh=mesh)
        plan = plan_for(config)
        if _is_comfortable(plan):
            yield plan
            return
    policies = options_of(TrainingConfig, "remat")
    for policy in policies[policies.index(config.training.remat) :]:
        if policy != config.training.remat:
            config = _with_training(config, remat=policy)
            plan = plan_for(config)
        if _is_comfortable(plan):
            yield plan
            return
        microbatches = expected_accumulation(config, plan)
        if microbatches is None:
            continue
        smaller = plan_for(_with_training(config, gradient_accumulation=microbatches))
        if _is_comfortable(smaller):
            yield smaller


def expected_accumulation(config: Config, plan: StepPlan) -> int | None:
    """Return the fewest microbatches whose activations should fit; None if none are few enough.

    Activations shrink with the microbatch; the state and one sum of gradients stay.
    """
    memory = plan.memory
    state = memory.parameters + memory.optimizer + memory.average + memory.batch
    fixed = state + memory.parameters
    activations = plan.total - fixed
    now = config.training.gradient_accumulation
    rows = config.training.batch_size // (plan.mesh["data"] * plan.mesh["fsdp"])
    for microbatches in range(now + 1, rows + 1):
        expected = fixed + _CAUTION * activations * now / microbatches
        if rows % microbatches == 0 and expected <= COMFORTABLE * plan.kind.usable:
            return microbatches
    return None


def _is_comfortable(plan: StepPlan) -> bool:
    return plan.fits and plan.total <= COMFORTABLE * plan.kind.usable


def _with_training(
    config: Config, *, remat: str | None = None, gradient_accumulation: int | None = None
) -> Config:
    training = config.training
    if remat is not None:
        training = dataclasses.replace(training, remat=remat)
    if gradient_accumulation is not None:
        training = dataclasses.replace(training, gradient_accumulation=gradient_accumulation)
    return dataclasses.replace(config, training=training)
