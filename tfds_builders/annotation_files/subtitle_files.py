"""Subtitle files (.vtt, .srt): each cue is a text with times. The files are untrusted.

WebVTT: https://www.w3.org/TR/webvtt1/. SubRip has no standard; files are read as players read them.
"""

import dataclasses
import html
import os
import re
from collections.abc import Iterator, Sequence

from tfds_builders.annotation_files.rows import REST
from tfds_builders.annotation_files.tables import AnnotationError, text_encoding
from tfds_builders.clips import Segment

MAX_BYTES = 64 << 20  # a long film has 0.2 MB
# Rolling captions repeat a line in a short cue of 10 to 400 ms, right after the previous cue.
MAX_SHORT_CUE = 500  # longest cue that counts as short, in milliseconds
MAX_GAP = 20  # longest gap, in milliseconds, between a cue and one that directly follows it
ARROW = "-->"
_TIME = r"(?:(\d{1,4}):)?(\d{1,2}):(\d{1,2})(?:[.,](\d{1,3}))?"
_TIMES = re.compile(rf"\s*{_TIME}\s*-->\s*{_TIME}(?:\s.*)?")
_LINE_BREAK = re.compile("\r\n|\r|\n")
_VOICE = re.compile(r"<v(?:\.[^\s<>]*)?\s([^<>]+)>")
_INVISIBLE = dict.fromkeys(map(ord, "\u200b\u200e\u200f"))  # zero-width space, marks of direction
# Tags, time stamps within a cue, and the overrides of other formats that .srt files have.
_MARKUP = re.compile(r"</?[A-Za-z][^<>]*>|<\d[\d:.]*>|\{\\[^{}]*\}")
_ENTITY = re.compile(r"&#?\w{1,32};")
_SOUND = re.compile(r"[\[(][^\[\]()]*[\])]|[♩♪♫♬\s]+")
_NO_CUES = re.compile(r"(NOTE|STYLE|REGION)(\s|$)")


@dataclasses.dataclass(frozen=True)
class SubtitleFile:
    """The cues of a file."""

    segments: list[Segment]
    problems: list[tuple[int, str]]  # (line, reason) of texts that have no usable time
    num_empty: int = 0  # cues without text
    num_overlaps: int = 0  # cues that begin before the previous one has ended
    num_repeats: int = 0  # lines of rolling captions that the previous cue has shown already
    num_joined: int = 0  # cues at exactly the times of the previous one, joined with it
    sounds: tuple[str, ...] = ()  # texts that describe a sound


@dataclasses.dataclass(frozen=True)
class _Cue:
    line: int
    start: float  # milliseconds, as is the end
    end: float
    lines: list[str]  # without markup, see `_clean`
    voice: str  # the speaker, or ""


def read_subtitles(path: str | os.PathLike, encoding: str | None = None) -> SubtitleFile:
    """Read the cues of a WebVTT or SubRip file; the content tells which of the two it is.

    `encoding`: of a file without a byte order mark; without it UTF-8. Raises AnnotationError for a
    file without a cue.
    """
    lines = _LINE_BREAK.split(_text_of(path, encoding))
    is_webvtt = lines[0].startswith("WEBVTT")
    problems: list[tuple[int, str]] = []
    cues, repeats = _without_repeats([*_cues(lines, is_webvtt, problems)])
    if not cues and not problems:
        raise AnnotationError(
            f"{path}: no cue in it; a subtitle file has lines such as "
            "'00:00:01.000 --> 00:00:02.500', each followed by its text"
        )
    segments: list[Segment] = []
    overlaps = joined = 0
    for cue in cues:
        text = " ".join(filter(None, cue.lines))
        if not text:
            continue
        before = segments[-1] if segments else None
        if before is not None and (before.start, before.end) == (cue.start, cue.end):
            signer = before.signer if before.signer == cue.voice else ""
            segments[-1] = before._replace(text=f"{before.text} {text}", signer=signer)
            joined += 1
            continue
        overlaps += before is not None and cue.start < before.end
        segments.append(Segment(cue.start, cue.end, text, "", cue.voice, cue.line))
    return SubtitleFile(
        segments,
        problems,
        sum(not any(cue.lines) for cue in cues),
        overlaps,
        repeats,
        joined,
        tuple(segment.text for segment in segments if _SOUND.fullmatch(segment.text)),
    )


def _text_of(path: str | os.PathLike, encoding: str | None) -> str:
    """The content; bytes that cannot be decoded become surrogates."""
    try:
        with open(path, "rb") as file:
            content = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise AnnotationError(f"{path}: cannot be read ({error.strerror})") from error
    if len(content) > MAX_BYTES:
        raise AnnotationError(f"{path}: too large; allowed: at most {MAX_BYTES:,} bytes")
    try:
        return content.decode(text_encoding(content[:4], encoding), "surrogateescape")
    except UnicodeError as error:
        raise AnnotationError(
            f"{path}: the file is damaged, or in another encoding than its first bytes or "
            "--encoding say; save it in UTF-8"
        ) from error


