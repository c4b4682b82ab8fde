"""A training step compiled for devices that are not here, and what its program would need there.

Run as a module, it answers one request: `compile_elsewhere` starts it as a separate process with
the environment that XLA needs. Nothing is executed; every figure is a plan.
"""

import dataclasses
import hashlib
import json
import re
import signal
import sys
import time
from collections.abc import Sequence

import jax

from signvit_jax.config.errors import ConfigError
from signvit_jax.config.schema import Config, from_json
from signvit_jax.hlo.collectives import bytes_by_axes, collectives_of
from signvit_jax.hlo.kernels import kernels_of
from signvit_jax.hlo.residuals import residuals_of
from signvit_jax.hlo.text import Program, parse_hlo
from signvit_jax.planning.abstract_step import AbstractStep, TextSizes, abstract_step
from signvit_jax.planning.device_kinds import KINDS, DeviceKind, absent_devices, with_memory
from signvit_jax.planning.flops import clip_flops
from signvit_jax.planning.memory import StepMemory, step_memory
from signvit_jax.planning.roofline import Roofline, roofline
from signvit_jax.runtime.exit_codes import DONE, is_out_of_memory

_RESIDUALS = 12  # most arrays that are listed
_NEEDED = re.compile(r"[Uu]sed ([\d.]+)([KMG]) of ([\d.]+)([KMG]) hbm")
_HLO_TEMPORARIES = re.compile(r"HLO temporaries \(([\d.]+)([KMG])\)")
_UNITS = {"K": 2**10, "M": 2**20, "G": 2**30}


@dataclasses.dataclass(frozen=True)
class PlanRequest:
    """What to plan. `device`: a key of `KINDS`. `memory_gib`: of a device; None: the usual."""

    device: str
    devices: int
    memory_gib: float | None = None
    sizes: TextSizes = dataclasses.field(default_factory=TextSizes)

    @property
    def kind(self) -> DeviceKind:
        return with_memory(KINDS[self.device], self.memory_gib)


@dataclasses.dataclass(frozen=True)
class KeptArray:
    """Arrays that the forward pass keeps for the backward pass."""

    bytes: int
    count: int
    array: str
    source: str


@dataclasses.dataclass(frozen=True)
class ProgramCost:
    """The work of one step on each device.

    `asked_flops`: operations of the model, each counted once, even if it is computed again.
    `collectives`: axes of the mesh -> kind -> bytes that a device sends. `recomputed`: instructions
    that XLA itself repeats to save memory. `uncounted`: custom calls whose operations are unknown.
    """

    flops: float
    asked_flops: float
    bytes: int
    launches: int
    roofline: Roofline
    collectives: dict[str, dict[str, float]]
    residuals: list[KeptArray]
    recomputed: int
    uncounted: dict[str, int]
    unknown_loops: int


@dataclasses.dataclass(frozen=True)
class StepPlan:
    """The plan of a step for one kind of device.

    `program`: a digest of the program that was compiled. `total`: bytes of a device, with the next
    batch. `cost` is None if the compiler refused the program because it is too large; `total` is
    then the compiler's figure for it.
    """

    request: PlanRequest
    mesh: dict[str, int]
    clips: int
    frames: int
    settings: dict[str, str]
    memory: StepMemory
    total: int
    cost: ProgramCost | None
    program: str
    compile_seconds: float

    @property
    def kind(self) -> DeviceKind:
        return self.request.kind

    @property
    def fits(self) -> bool:
        return self.cost is not None and self.total <= self.kind.usable

    @property
    def step_seconds(self) -> float:
        """Return the careful time of a step; infinite if it was not compiled."""
        return float("inf") if self.cost is None else self.cost.roofline.step

    @property
    def mfu(self) -> float:
        """Return the share of the devices' peak that the model's operations take of that time."""
        if self.cost is None:
            return 0.0
        return self.cost.asked_flops / self.kind.flops / self.step_seconds

    def to_json(self) -> str:
        return json.dumps(dataclasses.asdict(self), sort_keys=True)

    @staticmethod
    def from_json(text: str) -> "StepPlan":
        values = json.loads(text)
        request = values["request"]
        request["sizes"] = TextSizes(**request["sizes"])
        cost = values["cost"]
        if cost is not None:
            cost["roofline"] = Roofline(**cost["roofline"])
            cost["residuals"] = [KeptArray(**kept) for kept in cost["residuals"]]
            cost = ProgramCost(**cost)
        changed = {
            "request": PlanRequest(**request),
            "memory": StepMemory(**values["memory"]),
            "cost": cost,
        }
        return StepPlan(**(values | changed))


