"""The smallest complete run: drawn videos, a config file, and the commands that a user runs."""

import contextlib
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import av
import jax
import numpy as np
from jax.experimental.compilation_cache import compilation_cache

from signvit_jax.runtime.exit_codes import run_command

REPOSITORY = Path(__file__).parents[2]
SIZE, FRAMES = 32, 8
STEPS_PER_EPOCH, EPOCHS = 3, 6
WHO, WHAT = ("Ann", "Ben", "Eve", "Max"), ("sleeps.", "eats!", "reads", "Sings", "runs")
CLIPS = {"train": 12, "validation": 4, "test": 6}
CONFIG = """
def get_config():
    return {{
        "model": {{
            "encoder": {{
                "output_dim": 16, "vit_hidden_dim": 16, "vit_num_heads": 2, "vit_num_layers": 2,
                "vit_mlp_dim": 32, "patch_size": 16, "dropout": 0.0, "attention_dropout": 0.0,
            }},
            "temporal": {{
                "num_queries": 4, "num_heads": 2, "num_temporal_conv": 1, "dropout": 0.0,
            }},
            "decoder": {{
                "hidden_dim": 16, "num_layers": 1, "num_heads": 2, "ff_dim": 32, "max_len": 8,
                "dropout": 0.0,
            }},
            "ctc": {{"dropout": 0.1}},
        }},
        "training": {{
            "batch_size": 4, "num_epochs": {epochs}, "use_amp": False, "log_every_n_steps": 1,
            "encoder_lr": 1e-3, "decoder_lr": 1e-2, "ema_decay": 0.5,
        }},
        "data": {{
            "name": "video_folder", "data_dir": {data_dir!r}, "num_frames": {frames},
            "image_size": {size}, "num_threads": 2,
        }},
        "tokenizer": {{"name": "word"}},
        "inference": {{"beam_size": 2, "batch_size": 4}},
    }}
"""


def draw_clips(folder: Path) -> None:
    """Write `videos/` and `clips.csv` into `folder`.

    The color of a bar shows who acts, its motion what they do. The videos have different lengths.
    """
    (folder / "videos").mkdir(parents=True)
    rows = ["uid,text,split"]
    for number, split in enumerate(split for split, count in CLIPS.items() for _ in range(count)):
        who, what = number % len(WHO), number % len(WHAT)
        rows.append(f"clip{number:02d},{WHO[who]} {WHAT[what]},{split}")
        write_video(
            folder / "videos" / f"clip{number:02d}.mp4", frames_of(who, what, FRAMES + number % 5)
        )
    (folder / "clips.csv").write_text("\n".join(rows) + "\n", encoding="utf-8")


def no_batches() -> tuple[()]:
    """Return no batches, for exports that do not calibrate INT8 inputs."""
    return ()


def frames_of(who: int, what: int, count: int) -> np.ndarray:
    """Return the frames of a clip, uint8 (count, h, w, 3); `who` and `what` index WHO and WHAT."""
    frames = np.full((count, SIZE, SIZE, 3), 30, np.uint8)
    for t, frame in enumerate(frames):
        start = (4 * what + t * (what - 2)) % (SIZE - 8)
        frame[start : start + 8, :, who % 3] = 250 if who < 3 else 120
    return frames


def write_video(path: Path, frames: np.ndarray) -> None:
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=10)
        stream.width = frames.shape[2]
        stream.height = frames.shape[1]
        stream.pix_fmt = "yuv420p"
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, "rgb24")))
        container.mux(stream.encode())


def write_config(path: Path, data_dir: Path) -> Path:
    path.write_text(
        CONFIG.format(epochs=EPOCHS, data_dir=str(data_dir), frames=FRAMES, size=SIZE),
        encoding="utf-8",
    )
    return path


@contextlib.contextmanager
def light_jax(cache: Path) -> Iterator[None]:
    """Compile without optimizations, in a third of the time, and cache programs in `cache`.

    JAX's settings are restored at the end of the context.
    """
    settings = {name: jax.config.values[name] for name in _light_settings(cache)}
    cache_variable = os.environ.get("JAX_COMPILATION_CACHE_DIR")
    try:
        os.environ["JAX_COMPILATION_CACHE_DIR"] = str(cache)
        for name, value in _light_settings(cache).items():
            jax.config.update(name, value)
        compilation_cache.reset_cache()
        yield
    finally:
        for name, value in settings.items():
            jax.config.update(name, value)
        compilation_cache.reset_cache()
        del os.environ["JAX_COMPILATION_CACHE_DIR"]
        if cache_variable is not None:
            os.environ["JAX_COMPILATION_CACHE_DIR"] = cache_variable


def _light_settings(cache: Path) -> dict[str, object]:
    return {
        "jax_disable_most_optimizations": True,
        "jax_compilation_cache_dir": str(cache),
        "jax_persistent_cache_min_compile_time_secs": 0.5,
    }


def command(main: Callable[[Sequence[str]], int], *arguments: object) -> int:
    """Run a command in this process and return its exit code."""
    return run_command(lambda: main([str(argument) for argument in arguments]))


def open_below(folder: Path) -> list[str]:
    """Return `folder` and the paths below it that this process has open."""
    found = []
    for link in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(OSError):
            found.append(os.readlink(link))
    return [path for path in found if path == str(folder) or path.startswith(f"{folder}/")]
