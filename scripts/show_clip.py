"""Write a clip of a data set as a video file and translate it, as users do with their own videos.

python scripts/show_clip.py --workdir=runs/quickstart --data_dir=data --split=test --number=0
"""

import argparse
import io
import sys
from pathlib import Path

from PIL import Image

from signvit_jax.cli.jax_setup import set_up_jax
from signvit_jax.data.dataset import Record, open_dataset
from signvit_jax.inference.translator import load_translator
from signvit_jax.runtime.exit_codes import run_command
from signvit_jax.runtime.standard_streams import clean


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--workdir", required=True, type=Path)
    parser.add_argument("--data_dir", required=True)
    parser.add_argument("--split", default="test")
    parser.add_argument("--number", type=int, default=0, help="position of the clip in the split")
    arguments = parser.parse_args()
    set_up_jax()
    translator = load_translator(arguments.workdir)
    dataset = open_dataset(arguments.data_dir, translator.model.config.data.name)
    record = dataset.split(arguments.split)[arguments.number]
    clip = arguments.workdir / "samples" / f"{record['id']}.gif"
    write_gif(record, clip)
    translation = translator.translate(clip)
    shown = {
        "clip": str(clip),
        "reference": record["text"],
        "translation": translation.text,
        "confidence": f"{translation.confidence:.2f}",
    }
    for name, value in shown.items():
        print(f"{name + ':':12} {clean(value)}")
    return 0


def write_gif(record: Record, path: Path) -> None:
    images = [Image.open(io.BytesIO(data)) for data in record["video"]]
    path.parent.mkdir(parents=True, exist_ok=True)
    images[0].save(
        path,
        save_all=True,
        append_images=images[1:],
        duration=round(1000 / record["fps"]),
        loop=0,
    )


if __name__ == "__main__":
    sys.exit(run_command(main))
