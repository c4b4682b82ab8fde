r"""Measure what crops of the hands cost in training: `small` with and without them.

    python scripts/bench/hand_crops.py --clips=8 --frames=32 --rounds=5

A forward and a backward pass of each case on random images, in turn in one process. The output has
the median wall time, its ratio to that of `small` without changes, and the operations of a clip's
training (`planning/flops.py`).
"""

import argparse
import statistics
import time
from collections.abc import Callable

import jax
import numpy as np

from signvit_jax.config.files import load_config
from signvit_jax.models.definition import ModelDefinition
from signvit_jax.optimization.losses import forward
from signvit_jax.planning.flops import clip_flops

TEXT, VOCABULARY = 16, 200
CROPS = ("model.encoder.crops", "hands")
LARGE = (("data.image_size", "160"), ("model.encoder.view_size", "64"))
NARROW = (*LARGE[:1], ("model.encoder.view_size", "48"), ("model.encoder.crop_width", "96"))
CASES = {
    "small": (),
    "crops from images of 64 pixels": (CROPS,),
    "images of 160 pixels, a view of 64": LARGE,
    "crops from images of 160 pixels": (CROPS, *LARGE),
    "the same, narrow, a view of 48": (CROPS, *NARROW),
}


def prepared(
    overrides: tuple[tuple[str, str], ...], clips: int, frames: int
) -> tuple[Callable[[], object], float]:
    """Return (a function that runs the compiled pass, the operations of a clip's training)."""
    config = load_config("small", [("model.encoder.motion", "magnitude"), *overrides])
    definition = ModelDefinition(config, VOCABULARY)
    size = config.data.image_size
    batch = {
        "video": np.random.default_rng(0).integers(
            0, 256, (clips, frames, size, size, 3), dtype=np.uint8
        ),
        "frame_lengths": np.full(clips, frames, np.int32),
        "tokens": np.full((clips, TEXT), 5, np.int32),
        "weights": np.ones(clips, np.float32),
    }

    def loss(params, batch, key):
        outputs = forward(definition.bind(params), batch, key)
        total = outputs.logits.mean() + outputs.ctc_logits.mean()
        localization = outputs.encoded.localization
        return total if localization is None else total + sum(x.mean() for x in localization.parts)

    inputs = jax.jit(definition.init)(0), batch, jax.random.key(0)
    gradient = jax.jit(jax.grad(loss)).lower(*inputs).compile()
    return lambda: gradient(*inputs), clip_flops(definition, frames, TEXT).training


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--clips", type=int, default=8)
    parser.add_argument("--frames", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    passes = {
        name: prepared(overrides, arguments.clips, arguments.frames)
        for name, overrides in CASES.items()
    }
    times = {name: [] for name in passes}
    for _ in range(arguments.rounds + 1):
        for name, (run, _) in passes.items():
            begin = time.perf_counter()
            jax.block_until_ready(run())
            times[name].append(time.perf_counter() - begin)
    medians = {name: statistics.median(taken[1:]) for name, taken in times.items()}
    print(f"{arguments.clips} clips of {arguments.frames} frames, {jax.devices()[0].device_kind}")
    for name, (_, flops) in passes.items():
        ratio = medians[name] / medians["small"]
        print(f"{name:36} {medians[name]:7.3f} s {ratio:5.2f} x {flops / 1e9:7.2f} GFLOP a clip")


if __name__ == "__main__":
    main()
