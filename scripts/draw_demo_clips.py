"""Write the clips of the demo: the first clips of a split of synthetic_signs, with a table.

python scripts/draw_demo_clips.py --output=signvit_jax/demo/clips
"""

import argparse
import csv
import sys
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from jaxtyping import UInt8

from tfds_builders.synthetic_signs.clips import Options, clip, draw_clip


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--output", required=True, type=Path)
    parser.add_argument("--split", default="test", help="split to draw from (test)")
    parser.add_argument("--seed", type=int, default=0, help="seed of the data set (0)")
    parser.add_argument("--clips", type=int, default=10, help="number of clips (10)")
    parser.add_argument("--size", type=int, default=160, help="pixels (160)")
    flags = parser.parse_args()
    options = Options(size=flags.size)
    flags.output.mkdir(parents=True, exist_ok=True)
    with (flags.output / "clips.csv").open("w", encoding="utf-8", newline="") as file:
        table = csv.writer(file, lineterminator="\n")
        table.writerow(["uid", "text"])
        for number in range(flags.clips):
            frames, fps = draw_clip(flags.seed, flags.split, number, options)
            drawn = clip(flags.seed, flags.split, number, options)
            write_mp4(flags.output / f"{drawn.id}.mp4", frames, fps)
            table.writerow([drawn.id, drawn.text])
    return 0


def write_mp4(path: Path, frames: UInt8[np.ndarray, "t h w 3"], fps: float) -> None:
    """Write H.264 without sound."""
    rate = Fraction(fps).limit_denominator(1000)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=rate)
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = "yuv420p"
        stream.options = {"crf": "23", "preset": "veryslow"}
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())


if __name__ == "__main__":
    sys.exit(main())
