"""The text of a step's plan, at most 80 columns wide."""

from collections.abc import Sequence

from signvit_jax.config.schema import Config
from signvit_jax.planning.device_kinds import DeviceKind
from signvit_jax.planning.memory import BATCHES_ON_DEVICE, GIB
from signvit_jax.planning.roofline import MEMORY_SHARE, PRODUCT_SHARE
from signvit_jax.planning.step_plan import ProgramCost, StepPlan

COMFORTABLE = 0.92  # of what a process may take: the rest is for fragments and other programs


def report(plan: StepPlan) -> str:
    """Return memory, kept arrays, collectives and times of a plan, with what they assume."""
    kind, request = plan.kind, plan.request
    mesh = ", ".join(f"{axis}={size}" for axis, size in plan.mesh.items())
    settings = ", ".join(f"{key}={value}" for key, value in plan.settings.items())
    parts = [
        f"a step of {plan.clips} clips of {plan.frames} frames\n"
        f"  on {request.devices} x {kind.title}, mesh {mesh}\n  {settings}\n"
        "  A plan of XLA's compiler: nothing was executed.",
        _memory(plan),
    ]
    if plan.cost is not None:
        parts += [_kept(plan.cost), _collectives(plan.cost), _times(plan, plan.cost)]
    return "\n\n".join(part for part in parts if part)


def verdict(plan: StepPlan) -> str:
    """Return one line: whether the plan fits, and by how much."""
    share = plan.total / plan.kind.usable
    if plan.cost is None:
        return "does not fit: the compiler refuses the program"
    if not plan.fits:
        return f"does not fit: {share:.0%} of what a process may take"
    tight = "" if share <= COMFORTABLE else ", which is tight"
    return f"fits: {share:.0%} of what a process may take{tight}"


def alternatives_text(plans: Sequence[StepPlan], base: StepPlan) -> str:
    """Return the plans that fit, fastest first, as the flags that they need."""
    lines = ["What to change (the same result), by planned time:"]
    for number, plan in enumerate(sorted(plans, key=lambda one: one.step_seconds), 1):
        flags = [
            f"--config.{key}={value}"
            for key, value in (_flags(plan)).items()
            if _flags(base).get(key) != value
        ]
        lines.append(f"  {number}. {plan.total / GIB:.1f} GiB, {_milliseconds(plan)} ms a step:")
        lines += [f"       {flag}" for flag in flags]
    return "\n".join(lines)


def table_head(config: Config, devices: int) -> str:
    """Return the title and the head of a table of plans for several kinds of devices."""
    title = (
        f"a step of {config.training.batch_size} clips of {config.data.num_frames} frames on "
        f"{devices} device{'s' * (devices > 1)}; plans, nothing was executed"
    )
    names = (
        f"{'device':9} {'GiB':>6} {'of':>6} {'fits':>5} {'TFLOP':>8} {'GB moved':>9} "
        f"{'GB sent':>8} {'ms':>7} {'MFU':>5}"
    )
    return f"{title}\n{names}"


def table_row(plan: StepPlan) -> str:
    """Return the line of a plan below `table_head`."""
    share = plan.total / plan.kind.usable
    fits = "no" if not plan.fits else "yes" if share <= COMFORTABLE else "tight"
    line = (
        f"{plan.request.device:9} {plan.total / GIB:6.1f} {plan.kind.usable / GIB:6.1f} {fits:>5} "
    )
    if plan.cost is None:
        return line + "the compiler refuses it"
    cost = plan.cost
    return line + (
        f"{cost.flops / 1e12:8.1f} {cost.bytes / 1e9:9.1f} {_sent(cost) / 1e9:8.2f} "
        f"{_milliseconds(plan):>7} {plan.mfu:5.0%}"
    )


def _flags(plan: StepPlan) -> dict[str, str]:
    mesh = {f"mesh.{axis}": str(size) for axis, size in plan.mesh.items()}
    return plan.settings | mesh


def _milliseconds(plan: StepPlan) -> str:
    return f"{1e3 * plan.step_seconds:,.0f}"


