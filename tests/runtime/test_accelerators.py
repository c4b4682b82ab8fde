"""The share of a GPU's memory that a process takes, and the search for accelerators."""

import pytest

from signvit_jax.runtime.accelerators import (
    GPU_MEMORY_SHARE,
    gpu_memory_share,
    has_accelerator,
    set_gpu_memory_share,
)


def test_a_process_takes_92_percent_of_a_gpus_memory():
    environment = {}
    assert gpu_memory_share(environment) == GPU_MEMORY_SHARE == 0.92
    set_gpu_memory_share(environment)
    assert environment == {"XLA_PYTHON_CLIENT_MEM_FRACTION": "0.92"}
    assert gpu_memory_share(environment) == GPU_MEMORY_SHARE


@pytest.mark.parametrize("name", ["XLA_CLIENT_MEM_FRACTION", "XLA_PYTHON_CLIENT_MEM_FRACTION"])
def test_the_users_share_of_memory_stays(name):
    environment = {name: ".5"}
    set_gpu_memory_share(environment)
    assert environment == {name: ".5"}
    assert gpu_memory_share(environment) == 0.5


def test_an_accelerator_is_found_by_its_drivers_files(tmp_path):
    assert not has_accelerator(tmp_path)
    pci = tmp_path / "sys/bus/pci/devices/0000:00:04.0"
    pci.mkdir(parents=True)
    (pci / "vendor").write_text("0x8086\n")  # Intel
    assert not has_accelerator(tmp_path)
    (pci / "vendor").write_text("0x1ae0\n")  # Google, for TPUs
    assert has_accelerator(tmp_path)


@pytest.mark.parametrize("name", ["nvidiactl", "nvidia0", "dxg", "accel0", "vfio/0"])
def test_device_files_are_accelerators(name, tmp_path):
    path = tmp_path / "dev" / name
    path.parent.mkdir(parents=True)
    path.touch()
    assert has_accelerator(tmp_path)


def test_the_folder_of_vfio_alone_is_no_accelerator(tmp_path):
    (tmp_path / "dev/vfio").mkdir(parents=True)
    (tmp_path / "dev/vfio/vfio").touch()
    assert not has_accelerator(tmp_path)