def plan_step(config: Config, request: PlanRequest, unless: str = "") -> StepPlan | None:
    """Compile the step of a config for the request's devices.

    Returns None, without compiling, if `unless` is the digest of its program.

    It needs the packages of the extra `plan`, JAX_PLATFORMS=cpu, and XLA's flags that
    `compile_elsewhere` sets. Raises ConfigError for a mesh that does not fit the devices.
    """
    kind = request.kind
    planned = abstract_step(config, request.sizes, absent_devices(kind, request.devices))
    begin = time.perf_counter()
    lowered = planned.step.lower(planned.state, planned.batch)
    program = _digest(lowered.as_text())
    if program == unless:
        return None
    try:
        compiled = lowered.compile()
    except jax.errors.JaxRuntimeError as error:
        if not is_out_of_memory(error):
            raise
        memory, cost = step_memory(planned.state, planned.batch), None
        total = needed_bytes(str(error), memory)
    else:
        memory = step_memory(planned.state, planned.batch, compiled)
        total = memory.total
        cost = _cost(parse_hlo(compiled.as_text() or ""), planned, kind)
    return StepPlan(
        request,
        dict(planned.mesh.shape),
        config.training.batch_size,
        config.data.num_frames,
        _settings(config),
        memory,
        total,
        cost,
        program,
        round(time.perf_counter() - begin, 1),
    )


def needed_bytes(message: str, memory: StepMemory) -> int:
    """Return the bytes that a program needs by the message with which a TPU's compiler refuses it.

    `memory`: of the step that was not compiled.
    """
    if match := _NEEDED.search(message):
        return int(float(match[1]) * _UNITS[match[2]])
    if match := _HLO_TEMPORARIES.search(message):
        return memory.total + int(float(match[1]) * _UNITS[match[2]])
    return memory.total


def _digest(text: str) -> str:
    """Return a digest of a lowered program, without the addresses of Python's functions in it."""
    return hashlib.sha256(re.sub(r"\d{9,}", "", text).encode()).hexdigest()[:16]


def _settings(config: Config) -> dict[str, str]:
    """Return the values of the config that memory and time depend on most, by key."""
    return {
        "training.remat": config.training.remat,
        "training.gradient_accumulation": str(config.training.gradient_accumulation),
    }


def _cost(program: Program, planned: AbstractStep, kind: DeviceKind) -> ProgramCost:
    config, mesh = planned.config, planned.mesh
    kernels, collectives = kernels_of(program), collectives_of(program, mesh.shape)
    clip = clip_flops(planned.definition, config.data.num_frames, planned.text_length)
    residuals = residuals_of(program)[:_RESIDUALS]
    return ProgramCost(
        flops=kernels.flops,
        asked_flops=clip.training * config.training.batch_size / mesh.size,
        bytes=kernels.bytes,
        launches=kernels.launches,
        roofline=roofline(kernels, collectives, kind),
        collectives=bytes_by_axes(collectives),
        residuals=[
            KeptArray(kept.bytes, kept.count, str(kept.array), kept.source) for kept in residuals
        ],
        recomputed=sum(".remat" in kernel.instruction.name for kernel in kernels.kernels),
        uncounted=kernels.uncounted,
        unknown_loops=program.unknown_loops,
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Answer the request on standard input: a JSON object with `config`, `request`, and `unless`.

    The last line of standard output is {"plan": ...}, with null for a known program, or
    {"refused": message} for a config that does not fit the devices.
    """
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # a compiler does not wait for Python's handler
    asked = json.loads(sys.stdin.read())
    request = asked["request"] | {"sizes": TextSizes(**asked["request"]["sizes"])}
    try:
        plan = plan_step(from_json(asked["config"]), PlanRequest(**request), asked["unless"])
    except ConfigError as error:
        print(json.dumps({"refused": str(error)}), flush=True)
    else:
        print(json.dumps({"plan": None if plan is None else plan.to_json()}), flush=True)
    return DONE


if __name__ == "__main__":
    sys.exit(main())
