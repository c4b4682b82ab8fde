"""Measure frames per second from video files to training batches; write docs/benchmarks/data.md.

    python scripts/bench/data.py                          # drawn videos, H.264, 25 frames/s
    python scripts/bench/data.py --videos=FOLDER          # mp4 files of your own

"per core" divides by the CPU time of all threads of this process and its decoding child, "per
second" by wall time. Measure on an otherwise idle machine; each number is the best of `--runs`.
The comparison with seeking needs OpenCV: pip install -e '.[bench]'.
"""

import argparse
import dataclasses
import io
import os
import platform
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import av
import numpy as np
from PIL import Image

from signvit_jax.config.schema import AugmentConfig, Config, DataConfig
from signvit_jax.data.augment import decode_clip
from signvit_jax.data.dataset import Split, open_dataset
from signvit_jax.data.frame_sampling import sample_frames
from signvit_jax.data.pipeline import make_batches
from signvit_jax.data.token_table import padded_text_length
from signvit_jax.media.video import Sampling, VideoLimits, VideoReader
from signvit_jax.text.tokenizer import learn

PAGE = Path(__file__).parents[2] / "docs" / "benchmarks" / "data.md"
AUGMENTATION = AugmentConfig(
    rotate=8.0,
    translate=0.06,
    scale=0.15,
    brightness=0.2,
    contrast=0.2,
    saturation=0.2,
    hue=0.03,
    speed=0.15,
    frame_jitter=0.5,
    frame_drop=0.1,
)


@dataclasses.dataclass(frozen=True)
class Rate:
    """How fast frames were read."""

    frames: int
    seconds: float  # wall time
    core_seconds: float  # CPU time of all cores together

    @property
    def per_core(self) -> float:
        return self.frames / self.core_seconds

    @property
    def per_second(self) -> float:
        return self.frames / self.seconds


def best_rate(read: Callable[[], int], runs: int, child: VideoReader | None = None) -> Rate:
    """Return the rate of the best of `runs` calls of `read`, which returns its number of frames.

    The CPU time includes that of the process of `child`.
    """
    rates = []
    for _ in range(runs):
        start, cpu_start = time.perf_counter(), time.process_time() + child_seconds(child)
        frames = read()
        seconds = time.perf_counter() - start
        cpu_seconds = time.process_time() + child_seconds(child) - cpu_start
        rates.append(Rate(frames, seconds, cpu_seconds))
    return max(rates, key=lambda rate: rate.per_core)


def child_seconds(reader: VideoReader | None) -> float:
    """Return the CPU time, in seconds, that the reader's child process has used so far."""
    if reader is None or reader.pid is None:
        return 0.0
    fields = Path(f"/proc/{reader.pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def draw_videos(folder: Path, count: int, size: int) -> None:
    """Write drawn clips as H.264 with x264's defaults: a key frame every 250 frames."""
    from tfds_builders.synthetic_signs.clips import Options, draw_clip

    for number in range(count):
        frames, fps = draw_clip(0, "train", number, Options(size, 25.0, 0.0))
        with av.open(str(folder / f"clip-{number}.mp4"), "w") as container:
            stream = container.add_stream("libx264", rate=int(fps))
            stream.width, stream.height, stream.pix_fmt = size, size, "yuv420p"
            for frame in frames:
                container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, "rgb24")))
            container.mux(stream.encode())


def build(videos: Sequence[Path], folder: Path) -> Split:
    from tfds_builders.video_folder.video_folder_dataset_builder import Builder

    table = folder / "clips.csv"
    table.write_text(
        "uid,text\n"
        + "".join(f'"{path.name}",clip {number}\n' for number, path in enumerate(videos))
    )
    options = {"csv": table, "videos": videos[0].parent}
    Builder(
        data_dir=folder, options=options, val_fraction=0.0, test_fraction=0.0
    ).download_and_prepare()
    return open_dataset(folder, "video_folder").split("train")


def decode_all(
    reader: VideoReader, videos: Sequence[Path], sampling: Sampling, quality: int = 0
) -> int:
    return sum(1 for path in videos for _ in reader.iterate(path, sampling, VideoLimits(), quality))


def read_records(split: Split) -> int:
    return sum(len(split[i]["video"]) for i in range(len(split)))


def batch_reader(split: Split, config: Config, batch_size: int) -> Callable[[], int]:
    tokenizer = learn([entry.text or "-" for entry in split.index], config.tokenizer)
    length = padded_text_length(split, tokenizer, config.model.decoder.max_len)
    batches = make_batches(
        split, tokenizer, config, batch_size=batch_size, training=True, text_length=length
    )

    def read() -> int:
        batches.set_state(batches.state_at(0))
        return sum(int((batch["frame_lengths"] * batch["weights"]).sum()) for batch in batches)

    return read


def seek_with_opencv(videos: Sequence[Path], config: DataConfig) -> int:
    """Read frames as many loaders do: seek to each sampled frame, decode, convert, and resize it.

    Returns the number of frames.
    """
    import cv2

    frames = 0
    for path in videos:
        capture = cv2.VideoCapture(str(path))
        count, fps = int(capture.get(cv2.CAP_PROP_FRAME_COUNT)), capture.get(cv2.CAP_PROP_FPS)
        for position in sample_frames(count, fps, config, limit=config.num_frames):
            capture.set(cv2.CAP_PROP_POS_FRAMES, int(position))
            is_read, image = capture.read()
            if is_read:
                cv2.resize(
                    cv2.cvtColor(image, cv2.COLOR_BGR2RGB),
                    (config.image_size, config.image_size),
                    interpolation=cv2.INTER_AREA,
                )
                frames += 1
        capture.release()
    return frames


