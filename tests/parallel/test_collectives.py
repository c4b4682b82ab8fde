"""The communication of programs for eight devices: virtual devices of the CPU in a new process."""

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
    """Return the JSON in the last line that the program prints."""
    result = subprocess.run(
        [sys.executable, "-c", PROLOGUE + program, *arguments],
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])},
    )
    assert result.returncode == 0, result.stderr[-2000:]
    return json.loads(result.stdout.splitlines()[-1])


@pytest.mark.parametrize(
    ("dtype", "hlo_dtype", "producer"),
    [
        ("float32", "f32", "parameter"),
        # Without the barrier XLA for GPUs gathers in float32 and casts afterwards.
        ("bfloat16", "bf16", "stablehlo.optimization_barrier"),
    ],
)
def test_kernels_are_gathered_in_the_compute_dtype(dtype, hlo_dtype, producer):
    """The gradient is sharded in the dtype of the gathered kernel. Biases stay in float32."""
    constraints, gathered_from = run(GATHERED, dtype)  # constraints: (sharding, shape, dtype)
    assert gathered_from == producer
    kernel = [constraint for constraint in constraints if constraint[1] == "64x32"]
    assert kernel == [["{}, {}", "64x32", hlo_dtype], ['{"fsdp"}, {}', "64x32", hlo_dtype]]
    assert {kind for _, shape, kind in constraints if shape == "32"} == {"f32"}


# In float32 the gradient of the first norm's scale needs one more sum over the tensor axis.
@pytest.mark.parametrize(("dtype", "sums"), [("float32", 3), ("bfloat16", 2)])
def test_a_tensor_axis_communicates_only_feed_forward_sums_and_attended_values(dtype, sums):
    """Each device has two clips of six tokens.

    Over the tensor axis, the outputs of the feed-forward layer and their gradients are summed, and
    the attended values are gathered. Queries, keys and values are not sent: each device has some of
    the heads. Nor is the hidden layer: each device has some of its columns. The kernel of queries,
    keys and values, which is smaller, is resharded by heads.
    """
    sent = run(BLOCK, dtype)  # (shape, kind of the collective)
    activations = [tuple(entry) for entry in sent if entry[0].startswith(("2,6", "12,"))]
    assert sorted(activations) == [
        ("2,6,32", "all-gather"),
        *[("2,6,32", "all-reduce")] * sums,
    ]
    assert "all-to-all" not in [kind for _, kind in sent]
