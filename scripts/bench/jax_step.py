"""One row of `train_step.py` or `gpu.py`: times our training step, encoder or translation.

It runs on the default device. The only argument is the case, as JSON.
"""

import itertools
import json
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PyTree

from signvit_jax.config.files import load_config
from signvit_jax.config.schema import Config, from_mapping, with_ctc_target
from signvit_jax.decoding.autoregressive import Source
from signvit_jax.decoding.beam_search import beam_search
from signvit_jax.decoding.search_options import SearchOptions
from signvit_jax.models.definition import ModelDefinition
from signvit_jax.optimization.optimizer import make_optimizer
from signvit_jax.optimization.train_state import abstract_on_mesh, new_state
from signvit_jax.optimization.train_step import StepReport, make_train_step
from signvit_jax.parallel.mesh import make_mesh
from signvit_jax.parallel.sharding import to_device
from signvit_jax.planning.flops import clip_flops, peak_flops
from signvit_jax.planning.memory import bytes_beside_arguments, peak_memory

TINY = {
    "encoder": {
        "output_dim": 64,
        "vit_hidden_dim": 64,
        "vit_num_heads": 2,
        "vit_num_layers": 2,
        "vit_mlp_dim": 128,
    },
    "decoder": {"hidden_dim": 64, "num_layers": 2, "num_heads": 2, "ff_dim": 128},
}
TINY_OVERRIDES = [
    *(
        f"model.{part}.{key}={value}"
        for part, values in TINY.items()
        for key, value in values.items()
    ),
    "model.temporal.num_heads=4",
    "training.batch_size=4",
    "data.image_size=32",
    "data.num_frames=12",
    "data.frame_buckets=(12,)",
]
VOCABULARY = {"full": 30_522, "tiny": 500}
TEXT, BOS, EOS = 48, 101, 102


def case_config(case: dict) -> Config:
    """Return the case's config file with its overrides, or the reference's with its options."""
    if "config" in case:
        overrides = list(case.get("overrides", ()))
        if case["size"] == "tiny":
            overrides += TINY_OVERRIDES
        path = str(Path(__file__).parents[2] / case["config"])
        pairs = [tuple(override.split("=", 1)) for override in overrides]
        return with_ctc_target(load_config(path, pairs), "text")
    model = {"encoder": {}, "decoder": {}}
    if case["size"] == "tiny":
        model = {name: dict(values) for name, values in TINY.items()}
    model["encoder"] |= {
        "attention": case["attention"],
        "attention_dropout": case["attention_dropout"],
        "frames_per_chunk": case["chunk"],
        "dropout_rng_impl": case["random"],
    }
    training = {
        "batch_size": case["clips"],
        "scan_layers": case["scan"],
        "remat": case["remat"],
        "adam_moments": case.get("adam_moments", "float32"),
    }
    data = {"num_frames": case["frames"], "image_size": 64 if case["size"] == "tiny" else 224}
    return from_mapping({"model": model, "training": training, "data": data})


def case_batch(case: dict, image_size: int, vocabulary: int) -> dict[str, np.ndarray]:
    """Return a batch of noise images with random texts of 28 tokens, short enough for CTC."""
    rng = np.random.default_rng(0)
    lengths = np.full(case["clips"], 28, np.int32)
    tokens = np.zeros((case["clips"], TEXT), np.int32)
    tokens[:, :28] = rng.integers(103, vocabulary, (case["clips"], 28))
    tokens[:, 0], tokens[:, 27] = BOS, EOS
    return {
        "video": rng.integers(
            0, 256, (case["clips"], case["frames"], image_size, image_size, 3), dtype=np.uint8
        ),
        "frame_lengths": np.full(case["clips"], case["frames"], np.int32),
        "tokens": tokens,
        "token_lengths": lengths,
        "weights": np.ones(case["clips"], np.float32),
    }


def seconds_per_step(step: Callable[[], object], steps: int) -> float:
    """Return the median of three timings of `steps` steps; each waits for the device."""
    timings, last = [], None
    for _ in range(3):
        start = time.perf_counter()
        for _ in range(steps):
            last = step()
        jax.block_until_ready(last)
        timings.append((time.perf_counter() - start) / steps)
    return sorted(timings)[1]


