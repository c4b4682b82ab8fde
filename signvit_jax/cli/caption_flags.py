"""Flags of `translate` for the look of captions and for the files that they are written into."""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from signvit_jax.captions.formats import FORMATS, USUAL_FORMATS
from signvit_jax.captions.language_tags import is_tag
from signvit_jax.captions.layout import CaptionLayout
from signvit_jax.captions.segments import SubtitleError
from signvit_jax.errors.nearest import did_you_mean
from signvit_jax.files.local_paths import local_path
from signvit_jax.runtime.command_line import FlagParser, integer, positive
from signvit_jax.runtime.exit_codes import UsageError

_FORMATS_WITH_LAYOUT = ("srt", "vtt", "ass", "ttml")
_FORMATS_WITH_WORD_TIMES = ("json", "eaf")
_LAYOUT_FLAGS = (
    "max_line_width",
    "max_line_count",
    "min_cue_seconds",
    "max_cue_seconds",
    "max_reading_speed",
)
BURNED_IN, SOFT = ".captioned.mp4", ".subtitled.mp4"  # how names of videos with captions end


class CaptionSettings(NamedTuple):
    """The look of captions, and the files that they are written into."""

    formats: Sequence[str]
    layout: CaptionLayout
    word_times: bool
    burn_in: bool
    soft_subtitles: bool
    font: Path | None  # for `burn_in`; None: one that has all letters
    language: str | None = None  # tag of the texts' language; None: the model's

    @property
    def endings(self) -> list[str]:
        """How the names of a video's files end."""
        endings = [f".{name}" for name in self.formats]
        if self.burn_in:
            endings.append(BURNED_IN)
        if self.soft_subtitles:
            endings.append(SOFT)
        return endings


def add_caption_flags(flags: FlagParser) -> None:
    """Add the flags of `caption_settings` and --format."""
    flags.add_argument(
        "--format",
        type=_formats,
        default=("txt",),
        metavar="FORMAT",
        help=f"{', '.join(FORMATS)}; several with commas between, or all, which stands for "
        f"{','.join(USUAL_FORMATS)}. json also holds words, and alternatives with --n_best (txt)",
    )
    group = add_layout_flags(
        flags, "of srt, vtt, ass, ttml and videos; without these flags a text is one line"
    )
    add_text_flags(group)
    group.add_argument(
        "--burn_in",
        action="store_true",
        help=f"also write each video with captions in the image (NAME{BURNED_IN})",
    )
    group.add_argument(
        "--font", type=local_path, metavar="FILE", help="font of --burn_in (one with all letters)"
    )
    group.add_argument(
        "--soft_subtitles",
        action="store_true",
        help=f"also write each video with captions that players can switch on (NAME{SOFT})",
    )


def add_layout_flags(flags: FlagParser, about: str) -> argparse._ArgumentGroup:
    """Add the flags of `caption_layout`; return their group."""
    group = flags.add_argument_group("captions", about)
    group.add_argument(
        "--max_line_width", type=integer(1), metavar="N", help="characters of a line, such as 42"
    )
    group.add_argument(
        "--max_line_count", type=integer(1), metavar="N", help="lines at a time, such as 2"
    )
    group.add_argument(
        "--min_cue_seconds", type=positive("seconds"), metavar="S", help="shortest time, such as 1"
    )
    group.add_argument(
        "--max_cue_seconds", type=positive("seconds"), metavar="S", help="longest time, such as 7"
    )
    group.add_argument(
        "--max_reading_speed",
        type=positive("characters per second"),
        metavar="N",
        help="characters per second that people have to read, such as 17",
    )
    return group


def add_text_flags(group: argparse._ArgumentGroup) -> None:
    """Add --word_times and --language, which `check_text_flags` checks."""
    group.add_argument(
        "--word_times",
        action="store_true",
        help="when each word is signed, in json and eaf: by CTC, or else spread by length",
    )
    group.add_argument(
        "--language",
        type=_language,
        metavar="TAG",
        help="language of the texts, such as de, which ttml and --soft_subtitles tell players (as "
        "the model's card or its data set says)",
    )


def check_text_flags(
    flags: argparse.Namespace, formats: Sequence[str], soft_subtitles: bool = False
) -> None:
    """Raise UsageError for a flag of `add_text_flags` that would change nothing."""
    if flags.word_times and not set(formats) & set(_FORMATS_WITH_WORD_TIMES):
        raise UsageError(
            f"--word_times changes nothing in {', '.join(formats)}; allowed with the formats "
            f"{', '.join(_FORMATS_WITH_WORD_TIMES)}"
        )
    if flags.language is not None and not soft_subtitles and "ttml" not in formats:
        raise UsageError(
            f"--language changes nothing in {', '.join(formats)}; allowed with the format ttml, "
            "and with --soft_subtitles"
        )


def caption_layout(flags: argparse.Namespace) -> CaptionLayout:
    """Return the layout of parsed flags. Raises UsageError for flags that contradict each other."""
    try:
        return CaptionLayout(**{name: getattr(flags, name) for name in _LAYOUT_FLAGS})
    except SubtitleError as error:
        raise UsageError(str(error)) from error


def caption_settings(flags: argparse.Namespace) -> CaptionSettings:
    """Return the settings of parsed flags.

    Raises UsageError for flags that contradict each other, or that would change nothing.
    """
    formats: Sequence[str] = flags.format
    has_video = flags.burn_in or flags.soft_subtitles
    flags_set = [name for name in _LAYOUT_FLAGS if getattr(flags, name) is not None]
    if flags_set and not has_video and not set(formats) & set(_FORMATS_WITH_LAYOUT):
        raise UsageError(
            f"--{flags_set[0]} changes nothing in {', '.join(formats)}; allowed with "
            f"--format={', '.join(_FORMATS_WITH_LAYOUT)}, --burn_in and --soft_subtitles"
        )
    check_text_flags(flags, formats, flags.soft_subtitles)
    if flags.font is not None and not flags.burn_in:
        raise UsageError("--font is the font of --burn_in; add that, or leave --font out")
    layout = caption_layout(flags)
    if flags.font is not None:
        from signvit_jax.captions.drawing import font_for

        try:
            font_for([], flags.font)
        except SubtitleError as error:
            raise UsageError(str(error)) from error
    return CaptionSettings(
        formats,
        layout,
        flags.word_times,
        flags.burn_in,
        flags.soft_subtitles,
        flags.font,
        flags.language,
    )


def _language(text: str) -> str:
    """The type of --language."""
    if not is_tag(text):
        raise argparse.ArgumentTypeError(
            f"{text!r}; allowed: a tag of two or three small letters, such as de, or de-CH"
        )
    return text


def _formats(text: str) -> tuple[str, ...]:
    """The type of --format."""
    names: list[str] = []
    for name in text.split(","):
        if name == "all":
            names += USUAL_FORMATS
        elif name in FORMATS:
            names.append(name)
        else:
            raise argparse.ArgumentTypeError(
                f"{name!r}; allowed: {', '.join((*FORMATS, 'all'))}"
                f"{did_you_mean(name, (*FORMATS, 'all'))}"
            )
    return tuple(dict.fromkeys(names))
