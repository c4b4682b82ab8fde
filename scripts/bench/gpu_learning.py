"""The row `small_gpu` of gpu.py: trains a config for some steps on drawn clips.

A word is shown by a bright square that moves over noise in one of eight directions; a text has
three words. Prints the loss at the start and at the end, and clips per second. The only argument is
the case, as JSON.
"""

import json
import sys
import time

import jax
import numpy as np
from jax_step import BOS, EOS, TEXT, case_config, training_step

from signvit_jax.models.definition import ModelDefinition

WORDS, FIRST_WORD, WORDS_PER_CLIP = 8, 103, 3


def draw(clips: int, frames: int, size: int, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Draw a training batch: video (clips, frames, size, size, 3) u8 and its tokens."""
    video = rng.integers(60, 120, (clips, frames, size, size, 3), dtype=np.uint8)
    words = rng.integers(0, WORDS, (clips, WORDS_PER_CLIP))
    square, radius = size // 6, size // 3
    for clip in range(clips):
        for frame in range(frames):
            number, progress = divmod(frame * WORDS_PER_CLIP / frames, 1.0)
            angle = 2 * np.pi * words[clip, int(number)] / WORDS
            x = int(size / 2 + radius * progress * np.cos(angle)) - square // 2
            y = int(size / 2 + radius * progress * np.sin(angle)) - square // 2
            video[clip, frame, y : y + square, x : x + square] = 230
    tokens = np.zeros((clips, TEXT), np.int32)
    tokens[:, 0] = BOS
    tokens[:, 1 : 1 + WORDS_PER_CLIP] = FIRST_WORD + words
    tokens[:, 1 + WORDS_PER_CLIP] = EOS
    return {
        "video": video,
        "frame_lengths": np.full(clips, frames, np.int32),
        "tokens": tokens,
        "token_lengths": np.full(clips, WORDS_PER_CLIP + 2, np.int32),
        "weights": np.ones(clips, np.float32),
    }


def main() -> None:
    case = json.loads(sys.argv[1])
    tiny = case["size"] == "tiny"
    steps = 4 if tiny else case["learning_steps"]
    config = case_config(case)
    definition = ModelDefinition(config, 500)
    data = config.data
    clips = config.training.batch_size
    rng = np.random.default_rng(0)
    batches = [draw(clips, data.num_frames, data.image_size, rng) for _ in range(2 if tiny else 6)]
    run, _, compiling = training_step(config, definition, batches)
    losses = []
    jax.block_until_ready(run())
    start = time.perf_counter()
    for _ in range(steps):
        losses.append(run().loss.total)
    jax.block_until_ready(losses[-1])
    seconds = time.perf_counter() - start
    tenth = steps // 10 + 1
    first = float(np.mean([float(loss) for loss in losses[:tenth]]))
    last = float(np.mean([float(loss) for loss in losses[-tenth:]]))
    result = {
        "seconds": seconds / steps,
        "clips_per_second": round(clips * steps / seconds, 1),
        "compile_seconds": round(compiling, 1),
        "loss_at_start": round(first, 3),
        "loss_at_end": round(last, 3),
        "about": f"{steps} steps of {clips} clips of {data.num_frames} frames, "
        f"{data.image_size} px; jax {jax.__version__}",
    }
    if not np.isfinite(last) or (not tiny and last >= first):
        result["failed"] = f"the loss went from {first:.3f} to {last:.3f}"
    print(json.dumps(result))


if __name__ == "__main__":
    main()
