"""The device mesh: data parallel, fully sharded and tensor parallel axes."""

import jax
from jax.sharding import AxisType, Mesh

from signvit_jax.config import ConfigError, MeshConfig

AXES = ("data", "fsdp", "tensor")


def make_mesh(config: MeshConfig, batch_size: int | None = None) -> Mesh:
    """All devices of all processes, arranged as (data, fsdp, tensor).

    Raises ConfigError when the axes do not multiply to the number of devices, `batch_size` cannot be cut into equal parts, or the tensor axis
    would reach from one process to another, which each read clips of their own.
    """
    devices = jax.device_count()
    others = config.fsdp * config.tensor
    data = devices // others if config.data == -1 else config.data
    if data < 1 or data * others != devices:
        raise ConfigError(
            f"config.mesh is data={config.data}, fsdp={config.fsdp}, tensor={config.tensor}, but there are {devices} devices; "
            "allowed: axes whose product is the number of devices (data=-1 takes what the others leave)"
        )
    if batch_size is not None and batch_size % (data * config.fsdp):
        raise ConfigError(
            f"a batch of {batch_size} clips cannot be cut into data x fsdp = {data} x {config.fsdp} equal parts; "
            f"allowed for config.training.batch_size / gradient_accumulation: a multiple of {data * config.fsdp}"
        )
    if data * config.fsdp % jax.process_count():
        raise ConfigError(
            f"config.mesh.tensor is {config.tensor}, but each of the {jax.process_count()} processes has {devices // jax.process_count()} devices; "
            "allowed: a divisor of that, since the devices of one tensor axis see the same clips"
        )
    return jax.make_mesh((data, config.fsdp, config.tensor), AXES, axis_types=(AxisType.Auto,) * len(AXES))
