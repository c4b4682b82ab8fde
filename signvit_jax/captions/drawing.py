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

_LETTER_HEIGHT = 1 / 18  # share of the image's height
_MAX_LINE_WIDTH = 0.92  # share of the image's width
_BOTTOM_MARGIN = 0.05  # share of the image's height below the captions
_MIN_LETTER_HEIGHT = 8  # pixels


def font_for(texts: Sequence[str], chosen: str | os.PathLike | None = None) -> str:
    """Return the path of a font that has all letters of the texts.

    `chosen` is the path of the font to use. Without it, DejaVu Sans is tried, then the fonts of the
    system. Raises SubtitleError if `chosen`, or every font, lacks a letter.
    """
    letters = {
        ord(c)
        for text in texts
        for c in text
        if not c.isspace() and unicodedata.category(c) not in ("Cf", "Cc", "Mn")
    }
    if chosen is not None:
        path = os.fspath(chosen)
        if missing := _missing_letters(path, letters):
            raise SubtitleError(
                f"the font {path} has no {_letter_list(missing)}; give another --font"
            )
        return path
    fewest_missing: set[int] = letters
    for path in _fonts():
        try:
            missing = _missing_letters(path, letters)
        except SubtitleError:
            continue  # a font of the system that cannot be read
        if not missing:
            return path
        fewest_missing = min(fewest_missing, missing, key=len)
    raise SubtitleError(
        f"no font on this machine has all letters: {_letter_list(fewest_missing)} is in none; "
        "install a font such as Noto Sans of that script, or give --font=FILE"
    )


def draw_caption(cue: Cue, size: tuple[int, int], font: str) -> DrawnCaption:
    """Draw a cue for images of (width, height), at the bottom in the middle.

    Lines of a layout stay as they are, in smaller letters if they are too wide. Without a layout,
    the text is broken into lines that fit.
    """
    image_width, image_height = size
    # In an upright image the width limits the letters, as the height does in a wide image.
    height = max(round(_LETTER_HEIGHT * min(image_height, image_width * 0.75)), _MIN_LETTER_HEIGHT)
    max_width = _MAX_LINE_WIDTH * image_width
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
            lines = _fitting_lines(cue.text, letters, max_width)
        lengths = [letters.getlength(line) for line in lines]
        if max(lengths) <= max_width or height <= _MIN_LETTER_HEIGHT:
            break
        height = max(min(int(height * max_width / max(lengths)), height - 1), _MIN_LETTER_HEIGHT)
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
    y = max(image_height - canvas.height - round(_BOTTOM_MARGIN * image_height), 0)
    return DrawnCaption(x, y, np.asarray(canvas))


def _fitting_lines(text: str, font: ImageFont.FreeTypeFont, max_width: float) -> tuple[str, ...]:
    """Break a text into lines of at most `max_width` pixels."""
    parts = pieces(text)
    # Characters per line, estimated from their mean width; fewer where a line still is too wide.
    max_characters = max(int(width(text) * max_width / max(font.getlength(text), 1.0)), 1)
    while True:
        lines = break_lines(units_of(parts, max_characters)[0], max_characters)
        if max_characters == 1 or max(map(font.getlength, lines)) <= max_width:
            return tuple(lines)
        max_characters -= 1


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


def _missing_letters(path: str, letters: set[int]) -> set[int]:
    return letters - _letters_of(path)


@functools.lru_cache(maxsize=256)
def _letters_of(path: str) -> frozenset[int]:
    """The code points of a font. Raises SubtitleError."""
    try:
        ImageFont.truetype(path, 12)
        return frozenset(FT2Font(path).get_charmap())
    except (OSError, RuntimeError, ValueError) as error:
        raise SubtitleError(f"{path} cannot be read as a font: {error}") from error


def _letter_list(letters: set[int]) -> str:
    shown = sorted(letters)[:5]
    listed = ", ".join(f"{chr(letter)!r} (U+{letter:04X})" for letter in shown)
    return listed + (f" and {len(letters) - len(shown):,} more" if len(letters) > 5 else "")
