r"""Train and score on videos of real hands; write docs/benchmarks/real_signing.md.

    python scripts/bench/real_signing.py --folder=real --output=runs/real \
        --sets=irish_words,digits --rows=small,hands --seeds=0,1,2

FOLDER has a folder for each set, with `clips.csv` and `videos/`, as docs/benchmarks/real_signing.md
describes them. A missing set is left out, with a message. The rows are those of scripts/ablate.py,
which trains them. Results are kept in a file beside the page; a row that has a result for a set and
a seed is not trained again.
"""

import argparse
import csv
import dataclasses
import json
import statistics
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import av
import numpy as np

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs/benchmarks/real_signing.md"
BEGIN, END = "<!-- table: scripts/bench/real_signing.py -->", "<!-- end of table -->"
DECODERS = ("beam", "greedy", "ctc")


@dataclasses.dataclass(frozen=True)
class RealSet:
    """How a set is built."""

    flags: tuple[str, ...]  # of the builder `video_folder`
    bright_hands: bool = False  # whether hands and arms are bright on a black background


SETS = {
    "irish_words": RealSet(("--short_side=120",), bright_hands=True),
    "irish_hands": RealSet(("--short_side=96",)),
    "digits": RealSet(("--short_side=96",)),
    "slovak": RealSet(("--short_side=160",)),
}


def main(argv: Sequence[str] | None = None) -> int:
    arguments = _arguments(argv)
    failed = False
    for name in arguments.sets:
        source = arguments.folder / name
        if not (source / "clips.csv").is_file():
            print(f"{name}: {source} has no clips.csv; left out", file=sys.stderr)
            continue
        done = {
            (line["row"], line["seed"])
            for line in _results(arguments)
            if (line["set"], line["overrides"]) == (name, arguments.override)
        }
        missing = [
            (row, seed)
            for row in arguments.rows
            for seed in arguments.seeds
            if (row, seed) not in done
        ]
        if not missing:
            continue
        data = _built(name, source, arguments.output / "data")
        for row, seed in missing:
            if not _train(name, row, seed, data, arguments):
                failed = True
    if arguments.results.exists():
        _write_page(arguments)
    return int(failed)


def _built(name: str, source: Path, output: Path) -> Path:
    """Build the data set, unless it was built before; return its folder."""
    data = output / name
    if (data / "video_folder").exists():
        return data
    flags = list(SETS[name].flags)
    if SETS[name].bright_hands:
        write_bright_hands(source)
        flags.append("--keypoints=file")
    command = [sys.executable, "-m", "tfds_builders.build", "video_folder", f"--data_dir={data}"]
    command += [f"--csv={source / 'clips.csv'}", f"--videos={source / 'videos'}", *flags]
    subprocess.run(command, check=True)
    return data


def write_bright_hands(source: Path) -> None:
    """Find the hands, which are bright on black, and write keypoint files beside the videos.

    Clips of the test split get no file, because no step before the test may look at them.
    """
    with (source / "clips.csv").open(encoding="utf-8") as table:
        clips = [row["uid"] for row in csv.DictReader(table) if row["split"] != "test"]
    for uid in clips:
        path = source / "videos" / f"{uid}.npz"
        if path.exists():
            continue
        with av.open(str(path.with_suffix(".mp4"))) as video:
            rate = float(video.streams.video[0].average_rate or 0)
            images = [frame.to_ndarray(format="rgb24") for frame in video.decode(video=0)]
        points = np.array([bright_hand(image) for image in images], np.float32)[:, None]
        names = np.array(["right_hand"])
        np.savez(path, keypoints=points, fps=rate, points=names, layout="bright_hand")


def bright_hand(image: np.ndarray) -> tuple[float, float, float]:
    """Return (x, y, confidence) of a hand: the upper or left end of a bright arm on black.

    The point is the middle of a square at that end, whose side is about half the arm. x and y are
    shares of the image's width and height; all three are 0 if nothing is bright.
    """
    height, width = image.shape[:2]
    bright = image.max(axis=2) > 40
    # Three bright pixels or fewer in a row or column are noise.
    bright &= (bright.sum(axis=1, keepdims=True) > 3) & (bright.sum(axis=0, keepdims=True) > 3)
    rows, columns = np.nonzero(bright)
    if len(rows) < 20:
        return 0.0, 0.0, 0.0
    tall, wide = np.ptp(rows), np.ptp(columns)
    side = max(24, int(0.55 * max(tall, wide))) + 12
    if tall > wide:
        y = rows.min() - 6 + side / 2
        x = np.median(columns[rows < rows.min() + side])
    else:
        x = columns.min() - 6 + side / 2
        y = np.median(rows[columns < columns.min() + side])
    return float(x / width), float(y / height), 1.0


