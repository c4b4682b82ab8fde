"""Tests of reading subtitle files: a cue becomes a text with times, or is counted or reported."""

import itertools
import re
from pathlib import Path

import pysubs2
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from tfds_builders.annotation_files.subtitle_files import SubtitleFile, read_subtitles
from tfds_builders.annotation_files.tables import AnnotationError

VTT = "WEBVTT\n\n"


def read(folder: Path, content: str | bytes, encoding: str | None = None) -> SubtitleFile:
    path = folder / "a.vtt"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return read_subtitles(path, encoding)


def cues(found: SubtitleFile) -> list[tuple[float, float, str]]:
    return [segment[:3] for segment in found.segments]


def cue(text: str, start: str = "00:01.000", end: str = "00:02.000") -> str:
    return f"{start} --> {end}\n{text}\n\n"


def test_a_webvtt_file_of_the_standard_is_read(tmp_path):
    found = read(
        tmp_path,
        """WEBVTT - a title
Kind: captions
Language: en

STYLE
::cue { color: red }

REGION
id:left

NOTE one line

NOTE
several
lines

first
00:01.500 --> 00:02.750 line:0 position:20% align:start
<v.loud Anna Lee>Tom &amp; I <i.x>went</i> &lt;home&gt;.</v>

01:02:03.004 --> 01:02:05.006
Two
lines

NOTE the end
""",
    )
    assert [tuple(segment) for segment in found.segments] == [
        (1500, 2750, "Tom & I went <home>.", "", "Anna Lee", 18),
        (3723004, 3725006, "Two lines", "", "", 21),
    ]
    assert found == SubtitleFile(found.segments, [])


@pytest.mark.parametrize("newline", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("codec", ["utf-8", "utf-8-sig", "utf-16"])
def test_a_subrip_file_is_read(tmp_path, newline, codec):
    content = (
        "1\n00:00:01,000 --> 00:00:02,500 X1:10 X2:20\n<b>Grün</b> & {\\an8}blau\n\n"
        "2\n00:00:03,000 --> 00:00:04,000\nabove\n\nbelow a blank line\n\n"
        "3\n0:00:05,5 --> 0:00:06\n2024\n"
    )
    found = read(tmp_path, content.replace("\n", newline).encode(codec))
    assert cues(found) == [
        (1000, 2500, "Grün & blau"),
        (3000, 4000, "above below a blank line"),
        (5500, 6000, "2024"),
    ]
    assert found.problems == []


@pytest.mark.parametrize("kind", ["srt", "vtt"])
def test_files_written_by_pysubs2_are_read(tmp_path, kind):
    texts = ["One.", "Two\\Nlines", "a < b", "3 of 4", "Ünïcödé 手語"]
    file = pysubs2.SSAFile()
    for number, text in enumerate(texts):
        file.append(pysubs2.SSAEvent(start=3_599_000 + 700 * number, end=3_599_650 + 700 * number))
        file[-1].text = text
    found = read(tmp_path, file.to_string(kind))
    expected = [(event.start, event.end, event.plaintext.replace("\n", " ")) for event in file]
    assert cues(found) == expected and found.problems == []


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("<00:01.200><c>word</c> <c.red>by</c> word", "word by word"),
        ("<v Anna>Yes.</v>\n<v Tom>No.</v>", "Yes. No."),
        ("a&nbsp;b &quot;c&quot; &unknown; AT&T", 'a b "c" &unknown; AT&T'),
        ('<font color="#fff">x</font>{\\i1}y{\\i0}\\Nz', "xy z"),
        ("1 < 2 > 0 <3", "1 < 2 > 0 <3"),
        ("<ruby>漢<rt>kan</rt></ruby>", "漢kan"),
        ("<rest>", "<rest>"),
        ("&lt;REST&gt;", "<REST>"),
        ("\u200ea\u200f", "a"),
    ],
)
def test_markup_is_removed(tmp_path, text, expected):
    (segment,) = read(tmp_path, VTT + cue(text)).segments
    assert segment.text == expected


def test_a_single_voice_is_the_signer_and_two_voices_give_none(tmp_path):
    found = read(
        tmp_path,
        VTT + cue("<v Anna>a</v>") + cue("<v Anna>a\n<v Tom>b", "00:03.000", "00:04.000"),
    )
    assert [segment.signer for segment in found.segments] == ["Anna", ""]


def test_empty_cues_are_counted(tmp_path):
    found = read(tmp_path, VTT + cue("") + cue("<i></i>") + cue("a", "00:02.000", "00:03.000"))
    assert cues(found) == [(2000, 3000, "a")] and found.num_empty == 2


def test_overlapping_cues_are_kept_and_counted(tmp_path):
    found = read(tmp_path, VTT + cue("a") + cue("b", "00:01.500", "00:03.000"))
    assert cues(found) == [(1000, 2000, "a"), (1500, 3000, "b")] and found.num_overlaps == 1


def test_cues_of_the_same_times_are_joined(tmp_path):
    found = read(tmp_path, VTT + cue("<v A>a") + cue("<v B>b") + cue("c", "00:01.000", "00:03.000"))
    assert cues(found) == [(1000, 2000, "a b"), (1000, 3000, "c")]
    assert (found.num_joined, found.num_overlaps, found.segments[0].signer) == (1, 1, "")