def _sent(cost: ProgramCost) -> float:
    return sum(sum(kinds.values()) for kinds in cost.collectives.values())


def _memory(plan: StepPlan) -> str:
    memory, kind = plan.memory, plan.kind
    rows = {
        "parameters": memory.parameters,
        "optimizer": memory.optimizer,
        "averaged parameters": memory.average,
        f"{BATCHES_ON_DEVICE} batches": memory.batch,
        "gradients and activations": memory.temporaries,
    }
    if plan.cost is None:
        rows["gradients and activations"] = plan.total - memory.total
    lines = ["memory of each device"]
    lines += [_row(name, size) for name, size in rows.items() if size]
    note = ""
    if kind.platform == "cuda":
        note = f"   ({kind.usable / kind.memory:.2f} of {kind.memory / GIB:.1f} GiB: JAX's pool)"
    lines += [_row("total", plan.total), _row("a process may take", kind.usable) + note]
    lines.append(f"  {verdict(plan)}")
    if plan.cost is not None and plan.cost.recomputed:
        lines.append(
            f"  To save memory, XLA computes {plan.cost.recomputed} instructions a second time."
        )
    return "\n".join(lines)


def _row(name: str, size: int) -> str:
    return f"  {name:26} {size / GIB:9.3f} GiB"


def _kept(cost: ProgramCost) -> str:
    if not cost.residuals:
        return ""
    lines = ["GiB that the forward pass keeps for the backward pass, largest arrays first"]
    for kept in cost.residuals:
        line = f"  {kept.bytes / GIB:8.3f} {kept.count:3} x {kept.array:24} {kept.source}"
        lines.append(line[:80].rstrip())
    return "\n".join(lines)


def _collectives(cost: ProgramCost) -> str:
    if not cost.collectives:
        return ""
    lines = ["GB that a device sends in a step, by axes of the mesh"]
    for axes, kinds in cost.collectives.items():
        lines += [f"  {axes:18} {kind:20} {sent / 1e9:9.3f}" for kind, sent in kinds.items()]
    return "\n".join(lines)


def _times(plan: StepPlan, cost: ProgramCost) -> str:
    times, kind = cost.roofline, plan.kind
    clips = plan.clips / plan.step_seconds
    memory_share = times.memory_bound / times.perfect if times.perfect else 0.0
    lines = [
        "time of a step by its roofline",
        f"  {cost.flops / 1e12:,.2f} TFLOP a device, of which the model asks "
        f"{cost.asked_flops / 1e12:,.2f}; {cost.bytes / 1e9:,.1f} GB moved",
        f"  in {cost.launches:,} kernels",
        f"  {1e3 * times.perfect:9,.1f} ms  kernels at {kind.flops / 1e12:,.0f} TFLOP/s and "
        f"{kind.bandwidth / 1e12:.2f} TB/s; {memory_share:.0%} is memory",
        f"  {1e3 * times.careful:9,.1f} ms  products at {PRODUCT_SHARE:.0%}, memory at "
        f"{MEMORY_SHARE:.0%} of these",
    ]
    if cost.collectives:
        lines.append(
            f"  {1e3 * times.communication:9,.1f} ms  collectives one by one, {_links(kind)}"
        )
    lines.append(
        f"  {1e3 * plan.step_seconds:9,.1f} ms  in all: {plan.mfu:.0%} MFU, {clips:,.1f} clips/s, "
        f"{clips * plan.frames:,.0f} frames/s"
    )
    lines.append("  Left out: gaps between kernels, caches, arithmetic other than products.")
    if cost.uncounted:
        names = ", ".join(f"{name} ({runs})" for name, runs in cost.uncounted.items())
        lines.append(f"  Custom calls whose operations are not counted: {names}")
    if cost.unknown_loops:
        lines.append(f"  Loops of unknown length, counted once: {cost.unknown_loops}")
    return "\n".join(lines)


def _links(kind: DeviceKind) -> str:
    if kind.platform == "tpu":
        return f"{kind.link / 1e9:.0f} GB/s a link"
    return f"{kind.link / 1e9:.0f} GB/s in a host, {kind.host_link / 1e9:.0f} between"
