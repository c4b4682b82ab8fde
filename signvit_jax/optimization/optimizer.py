"""AdamW with two learning rates (encoder and rest; schedules.py) and gradient clipping.

A backbone that is frozen at first begins with new moments and its own warm-up when it thaws.
"""

from collections.abc import Hashable

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, BFloat16, Float, Int, Key, PyTree

from signvit_jax.config.schema import TrainingConfig
from signvit_jax.optimization.schedules import Schedule, group_schedules

BETA_2 = 0.999


def thaw_warmup(config: TrainingConfig, total_steps: int) -> Schedule:
    """Return a thawed backbone's share of the encoder's rate: updates since its thaw -> 0 to 1.

    The share rises linearly, for as many updates as the run's own warm-up has, and at most for the
    2 / (1 - beta_2) updates that Adam's second moment needs to converge (Ma & Yarats 2021).
    """
    length = max(1.0, min(config.warmup_ratio * total_steps, 2.0 / (1.0 - BETA_2)))
    return lambda updates: jnp.minimum((jnp.asarray(updates, jnp.float32) + 1.0) / length, 1.0)


def make_optimizer(
    config: TrainingConfig, total_steps: int, *, thaws: bool = False
) -> optax.GradientTransformationExtraArgs:
    """Chain clipping, Adam (betas 0.9, 0.999, eps 1e-8), weight decay and each group's rate.

    With `thaws`, for a run whose backbone is frozen at first, `update` also takes `thawed_at`, the
    number of updates applied before the first one of the backbone, and `frozen`. The tree of the
    optimizer's state does not depend on `thaws`.
    """
    decayed = decayed_matrices if config.weight_decay_on == "matrices" else None
    adam = optax.scale_by_adam(b1=0.9, b2=BETA_2, eps=1e-8)
    adam = with_late_backbone(adam) if thaws else adam
    rates = group_schedules(config, total_steps)
    by_rate: dict[Hashable, optax.GradientTransformation] = {
        group: optax.scale_by_learning_rate(rate) for group, rate in rates.items()
    }
    chain = optax.chain(
        optax.clip_by_global_norm(config.max_grad_norm),
        adam if config.adam_moments == "float32" else with_bfloat16_state(adam),
        optax.add_decayed_weights(config.weight_decay, mask=decayed),
        optax.partition(by_rate, parameter_groups),
    )
    return with_backbone_warmup(chain, thaw_warmup(config, total_steps)) if thaws else chain


def with_late_backbone(
    adam: optax.GradientTransformation,
) -> optax.GradientTransformationExtraArgs:
    """Adam whose count and moments start, for the backbone, with the backbone's first update.

    While the backbone is frozen its moments are zero. With the count of the other parameters,
    Adam's bias correction would treat these moments as converged, and the first thousand updates
    would be up to ten times too large.
    """

    def update(
        updates: PyTree,
        state: PyTree,
        params: PyTree | None = None,
        *,
        thawed_at: Int[Array, ""] | int = 0,
        frozen: bool = False,
        **_: object,
    ) -> tuple[PyTree, optax.ScaleByAdamState]:
        backbone = optax.ScaleByAdamState(
            count=state.count - thawed_at, mu=backbone_of(state.mu), nu=backbone_of(state.nu)
        )
        backbone_updates, backbone = _adam_step(adam, backbone_of(updates), backbone)
        if frozen:
            backbone = jax.tree.map(jnp.zeros_like, backbone)
        updates, new = _adam_step(adam, updates, state, params)
        mu, nu = with_backbone(new.mu, backbone.mu), with_backbone(new.nu, backbone.nu)
        return with_backbone(updates, backbone_updates), new._replace(mu=mu, nu=nu)

    return optax.GradientTransformationExtraArgs(adam.init, update)


def _adam_step(
    adam: optax.GradientTransformation, updates: PyTree, state: PyTree, params: PyTree | None = None
) -> tuple[PyTree, optax.ScaleByAdamState]:
    updates, new = adam.update(updates, state, params)
    assert isinstance(new, optax.ScaleByAdamState)
    return updates, new


