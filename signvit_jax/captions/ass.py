"""Advanced SubStation Alpha (.ass), which editors and players such as Aegisub and mpv read."""

from collections.abc import Sequence

from signvit_jax.captions.segments import Cue

# Encoding -1 lets libass find the direction of each line by its letters. WrapStyle 0 breaks lines
# that are too long for the image into parts of about equal length.
_HEAD = """[Script Info]
ScriptType: v4.00+
PlayResX: 1280
PlayResY: 720
WrapStyle: 0
ScaledBorderAndShadow: yes

[V4+ Styles]
Format: Name, Fontname, Fontsize, PrimaryColour, SecondaryColour, OutlineColour, BackColour, Bold, \
Italic, Underline, StrikeOut, ScaleX, ScaleY, Spacing, Angle, BorderStyle, Outline, Shadow, \
Alignment, MarginL, MarginR, MarginV, Encoding
Style: Default,Arial,44,&H00FFFFFF,&H00FFFFFF,&H00000000,&H80000000,0,0,0,0,100,100,0,0,1,2,1,2,\
40,40,40,-1

[Events]
Format: Layer, Start, End, Style, Name, MarginL, MarginR, MarginV, Effect, Text
"""
_WORD_JOINER = "\u2060"


def as_ass(cues: Sequence[Cue]) -> str:
    """Return the text of an .ass file. Times are hundredths of a second, rounded down."""
    return _HEAD + "".join(
        f"Dialogue: 0,{_clock(cue.start)},{_clock(cue.end)},Default,,0,0,0,,{escaped(cue.shown)}\n"
        for cue in cues
    )


def escaped(lines: Sequence[str]) -> str:
    """Return the text of an event, escaped so that players find no commands in it.

    As in FFmpeg, a word joiner (an invisible character) follows each backslash, because \\N would
    break the line. A backslash precedes each brace, because braces would enclose commands.
    """
    return "\\N".join(
        line.replace("\\", f"\\{_WORD_JOINER}").replace("{", "\\{").replace("}", "\\}")
        for line in lines
    )


def _clock(milliseconds: int) -> str:
    seconds, hundredths = divmod(milliseconds // 10, 100)
    minutes, seconds = divmod(seconds, 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{seconds:02d}.{hundredths:02d}"
