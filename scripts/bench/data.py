"""Frames per second and core of what stands between the shards and a training step, as a table.

    python scripts/bench/data.py                                     # clips of 256 x 256 pixels, drawn and built into a temporary folder
    python scripts/bench/data.py --data_dir=D --name=video_folder    # a data set of your own

"per core" divides by the processor seconds that all threads of this process used, "per second" by those on the clock. Take the figures on an
otherwise idle machine; each is the best of `--runs`.
"""

import argparse
import contextlib
import dataclasses
import io
import tempfile
import time
from collections.abc import Callable, Iterator

import numpy as np
from PIL import Image
from rich.console import Console
from rich.table import Table

from signvit_jax.config import AugmentConfig, Config, DataConfig
from signvit_jax.data.augment import decode_clip
from signvit_jax.data.dataset import Split, open_dataset
from signvit_jax.data.pipeline import make_batches
from signvit_jax.data.token_table import padded_text_length
from signvit_jax.data.tokenizer import learn

AUGMENTATION = AugmentConfig(
    rotate=8.0, translate=0.06, scale=0.15, brightness=0.2, contrast=0.2, saturation=0.2, hue=0.03, speed=0.15, frame_jitter=0.5, frame_drop=0.1
)


@dataclasses.dataclass(frozen=True)
class Rate:
    frames: int
    seconds: float
    core_seconds: float

    @property
    def per_core(self) -> float:
        return self.frames / self.core_seconds

    @property
    def per_second(self) -> float:
        return self.frames / self.seconds


def best_rate(read: Callable[[], int], runs: int) -> Rate:
    """`read` returns how many frames it read."""
    rates = []
    for _ in range(runs):
        clock, cores = time.perf_counter(), time.process_time()
        frames = read()
        rates.append(Rate(frames, time.perf_counter() - clock, time.process_time() - cores))
    return max(rates, key=lambda rate: rate.per_core)


def read_records(split: Split) -> int:
    return sum(len(split[i]["video"]) for i in range(len(split)))


def batch_reader(split: Split, config: Config, batch_size: int) -> Callable[[], int]:
    tokenizer = learn([entry.text or "-" for entry in split.index], config.tokenizer)
    length = padded_text_length(split, tokenizer, config.model.decoder.max_len)
    batches = make_batches(split, tokenizer, config, batch_size=batch_size, training=True, text_length=length)

    def read() -> int:
        batches.set_state(batches.state_at(0))
        return sum(int((batch["frame_lengths"] * batch["weights"]).sum()) for batch in batches)

    return read


def read_with_pillow(split: Split, config: Config) -> int:
    """The plain way, to compare with: Pillow decodes and resizes the same frames in one thread."""
    size, frames = config.data.image_size, 0
    for i in range(len(split)):
        video = split[i]["video"]
        for k in np.linspace(0, len(video) - 1, config.data.num_frames).astype(int):
            np.asarray(Image.open(io.BytesIO(video[k])).convert("RGB").resize((size, size), Image.BILINEAR))
            frames += 1
    return frames


@contextlib.contextmanager
def drawn_split(num_clips: int, size: int) -> Iterator[Split]:
    """Drawn clips of `size` x `size` pixels, built by our own builder."""
    from tfds_builders.synthetic_signs.synthetic_signs_dataset_builder import Builder

    with tempfile.TemporaryDirectory() as folder:
        options = {"num_train": num_clips, "num_validation": 1, "num_test": 1, "size": size}
        Builder(data_dir=folder, options=options, short_side=size).download_and_prepare()
        yield open_dataset(folder, "synthetic_signs").split("train")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data_dir", default="", help="folder of a built data set; without it clips are drawn")
    parser.add_argument("--name", default="video_folder")
    parser.add_argument("--split", default="train")
    parser.add_argument("--clips", type=int, default=48, help="how many clips are drawn")
    parser.add_argument("--stored_size", type=int, default=256, help="height and width of drawn clips, in pixels")
    parser.add_argument("--image_size", type=int, default=224)
    parser.add_argument("--num_frames", type=int, default=16)
    parser.add_argument("--batch_size", type=int, default=8)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--runs", type=int, default=5)
    args = parser.parse_args()

    with contextlib.ExitStack() as stack:
        split = (
            open_dataset(args.data_dir, args.name).split(args.split)
            if args.data_dir
            else stack.enter_context(drawn_split(args.clips, args.stored_size))
        )
        table = measure(split, args)
    Console().print(table)


def measure(split: Split, args: argparse.Namespace) -> Table:
    config = Config(data=DataConfig(num_frames=args.num_frames, image_size=args.image_size, num_threads=args.threads))
    augmented = dataclasses.replace(config, data=dataclasses.replace(config.data, augment=AUGMENTATION))
    clip = split[0]["video"]

    def decode() -> int:
        return len(decode_clip(clip, args.image_size, config.data.fit))

    measured = {
        "records from the shards, nothing decoded": lambda: read_records(split),
        f"decode and fit to {args.image_size} px, one thread": decode,
        "training batches": batch_reader(split, config, args.batch_size),
        "training batches, augmented": batch_reader(split, augmented, args.batch_size),
        "the same frames with Pillow, one thread": lambda: read_with_pillow(split, config),
    }
    width, height = Image.open(io.BytesIO(clip[0])).size
    kilobytes = np.mean([len(data) for data in clip]) / 1000
    table = Table(title=f"{len(split)} clips, {width} x {height} px, {kilobytes:.1f} kB a frame, {args.threads} reading threads")
    for name in ("", "frames / s / core", "frames / s"):
        table.add_column(name, justify="right" if name else "left")
    for name, read in measured.items():
        rate = best_rate(read, args.runs)
        table.add_row(name, f"{rate.per_core:,.0f}", f"{rate.per_second:,.0f}")
    return table


if __name__ == "__main__":
    main()
