"""What programs for several devices send: eight virtual devices of a CPU, in their own process."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

PROLOGUE = r"""
import json, re, sys
import jax, jax.numpy as jnp
from flax import nnx
from signvit_jax.config.schema import MeshConfig
from signvit_jax.parallel.current_mesh import tracing_for
from signvit_jax.parallel.mesh import make_mesh
from signvit_jax.parallel.sharding import batch_sharding, gather_fsdp, state_shardings
jax.config.update("jax_num_cpu_devices", 8)
dtype = jnp.dtype(sys.argv[1])
"""
GATHERED = r"""
mesh = make_mesh(MeshConfig(1, 8, 1))
shapes = {"kernel": (64, 32), "bias": (32,)}
params = {"layer": {k: jax.ShapeDtypeStruct(v, jnp.float32) for k, v in shapes.items()}}

def loss(params, x):
    layer = gather_fsdp(params, mesh, dtype)["layer"]
    y = x @ layer["kernel"].astype(dtype) + layer["bias"].astype(dtype)
    return jnp.square(y.astype(jnp.float32)).sum()

shardings = state_shardings(params, mesh), batch_sharding(mesh)
x = jax.ShapeDtypeStruct((16, 64), dtype)
text = jax.jit(jax.grad(loss), in_shardings=shardings).lower(params, x).as_text()
found = re.findall(r"sharding_constraint .*\[(.*)\]> : tensor<([\dx]+)x(\w+)>", text)
[operand] = re.findall(r"sharding_constraint (%\w+) <@mesh, \[\{\}, \{\}\]> : tensor<64x32x", text)
made_by = re.search(rf"{operand} = (\S+)", text)
print(json.dumps([found, made_by[1] if made_by else "parameter"]))
"""
BLOCK = r"""
from signvit_jax.layers.transformer import TransformerBlock
mesh = make_mesh(MeshConfig(2, 2, 2))

def make():
    options = {"dropout_rate": 0.1, "attention_dropout": 0.0, "dtype": dtype}
    return TransformerBlock(32, 4, 64, **options, rngs=nnx.Rngs(0))

graphdef, state = nnx.split(nnx.eval_shape(make))
params = nnx.to_pure_dict(state)

def loss(params, x):
    state = nnx.state(nnx.eval_shape(make))
    nnx.replace_by_pure_dict(state, gather_fsdp(params, mesh, dtype))
    with tracing_for(mesh):
        out = nnx.merge(graphdef, state)(x, rng=jax.random.key(0))
    return jnp.square(out.astype(jnp.float32)).sum()

shardings = state_shardings(params, mesh), batch_sharding(mesh)
x = jax.ShapeDtypeStruct((8, 6, 32), dtype)
text = jax.jit(jax.grad(loss), in_shardings=shardings).lower(params, x).compile().as_text()
kinds = r"\[([\d,]*)\]\S* (all-gather|all-reduce|all-to-all|collective-permute|reduce-scatter)\("
print(json.dumps(re.findall(kinds, text)))
"""


def run(program, *arguments):
    done = subprocess.run(
        [sys.executable, "-c", PROLOGUE + program, *arguments],
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])},
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize(
    ("dtype", "sent", "maker"),
    [
        ("float32", "f32", "parameter"),
        # Without the barrier XLA for GPUs gathers in float32 and casts afterwards.
        ("bfloat16", "bf16", "stablehlo.optimization_barrier"),
    ],
)
def test_kernels_are_gathered_in_the_compute_dtype(dtype, sent, maker):
    """Biases in float32; the gradient is sharded in the dtype of the gathered kernel."""
    constraints, gathered_from = run(GATHERED, dtype)
    assert gathered_from == maker
    kernel = [found for found in constraints if found[1] == "64x32"]
    assert kernel == [["{}, {}", "64x32", sent], ['{"fsdp"}, {}', "64x32", sent]]
    assert {found[2] for found in constraints if found[1] == "32"} == {"f32"}


# In float32 the scale of the first norm needs the gradient of its output, a sum over the axis too.
@pytest.mark.parametrize(("dtype", "sums"), [("float32", 3), ("bfloat16", 2)])
def test_a_tensor_axis_communicates_only_feed_forward_sums_and_attended_values(dtype, sums):
    """Two clips of six tokens are on each device: the feed-forward layer's are summed over the
    axis, forward and backward, and the attended ones are gathered. Query, key and value, and the
    hidden layer, stay where their heads and columns are.

    The query, key and value kernel, which is smaller, is resharded by heads.
    """
    sent = run(BLOCK, dtype)
    activations = [tuple(found) for found in sent if found[0].startswith(("2,6", "12,"))]
    assert sorted(activations) == [
        ("2,6,32", "all-gather"),
        *[("2,6,32", "all-reduce")] * sums,
    ]
    assert "all-to-all" not in [kind for _, kind in sent]