def with_backbone_warmup(
    inner: optax.GradientTransformationExtraArgs, warmup: Schedule
) -> optax.GradientTransformationExtraArgs:
    """`inner` with the backbone's updates multiplied by `warmup`(updates since the thaw)."""

    def update(
        updates: PyTree,
        state: PyTree,
        params: PyTree | None = None,
        *,
        thawed_at: Int[Array, ""] | int = 0,
        **extra: object,
    ) -> tuple[PyTree, PyTree]:
        share = warmup(state[1].count - thawed_at)
        updates, state = inner.update(updates, state, params, thawed_at=thawed_at, **extra)
        slower = jax.tree.map(lambda leaf: share * leaf, backbone_of(updates))
        return with_backbone(updates, slower), state

    return optax.GradientTransformationExtraArgs(inner.init, update)


def backbone_of(params: PyTree) -> PyTree:
    """Return the backbone's subtree of a tree of parameters."""
    return params["encoder"]["backbone"]


def with_backbone(params: PyTree, backbone: PyTree) -> PyTree:
    """Return the tree of parameters with another subtree for the backbone."""
    return params | {"encoder": params["encoder"] | {"backbone": backbone}}


def with_bfloat16_state(
    adam: optax.GradientTransformation,
) -> optax.GradientTransformationExtraArgs:
    """`adam` with its state stored in bfloat16 between steps and its arithmetic in float32.

    Stochastic rounding keeps its mean right. With rounding to nearest the second moment would never
    change: a step moves it by a thousandth, and bfloat16 has 128 numbers between a power of two and
    the next.
    """

    def init(params: PyTree) -> PyTree:
        return jax.tree.map(
            lambda leaf: leaf.astype(jnp.bfloat16) if leaf.dtype == jnp.float32 else leaf,
            adam.init(params),
        )

    inner = optax.with_extra_args_support(adam)

    def update(
        updates: PyTree, state: PyTree, params: PyTree | None = None, **extra: object
    ) -> tuple[PyTree, PyTree]:
        wide = jax.tree.map(
            lambda leaf: leaf.astype(jnp.float32) if leaf.dtype == jnp.bfloat16 else leaf, state
        )
        updates, new = inner.update(updates, wide, params, **extra)
        assert isinstance(new, optax.ScaleByAdamState)
        leaves, structure = jax.tree.flatten(new)
        keys = jax.random.split(jax.random.fold_in(jax.random.key(0), new.count), len(leaves))
        rounded = [
            stochastic_round(leaf, key) if leaf.dtype == jnp.float32 else leaf
            for leaf, key in zip(leaves, keys)
        ]
        return updates, jax.tree.unflatten(structure, rounded)

    return optax.GradientTransformationExtraArgs(init, update)


def stochastic_round(x: Float[Array, "*shape"], key: Key[Array, ""]) -> BFloat16[Array, "*shape"]:
    """Round float32 up or down to bfloat16 at random, so that the mean of the result is `x`."""
    # bfloat16 is the upper half of a float32: a random number added to the lower half carries into
    # the upper half with the right probability.
    bits = jax.lax.bitcast_convert_type(x, jnp.uint32) + jax.random.bits(key, x.shape, jnp.uint16)
    upper = jax.lax.bitcast_convert_type(bits & jnp.uint32(0xFFFF0000), jnp.float32)
    return jnp.where(jnp.isfinite(x), upper, x).astype(jnp.bfloat16)


def parameter_groups(params: PyTree) -> PyTree:
    """Return 'encoder' or 'rest' for each parameter."""
    return jax.tree_util.tree_map_with_path(
        lambda path, _: "encoder" if path[0].key == "encoder" else "rest", params
    )


def decayed_matrices(params: PyTree) -> PyTree:
    """Return True for the kernels of linear maps and convolutions, which get weight decay."""
    return jax.tree_util.tree_map_with_path(lambda path, _: path[-1].key == "kernel", params)
