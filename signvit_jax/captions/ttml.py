"""TTML caption files (.ttml) in the text profile of IMSC 1.1, for broadcasters and streaming."""

import html
import re
from collections.abc import Sequence

from signvit_jax.captions.line_breaking import RIGHT_TO_LEFT_MARK, reads_right_to_left
from signvit_jax.captions.segments import Cue

_HEAD = """<?xml version="1.0" encoding="UTF-8"?>
<tt xmlns="http://www.w3.org/ns/ttml" xmlns:ttp="http://www.w3.org/ns/ttml#parameter" \
xmlns:tts="http://www.w3.org/ns/ttml#styling" ttp:timeBase="media" \
ttp:contentProfiles="http://www.w3.org/ns/ttml/profile/imsc1.1/text" xml:lang="{language}">
  <head>
    <styling>
      <style xml:id="caption" tts:color="white" tts:backgroundColor="black" \
tts:fontFamily="proportionalSansSerif" tts:fontSize="100%" tts:textAlign="center"/>
    </styling>
    <layout>
      <region xml:id="bottom" tts:origin="10% 75%" tts:extent="80% 20%" tts:displayAlign="after"/>
    </layout>
  </head>
  <body style="caption" region="bottom">
    <div>
"""
_TAIL = """    </div>
  </body>
</tt>
"""
# XML 1.0 cannot hold these two code points, which are not characters. (Other code points that it
# cannot hold are removed from every cue.)
_NOT_IN_XML = re.compile("[\ufffe\uffff]")


def as_ttml(cues: Sequence[Cue], language: str = "") -> str:
    """Return the content of a .ttml file. `language`: a tag such as "de", "" if not known."""
    return _HEAD.format(language=xml_text(language)) + "".join(map(_paragraph, cues)) + _TAIL


def xml_text(text: str) -> str:
    """Return the text escaped, for an element or for an attribute in double quotes."""
    return html.escape(_NOT_IN_XML.sub("\ufffd", text), quote=True).replace("&#x27;", "'")


def _paragraph(cue: Cue) -> str:
    # Remove the marks of right-to-left lines: TTML has an attribute for the direction.
    lines = (line.strip(RIGHT_TO_LEFT_MARK) for line in cue.shown)
    text = "<br/>".join(map(xml_text, lines))
    direction = ""
    if reads_right_to_left(cue.text):
        direction = ' tts:direction="rtl" tts:unicodeBidi="embed"'
    return f'      <p begin="{_clock(cue.start)}" end="{_clock(cue.end)}"{direction}>{text}</p>\n'


def _clock(milliseconds: int) -> str:
    """Return a time as HH:MM:SS.mmm."""
    seconds, milliseconds = divmod(milliseconds, 1000)
    minutes, seconds = divmod(seconds, 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours:02d}:{minutes:02d}:{seconds:02d}.{milliseconds:03d}"
