"""AdamW with one learning rate for the encoder and one for the rest, a one-cycle schedule, and clipping by the global norm before both.

A backbone that is frozen at first begins as with an optimizer of its own when it thaws.
"""

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, BFloat16, Float, Int, Key, PyTree

from signvit_jax.config.schema import TrainingConfig

START_DIVISOR = 25.0
END_DIVISOR = 25e4
BETA_2 = 0.999


def one_cycle(
    peak: float, total_steps: int, warmup_ratio: float, final_ratio: float = 0.0
) -> optax.Schedule:
    """Cosine from peak / 25 up to `peak`, then cosine down to `final_ratio` * peak, where that is 0
    to peak / 25e4 (Smith & Topin 2018), with PyTorch's index convention: the peak is at index
    warmup_ratio * total_steps - 1 and the end at total_steps - 1; beyond it the rate stays.
    """
    top = max(warmup_ratio * total_steps - 1.0, 1e-6)
    last = max(total_steps - 1.0, top + 1e-6)
    end = final_ratio * peak if final_ratio else peak / END_DIVISOR

    def rate(step: Int[Array, ""] | int) -> Float[Array, ""]:
        index = jnp.minimum(jnp.asarray(step, jnp.float32), last)
        rising = _cosine(peak / START_DIVISOR, peak, index / top)
        falling = _cosine(peak, end, (index - top) / (last - top))
        return jnp.where(index <= top, rising, falling)

    return rate


def _cosine(start: float, end: float, share: Float[Array, ""]) -> Float[Array, ""]:
    # cos^2 and sin^2 of the half angle are (1 + cos) / 2 and (1 - cos) / 2 without cancellation: the end is a 250,000th of the peak.
    half_angle = jnp.pi / 2.0 * jnp.clip(share, 0.0, 1.0)
    return start * jnp.cos(half_angle) ** 2 + end * jnp.sin(half_angle) ** 2


def learning_rates(config: TrainingConfig, total_steps: int) -> dict[str, optax.Schedule]:
    """The schedule of each group of parameters, by the number of updates made before."""
    peaks = {"encoder": config.encoder_lr, "rest": config.decoder_lr}
    return {
        group: one_cycle(peak, total_steps, config.warmup_ratio, config.final_lr_ratio)
        for group, peak in peaks.items()
    }


def thaw_warmup(config: TrainingConfig, total_steps: int) -> optax.Schedule:
    """What the encoder's rate is multiplied by for a backbone that was frozen, by the number of
    updates since its thaw: it rises linearly to 1 as long as the run's own warm-up, and at most as
    long as Adam's second moment needs to settle, 2 / (1 - beta_2) updates (Ma & Yarats 2021).
    """
    length = max(1.0, min(config.warmup_ratio * total_steps, 2.0 / (1.0 - BETA_2)))
    return lambda updates: jnp.minimum((jnp.asarray(updates, jnp.float32) + 1.0) / length, 1.0)


def make_optimizer(
    config: TrainingConfig, total_steps: int, *, thaws: bool = False
) -> optax.GradientTransformationExtraArgs:
    """Clip, Adam (betas 0.9, 0.999, eps 1e-8), decoupled weight decay, then each group's rate.

    With `thaws`, for a run whose backbone is frozen at first, `update` also takes `thawed_at`, the
    number of updates made before the backbone's first, and `frozen`. The state is the same either
    way.
    """
    adam = optax.scale_by_adam(b1=0.9, b2=BETA_2, eps=1e-8)
    adam = with_late_backbone(adam) if thaws else adam
    rates = learning_rates(config, total_steps)
    by_rate = {group: optax.scale_by_learning_rate(rate) for group, rate in rates.items()}
    chain = optax.chain(
        optax.clip_by_global_norm(config.max_grad_norm),
        adam if config.adam_moments == "float32" else kept_in_bfloat16(adam),
        optax.add_decayed_weights(
            config.weight_decay, mask=matrices if config.weight_decay_on == "matrices" else None
        ),
        optax.partition(by_rate, groups),
    )
    return warming_backbone(chain, thaw_warmup(config, total_steps)) if thaws else chain


