"""Meshes, sharding rules, and training on eight devices with the same losses as on one.

The eight devices are virtual devices of the CPU in a new process.
"""

import dataclasses
import os
import re
import subprocess
import sys
from pathlib import Path

import jax
import pytest
from jax.sharding import AbstractMesh

from signvit_jax.config.errors import ConfigError
from signvit_jax.config.files import load_config
from signvit_jax.config.schema import MeshConfig
from signvit_jax.models.definition import ModelDefinition
from signvit_jax.parallel.mesh import AXES, make_mesh
from signvit_jax.parallel.sharding import RULES, parameter_path, partition_spec, state_shardings

TESTS = Path(__file__).parents[1]


@pytest.mark.timeout(900)
@pytest.mark.parametrize(
    "meshes", [["mixed"], pytest.param(["data", "fsdp", "tensor"], marks=pytest.mark.long)]
)
def test_eight_devices_reach_the_losses_of_one(meshes, tmp_path):
    """Runs also resume from checkpoints of other meshes, and their state is sharded."""
    program = [sys.executable, str(TESTS / "helpers" / "eight_devices.py"), str(tmp_path), *meshes]
    result = subprocess.run(
        program,
        capture_output=True,
        text=True,
        timeout=800,
        env=os.environ | {"PYTHONPATH": str(TESTS.parent)},
    )
    assert result.returncode == 0, result.stderr[-2000:]
    num_sharded, losses = {}, {}  # by the name of the run
    for line in result.stdout.splitlines():
        name, num_arrays, *losses_of_run = line.split()
        num_sharded[name] = int(num_arrays)
        losses[name] = [float(loss) for loss in losses_of_run]
    assert len(losses) == 1 + 2 * len(meshes)
    assert len(losses["single"]) == 5
    for name, found in losses.items():
        assert num_sharded[name] > 10 or name not in ("fsdp", "tensor", "mixed"), name
        assert found == pytest.approx(losses["single"][-len(found) :], rel=1e-5), name


def test_every_rule_applies_to_the_full_model():
    definition = ModelDefinition(load_config("reference"), 30_522)
    mesh = make_mesh(MeshConfig())
    shapes = {
        parameter_path(path): leaf.shape
        for path, leaf in jax.tree_util.tree_leaves_with_path(definition.abstract_params())
    }
    specs = {path: partition_spec(path, shape, mesh) for path, shape in shapes.items()}
    applied = set()
    for path, spec in specs.items():
        matching = [(pattern, axes) for pattern, axes in RULES if re.fullmatch(pattern, path)]
        if matching:
            pattern, axes = matching[0]
            applied.add(pattern)
            assert tuple(spec)[-len(axes) :] == axes, path
    assert applied == {pattern for pattern, _ in RULES}
    replicated = [path for path, spec in specs.items() if len(shapes[path]) > 1 and not any(spec)]
    assert len(replicated) < 0.5 * len(specs)


def test_a_dimension_that_does_not_divide_is_not_sharded():
    mesh = AbstractMesh((1, 3, 2), AXES)
    assert tuple(partition_spec("a/qkv/kernel", (6, 4), mesh)) == ("fsdp", "tensor")
    assert tuple(partition_spec("a/qkv/kernel", (5, 6, 5), mesh)) == (None, "fsdp", None)


def test_rules_that_could_not_be_applied_are_logged(caplog):
    caplog.set_level("INFO", "signvit_jax.parallel.sharding")
    mesh = AbstractMesh((1, 7, 1), AXES)
    shapes = {
        name: {"kernel": jax.ShapeDtypeStruct((size, 5), "float32")}
        for name, size in (("fits", 14), ("odd", 15))
    }
    state_shardings(shapes, mesh)
    assert "1 arrays" in caplog.text
    assert "odd/kernel (15, 5)" in caplog.text


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
    """The attributes of a device that JAX reads when it arranges a TPU pod."""

    id: int
    coords: tuple[int, int, int]
    platform: str = "tpu"
    device_kind: str = "TPU v6 lite"
    core_on_chip: int = 0
    process_index: int = 0
    slice_index: int = 0


@pytest.mark.parametrize("axes", [(16, 8, 2), (32, 8, 1), (256, 1, 1)])
def test_mesh_axes_may_split_the_physical_axes_of_a_tpu_pod(axes):
    chips = [Chip(16 * y + x, (x, y, 0)) for y in range(16) for x in range(16)]
    mesh = make_mesh(MeshConfig(*axes), devices=chips)
    assert mesh.devices.shape == axes
    assert {chip.id for chip in mesh.devices.flat} == set(range(256))


@pytest.mark.parametrize(
    "chips",
    [
        # These four chips do not fill a box.
        [Chip(id, (x, y, 0)) for id, (x, y) in enumerate([(0, 0), (1, 0), (2, 0), (0, 1)])],
        # Two slices have chips at the same coordinates.
        [Chip(id, (id % 2, 0, 0), slice_index=id // 2) for id in range(4)],
    ],
)
def test_chips_that_do_not_form_a_box_in_one_slice_are_refused(chips):
    with pytest.raises(ConfigError, match=r"these 4 chips.* allowed: the chips of one slice"):
        make_mesh(MeshConfig(2, 2, 1), devices=chips)


@pytest.mark.parametrize("error", [NotImplementedError, ValueError])
def test_the_error_of_a_mesh_has_the_message_of_jax(error, monkeypatch):
    def refuse(*_, **__):
        raise error("a message of JAX")

    monkeypatch.setattr("jax.experimental.mesh_utils.create_device_mesh", refuse)
    monkeypatch.setattr(jax, "device_count", lambda: 8)
    with pytest.raises(ConfigError, match=r"\(a message of JAX\); allowed: other axes"):
        make_mesh(MeshConfig(2, 2, 2))


def test_a_tensor_axis_over_several_processes_is_refused(monkeypatch):
    monkeypatch.setattr(jax, "device_count", lambda: 8)
    monkeypatch.setattr(jax, "process_count", lambda: 4)
    with pytest.raises(ConfigError, match="tensor is 4, but each of the 4 processes has 2 devices"):
        make_mesh(MeshConfig(2, 1, 4))


def test_a_batch_that_the_devices_cannot_share_is_refused(monkeypatch):
    monkeypatch.setattr(jax, "device_count", lambda: 8)
    monkeypatch.setattr(
        "jax.experimental.mesh_utils.create_device_mesh",
        lambda *_, **__: pytest.fail("the batch was not refused first"),
    )
    with pytest.raises(ConfigError, match=r"a batch of 6 clips .* a multiple of 4"):
        make_mesh(MeshConfig(2, 2, 2), batch_size=6)
