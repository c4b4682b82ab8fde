"""Train `signer` on a few takes of a few signs, and read other takes live.

    python scripts/bench/own_signs.py --output=own --seeds=0,1,2
    python scripts/bench/own_signs.py --output=own --irish=irish_letters --people=1,2,3,4,5,6

Without --irish the takes are drawn: one person makes ten signs of the language of
`drawn_language.py` (each has a hand shape, a place and a movement), with ten takes of each. Every
take has its own camera (place and distance), room, light, clothes and tempo. Seven takes are for
training, one for validation, and two for the test. Another seed gives another person with other
signs.

--irish=FOLDER: the recordings of single letters of the Irish alphabet by six people
(marlondcu/ISL_50k on GitHub), as FOLDER/videos/Person1-A-1.mp4 and so on: ten letters of one
person; takes 1 and 2 are for training, and take 3 is for the test.

`Translator.stream` reads the test takes frame by frame, with the signer at rest before and after. A
take is right if its complete final text is the text of the take. The seconds in the results are the
time of the training command, with start and compiling, but without the cache of compiled programs.

A row is written to OUTPUT/results.json when it is finished; rows that are already in this file are
skipped.
"""

import argparse
import copy
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import drawn_language as language
import numpy as np

from signvit_jax.files.atomic import write_atomically
from signvit_jax.media.takes import TakeFolder
from signvit_jax.media.video import Sampling, open_video

SIGNS, TAKES = 10, 10
SPLITS = {8: "validation", 9: "test", 10: "test"}  # of the takes that are not trained on
TAKE_SECONDS = 3.0  # as `signvit record` has them
LIVE_RESTS = 1.5, 4.0  # seconds at rest before a test take, and after it
LETTERS = "ABCDEFGHIK"  # the first ten letters that are signed without movement: no J


class Take(NamedTuple):
    """A test take, and its video with the signer at rest before and after."""

    video: Path
    text: str
    still: bool = False  # the video has no rests, so its first and last frames are repeated


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--output", required=True, type=Path)
    parser.add_argument("--seeds", default="0,1,2", help="of the drawn sets and their training")
    parser.add_argument("--irish", type=Path, help="folder of Irish letters, in place of drawing")
    parser.add_argument("--people", default="1,2,3,4,5,6", help="whose letters")
    parser.add_argument("--name", default="signer", help="of the rows, where overrides differ")
    parser.add_argument("overrides", nargs="*", help="of the config: training.min_steps=800")
    flags = parser.parse_args()
    flags.output.mkdir(parents=True, exist_ok=True)
    results = flags.output / "results.json"
    numbers = flags.people if flags.irish else flags.seeds
    for number in map(int, numbers.split(",")):
        kind = "irish" if flags.irish else "drawn"
        row = f"{flags.name} {kind} {number}"
        finished = json.loads(results.read_text()) if results.exists() else {}
        if row not in finished:
            folder = flags.output / f"{kind}-{number}"
            test_takes = irish_takes(flags.irish, number, folder) if flags.irish else None
            test_takes = test_takes or drawn_takes(number, folder)
            build(folder)
            seed = 0 if flags.irish else number
            workdir = flags.output / f"{flags.name}-{kind}-{number}"
            seconds = train(folder, workdir, seed, flags.overrides)
            finished[row] = {"seconds": round(seconds), **read_live(workdir, test_takes)}
            write_atomically(results, json.dumps(finished, indent=1) + "\n")
        print(row, json.dumps(finished[row]), flush=True)
    return 0


def drawn_takes(seed: int, folder: Path) -> list[Take]:
    """Draw a set into FOLDER/takes, and the test takes with rests into FOLDER/live.

    Returns the test takes. Takes that are already there are not drawn again.
    """
    rng = np.random.default_rng([seed, 5])
    names = rng.permutation(list(language.SIGNS))[:SIGNS].tolist()
    person = language.Signer(rng)
    takes = TakeFolder(folder / "takes")
    live = folder / "live"
    live.mkdir(exist_ok=True)
    done = takes.counts()[0]
    test_takes = []
    for number, name in enumerate(names):
        text = name.lower()
        for take in range(1, TAKES + 1):
            split = SPLITS.get(take, "train")
            if number * TAKES + take > done:
                video = folder / "take.mp4"
                draw_take(video, seed, person, name, take, None)
                takes.add(text, video, {"signer": f"p{seed}", "split": split})
            if split == "test":
                video = live / f"{text}_{take:02d}.mp4"
                if not video.exists():
                    draw_take(video, seed, person, name, take, LIVE_RESTS)
                test_takes.append(Take(video, text))
    return test_takes


