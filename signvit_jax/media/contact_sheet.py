"""Contact sheets: frames of a clip side by side in one image."""

import math

import numpy as np
from jaxtyping import Int, UInt8
from PIL import Image

COLUMNS = 8
HEIGHT = 112  # pixels of a frame


def evenly_spaced(num_frames: int, max_frames: int) -> Int[np.ndarray, " n"]:
    """Return the numbers of up to `max_frames` frames, from the first to the last."""
    return np.linspace(0, num_frames - 1, min(num_frames, max_frames)).round().astype(int)


def contact_sheet(
    frames: UInt8[np.ndarray, "t h w 3"], max_frames: int = 2 * COLUMNS
) -> Image.Image:
    """Return up to `max_frames`, evenly spaced, in rows of 8."""
    chosen = frames[evenly_spaced(len(frames), max_frames)]
    width = max(1, round(HEIGHT * frames.shape[2] / frames.shape[1]))
    columns = min(len(chosen), COLUMNS)
    sheet = Image.new("RGB", (columns * width, math.ceil(len(chosen) / columns) * HEIGHT))
    for number, frame in enumerate(chosen):
        row, column = divmod(number, columns)
        thumbnail = Image.fromarray(frame).resize((width, HEIGHT))
        sheet.paste(thumbnail, (column * width, row * HEIGHT))
    return sheet