def training_step(
    config: Config, definition: ModelDefinition, batches: Sequence[dict[str, np.ndarray]]
) -> tuple[Callable[[], StepReport], jax.stages.Compiled, float]:
    """Return (function that runs a step, compiled program, seconds of compiling).

    The steps cycle through `batches`.
    """
    optimizer = make_optimizer(config.training, total_steps=1000)
    mesh = make_mesh(config.mesh, config.training.batch_size)

    def make():
        return new_state(definition, optimizer, seed=0)

    abstract, shardings = abstract_on_mesh(make, mesh)
    on_device = [to_device(batch, mesh) for batch in batches]
    next_batches = itertools.cycle(on_device)
    start = time.perf_counter()
    step = make_train_step(
        definition, optimizer, config.training, mesh, shardings, frozen_backbone=False
    )
    compiled = step.lower(abstract, on_device[0]).compile()
    compiling = time.perf_counter() - start
    states = [jax.jit(make, out_shardings=shardings)()]  # the current one; `run` replaces it

    def run():
        states[0], report = compiled(states[0], next(next_batches))
        return report

    return run, compiled, compiling


def encoding(
    case: dict, config: Config, definition: ModelDefinition
) -> tuple[Callable[[], object], jax.stages.Compiled, float]:
    """Return (function that encodes a clip, compiled program, seconds of compiling).

    In the mode "translate" the function also decodes, with a beam of 4. As the weights are random,
    no sentence ends before the longest length.
    """
    params = jax.jit(lambda: definition.init(0))()
    # Matrices in the dtype of the computation, as a server would keep them.
    params = jax.tree.map_with_path(
        lambda path, leaf: leaf.astype(jnp.bfloat16) if path[-1].key == "kernel" else leaf, params
    )
    batch = case_batch(case, config.data.image_size, definition.vocab_size)
    inputs = params, jnp.asarray(batch["video"]), jnp.asarray(batch["frame_lengths"])
    options = SearchOptions(bos_id=BOS, eos_id=EOS, beam_size=4)

    @jax.jit
    def encode(params: PyTree, video: jax.Array, lengths: jax.Array) -> jax.Array:
        model = definition.bind(params)
        encoded = model.encode(video, lengths)
        if case["mode"] == "encode":
            return encoded.pooled
        return beam_search((Source(model.decoder, *model.memory(encoded)),), options).tokens

    start = time.perf_counter()
    compiled = encode.lower(*inputs).compile()
    return lambda: compiled(*inputs), compiled, time.perf_counter() - start


def main() -> None:
    case = json.loads(sys.argv[1])
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)
    config = case_config(case)
    words = VOCABULARY[case["size"]]
    if "config" in case and case["size"] == "full":
        words = config.tokenizer.vocab_size
    definition = ModelDefinition(config, words)
    device = jax.devices()[0]
    encodes = case.get("mode") in ("encode", "translate")
    if "config" in case:
        case |= {"clips": config.training.batch_size, "frames": config.data.num_frames}
    if encodes:
        run, compiled, compiling = encoding(case, config, definition)
    else:
        batch = case_batch(case, config.data.image_size, words)
        run, compiled, compiling = training_step(config, definition, [batch])
    for _ in range(3):
        jax.block_until_ready(run())
    seconds = seconds_per_step(run, case["steps"])
    counted = clip_flops(definition, case["frames"], TEXT)
    plan = compiled.memory_analysis()
    assert plan is not None
    planned = plan.argument_size_in_bytes + bytes_beside_arguments(plan)
    per_clip = (counted.backbone + counted.temporal) if encodes else counted.training
    flops = case["clips"] * per_clip
    peak = peak_flops(device.device_kind)
    if peak is not None:
        peak *= jax.device_count()
    result = {
        "clips": case["clips"],
        "frames": case["frames"],
        "seconds": seconds,
        "mfu": peak and round(flops / seconds / peak, 4),
        "compile_seconds": compiling,
        "peak_bytes": peak_memory() or planned,
        "planned_bytes": planned,
        "flops": flops,
        "peak_flops": peak,
        "about": f"{jax.device_count()} x {device.device_kind}, jax {jax.__version__}",
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
