"""Compiled texts of small programs, which XLA compiles for eight virtual CPU devices.

They are compiled in a new process, because JAX fixes the number of devices once per process, and
because tests run without XLA's optimizations, which create the fusions in these texts.
"""

import functools
import json
import os
import subprocess
import sys
from pathlib import Path

_PROGRAM = r"""
import json
import jax, jax.numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec as P

jax.config.update("jax_num_cpu_devices", 8)
axis_types = (jax.sharding.AxisType.Auto,) * 3
mesh = jax.make_mesh((2, 2, 2), ("data", "fsdp", "tensor"), axis_types=axis_types)

def floats(*shape):
    return jax.ShapeDtypeStruct(shape, jnp.float32)

def text(function, *arguments):
    return jax.jit(function).lower(*arguments).compile().as_text()

def repeated(x):
    return jax.lax.scan(lambda c, _: (jnp.tanh(c @ c), None), x, length=5)[0]

def nested(x):
    return jax.lax.scan(lambda c, _: (repeated(c), None), x, length=3)[0]

def collective(function, ins, outs):
    mapped = jax.shard_map(function, mesh=mesh, in_specs=ins, out_specs=outs, check_vma=False)
    return text(mapped, floats(64, 64))

def layers(kernels, x):
    def layer(x, kernel):
        return jnp.sin(x @ kernel), None
    return jax.lax.scan(layer, x, kernels)[0].sum()

stacked = floats(6, 128, 128)
texts = {
    "product": text(lambda a, b: a @ b, floats(64, 32), floats(32, 48)),
    "repeated": text(repeated, floats(64, 64)),
    "nested": text(nested, floats(64, 64)),
    "control": text(lambda a, b: a * 2 + b * a, floats(1000), floats(1000)),
    "sliced": text(
        lambda a, i: jax.lax.dynamic_slice(a, (i, 0), (3, 100)) * 2,
        floats(1000, 100), jax.ShapeDtypeStruct((), jnp.int32),
    ),
    "convolution": text(
        lambda a, b: jax.lax.conv(a, b, (1, 1), "SAME"), floats(1, 3, 9, 9), floats(5, 3, 2, 2)
    ),
    "all": collective(lambda x: jax.lax.psum(x, ("data", "fsdp", "tensor")), P(), P()),
    "data": collective(lambda x: jax.lax.psum(x, "data"), P("data"), P()),
    "gather": collective(
        lambda x: jax.lax.all_gather(x, "fsdp", tiled=True), P("fsdp"), P()
    ),
    "scatter": collective(
        lambda x: jax.lax.psum_scatter(x, "tensor", tiled=True), P(), P("tensor")
    ),
    "permute": collective(
        lambda x: jax.lax.ppermute(x, "tensor", [(0, 1), (1, 0)]), P("tensor"), P("tensor")
    ),
    "exchange": collective(
        lambda x: jax.lax.all_to_all(x, ("data", "fsdp"), 0, 1, tiled=True),
        P(None, ("data", "fsdp")), P(("data", "fsdp"), None),
    ),
    "gradients": text(jax.grad(layers), stacked, floats(32, 128)),
}
print(json.dumps(texts))
"""


@functools.cache
def texts() -> dict[str, str]:
    """Return name -> compiled text (HLO)."""
    environment = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("JAX_", "XLA_FLAGS"))
    }
    done = subprocess.run(
        [sys.executable, "-c", _PROGRAM],
        capture_output=True,
        text=True,
        timeout=250,
        cwd=Path(__file__).parents[2],
        env=environment | {"JAX_PLATFORMS": "cpu", "JAX_ENABLE_COMPILATION_CACHE": "false"},
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout.splitlines()[-1])
