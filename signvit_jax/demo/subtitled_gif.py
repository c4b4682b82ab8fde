"""Animated GIFs of clips with their texts beneath, for READMEs and slides."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageDraw, ImageFont

from signvit_jax.media.video import Sampling, open_video

_WIDTH = 240  # pixels
_LINE = 20  # height of a line of text in pixels
_MARGIN = 8
_TEXT_COLOR, _BACKGROUND = (28, 31, 36), (253, 253, 252)
_READING_SECONDS = 1.6  # the last frame of a clip stays, with its text
_COLORS = 48
_NO_DITHER = Image.Dither.NONE
_NOISE = 24  # smallest change of a pixel that is drawn, of 256 levels
_FRAME_RATE = 8.0  # frames per second


def write_gif(path: Path, clips: Sequence[tuple[Path, str]]) -> None:
    """Write video files, each with its text, one after the other; a text appears at the end.

    Raises OSError, and VideoDecodeError for a file that cannot be read.
    """
    images, milliseconds = zip(*(part for video, text in clips for part in _animate(video, text)))
    images[0].save(
        path, save_all=True, append_images=images[1:], duration=list(milliseconds), loop=0
    )


def _animate(video: Path, text: str) -> Iterator[tuple[Image.Image, int]]:
    """Pairs of (image, milliseconds)."""
    palette = shown = None
    with open_video(video, Sampling(frame_rate=_FRAME_RATE)) as stream:
        for _, frame in stream.frames:
            # The camera's noise would take most of the file: pixels that hardly change stay as
            # they are.
            pixels = _resized(frame)
            if shown is not None:
                change = np.abs(pixels.astype(np.int16) - shown).max(axis=-1, keepdims=True)
                pixels = np.where(change < _NOISE, shown, pixels)
            shown = pixels
            image = _compose(shown, "...")
            palette = palette or image.quantize(_COLORS)
            yield image.quantize(palette=palette, dither=_NO_DITHER), round(1000 / _FRAME_RATE)
    if shown is not None and palette is not None:
        image = _compose(shown, text).quantize(palette=palette, dither=_NO_DITHER)
        yield image, round(1000 * _READING_SECONDS)


def _resized(frame: UInt8[np.ndarray, "h w 3"]) -> UInt8[np.ndarray, "h2 w2 3"]:
    size = (_WIDTH, round(_WIDTH * frame.shape[0] / frame.shape[1]))
    return np.asarray(Image.fromarray(frame).resize(size, Image.Resampling.LANCZOS))


def _compose(pixels: UInt8[np.ndarray, "h w 3"], text: str) -> Image.Image:
    """The image with up to two lines of text beneath."""
    height = len(pixels)
    font = ImageFont.load_default(size=14)
    image = Image.new("RGB", (_WIDTH, height + 2 * _LINE + 2 * _MARGIN), _BACKGROUND)
    image.paste(Image.fromarray(pixels))
    draw = ImageDraw.Draw(image)
    for number, line in enumerate(_wrap(text, font)[:2]):
        draw.text((_MARGIN, height + _MARGIN + number * _LINE), line, _TEXT_COLOR, font)
    return image


def _wrap(text: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont) -> list[str]:
    """Lines of words that fit the width."""
    lines = [""]
    for word in text.split():
        longer = f"{lines[-1]} {word}".strip()
        if lines[-1] and font.getlength(longer) > _WIDTH - 2 * _MARGIN:
            lines.append(word)
        else:
            lines[-1] = longer
    return lines