def _train(name: str, row: str, seed: int, data: Path, arguments: argparse.Namespace) -> bool:
    """Train and score one run; append it to the results. Return False if it failed."""
    output = arguments.output.joinpath(name, *arguments.override)
    command = [sys.executable, str(ROOT / "scripts/ablate.py"), f"--data_dir={data}"]
    command += [f"--output={output}", f"--rows={row}", f"--seeds={seed}"]
    overrides = ["data.name=video_folder", *arguments.override]
    command += [f"--override={override}" for override in overrides]
    if subprocess.run(command, check=False).returncode:
        return False
    result = json.loads((output / row / f"seed{seed}" / "ablation.json").read_text())
    line = {"set": name, "row": row, "seed": seed, "overrides": arguments.override}
    line |= {"minutes": result["minutes"] and round(result["minutes"], 1)}
    line |= {
        decoder: {key: round(result["decoders"][decoder][key], 4) for key in ("wer", "exact_match")}
        for decoder in DECODERS
    }
    with arguments.results.open("a", encoding="utf-8") as file:
        file.write(json.dumps(line) + "\n")
    return True


def _results(arguments: argparse.Namespace) -> list[dict]:
    """Return the finished runs, of any set and overrides."""
    if not arguments.results.exists():
        return []
    return [json.loads(line) for line in arguments.results.read_text("utf-8").splitlines()]


def _write_page(arguments: argparse.Namespace) -> None:
    """Write the table of all results between the marks of the page."""
    lines = [
        "| set | row | values | seeds | WER beam | WER greedy | WER CTC | exact match, beam "
        "| minutes of one core |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    groups: dict[tuple[str, str, str], list[dict]] = {}
    for line in _results(arguments):
        key = line["set"], line["row"], " ".join(line["overrides"])
        groups.setdefault(key, []).append(line)
    for (name, row, values), runs in sorted(groups.items()):
        cells = [_percent([run[decoder]["wer"] for run in runs]) for decoder in DECODERS]
        cells.append(_percent([run["beam"]["exact_match"] for run in runs], worst=min))
        minutes = [run["minutes"] for run in runs if run["minutes"]]
        cells.append(f"{statistics.mean(minutes):.0f}" if minutes else "-")
        lines.append(
            f"| {name} | `{row}` | {f'`{values}`' if values else ''} | {len(runs)} | "
            + " | ".join(cells)
            + " |"
        )
    text = arguments.page.read_text(encoding="utf-8")
    before, rest = text.split(BEGIN, 1)
    table = "\n".join(lines)
    arguments.page.write_text(f"{before}{BEGIN}\n{table}\n{END}{rest.split(END, 1)[1]}", "utf-8")


def _percent(values: Sequence[float], worst=max) -> str:
    """Return the mean in percent and, of several values, the worst: by default the largest."""
    mean = f"{100 * statistics.mean(values):.1f} %"
    return mean if len(values) == 1 else f"{mean}, worst {100 * worst(values):.1f} %"


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    flags = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    flags.add_argument("--folder", type=Path, required=True)
    flags.add_argument("--output", type=Path, default=Path("runs/real"))
    flags.add_argument("--sets", type=lambda text: text.split(","), default=list(SETS))
    flags.add_argument("--rows", type=lambda text: text.split(","), default=["small", "hands"])
    flags.add_argument(
        "--seeds", type=lambda text: [int(seed) for seed in text.split(",")], default=[0, 1, 2]
    )
    flags.add_argument(
        "--override",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="change this in every row, such as training.min_steps=3000",
    )
    flags.add_argument("--page", type=Path, default=PAGE)
    flags.add_argument("--results", type=Path, help="default: beside the page, .jsonl")
    arguments = flags.parse_args(argv)
    arguments.results = arguments.results or arguments.page.with_suffix(".jsonl")
    if unknown := [name for name in arguments.sets if name not in SETS]:
        flags.error(f"unknown set {unknown[0]!r}; allowed: {', '.join(SETS)}")
    return arguments


if __name__ == "__main__":
    sys.exit(main())
