"""The packaged model and clips: a small INT8 export that knows drawn signs only.

`scripts/make_demo.sh` makes both; the folder of the model is an export like any other.
"""

import csv
from pathlib import Path
from typing import NamedTuple

MODEL = Path(__file__).parent / "model"
CLIPS = Path(__file__).parent / "clips"


class DemoClip(NamedTuple):
    """A clip and the sentence that is signed in it."""

    video: Path
    text: str


def demo_clips() -> list[DemoClip]:
    """Return the clips, by signers and with sentences that the model's training never saw."""
    with (CLIPS / "clips.csv").open(encoding="utf-8", newline="") as table:
        return [DemoClip(CLIPS / f"{row['uid']}.mp4", row["text"]) for row in csv.DictReader(table)]
