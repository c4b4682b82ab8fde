"""Check of a config against the device: parameters, optimizer and batches, without compiling.

Gradients and activations come on top; `signvit inspect` compiles the step and knows them. The probe
imports JAX with virtual CPU devices, so it must run in a process of its own.
"""

import dataclasses
import os

from signvit_jax.doctor.findings import Finding, Request, gib
from signvit_jax.errors.base import SignVitError

_ACCELERATORS = ("gpu", "cuda", "rocm", "tpu")
# A state that takes more than this share of the memory leaves little for gradients and activations.
_MAX_STATE_SHARE = 0.8


@dataclasses.dataclass(frozen=True)
class FitFacts:
    """Bytes on each device. `state`: parameters, optimizer, averages and two batches.

    `memory`: what a process may take of the device, or the machine's memory where JAX uses none;
    0 if it is not known. `wanted`: devices that the config's mesh asks for; 0 = any number.
    """

    state: int
    memory: int
    wanted: int
    devices: int
    platform: str
    error: str = ""


def probe_fit(request: Request) -> FitFacts:
    config = request.config
    assert config is not None  # the check needs one
    mesh, found = config.mesh, request.devices
    wanted = max(mesh.data, 1) * mesh.fsdp * mesh.tensor
    os.environ["JAX_PLATFORMS"] = "cpu"
    import jax

    jax.config.update("jax_platforms", "cpu")
    devices = len(found.kinds) if found else 0
    count = wanted if mesh.data > 0 or not devices else max(devices, wanted)
    jax.config.update("jax_num_cpu_devices", count)

    from signvit_jax.planning.abstract_step import TextSizes, abstract_step
    from signvit_jax.planning.memory import step_memory

    has_accelerator = found is not None and found.platform in _ACCELERATORS
    memory = found.memory if found and has_accelerator else _machine_memory()
    platform = found.platform if found else ""
    facts = FitFacts(0, memory, wanted, devices, platform)
    try:
        step = abstract_step(config, TextSizes())
    except SignVitError as error:
        return dataclasses.replace(facts, error=str(error))
    return dataclasses.replace(facts, state=step_memory(step.state, step.batch, None).total)


def _machine_memory() -> int:
    from signvit_jax.doctor.machine import free_memory, probe_memory

    return free_memory(probe_memory(Request()))


def check_fit(facts: FitFacts) -> Finding:
    if facts.error:
        return Finding("config", "bad", facts.error, "change the mesh or the batch")
    if facts.devices and facts.wanted > facts.devices:
        return Finding(
            "config",
            "bad",
            f"config.mesh asks for {facts.wanted} devices; JAX has {facts.devices}",
            "--config.mesh.data=-1 --config.mesh.fsdp=1 --config.mesh.tensor=1, or more devices",
        )
    owner = f"each {facts.platform}" if facts.platform in _ACCELERATORS else "this machine"
    found = (
        f"parameters, optimizer and two batches take {gib(facts.state)} of the "
        f"{gib(facts.memory)} of {owner}; gradients and activations come on top"
    )
    advice = "signvit inspect with the same --config compiles the step and knows the rest"
    if facts.memory and facts.state > facts.memory:
        return Finding(
            "config",
            "bad",
            found,
            f"a smaller batch or model, or --config.mesh.fsdp=N over several devices; {advice}",
        )
    if facts.memory and facts.state > _MAX_STATE_SHARE * facts.memory:
        return Finding("config", "note", found, advice)
    return Finding("config", "ok", found, advice)