def _cues(lines: Sequence[str], is_webvtt: bool, problems: list[tuple[int, str]]) -> Iterator[_Cue]:
    """Yield the cues; texts without times are added to `problems`."""
    arrows = [number for number, line in enumerate(lines) if ARROW in line]
    above = lines[: arrows[0]] if arrows else lines
    _report_strays(above, 0, bool(arrows), is_webvtt, problems, is_header=True)
    for arrow, following in zip(arrows, [*arrows[1:], len(lines)]):
        body = lines[arrow + 1 : following]
        is_last = following == len(lines)
        num_text_lines = _count_text_lines(body, is_last, is_webvtt)
        _report_strays(
            body[num_text_lines:], arrow + 1 + num_text_lines, not is_last, is_webvtt, problems
        )
        times = _TIMES.fullmatch(lines[arrow])
        text = "\n".join(body[:num_text_lines])
        if times is None:
            reason = (
                f"the times {lines[arrow].strip()[:80]!r} of {text.strip()[:80]!r} are not read"
            )
            problems.append((arrow + 1, f"{reason}; allowed: 00:00:01.000 --> 00:00:02.500"))
            continue
        speakers = {" ".join(html.unescape(name).split()) for name in _VOICE.findall(text)}
        yield _Cue(
            arrow + 1,
            _milliseconds(times.groups()[:4]),
            _milliseconds(times.groups()[4:]),
            [_clean(line) for line in body[:num_text_lines]],
            speakers.pop() if len(speakers) == 1 else "",
        )


def _count_text_lines(body: Sequence[str], is_last: bool, is_webvtt: bool) -> int:
    """The number of lines after the times of a cue that are its text."""
    if is_webvtt:  # up to the first empty line; a line of spaces is not empty
        return next((i for i, line in enumerate(body) if not line), len(body))
    # A number below an empty line, with text below it, is a cue whose times are missing.
    count = next(
        (
            i + 1
            for i in range(len(body) - 2)
            if not body[i].strip() and body[i + 1].strip().isdecimal() and body[i + 2].strip()
        ),
        len(body),
    )
    if count == len(body) > 0 and not is_last and body[-1].strip().isdecimal():
        count -= 1  # the number of the next cue
    return count


def _report_strays(
    lines: Sequence[str],
    first: int,
    before_times: bool,
    is_webvtt: bool,
    problems: list[tuple[int, str]],
    is_header: bool = False,
) -> None:
    """Report texts that belong to no cue, except notes, styles and the names of cues.

    `first`: the number of lines above `lines`. `before_times`: the times of a cue follow, so the
    last line can be the name of that cue.
    """
    blocks: list[tuple[int, list[str]]] = []  # line numbers and lines, split at empty lines
    for number, line in enumerate(lines, first + 1):
        if not line.strip():
            blocks.append((number, []))
        elif blocks and blocks[-1][1]:
            blocks[-1][1].append(line)
        else:
            blocks.append((number, [line]))
    last = lines[-1].strip() if lines and before_times else ""
    name_is_last = bool(last) and (is_webvtt or last.isdecimal())
    for place, (number, block) in enumerate(blocks):
        if is_webvtt and ((is_header and place == 0) or (block and _NO_CUES.match(block[0]))):
            continue
        is_name = name_is_last and place == len(blocks) - 1
        if text := " ".join(block[:-1] if is_name else block).strip():
            problems.append((number, f"the text {text[:80]!r} has no times; its cue has ended"))


def _milliseconds(clock: Sequence[str | None]) -> float:
    hours, minutes, seconds, fraction = clock
    whole = 3600 * int(hours or 0) + 60 * int(minutes or 0) + int(seconds or 0)
    return 1000 * whole + int((fraction or "").ljust(3, "0"))


def _clean(line: str) -> str:
    """The words of a line of a cue, without markup."""
    if line.strip().casefold() == REST:
        return REST
    text = _MARKUP.sub("", line.replace("\\N", " ").replace("\\h", " "))
    text = _ENTITY.sub(lambda entity: html.unescape(entity[0]), text)
    return " ".join(text.translate(_INVISIBLE).split())


def _without_repeats(cues: Sequence[_Cue]) -> tuple[list[_Cue], int]:
    """Return the cues without the lines that rolling captions repeat, and the number of repeats.

    Such captions show each line twice: a cue begins with the last line of the previous one, and a
    cue of a hundredth of a second may stand between the two.
    """
    kept: list[_Cue] = []
    repeats, last_line, last_end = 0, "", -1.0
    for cue in cues:
        lines = [line for line in cue.lines if line]
        follows = bool(last_line) and abs(cue.start - last_end) <= MAX_GAP
        if follows and lines and lines[0] == last_line:
            is_short = cue.end - cue.start <= MAX_SHORT_CUE
            if len(lines) > 1 or is_short:
                repeats += 1
                cue = dataclasses.replace(cue, lines=lines[1:])
        if lines:
            last_line, last_end = lines[-1], cue.end
        if cue.lines or not lines:  # drop cues that only repeat, but not those without text
            kept.append(cue)
    return kept, repeats