def read_with_pillow(split: Split, config: DataConfig) -> int:
    """Decode and resize the same frames with Pillow, in one thread; return their number."""
    size, frames = config.image_size, 0
    for i in range(len(split)):
        video = split[i]["video"]
        for k in sample_frames(len(video), 25.0, config, limit=config.num_frames):
            np.asarray(
                Image.open(io.BytesIO(video[k]))
                .convert("RGB")
                .resize((size, size), Image.Resampling.BILINEAR)
            )
            frames += 1
    return frames


def measure(videos: Sequence[Path], split: Split, args: argparse.Namespace) -> dict[str, Rate]:
    config = Config(
        data=DataConfig(
            num_frames=args.num_frames, image_size=args.image_size, num_threads=args.threads
        )
    )
    augmented = dataclasses.replace(
        config, data=dataclasses.replace(config.data, augment=AUGMENTATION)
    )
    clip = split[0]["video"]
    rates = {}
    with VideoReader() as reader:
        decode_all(reader, videos[:1], Sampling())  # starts the child
        rates["build: decode, shrink to 256, JPEG"] = best_rate(
            lambda: decode_all(reader, videos, Sampling(short_side=256, max_frame_rate=25.0), 90),
            args.runs,
            reader,
        )
        rates["sequential decode in the child, shrunk to 224"] = best_rate(
            lambda: decode_all(reader, videos, Sampling(short_side=args.image_size)),
            args.runs,
            reader,
        )
    rates["records from the shards, nothing decoded"] = best_rate(
        lambda: read_records(split), args.runs
    )
    rates[f"decode and fit to {args.image_size}, one thread"] = best_rate(
        lambda: len(decode_clip(clip, args.image_size, "squash")), 5 * args.runs
    )
    rates["training reads"] = best_rate(batch_reader(split, config, args.batch_size), args.runs)
    rates["training reads, augmented"] = best_rate(
        batch_reader(split, augmented, args.batch_size), args.runs
    )
    rates["the same frames with Pillow from the shards"] = best_rate(
        lambda: read_with_pillow(split, config.data), args.runs
    )
    rates["the same frames by seeking with OpenCV"] = best_rate(
        lambda: seek_with_opencv(videos, config.data), args.runs
    )
    return rates


def page(
    rates: dict[str, Rate], videos: Sequence[Path], split: Split, args: argparse.Namespace
) -> str:
    with av.open(str(videos[0])) as container:
        stream = container.streams.video[0]
        size = f"{stream.width} x {stream.height}"
        codec = stream.codec_context.name
        source = f"{len(videos)} videos, the first {size} {codec} of {stream.frames} frames"
    seeking = rates["the same frames by seeking with OpenCV"].per_core
    kilobytes = np.mean([len(jpeg) for jpeg in split[0]["video"]]) / 1000
    rows = "\n".join(
        f"| {name} | {rate.per_core:,.0f} | {rate.per_second:,.0f} "
        f"| {rate.per_core / seeking:.1f} |"
        for name, rate in rates.items()
    )
    options = " --videos=..." if args.videos else ""
    kind = "" if args.videos else "drawn "
    load = ", ".join(f"{value:.1f}" for value in os.getloadavg())
    return f"""# Data

Written by `python scripts/bench/data.py{options}` from {kind}videos: {source}; stored frames of
{kilobytes:.1f} kB; {args.num_frames} frames of a clip at {args.image_size} px, {args.threads}
reading threads, best of {args.runs}. {platform.machine()}, {len(os.sched_getaffinity(0))} cores
used of {os.cpu_count()}; load averages while measuring: {load}.

| | frames / s / core | frames / s | x seeking, per core |
|---|---:|---:|---:|
{rows}

"per core" divides by CPU time, which changes little on a busy machine; "frames / s" divides by wall
time, which does. Training reads complete batches: shards, frame sampling, JPEG decoding, fitting,
tokens. Seeking reads as many frames, evenly spread, from the source files.
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--videos", type=Path, help="folder of mp4 files; default: drawn videos")
    parser.add_argument(
        "--clips", type=int, default=24, help="number of clips to draw, or to take from the folder"
    )
    parser.add_argument(
        "--source_size", type=int, default=480, help="height and width of drawn videos, in pixels"
    )
    parser.add_argument("--image_size", type=int, default=224)
    parser.add_argument("--num_frames", type=int, default=16)
    parser.add_argument("--batch_size", type=int, default=8)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--output", type=Path, default=PAGE)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = args.videos or Path(name) / "videos"
        if not args.videos:
            folder.mkdir()
            draw_videos(folder, args.clips, args.source_size)
        videos = sorted(folder.glob("*.mp4"))[: args.clips]
        (Path(name) / "data").mkdir()
        split = build(videos, Path(name) / "data")
        text = page(measure(videos, split, args), videos, split, args)
    args.output.parent.mkdir(parents=True, exist_ok=True)
    args.output.write_text(text, encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
