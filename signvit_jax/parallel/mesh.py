"""The device mesh: data parallel, fully sharded and tensor parallel axes."""

from collections.abc import Sequence

import jax
from jax.experimental import mesh_utils
from jax.sharding import AxisType, Mesh

from signvit_jax.config.errors import ConfigError
from signvit_jax.config.schema import MeshConfig

AXES = ("data", "fsdp", "tensor")


def make_mesh(
    config: MeshConfig, batch_size: int | None = None, devices: Sequence[jax.Device] | None = None
) -> Mesh:
    """All devices of all processes, or `devices`, arranged as (data, fsdp, tensor).

    Axes may share a physical axis of a TPU pod: 16 x 16 chips make 16 x 8 x 2.

    Raises ConfigError when the axes do not multiply to the number of devices, `batch_size` cannot be cut into equal parts, or the tensor axis
    would reach from one process to another, which each read clips of their own.
    """
    count = jax.device_count() if devices is None else len(devices)
    others = config.fsdp * config.tensor
    data = count // others if config.data == -1 else config.data
    if data < 1 or data * others != count:
        raise ConfigError(
            f"config.mesh is data={config.data}, fsdp={config.fsdp}, tensor={config.tensor}, but there are {count} devices; "
            "allowed: axes whose product is the number of devices (data=-1 takes what the others leave)"
        )
    if batch_size is not None and batch_size % (data * config.fsdp):
        raise ConfigError(
            f"a batch of {batch_size} clips cannot be cut into data x fsdp = {data} x {config.fsdp} equal parts; "
            f"allowed for config.training.batch_size / gradient_accumulation: a multiple of {data * config.fsdp}"
        )
    if data * config.fsdp % jax.process_count():
        raise ConfigError(
            f"config.mesh.tensor is {config.tensor}, but each of the {jax.process_count()} processes has {count // jax.process_count()} devices; "
            "allowed: a divisor of that, since the devices of one tensor axis see the same clips"
        )
    arranged = mesh_utils.create_device_mesh(
        (data, config.fsdp, config.tensor), devices, allow_split_physical_axes=True
    )
    return Mesh(arranged, AXES, axis_types=(AxisType.Auto,) * len(AXES))