def draw_take(
    path: Path,
    seed: int,
    person: language.Signer,
    name: str,
    take: int,
    rests: tuple[float, float] | None,
) -> None:
    """Draw a take of TAKE_SECONDS, or one with `rests`: seconds of rest before and after it."""
    rng = np.random.default_rng([seed, 6, sorted(language.SIGNS).index(name), take])
    signer = copy.copy(person)
    clothes = language.Signer(rng)
    signer.cloth, signer.long_sleeves = clothes.cloth, clothes.long_sleeves
    while np.abs(signer.cloth - signer.skin).sum() <= 130:  # as every signer of that language
        signer.cloth = rng.uniform(30, 215, 3)
    signer.slowness = rng.uniform(0.75, 1.35)
    signer.unit = rng.uniform(21, 35) * language.ZOOM
    signer.middle = language.WIDTH * language.ZOOM * rng.uniform(0.38, 0.62)
    spare = language.HEIGHT * language.ZOOM - 3.45 * signer.unit
    signer.shoulder_line = signer.unit * 1.55 + max(spare, 0) * rng.uniform(0.0, 1.0)
    scene = language.Scene(signer, rng)
    gain = rng.uniform(0.55, 1.1) * (1 + rng.uniform(-0.12, 0.12) * np.array([1, 0, -1]))
    before = rng.uniform(0.3, 0.9)
    motion = language.make_motion((name,), signer, rng, rests or (before, TAKE_SECONDS))
    frames = [(frame * gain).clip(0, 255).astype(np.uint8) for frame in scene.frames(motion)]
    count = len(frames) if rests else round(TAKE_SECONDS * language.FPS)
    language.write_video(path, iter(frames[:count]))


def irish_takes(recordings: Path, person: int, folder: Path) -> list[Take]:
    """Link the recordings of a person into FOLDER/takes, with a table; return the test takes."""
    takes = folder / "takes"
    takes.mkdir(parents=True, exist_ok=True)
    rows, test_takes = ["uid,text,split"], []
    for letter in LETTERS:
        for take in (1, 2, 3):
            name = f"Person{person}-{letter}-{take}"
            video = recordings / "videos" / f"{name}.mp4"
            # Copied: the build follows no link out of the folder.
            shutil.copyfile(video, takes / video.name)
            rows.append(f"{name},{letter.lower()},{'test' if take == 3 else 'train'}")
            if take == 3:
                test_takes.append(Take(video, letter.lower(), still=True))
    write_atomically(takes / "clips.csv", "\n".join(rows) + "\n")
    return test_takes


def build(folder: Path) -> None:
    """Build FOLDER/data out of FOLDER/takes, if it is not there."""
    if (folder / "data").exists():
        return
    takes = folder / "takes"
    run(
        *("tfds_builders.build", "video_folder", f"--data_dir={folder / 'data'}"),
        *(f"--csv={takes / 'clips.csv'}", f"--videos={takes}", "--short_side=128"),
    )


def train(folder: Path, workdir: Path, seed: int, overrides: Sequence[str]) -> float:
    """Train, unless that was done before; return the seconds that the command took."""
    seconds_file = workdir / "seconds.txt"
    if seconds_file.exists():
        return float(seconds_file.read_text())
    start = time.monotonic()
    with tempfile.TemporaryDirectory() as cache:
        run(
            *("signvit_jax.train", "--config=signer", f"--workdir={workdir}"),
            *(f"--config.data.data_dir={folder / 'data'}", f"--config.training.seed={seed}"),
            *(f"--config.{override}" for override in overrides),
            cache=cache,
        )
    seconds = time.monotonic() - start
    seconds_file.write_text(f"{seconds:.1f}\n")
    return seconds


def run(module: str, *arguments: str, cache: str = "") -> None:
    environment = os.environ | ({"JAX_COMPILATION_CACHE_DIR": cache} if cache else {})
    subprocess.run([sys.executable, "-m", module, *arguments], env=environment, check=True)


def read_live(workdir: Path, test_takes: Sequence[Take]) -> dict[str, object]:
    """Read the test takes live, and as clips.

    Returns the number of takes that are right, the number whose text became final before the video
    ended, and a line for each wrong one: the take's text, the text of the stream, and the text of
    the clip with CTC's evidence.
    """
    from signvit_jax import load_translator

    translator = load_translator(workdir)
    right, right_as_clips, in_time, wrong = 0, 0, 0, []
    for take in test_takes:
        with open_video(take.video, Sampling(max_frame_rate=25.0)) as video:
            frames = [image for _, image in video.frames]
        alone = translator.translate(np.stack(frames), fps=video.fps)
        right_as_clips += alone.text == take.text
        if take.still:
            before, after = (round(seconds * video.fps) for seconds in LIVE_RESTS)
            frames = [frames[0]] * before + frames + [frames[-1]] * after
        *updates, last = translator.stream(iter(frames), fps=video.fps)
        texts = [segment.text for update in (*updates, last) for segment in update.final]
        if texts == [take.text]:
            right += 1
            in_time += not last.final
        else:
            evidence = round(alone.evidence or 0.0, 2)
            wrong.append(f"{take.text}: {' | '.join(texts)} ({alone.text}, {evidence})")
    return {
        "asked": len(test_takes),
        "right": right,
        "final_before_the_end": in_time,
        "right_as_clips": right_as_clips,
        "wrong": wrong,
    }


if __name__ == "__main__":
    sys.exit(main())
