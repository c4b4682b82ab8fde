"""Draw another language of signs, to try a config on data that its author did not tune it on.

    python scripts/bench/other_signs.py --output=other --train=2400 --validation=64 --test=160
    python -m tfds_builders.build video_folder --data_dir=data --csv=other/clips.csv \
        --videos=other --short_side=64
    python -m signvit_jax.train --config=quickstart --workdir=runs/other \
        --config.data.name=video_folder --config.data.data_dir=data

It shares no code with `synthetic_signs`. Figures are outlined, hands are polygons, and a sign is a
path of one or both hands. The English sentences have another word order, and words for which there
is no sign. No signer and no sentence is in two of the three splits.
"""

import argparse
import csv
import hashlib
import math
import sys
from collections.abc import Sequence
from pathlib import Path

import av
import numpy as np
from PIL import Image, ImageDraw

FPS = 15
SIZE = 96
SECONDS = 0.55  # of a sign; long enough that a hand repeats a movement at most 3 times a second
# A path maps u in 0..1 to (x, y) in units of the signing space; y goes down.
PATHS = {
    "circle": lambda u: (math.cos(6.28 * u), math.sin(6.28 * u)),
    "back": lambda u: (math.cos(6.28 * u), -math.sin(6.28 * u)),
    "up": lambda u: (0.0, 1 - 2 * u),
    "down": lambda u: (0.0, 2 * u - 1),
    "out": lambda u: (2 * u - 1, 0.0),
    "zigzag": lambda u: (2 * u - 1, abs((3 * u) % 2 - 1) * 2 - 1),
    "tap": lambda u: (0.0, 0.8 * math.cos(9.42 * u)),
    "arc": lambda u: (math.cos(3.14 * (1 - u)), -math.sin(3.14 * u)),
}
# Sign -> (word, path, number of corners of the hand's polygon, center, whether both hands sign).
FIRST = {
    "MAN": ("man", "up", 3, (0.25, 0.3), False),
    "WOMAN": ("woman", "tap", 3, (0.25, 0.3), False),
    "CHILD": ("child", "down", 7, (0.4, 0.75), False),
    "DOG": ("dog", "tap", 7, (0.4, 0.75), False),
}
SECOND = {
    "BREAD": ("bread", "zigzag", 3, (0.3, 0.6), True),
    "WATER": ("water", "arc", 7, (0.3, 0.6), False),
    "TREE": ("tree", "up", 4, (0.45, 0.5), True),
    "BALL": ("ball", "circle", 7, (0.35, 0.6), True),
    "LETTER": ("letter", "out", 4, (0.35, 0.65), False),
}
ACTION = {
    "GIVE": ("gives", "out", 7, (0.35, 0.5), True),
    "FIND": ("finds", "circle", 3, (0.45, 0.45), False),
    "WANT": ("wants", "down", 4, (0.35, 0.55), True),
    "HIDE": ("hides", "back", 3, (0.45, 0.45), False),
}
NOW = {
    "SOON": ("soon", "arc", 4, (0.3, 0.35), False),
    "ALWAYS": ("always", "circle", 4, (0.3, 0.35), False),
}
SIGNS = FIRST | SECOND | ACTION | NOW
SIGNERS = {"train": range(60), "validation": range(60, 75), "test": range(75, 95)}


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--output", required=True, type=Path)
    parser.add_argument("--seed", type=int, default=0)
    for split, count in (("train", 2400), ("validation", 64), ("test", 160)):
        parser.add_argument(f"--{split}", type=int, default=count, help=f"clips ({count})")
    flags = parser.parse_args()
    flags.output.mkdir(parents=True, exist_ok=True)
    with (flags.output / "clips.csv").open("w", encoding="utf-8", newline="") as file:
        table = csv.writer(file)
        table.writerow(["uid", "text", "gloss", "signer", "split"])
        for number, split in enumerate(SIGNERS):
            for index in range(getattr(flags, split)):
                rng = np.random.default_rng([flags.seed, number, index])
                glosses = sentence(rng, split)
                signer = int(rng.choice(SIGNERS[split]))
                uid = f"{split}{index:05d}"
                save(flags.output / f"{uid}.mp4", draw(rng, glosses, signer))
                table.writerow([uid, text(glosses), " ".join(glosses), f"s{signer}", split])
    return 0


