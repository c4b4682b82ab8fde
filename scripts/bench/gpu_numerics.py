"""The row `numerics` of gpu.py: checks that this device computes what a CPU computes.

It compares
- bfloat16 attention at 197 tokens, by the implementation that 'auto' picks, with float32 attention;
- the gradient of attention at padding, which must be zero;
- the share of entries that dropout drops, for each random generator, with the dropout rate;
- a small model's float32 loss and gradients on the device with those on the CPU.

It prints the largest differences, and names those that exceed their bounds. The only argument is
the case, as JSON.
"""

import dataclasses
import json
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np
from jax_step import case_batch, case_config

from signvit_jax.backbones.vit import dropout_key
from signvit_jax.layers.attention import attend, dropout, fastest_attention
from signvit_jax.layers.compute_policy import compute_policy
from signvit_jax.models.definition import ModelDefinition
from signvit_jax.optimization.losses import loss_denominators, translation_loss

# The largest differences that are allowed, relative to the largest value. bfloat16 has only 8
# significant bits, so its rounding alone causes differences of 0.004.
BOUNDS = {
    "attention": 0.02,
    "attention_gradient": 0.04,
    "padding_gradient": 0.0,
    "dropout_threefry": 0.005,
    "dropout_rbg": 0.005,
    "dropout_hash": 0.005,
    "loss": 1e-4,
    "gradients": 2e-3,
}


def attention_differences(num_tokens: int, heads: int, width: int) -> dict[str, float]:
    """Return the largest relative differences of output and gradient, at odd and even lengths."""
    worst = {"attention": 0.0, "attention_gradient": 0.0}
    for length in (num_tokens - 1, num_tokens):
        shape = (4, length, heads, width)
        inputs = [
            jax.random.normal(jax.random.key(i), shape, jnp.float32).astype(jnp.bfloat16)
            for i in range(4)
        ]

        def run(implementation, *inputs):
            query, key, value, weight = inputs
            out = attend(query, key, value, implementation=implementation).astype(jnp.float32)
            return (out * weight.reshape(out.shape).astype(jnp.float32)).sum(), out

        def output_and_gradients(implementation, inputs):
            step = jax.jit(
                jax.value_and_grad(run, argnums=(1, 2, 3), has_aux=True), static_argnums=0
            )
            (_, out), gradients = step(implementation, *inputs)
            return [out], gradients

        exact = output_and_gradients("xla", [x.astype(jnp.float32) for x in inputs])
        fast = output_and_gradients("auto", inputs)
        for name, ours, theirs in zip(worst, fast, exact):
            worst[name] = max(worst[name], *(difference(a, b) for a, b in zip(ours, theirs)))
    return worst


def padding_gradient(num_tokens: int, heads: int, width: int) -> float:
    """Return the largest gradient at the padding after `num_tokens`, which training needs to be 0.

    The padding of the inputs has random values, as the tokens have.
    """
    shape = (4, num_tokens + 1, heads, width)
    inputs = [jax.random.normal(jax.random.key(i), shape).astype(jnp.bfloat16) for i in range(3)]

    def run(inputs):
        out = attend(*inputs, implementation="auto", num_tokens=num_tokens)[:, :num_tokens]
        return jnp.square(out.astype(jnp.float32)).sum()

    at_padding = [gradient[:, num_tokens:] for gradient in jax.jit(jax.grad(run))(inputs)]
    return max(float(jnp.abs(gradient.astype(jnp.float32)).max()) for gradient in at_padding)


def difference(ours: jax.Array, exact: jax.Array) -> float:
    measured, expected = np.asarray(ours, np.float64), np.asarray(exact, np.float64)
    return float(np.abs(measured - expected).max() / np.abs(expected).max())


def dropped_share(generator: str) -> float:
    """Return the difference between the share of zeroed entries and the dropout rate."""
    rate = 0.2
    ones = jnp.ones((64, 197, 256))
    key = dropout_key(jax.random.key(0), generator)
    kept = jax.jit(lambda key: dropout(ones, rate, key))(key)
    return float(abs(jnp.mean(kept == 0) - rate))


def loss_differences(case: dict) -> dict[str, float]:
    """Return relative differences of a small model's float32 loss and gradients from the CPU's."""
    case = case | {
        "size": "tiny",
        "clips": 4,
        "frames": 8,
        "random": "threefry",
        "attention": "xla",
    }
    config = case_config(case)
    policy = dataclasses.replace(compute_policy(config), dtype=jnp.float32)
    definition = ModelDefinition(config, 500, policy=policy)
    batch = case_batch(case, config.data.image_size, 500)

    def loss(params, batch):
        return translation_loss(
            definition.bind(params), batch, loss_denominators(batch), config.training
        )[0]

    outputs = []
    for device in (jax.devices()[0], jax.devices("cpu")[0]):
        with jax.default_device(device), jax.default_matmul_precision("highest"):
            params = jax.device_put(jax.jit(lambda: definition.init(0))(), device)
            step = jax.jit(jax.value_and_grad(loss))
            outputs.append(jax.device_get(step(params, jax.device_put(batch, device))))
    (ours, ours_grad), (exact, exact_grad) = outputs
    size = max(float(np.abs(g).max()) for g in jax.tree.leaves(exact_grad))
    gradients = max(
        float(np.abs(a - b).max())
        for a, b in zip(jax.tree.leaves(ours_grad), jax.tree.leaves(exact_grad))
    )
    return {"loss": float(abs(ours - exact) / abs(exact)), "gradients": gradients / size}


def main() -> None:
    case = json.loads(sys.argv[1])
    start = time.perf_counter()
    heads, width = (16, 64) if case["size"] == "full" else (2, 16)
    differences = attention_differences(197, heads, width)
    differences["padding_gradient"] = padding_gradient(197, heads, width)
    differences |= {f"dropout_{name}": dropped_share(name) for name in ("threefry", "rbg", "hash")}
    differences |= loss_differences(case)
    beyond = [
        f"{name} {value:.2g} > {BOUNDS[name]:g}"
        for name, value in differences.items()
        if not value <= BOUNDS[name]
    ]
    result = {name: float(f"{value:.3g}") for name, value in differences.items()}
    device = f"{jax.device_count()} x {jax.devices()[0].device_kind}"
    result |= {
        "attention_is": fastest_attention(jnp.bfloat16, 64, plain=True),
        "wall_seconds": round(time.perf_counter() - start, 1),
        "about": f"{device}, jax {jax.__version__}",
    }
    if beyond:
        result["failed"] = "; ".join(beyond)
    print(json.dumps(result))


if __name__ == "__main__":
    main()
