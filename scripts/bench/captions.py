"""Measure the memory that captioning needs, for videos and a stream; length must not matter.

    python scripts/bench/captions.py --workdir=runs/quickstart --minutes=1,5,15 --stream_minutes=10

The videos are drawn (320x240, 12.5 frames per second, a moving square). Each is captioned in a
process of its own, and the peak memory of the process is printed. The stream takes frames as fast
as it can. Memory is read from Linux's /proc.
"""

import argparse
import multiprocessing
import resource
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import av
import numpy as np

RATE, HEIGHT, WIDTH = 12.5, 240, 320  # frames per second, pixels


def images(seconds: float) -> Iterator[np.ndarray]:
    for number in range(round(seconds * RATE)):
        image = np.full((HEIGHT, WIDTH, 3), 60, np.uint8)
        x, y = (7 * number) % (WIDTH - 60), (5 * number) % (HEIGHT - 60)
        image[y : y + 60, x : x + 60] = (200, 80, number % 256)
        yield image


def write_video(path: Path, seconds: float) -> None:
    with av.open(str(path), "w") as container:
        stream = container.add_stream(
            "libx264", rate=round(2 * RATE), options={"preset": "ultrafast"}
        )
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        for number, image in enumerate(images(seconds)):
            frame = av.VideoFrame.from_ndarray(image, "rgb24")
            frame.pts = 2 * number
            container.mux(stream.encode(frame))
        container.mux(stream.encode())


def measure_captions(workdir: str, path: Path) -> str:
    """Caption a video; return a line of text on the memory and time that this took."""
    from signvit_jax import load_translator

    translator = load_translator(workdir)
    translator.warm_up(recordings=True)
    after_warm_up, start = peak_mebibytes(), time.perf_counter()
    translation = translator.translate(path, min_confidence=0.0)
    elapsed = time.perf_counter() - start
    return (
        f"{translation.seconds / 60:5.1f} min: peak {peak_mebibytes():6.0f} MiB "
        f"({after_warm_up:.0f} after warm-up), {len(translation.segments)} segments, "
        f"{elapsed:.1f} s, {translation.seconds / elapsed:.0f} x real time"
    )


def measure_stream(workdir: str, seconds: float) -> list[str]:
    """Caption a stream; return a line of text on memory and latency for each of its minutes."""
    from signvit_jax import load_translator

    translator = load_translator(workdir)
    lines = []
    minute, slowest = 1, 0.0
    for update in translator.stream(images(seconds), fps=RATE):
        slowest = max(slowest, update.latency)
        if update.seconds >= 60 * minute:
            lines.append(
                f"stream {minute:3d} min: {resident_mebibytes():6.0f} MiB now, "
                f"slowest update {1e3 * slowest:.0f} ms, {update.dropped} frames dropped"
            )
            minute, slowest = minute + 1, 0.0
    return lines


def peak_mebibytes() -> float:
    """The most memory that this process has had."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def resident_mebibytes() -> float:
    """The memory that this process has now."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize() / 2**20


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--workdir", required=True)
    parser.add_argument("--minutes", default="1,5,15")
    parser.add_argument("--stream_minutes", type=float, default=10)
    args = parser.parse_args()

    spawn = multiprocessing.get_context("spawn")
    with (
        tempfile.TemporaryDirectory() as folder,
        ProcessPoolExecutor(1, mp_context=spawn, max_tasks_per_child=1) as processes,
    ):
        for minutes in map(float, args.minutes.split(",")):
            path = Path(folder) / f"{minutes}.mp4"
            write_video(path, 60 * minutes)
            print(processes.submit(measure_captions, args.workdir, path).result(), flush=True)
        if args.stream_minutes:
            seconds = 60 * args.stream_minutes + 1
            print(*processes.submit(measure_stream, args.workdir, seconds).result(), sep="\n")


if __name__ == "__main__":
    main()
