"""Contact sheets: frames of a clip side by side in one image."""

import math

import numpy as np
from jaxtyping import UInt8
from PIL import Image

COLUMNS = 8
HEIGHT = 112  # pixels of a frame


def contact_sheet(
    frames: UInt8[np.ndarray, "t h w 3"], max_frames: int = 2 * COLUMNS
) -> Image.Image:
    """Return up to `max_frames`, evenly spaced from the first to the last, in rows of 8."""
    count = min(len(frames), max_frames)
    chosen = frames[np.linspace(0, len(frames) - 1, count).round().astype(int)]
    width = max(1, round(HEIGHT * frames.shape[2] / frames.shape[1]))
    columns = min(count, COLUMNS)
    sheet = Image.new("RGB", (columns * width, math.ceil(count / columns) * HEIGHT))
    for number, frame in enumerate(chosen):
        row, column = divmod(number, columns)
        thumbnail = Image.fromarray(frame).resize((width, HEIGHT))
        sheet.paste(thumbnail, (column * width, row * HEIGHT))
    return sheet
