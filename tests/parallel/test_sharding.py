"""Many devices and one: the same numbers. The devices are eight virtual ones of a CPU, in a process of their own."""

import dataclasses
import os
import re
import subprocess
import sys
from pathlib import Path

import jax
import pytest

from signvit_jax.config.errors import ConfigError
from signvit_jax.config.files import load_config
from signvit_jax.config.schema import MeshConfig
from signvit_jax.models.definition import ModelDefinition
from signvit_jax.parallel.mesh import make_mesh
from signvit_jax.parallel.sharding import RULES, parameter_path, partition_spec

TESTS = Path(__file__).parents[1]


@pytest.mark.timeout(900)
@pytest.mark.parametrize(
    "meshes", [["mixed"], pytest.param(["data", "fsdp", "tensor"], marks=pytest.mark.long)]
)
def test_eight_devices_cut_the_state_and_reach_the_losses_of_one_also_from_each_others_checkpoints(
    meshes, tmp_path
):
    program = [sys.executable, str(TESTS / "helpers" / "eight_devices.py"), str(tmp_path), *meshes]
    done = subprocess.run(
        program,
        capture_output=True,
        text=True,
        timeout=800,
        env=os.environ | {"PYTHONPATH": str(TESTS.parent)},
    )
    assert done.returncode == 0, done.stderr[-2000:]
    lines = [line.split() for line in done.stdout.splitlines()]
    cut = {name: int(leaves) for name, leaves, *_ in lines}
    losses = {name: [float(loss) for loss in found] for name, _, *found in lines}
    assert len(losses) == 1 + 2 * len(meshes) and len(losses["single"]) == 5
    for name, found in losses.items():
        assert cut[name] > 10 or name not in ("fsdp", "tensor", "mixed"), name
        assert found == pytest.approx(losses["single"][-len(found) :], rel=1e-5), name


def test_every_rule_is_of_use_to_the_full_model():
    definition = ModelDefinition(
        load_config(str(Path(__file__).parents[2] / "configs" / "reference.py")), 30_522
    )
    mesh = make_mesh(MeshConfig())
    leaves = jax.tree_util.tree_leaves_with_path(definition.abstract_params())
    specs = {
        parameter_path(path): (leaf.shape, partition_spec(parameter_path(path), leaf.shape, mesh))
        for path, leaf in leaves
    }
    deciding = {}
    for path, (_, spec) in specs.items():
        first = next(
            ((pattern, axes) for pattern, axes in RULES if re.fullmatch(pattern, path)), None
        )
        if first:
            deciding[first[0]] = path
            assert tuple(spec)[-len(first[1]) :] == first[1], path
    assert set(deciding) == {pattern for pattern, _ in RULES}
    whole = sum(shape != () and not any(spec) and len(shape) > 1 for shape, spec in specs.values())
    assert whole < 0.5 * len(specs)


@pytest.mark.parametrize(
    ("mesh", "words"),
    [
        (MeshConfig(3, 1, 1), "data=3"),
        (MeshConfig(-1, 2, 1), "fsdp=2"),
        (MeshConfig(1, 1, 7), "tensor=7"),
    ],
)
def test_a_mesh_that_does_not_fit_the_devices_is_refused(mesh, words):
    with pytest.raises(ConfigError, match=words):
        make_mesh(mesh)


@dataclasses.dataclass(frozen=True)
class Chip:
    """What JAX asks of a device when it arranges a TPU pod."""

    id: int
    coords: tuple[int, int, int]
    platform: str = "tpu"
    device_kind: str = "TPU v6 lite"
    core_on_chip: int = 0
    process_index: int = 0
    slice_index: int = 0


@pytest.mark.parametrize("axes", [(16, 8, 2), (32, 8, 1), (256, 1, 1)])
def test_the_chips_of_a_tpu_pod_make_a_mesh_whose_axes_split_physical_ones(axes):
    chips = [Chip(16 * y + x, (x, y, 0)) for y in range(16) for x in range(16)]
    mesh = make_mesh(MeshConfig(*axes), devices=chips)
    assert mesh.devices.shape == axes and {chip.id for chip in mesh.devices.flat} == set(range(256))


def test_a_tensor_axis_over_several_processes_is_refused(monkeypatch):
    monkeypatch.setattr(jax, "device_count", lambda: 8)
    monkeypatch.setattr(jax, "process_count", lambda: 4)
    with pytest.raises(ConfigError, match="tensor is 4, but each of the 4 processes has 2 devices"):
        make_mesh(MeshConfig(2, 1, 4))


def test_a_batch_that_the_devices_cannot_share_is_refused(monkeypatch):
    monkeypatch.setattr(jax, "device_count", lambda: 8)
    monkeypatch.setattr(
        "jax.experimental.mesh_utils.create_device_mesh",
        lambda *_, **__: pytest.fail("refused before"),
    )
    with pytest.raises(ConfigError, match=r"a batch of 6 clips .* a multiple of 4"):
        make_mesh(MeshConfig(2, 2, 2), batch_size=6)
