"""The time of a compiled step by its roofline: the least that a device needs for its kernels.

A kernel takes as long as its products at the device's peak, or its bytes at the bandwidth of the
memory, whichever is longer. Left out: the time between kernels, hits in caches, operations that are
not matrix products.
"""

import dataclasses

from signvit_jax.hlo.collectives import Collective
from signvit_jax.hlo.kernels import Kernels
from signvit_jax.planning.device_kinds import DeviceKind

# What kernels reach of the peaks in practice, for a second, more careful figure.
PRODUCT_SHARE = 0.70
MEMORY_SHARE = 0.85


@dataclasses.dataclass(frozen=True)
class Roofline:
    """Seconds of one step on one device.

    `perfect`: all kernels at the device's peaks. `careful`: products at `PRODUCT_SHARE` and memory
    at `MEMORY_SHARE` of them. `memory_bound`: the part of `perfect` that waits for memory.
    `communication`: collectives, one after the other, at the links' speed.
    """

    perfect: float
    careful: float
    memory_bound: float
    communication: float

    @property
    def step(self) -> float:
        """The careful time, with no collective hidden behind computation."""
        return self.careful + self.communication


def roofline(kernels: Kernels, collectives: list[Collective], kind: DeviceKind) -> Roofline:
    """Return the times of a step on devices of a kind."""
    perfect = careful = memory_bound = 0.0
    for kernel in kernels.kernels:
        if kernel.is_collective:
            continue
        products, memory = kernel.flops / kind.flops, kernel.bytes / kind.bandwidth
        perfect += kernel.launches * max(products, memory)
        careful += kernel.launches * max(products / PRODUCT_SHARE, memory / MEMORY_SHARE)
        memory_bound += kernel.launches * memory if memory > products else 0.0
    communication = sum(
        collective.step_bytes / _link(collective, kind) for collective in collectives
    )
    return Roofline(perfect, careful, memory_bound, communication)


def _link(collective: Collective, kind: DeviceKind) -> float:
    """Return the slowest link between the members of a collective, in bytes per second."""
    hosts = {member // kind.group for member in collective.members}
    return kind.link if len(hosts) == 1 else kind.host_link