def with_late_backbone(
    adam: optax.GradientTransformation,
) -> optax.GradientTransformationExtraArgs:
    """Adam whose count and moments begin, for the backbone, with its first update.

    With the count of the others the moments, which are zero until then, would be taken for settled
    ones, and the first thousand updates come out up to ten times too large. While it is frozen the
    backbone's moments are zero.
    """

    def update(
        updates: PyTree,
        state: optax.ScaleByAdamState,
        params: PyTree | None = None,
        *,
        thawed_at: Int[Array, ""],
        frozen: bool,
        **_: object,
    ) -> tuple[PyTree, optax.ScaleByAdamState]:
        own = optax.ScaleByAdamState(
            state.count - thawed_at, backbone_of(state.mu), backbone_of(state.nu)
        )
        own_updates, own = adam.update(backbone_of(updates), own)
        if frozen:
            own = jax.tree.map(jnp.zeros_like, own)
        updates, state = adam.update(updates, state, params)
        mu, nu = with_backbone(state.mu, own.mu), with_backbone(state.nu, own.nu)
        return with_backbone(updates, own_updates), state._replace(mu=mu, nu=nu)

    return optax.GradientTransformationExtraArgs(adam.init, update)


def warming_backbone(
    inner: optax.GradientTransformationExtraArgs, warmup: optax.Schedule
) -> optax.GradientTransformationExtraArgs:
    """The chain above with the backbone's updates times `warmup` of their number since the thaw."""

    def update(
        updates: PyTree,
        state: PyTree,
        params: PyTree | None = None,
        *,
        thawed_at: Int[Array, ""],
        **extra: object,
    ) -> tuple[PyTree, PyTree]:
        share = warmup(state[1].count - thawed_at)
        updates, state = inner.update(updates, state, params, thawed_at=thawed_at, **extra)
        slower = jax.tree.map(lambda leaf: share * leaf, backbone_of(updates))
        return with_backbone(updates, slower), state

    return optax.GradientTransformationExtraArgs(inner.init, update)


def backbone_of(params: PyTree) -> PyTree:
    return params["encoder"]["backbone"]


def with_backbone(params: PyTree, backbone: PyTree) -> PyTree:
    return params | {"encoder": params["encoder"] | {"backbone": backbone}}


def kept_in_bfloat16(
    inner: optax.GradientTransformation,
) -> optax.GradientTransformationExtraArgs:
    """`inner` (whose state counts its steps as `count`) with float32 arithmetic and a state that waits in bfloat16 from step to step.

    The state is rounded up or down at random, in proportion to how near either is. Rounded to the nearest, the second moment would stand still: a
    step moves it by a thousandth of itself, and bfloat16 has 256 numbers between a power of two and the next.
    """

    def init(params: PyTree) -> PyTree:
        return jax.tree.map(
            lambda leaf: leaf.astype(jnp.bfloat16) if leaf.dtype == jnp.float32 else leaf,
            inner.init(params),
        )

    inner = optax.with_extra_args_support(inner)

    def update(
        updates: PyTree, state: PyTree, params: PyTree | None = None, **extra: object
    ) -> tuple[PyTree, PyTree]:
        wide = jax.tree.map(
            lambda leaf: leaf.astype(jnp.float32) if leaf.dtype == jnp.bfloat16 else leaf, state
        )
        updates, new = inner.update(updates, wide, params, **extra)
        leaves, structure = jax.tree.flatten(new)
        keys = jax.random.split(jax.random.fold_in(jax.random.key(0), new.count), len(leaves))
        rounded = [
            rounded_at_random(leaf, key) if leaf.dtype == jnp.float32 else leaf
            for leaf, key in zip(leaves, keys)
        ]
        return updates, jax.tree.unflatten(structure, rounded)

    return optax.GradientTransformationExtraArgs(init, update)


def rounded_at_random(x: Float[Array, "*shape"], key: Key[Array, ""]) -> BFloat16[Array, "*shape"]:
    """float32 to one of the two nearest bfloat16 numbers, each as likely as the other is far: right on average."""
    # bfloat16 is the upper half of a float32: what is added to the lower half carries into the upper as often as it should.
    bits = jax.lax.bitcast_convert_type(x, jnp.uint32) + jax.random.bits(key, x.shape, jnp.uint16)
    upper = jax.lax.bitcast_convert_type(bits & jnp.uint32(0xFFFF0000), jnp.float32)
    return jnp.where(jnp.isfinite(x), upper, x).astype(jnp.bfloat16)


def groups(params: PyTree) -> PyTree:
    """'encoder' or 'rest' for every parameter."""
    return jax.tree_util.tree_map_with_path(
        lambda path, _: "encoder" if path[0].key == "encoder" else "rest", params
    )


def matrices(params: PyTree) -> PyTree:
    """True for the kernels of linear maps and convolutions: what weight decay is for."""
    return jax.tree_util.tree_map_with_path(lambda path, _: path[-1].key == "kernel", params)
