"""The device mesh, with axes for data parallelism, sharded parameters, and tensor parallelism."""

from collections.abc import Sequence

import jax
from jax.experimental import mesh_utils
from jax.sharding import AxisType, Mesh

from signvit_jax.config.errors import ConfigError
from signvit_jax.config.schema import MeshConfig
from signvit_jax.parallel.current_mesh import Device

AXES = ("data", "fsdp", "tensor")


def make_mesh(
    config: MeshConfig, batch_size: int | None = None, devices: Sequence[Device] | None = None
) -> Mesh:
    """Arrange `devices` (None: those of all processes) as (data, fsdp, tensor).

    Axes may share a physical axis of a TPU pod: 16 x 16 chips can be 16 x 8 x 2.

    Raises ConfigError if the product of the axes is not the number of devices, if `batch_size` is
    not divisible by data x fsdp, if the tensor axis would span processes, which read different
    clips, if JAX cannot arrange the devices so, or if TPU chips are of several slices.
    """
    count = jax.device_count() if devices is None else len(devices)
    others = config.fsdp * config.tensor
    data = count // others if config.data == -1 else config.data
    if data < 1 or data * others != count:
        raise ConfigError(
            f"config.mesh is data={config.data}, fsdp={config.fsdp}, tensor={config.tensor}, but "
            f"there are {count} devices; allowed: axes whose product is the number of devices "
            "(data=-1: the devices that the other axes leave)"
        )
    if batch_size is not None and batch_size % (data * config.fsdp):
        raise ConfigError(
            f"a batch of {batch_size} clips cannot be split into data x fsdp = {data} x "
            f"{config.fsdp} equal parts; allowed for config.training.batch_size / "
            f"gradient_accumulation: a multiple of {data * config.fsdp}"
        )
    processes = jax.process_count()
    if data * config.fsdp % processes:
        raise ConfigError(
            f"config.mesh.tensor is {config.tensor}, but each of the {processes} processes has "
            f"{count // processes} devices; allowed: a divisor of that, because the devices of one "
            "tensor axis see the same clips"
        )
    shape = (data, config.fsdp, config.tensor)
    try:
        arranged = mesh_utils.create_device_mesh(shape, devices, allow_split_physical_axes=True)
    except AssertionError as error:  # JAX asserts that the chips of a TPU fill a box
        raise ConfigError(
            f"JAX cannot arrange these {count} chips as a mesh, because they are not all chips of "
            "one box of one TPU slice; allowed: the chips of one slice, or of a box of it"
        ) from error
    except (NotImplementedError, ValueError) as error:
        raise ConfigError(
            f"config.mesh is data={data}, fsdp={config.fsdp}, tensor={config.tensor}, which JAX "
            f"cannot arrange on these {count} devices ({error}); allowed: other axes whose product "
            "is the number of devices, such as data=-1, fsdp=1, tensor=1"
        ) from error
    return Mesh(arranged, AXES, axis_types=(AxisType.Auto,) * len(AXES))
