"""Captions as pixels, for `translate --burn_in`: white letters with a black edge."""

import functools
import os
import unicodedata
from collections.abc import Sequence

import numpy as np
from matplotlib import font_manager
from matplotlib.ft2font import FT2Font
from PIL import Image, ImageDraw, ImageFont, features

from signvit_jax.captions.line_breaking import break_lines, reads_right_to_left, units_of, width
from signvit_jax.captions.segments import Cue, SubtitleError
from signvit_jax.media.captioned_video import DrawnCaption
from signvit_jax.text.writing_systems import pieces

# Shares of the image: height of the letters, and the widest line.
_LETTER_HEIGHT, _WIDEST = 1 / 18, 0.92
_BOTTOM = 0.05  # share of the image below the captions
_SMALLEST = 8  # pixels of a letter


def font_for(texts: Sequence[str], given: str | os.PathLike | None = None) -> str:
    """Return the path of a font that has all letters of the texts.

    `given` is the font to use; without it, DejaVu Sans or the first font of the system that has
    them. Raises SubtitleError if the font, or every font, lacks some.
    """
    letters = {
        ord(c)
        for text in texts
        for c in text
        if not c.isspace() and unicodedata.category(c) not in ("Cf", "Cc", "Mn")
    }
    if given is not None:
        path = os.fspath(given)
        if missing := _missing(path, letters):
            raise SubtitleError(f"the font {path} has no {_listed(missing)}; give another --font")
        return path
    best: set[int] = letters
    for path in _fonts():
        try:
            missing = _missing(path, letters)
        except SubtitleError:
            continue  # a font of the system that cannot be read
        if not missing:
            return path
        best = min(best, missing, key=len)
    raise SubtitleError(
        f"no font on this machine has all letters: {_listed(best)} is in none; install a font such "
        "as Noto Sans of that script, or give --font=FILE"
    )


def draw_caption(cue: Cue, size: tuple[int, int], font: str) -> DrawnCaption:
    """Draw a cue for images of (width, height), at the bottom in the middle.

    Lines of a layout stay as they are, in smaller letters if they are too wide. Without a layout,
    the text is broken into lines that fit.
    """
    image_width, image_height = size
    # Letters are alike in upright and in wide images.
    height = max(round(_LETTER_HEIGHT * min(image_height, image_width * 0.75)), _SMALLEST)
    widest = _WIDEST * image_width
    right_to_left = reads_right_to_left(cue.text)
    if right_to_left and not features.check("raqm"):
        raise SubtitleError(
            "this Pillow has no raqm, without which right-to-left text would be drawn backwards; "
            "install Pillow from its wheel: pip install --force-reinstall pillow"
        )
    direction = "rtl" if right_to_left else None
    lines = cue.lines
    while True:
        letters = _font(font, height)
        if not cue.lines:
            lines = _fitting_lines(cue.text, letters, widest)
        lengths = [letters.getlength(line) for line in lines]
        if max(lengths) <= widest or height <= _SMALLEST:
            break
        height = max(min(int(height * widest / max(lengths)), height - 1), _SMALLEST)
    edge = max(height // 14, 1)
    canvas = Image.new("RGBA", (1, 1))
    options = {"align": "center", "stroke_width": edge, "spacing": height // 5}
    text = "\n".join(lines)
    left, top, right, bottom = ImageDraw.Draw(canvas).multiline_textbbox(
        (0, 0), text, letters, direction=direction, **options
    )
    canvas = Image.new("RGBA", (max(int(right - left) + 2, 1), max(int(bottom - top) + 2, 1)))
    ImageDraw.Draw(canvas).multiline_text(
        (1 - left, 1 - top),
        text,
        "white",
        letters,
        direction=direction,
        stroke_fill="black",
        **options,
    )
    # What does not fit even in the smallest letters is cut at the edges of the image.
    canvas = canvas.crop((0, 0, min(canvas.width, image_width), min(canvas.height, image_height)))
    x = (image_width - canvas.width) // 2
    y = max(image_height - canvas.height - round(_BOTTOM * image_height), 0)
    return DrawnCaption(x, y, np.asarray(canvas))


def _fitting_lines(text: str, font: ImageFont.FreeTypeFont, widest: float) -> tuple[str, ...]:
    parts = pieces(text)
    most = max(int(width(text) * widest / max(font.getlength(text), 1.0)), 1)
    while True:
        lines = break_lines(units_of(parts, most)[0], most)
        if most == 1 or max(map(font.getlength, lines)) <= widest:
            return tuple(lines)
        most -= 1


@functools.lru_cache(maxsize=16)
def _font(path: str, height: int) -> ImageFont.FreeTypeFont:
    return ImageFont.truetype(path, height)


@functools.cache
def _fonts() -> tuple[str, ...]:
    """DejaVu Sans, which comes with Matplotlib, then fonts of the system, Noto Sans first."""
    dejavu = font_manager.findfont("DejaVu Sans")
    system = sorted(
        font_manager.findSystemFonts(),
        key=lambda path: ("NotoSans" not in path, "Regular" not in path, path),
    )
    return (dejavu, *system)


def _missing(path: str, letters: set[int]) -> set[int]:
    return letters - _letters_of(path)


@functools.lru_cache(maxsize=256)
def _letters_of(path: str) -> frozenset[int]:
    """The code points of a font. Raises SubtitleError."""
    try:
        ImageFont.truetype(path, 12)
        return frozenset(FT2Font(path).get_charmap())
    except (OSError, RuntimeError, ValueError) as error:
        raise SubtitleError(f"{path} cannot be read as a font: {error}") from error


def _listed(letters: set[int]) -> str:
    shown = sorted(letters)[:5]
    listed = ", ".join(f"{chr(letter)!r} (U+{letter:04X})" for letter in shown)
    return listed + (f" and {len(letters) - len(shown):,} more" if len(letters) > 5 else "")
