"""Write the first clips of a split as video files, and translate these files.

python scripts/show_clips.py --workdir=runs/quickstart --data_dir=data --split=test --clips=3
"""

import argparse
import io
import sys
from pathlib import Path

import numpy as np
from draw_demo_clips import write_mp4
from PIL import Image, ImageDraw, ImageFont

from signvit_jax.cli.jax_setup import set_up_jax
from signvit_jax.data.dataset import open_dataset
from signvit_jax.inference.translator import load_translator
from signvit_jax.media.contact_sheet import COLUMNS, contact_sheet
from signvit_jax.runtime.exit_codes import run_command
from signvit_jax.runtime.standard_streams import clean

_LINE = 24  # height of a line of text, in pixels


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--workdir", required=True, type=Path)
    parser.add_argument("--data_dir", required=True)
    parser.add_argument("--split", default="test")
    parser.add_argument("--clips", type=int, default=3, help="number of clips (3)")
    parser.add_argument("--decode", default="beam")
    arguments = parser.parse_args()
    set_up_jax()
    translator = load_translator(arguments.workdir)
    split = open_dataset(arguments.data_dir, translator.model.config.data.name).split(
        arguments.split
    )
    folder = arguments.workdir / "samples"
    folder.mkdir(parents=True, exist_ok=True)
    rows = []
    for number in range(min(arguments.clips, len(split))):
        record = split[number]
        frames = np.stack([np.asarray(Image.open(io.BytesIO(data))) for data in record["video"]])
        clip = folder / f"{record['id']}.mp4"
        write_mp4(clip, frames, record["fps"])
        translation = translator.translate(clip, decode=arguments.decode)
        rows.append((frames, record["text"], translation.text))
        print(clean(f"{clip}"))
        print(clean(f"  signed:     {record['text']}"))
        print(
            clean(f"  translated: {translation.text}   (confidence {translation.confidence:.2f})")
        )
    sheet = folder / f"{arguments.split}_clips.png"
    draw(rows).save(sheet)
    print(clean(f"image of these clips: {sheet}"))
    return 0


def draw(rows: list[tuple[np.ndarray, str, str]]) -> Image.Image:
    """Return one image with a row of frames and two lines of text for each clip."""
    sheets = [contact_sheet(frames, COLUMNS) for frames, _, _ in rows]
    height = max(sheet.height for sheet in sheets) + 2 * _LINE + 12
    image = Image.new("RGB", (max(sheet.width for sheet in sheets), len(rows) * height), "white")
    font, pen = ImageFont.load_default(size=16), ImageDraw.Draw(image)
    for number, (sheet, (_, reference, text)) in enumerate(zip(sheets, rows)):
        top = number * height
        image.paste(sheet, (0, top))
        pen.text((6, top + sheet.height + 4), f"signed: {reference}", "dimgray", font)
        pen.text((6, top + sheet.height + 4 + _LINE), f"translated: {text}", "black", font)
    return image


if __name__ == "__main__":
    sys.exit(run_command(main))