def sentence(rng: np.random.Generator, split: str) -> list[str]:
    """Draw 2 to 5 glosses of a sentence in the split: (WHAT) WHO (WHO) ACTION (WHEN)."""
    while True:
        who = rng.permutation(list(FIRST))[: 1 + (rng.random() < 0.25)].tolist()
        what = [str(rng.choice(list(SECOND)))] if rng.random() < 0.8 else []
        when = [str(rng.choice(list(NOW)))] if rng.random() < 0.4 else []
        glosses = [*what, *who, str(rng.choice(list(ACTION))), *when]
        digest = hashlib.sha256(text(glosses).encode()).digest()[0] % 8
        if {0: "validation", 1: "test"}.get(digest, "train") == split:
            return glosses


def text(glosses: Sequence[str]) -> str:
    """The sentence: time first, then people, action and object."""

    def words(signs: dict) -> list[str]:
        return [signs[gloss][0] for gloss in glosses if gloss in signs]

    people = words(FIRST)
    (action,) = words(ACTION)
    return " ".join(
        [
            *words(NOW),
            " and ".join(f"a {word}" for word in people),
            action if len(people) == 1 else action.removesuffix("s"),
            *(f"the {word}" for word in words(SECOND)),
        ]
    )


def draw(rng: np.random.Generator, glosses: Sequence[str], signer: int) -> list[Image.Image]:
    """The frames of a clip."""
    body = np.random.default_rng([7, signer])
    skin, shirt = body.integers(90, 240, 3), body.integers(30, 220, 3)
    reach, tempo, hand = body.uniform(0.14, 0.2), body.uniform(0.8, 1.25), body.uniform(0.05, 0.075)
    wall = rng.integers(40, 220, 3)
    shift = rng.uniform(-0.05, 0.05, 2)
    rest = np.array([0.3, 0.95])
    # For each frame: places of the dominant and of the weak hand, number of corners.
    track: list[tuple[np.ndarray, np.ndarray, int]] = []
    last = (rest, rest, 5)
    for gloss in (*glosses, ""):
        if gloss:
            _, path, corners, center, both = SIGNS[gloss]
            count = round(SECONDS * FPS / tempo * rng.uniform(0.9, 1.15))
            steps = [np.array(PATHS[path](u)) for u in np.linspace(0, 1, count)]
            middle = np.array(center) + rng.normal(0, 0.012, 2)
            places = [middle + reach * step for step in steps]
            poses = [(place, place if both else rest, corners) for place in places]
        else:
            poses = [(rest, rest, 5)] * 3
        between = max(2, round(0.2 * FPS / tempo))
        for u in np.linspace(0, 1, between + 2)[1:-1]:
            track.append(
                (
                    last[0] + u * (poses[0][0] - last[0]),
                    last[1] + u * (poses[0][1] - last[1]),
                    poses[0][2] if u > 0.5 else last[2],
                )
            )
        track += poses
        last = poses[-1]
    return [_frame(rng, pose, skin, shirt, wall, shift, hand) for pose in track]


def _frame(
    rng: np.random.Generator,
    pose: tuple[np.ndarray, np.ndarray, int],
    skin: np.ndarray,
    shirt: np.ndarray,
    wall: np.ndarray,
    shift: np.ndarray,
    hand: float,
) -> Image.Image:
    image = Image.new("RGB", (SIZE, SIZE), tuple(wall.tolist()))
    pen = ImageDraw.Draw(image)

    def at(x: float, y: float) -> tuple[float, float]:
        return (x + shift[0]) * SIZE, (y + shift[1]) * SIZE

    fill, line = tuple(skin.tolist()), tuple((skin // 3).tolist())
    pen.polygon([at(0.3, 0.5), at(0.7, 0.5), at(0.78, 1.1), at(0.22, 1.1)], tuple(shirt.tolist()))
    pen.ellipse([at(0.4, 0.12), at(0.6, 0.4)], fill, line)
    dominant, weak, corners = pose
    for (x, y), mirrored in ((dominant, False), (weak, True)):
        x = 1 - x if mirrored else x
        pen.line([at(0.66 if mirrored else 0.34, 0.54), at(x, y)], line, 4)
        turn = np.arange(corners) * 2 * math.pi / corners
        pen.polygon([at(x + hand * math.sin(a), y - hand * math.cos(a)) for a in turn], fill, line)
    pixels = np.asarray(image, np.float32) + rng.normal(0, 5, (SIZE, SIZE, 3))
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))


def save(path: Path, frames: Sequence[Image.Image]) -> None:
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=FPS)
        stream.width = stream.height = SIZE
        stream.pix_fmt, stream.options = "yuv420p", {"crf": "18", "preset": "veryfast"}
        for image in frames:
            container.mux(stream.encode(av.VideoFrame.from_image(image)))
        container.mux(stream.encode())


if __name__ == "__main__":
    sys.exit(main())