def test_lines_that_rolling_captions_repeat_appear_once(tmp_path):
    found = read(
        tmp_path,
        VTT
        + cue(" \nso <00:01.100><c>hello</c>", "00:01.000", "00:02.000")
        + cue("so hello\n ", "00:02.000", "00:02.010")
        + cue("so hello\nand<c> welcome</c>", "00:02.010", "00:04.000")
        + cue("and welcome\n ", "00:04.000", "00:04.010")
        + cue("this <00:05.100><c>will</c>", "00:05.000", "00:06.000")
        + cue("this will", "00:06.000", "00:06.400"),
    )
    assert cues(found) == [
        (1000, 2000, "so hello"),
        (2010, 4000, "and welcome"),
        (5000, 6000, "this will"),
    ]
    assert (found.num_repeats, found.num_empty, found.problems) == (4, 0, [])


def test_a_sentence_that_occurs_twice_is_kept(tmp_path):
    found = read(tmp_path, VTT + cue("Yes.") + cue("Yes.", "00:02.000", "00:03.000"))
    assert [text for *_, text in cues(found)] == ["Yes.", "Yes."] and found.num_repeats == 0


def test_descriptions_of_sounds_are_kept_and_reported(tmp_path):
    found = read(tmp_path, VTT + cue("[Music]") + cue("♪ ♪", "00:03.000") + cue("(a) b", "00:04.0"))
    assert found.sounds == ("[Music]", "♪ ♪") and len(found.segments) == 3


def test_texts_without_usable_times_are_reported_with_their_lines(tmp_path):
    found = read(
        tmp_path,
        VTT + "00:01.000 --> 2\nlost\n\n" + cue("kept") + "after a blank\n\n" + cue("b", "9:9"),
    )
    assert [(line, reason.split(";")[0]) for line, reason in found.problems] == [
        (3, "the times '00:01.000 --> 2' of 'lost' are not read"),
        (9, "the text 'after a blank' has no times"),
    ]
    assert [text for *_, text in cues(found)] == ["kept", "b"]


def test_a_numbered_text_of_subrip_without_times_is_reported(tmp_path):
    found = read(
        tmp_path,
        "1\n00:00:01,000 --> 00:00:02,000\none\n\n2\ntwo\n\n3\n00:00:03,000 --> 00:00:04,000\n"
        "three\n\n2024\n\n4\n00:00:05,000 --> 00:00:06,000\nfour\n\n5\nfive",
    )
    assert [text for *_, text in cues(found)] == ["one", "three 2024", "four"]
    assert [(line, reason.split(";")[0]) for line, reason in found.problems] == [
        (5, "the text '2 two' has no times"),
        (18, "the text '5 five' has no times"),
    ]


@pytest.mark.parametrize("content", [b"", b"WEBVTT\n\n", b"hello\nworld\n", b"\x89PNG\r\n\0\0"])
def test_a_file_without_a_cue_is_refused(tmp_path, content):
    if content.startswith((b"hello", b"\x89")):  # lines that belong to no cue are reported
        assert read(tmp_path, content).problems
        return
    with pytest.raises(AnnotationError, match=r"a\.vtt: no cue in it; a subtitle file has lines"):
        read(tmp_path, content)


def test_other_encodings_are_read_when_they_are_named(tmp_path):
    content = "1\n00:00:01,000 --> 00:00:02,000\nGrün\n".encode("cp1252")
    assert cues(read(tmp_path, content))[0][2] == "Gr\udcfcn"  # the clip of this text reports it
    assert cues(read(tmp_path, content, "cp1252"))[0][2] == "Grün"
    with pytest.raises(AnnotationError, match="--encoding is 'cp125x'; allowed: the name of a"):
        read(tmp_path, content, "cp125x")
    with pytest.raises(AnnotationError, match="the file is damaged"):
        read(tmp_path, content.decode("cp1252").encode("utf-16")[:-1])


BLOCKS = st.sampled_from(
    [
        "NOTE\nmore",
        "STYLE\n::cue {}",
        "{word}",
        "1\n{word}\nname\n00:01.000 --> 00:02.000\n{word}",
        "00:02.000 --> 00:02.000\n<i>{word}</i>\n{word}",
        "00:02.000 --> x\n{word}",
        "7\n00:01.000 --> 00:03.000 line:0\n- {word}\n ",
        "00:01.000 --> 00:03.000\n",
        "a --> b\n{word}",
    ]
)


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(BLOCKS, max_size=12), st.booleans(), st.sampled_from(["\n", "\n\n", "\n\n\n"]))
def test_no_text_is_lost_without_a_report(tmp_path, blocks, is_webvtt, gap):
    words = itertools.count()
    filled = [re.sub("{word}", lambda _: f"w{next(words)}.", block) for block in blocks]
    content = VTT * is_webvtt + gap.join(filled)
    assume(not is_webvtt or gap != "\n")  # a line directly above the times names the cue
    try:
        found = read(tmp_path, content)
    except AnnotationError:
        assert next(words) == 0
        return
    reported = " ".join(
        [*(s.text for s in found.segments), *(reason for _, reason in found.problems)]
    )
    assert [word for word in range(next(words)) if f"w{word}." not in reported] == []
