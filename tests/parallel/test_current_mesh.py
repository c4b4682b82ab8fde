"""Dropout of a batch that is sharded over four virtual devices of the CPU, in a new process."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = r"""
import json, math, re, sys
import jax, jax.numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec as P
from signvit_jax.config.schema import MeshConfig
from signvit_jax.layers.attention import dropout
from signvit_jax.layers.hashed_bits import HASH
from signvit_jax.parallel.mesh import make_mesh
from signvit_jax.parallel.current_mesh import tracing_for

jax.config.update("jax_num_cpu_devices", 4)
mesh = make_mesh(MeshConfig(2, 2, 1))
rows = NamedSharding(mesh, P(("data", "fsdp")))

key = jax.random.key(0, impl=HASH if sys.argv[1] == "hash" else sys.argv[1])

def drop(x):
    with tracing_for(mesh):
        return dropout(x, 0.25, key)

shape = jax.ShapeDtypeStruct((8, 64, 16), jnp.float32)
compiled = jax.jit(drop, in_shardings=rows, out_shardings=rows).lower(shape).compile()
random_bits = re.findall(r"u32\[([\d,]+)\]", compiled.as_text())
sizes = [math.prod(map(int, size.split(","))) for size in random_bits]
out = compiled(jnp.ones((8, 64, 16)))
shares = [float((out[2 * device : 2 * device + 2] == 0).mean()) for device in range(4)]
same_on_devices = bool((out[:2] == out[2:4]).all())
as_on_one_device = bool((out == dropout(jnp.ones((8, 64, 16)), 0.25, key)).all())
print(
    json.dumps(
        {
            "largest": max(sizes, default=0),
            "shares": shares,
            "same_on_devices": same_on_devices,
            "as_on_one_device": as_on_one_device,
        }
    )
)
"""


@pytest.mark.parametrize("generator", ["rbg", "threefry2x32", "hash"])
def test_every_device_draws_dropout_for_its_own_rows_only(generator):
    root = str(Path(__file__).parents[2])
    command = [sys.executable, "-c", PROGRAM, generator]
    result = subprocess.run(
        command, capture_output=True, text=True, env=os.environ | {"PYTHONPATH": root}
    )
    assert result.returncode == 0, result.stderr[-2000:]
    found = json.loads(result.stdout)
    assert found["largest"] <= 8 * 64 * 16 // 4  # random numbers of one device
    assert found["shares"] == pytest.approx([0.25] * 4, abs=0.03)
    assert not found["same_on_devices"]
    assert found["as_on_one_device"] == (generator != "rbg")
