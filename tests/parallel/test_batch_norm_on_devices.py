"""BatchNorm of images on two devices, which are virtual devices of the CPU in a new process."""

import subprocess
import sys
from pathlib import Path

TWO_DEVICES = """
import jax
jax.config.update("jax_num_cpu_devices", 2)
import jax.numpy as jnp, numpy as np
from flax import nnx
from signvit_jax.config.schema import MeshConfig
from signvit_jax.layers.batch_norm import BatchMoments, BatchNorm, update_running_stats
from signvit_jax.parallel.mesh import make_mesh
from signvit_jax.parallel.sharding import batch_sharding

layer = BatchNorm(3, epsilon=1e-3, dtype=jnp.float32, rngs=nnx.Rngs(0))
before = nnx.to_pure_dict(nnx.state(layer))
rng = np.random.default_rng(0)
x = rng.normal(size=(4, 2, 2, 3)).astype(np.float32)
x += np.arange(4, dtype=np.float32)[:, None, None, None]  # the devices have different means
mask = np.array([1, 1, 1, 0], np.float32)

def run(x, mask):
    y, moments = layer(x, mask)
    return y, update_running_stats(before, before, BatchMoments(mask.sum(), moments), 0.01)

sharded = batch_sharding(make_mesh(MeshConfig()))
y, new = jax.jit(run, in_shardings=(sharded, sharded))(x, mask)
assert not y.sharding.is_fully_replicated
counted = x[:3].reshape(-1, 3)
np.testing.assert_allclose(new["mean"], 0.01 * counted.mean(0), rtol=1e-5)
np.testing.assert_allclose(new["var"], 0.99 + 0.01 * counted.var(0), rtol=1e-5)
np.testing.assert_allclose(y, (x - counted.mean(0)) / np.sqrt(counted.var(0) + 1e-3), atol=1e-5)
print("same")
"""


def test_statistics_cover_the_images_of_all_devices():
    result = subprocess.run(
        [sys.executable, "-c", TWO_DEVICES],
        capture_output=True,
        text=True,
        timeout=280,
        cwd=Path(__file__).parents[2],
    )
    assert result.stdout.strip() == "same", result.stderr[-2000:]
