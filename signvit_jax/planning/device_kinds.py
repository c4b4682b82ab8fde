"""The accelerators that a step can be planned for, without having one.

Facts are from the vendors' data sheets. XLA's compiler reads those of a GPU in the text format of
its GpuTargetConfigProto.
"""

import dataclasses
from collections.abc import Sequence
from typing import Literal

from signvit_jax.config.errors import ConfigError
from signvit_jax.parallel.current_mesh import Device
from signvit_jax.planning.flops import peak_flops
from signvit_jax.runtime.accelerators import gpu_memory_share

_GIB = 2**30


@dataclasses.dataclass(frozen=True)
class GpuFacts:
    """Facts of a GPU that XLA's compiler needs, besides its memory and speed."""

    capability: tuple[int, int]
    cores: int
    lanes_per_core: int
    shared_memory: int  # bytes of a core
    shared_memory_per_block: int  # the most that a block may ask for
    cache: int  # bytes of the second level
    clock_ghz: float


@dataclasses.dataclass(frozen=True)
class DeviceKind:
    """A kind of device. Bytes, and bytes per second.

    `memory`: what a device has; of a TPU, what its runtime leaves to programs. `link`: one way, to
    the devices of its host, or along one axis of a TPU pod. `host_link`: one way and per device, to
    other hosts; a TPU slice has no such links. `group`: devices that `link` connects.
    """

    name: str
    title: str  # JAX's name of the kind
    memory: int
    bandwidth: float
    link: float
    host_link: float
    group: int
    gpu: GpuFacts | None = None

    @property
    def platform(self) -> Literal["cuda", "tpu"]:
        return "tpu" if self.gpu is None else "cuda"

    @property
    def flops(self) -> float:
        """Dense bfloat16 operations per second."""
        peak = peak_flops(self.title)
        assert peak is not None  # every kind of the table is in that of flops.py
        return peak

    @property
    def usable(self) -> int:
        """Bytes that a process may take: JAX's pool on a GPU, all that a TPU's runtime leaves."""
        return int(self.memory * gpu_memory_share()) if self.gpu else self.memory


_H100 = GpuFacts((9, 0), 132, 128, 233472, 232448, 50 * 2**20, 1.98)
_A100 = GpuFacts((8, 0), 108, 64, 167936, 166912, 40 * 2**20, 1.41)

KINDS = {
    kind.name: kind
    for kind in (
        DeviceKind("h100", "NVIDIA H100 80GB HBM3", 84942979072, 3.352e12, 450e9, 50e9, 8, _H100),
        DeviceKind(
            "a100_40", "NVIDIA A100-SXM4-40GB", 42331013120, 1.555e12, 300e9, 25e9, 8, _A100
        ),
        DeviceKind(
            "a100_80", "NVIDIA A100-SXM4-80GB", 85100068864, 2.039e12, 300e9, 25e9, 8, _A100
        ),
        DeviceKind("v5e", "TPU v5 lite", int(15.75 * _GIB), 0.819e12, 45e9, 45e9, 256),
        DeviceKind("v5p", "TPU v5", int(95.74 * _GIB), 2.765e12, 90e9, 90e9, 8960),
        DeviceKind("v6e", "TPU v6 lite", 33550237696, 1.64e12, 90e9, 90e9, 256),
    )
}
# Devices -> chips along the axes of a pod's slice.
_FLAT = {1: "1x1", 2: "1x2", 4: "2x2", 8: "2x4", 16: "4x4", 32: "4x8", 64: "8x8", 128: "8x16"}
_FLAT |= {256: "16x16"}
_DEEP = {1: "1x1x1", 2: "2x1x1", 4: "2x2x1", 8: "2x2x2", 16: "2x2x4", 32: "2x4x4", 64: "4x4x4"}
_DEEP |= {128: "4x4x8", 256: "4x8x8", 512: "8x8x8", 1024: "8x8x16"}
_SLICES = {"v5e": _FLAT, "v5p": _DEEP, "v6e": _FLAT}


def with_memory(kind: DeviceKind, gib: float | None) -> DeviceKind:
    """Return the kind with `gib` GiB of memory; None: unchanged."""
    return kind if gib is None else dataclasses.replace(kind, memory=int(gib * _GIB))


def check_count(kind: DeviceKind, count: int) -> None:
    """Raise ConfigError if there is no such number of devices of a kind."""
    if kind.platform == "tpu" and count not in _SLICES[kind.name]:
        raise ConfigError(
            f"--devices is {count}, but slices of {kind.name} have "
            f"{', '.join(map(str, _SLICES[kind.name]))} chips"
        )
    if kind.platform == "cuda" and count > kind.group and count % kind.group:
        raise ConfigError(
            f"--devices is {count}; allowed for {kind.name}: 1 to {kind.group}, or a multiple of "
            f"{kind.group}, the GPUs of a host"
        )


def absent_devices(kind: DeviceKind, count: int) -> Sequence[Device]:
    """Return devices to compile for, which this machine need not have.

    Raises ConfigError as `check_count` does, and whatever JAX raises without the packages.
    """
    from jax.experimental import topologies

    check_count(kind, count)
    if kind.gpu is None:
        name = f"{kind.name}:{_SLICES[kind.name][count]}"
        return topologies.get_topology_desc(platform="tpu", topology_name=name).devices
    per_host = min(count, kind.group)
    return topologies.get_topology_desc(
        platform="cuda",
        topology_name=kind.title,
        target_config=target_config(kind, kind.gpu),
        topology=f"1x{count // per_host}x{per_host}",  # slices, hosts, GPUs of a host
    ).devices


def target_config(kind: DeviceKind, gpu: GpuFacts) -> str:
    """Return XLA's description of a GPU."""
    major, minor = gpu.capability
    return f"""gpu_device_info {{
  threads_per_block_limit: 1024
  threads_per_warp: 32
  shared_memory_per_block: 49152
  shared_memory_per_core: {gpu.shared_memory}
  shared_memory_per_block_optin: {gpu.shared_memory_per_block}
  threads_per_core_limit: 2048
  core_count: {gpu.cores}
  fpus_per_core: {gpu.lanes_per_core}
  block_dim_limit_x: 2147483647
  block_dim_limit_y: 65535
  block_dim_limit_z: 65535
  thread_dim_limit_x: 1024
  thread_dim_limit_y: 1024
  thread_dim_limit_z: 64
  registers_per_core_limit: 65536
  registers_per_block_limit: 65536
  memory_bandwidth: {kind.bandwidth:.0f}
  device_memory_size: {kind.memory}
  l2_cache_size: {gpu.cache}
  clock_rate_ghz: {gpu.clock_ghz}
  pcie_bandwidth: 34359738368
  ecc_enabled: true
  device_address_bits: 64
  device_vendor: "NVIDIA Corporation"
  name: "{kind.title}"
  platform_version: "Compute Capability {major}.{minor}"
  cuda_compute_capability {{
    major: {major}
    minor: {minor}
    feature_extension: {"ACCELERATED_FEATURES" if major >= 9 else "NONE"}
  }}
  driver_version: "13.0.0"
  runtime_version: "12.8.0"
  compile_time_toolkit_version: "12.8.0"
  dnn_version: "9.10.0"
}}
platform_name: "CUDA"
dnn_version_info {{ major: 9 minor: 10 patch: 0 }}
device_description_str: "{kind.title}"
"""
