"""Tests of caption files: FFmpeg, pysubs2, and the modules json and csv read them back."""

import csv
import html
import io
import itertools
import json
import math
import unicodedata

import av
import pysubs2
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from signvit_jax.captions.formats import FORMATS, write
from signvit_jax.captions.segments import Alternative, Segment, SubtitleError
from signvit_jax.text.words import Word

# Hypothesis strategies. Times are in seconds; a segment may begin before the video or have its end
# before its start. The texts have characters and lines that mean something in a caption file.
times = st.floats(-5, 20_000, allow_nan=False)
texts = (
    st.text(st.sampled_from("ab1 \n\r\t\u2028\x00\x0b&<>-\"';{}\\éआ明🤟"), max_size=12)
    | st.text(max_size=8)
    | st.sampled_from(["-->", "a --> b", "--->", "\n\n", "WEBVTT"])
)
segments = st.lists(
    st.builds(
        Segment,
        start=times,
        end=times,
        text=texts,
        score=st.none() | st.floats(-50, 0),
        confidence=st.none() | st.floats(0, 1),
    ),
    max_size=8,
)
durations = st.none() | st.floats(0, 20_000)


def read_back(text, format):
    """Return (start, end, text) of each cue that FFmpeg reads, times in milliseconds."""
    demuxer = {"srt": "srt", "vtt": "webvtt"}[format]
    with av.open(io.BytesIO(text.encode()), format=demuxer) as file:
        packets = [packet for packet in file.demux() if packet.pts is not None]
        cues = [
            (packet.pts, packet.pts + packet.duration, bytes(packet).decode()) for packet in packets
        ]
    if format == "vtt":
        return [(start, end, html.unescape(line)) for start, end, line in cues]
    return cues


def from_json(text):
    """Return (start, end, text) of each segment of a JSON file, times in milliseconds."""
    return [
        (round(s["start"] * 1000), round(s["end"] * 1000), s["text"])
        for s in json.loads(text)["segments"]
    ]


def kept_characters(text):
    """Return the characters of a text that captions keep, without white space.

    They keep neither control characters (Cc) nor lone surrogates (Cs).
    """
    return [c for c in text if not c.isspace() and unicodedata.category(c) not in ("Cc", "Cs")]


def shorten_arrows(line):
    """Return the line with "->" in place of "-->", as .srt files have it: "-->" marks times."""
    while "-->" in line:
        line = line.replace("-->", "->")
    return line


@settings(max_examples=150, deadline=None)
@given(segments, durations)
def test_cues_are_in_order_without_overlap_and_within_the_video(given_segments, duration):
    cues = from_json(write(given_segments, "json", duration))
    assert all(0 <= start < end for start, end, _ in cues)
    assert all(before[1] <= after[0] for before, after in itertools.pairwise(cues))
    assert all(text and text == " ".join(text.split()) for *_, text in cues)
    if duration is not None:
        assert all(end <= duration * 1000 for _, end, _ in cues)


@settings(max_examples=100, deadline=None)
@given(segments, durations)
@example(
    [Segment(0.0, 1.0, "a ---> b"), Segment(1.0, 2.0, "1\n\n2\n00:00:01,000 --> 00:00:02,000")],
    None,
)
@pytest.mark.parametrize("format", ["srt", "vtt"])
def test_srt_and_vtt_read_by_ffmpeg_are_the_json_segments(format, given_segments, duration):
    text = write(given_segments, format, duration)
    expected = from_json(write(given_segments, "json", duration))
    # Only the line of times of each cue has an arrow, so no text can look like a new cue.
    assert sum("-->" in line for line in text.split("\n")) == len(expected)
    # FFmpeg changes some characters that are not printable, and refuses a file without cues.
    if expected and all(line.isprintable() for *_, line in expected):
        if format == "srt":
            expected = [(start, end, shorten_arrows(line)) for start, end, line in expected]
        assert read_back(text, format) == expected


# pysubs2 reads some characters as markup, even in formats without markup. These texts have none of
# them.
plain_texts = st.text(st.sampled_from("ab1 é明🤟.,?!'-:;()"), max_size=12)
plain_segments = st.lists(st.builds(Segment, start=times, end=times, text=plain_texts), max_size=6)


@settings(max_examples=60, deadline=None)
@given(plain_segments, durations)
@pytest.mark.parametrize("format", ["srt", "vtt"])
def test_srt_and_vtt_read_by_pysubs2_are_the_json_segments(format, given_segments, duration):
    expected = from_json(write(given_segments, "json", duration))
    if not expected:
        return  # pysubs2 refuses a file without cues
    text = write(given_segments, format, duration)
    events = pysubs2.SSAFile.from_string(text, format_=format).events
    assert [(event.start, event.end, event.plaintext) for event in events] == expected
    assert all(before.end <= after.start for before, after in itertools.pairwise(events))


@settings(max_examples=100, deadline=None)
@given(segments, durations)
def test_tsv_reads_back_as_the_json_segments(given_segments, duration):
    rows = list(
        csv.DictReader(
            io.StringIO(write(given_segments, "tsv", duration), newline=""), dialect="excel-tab"
        )
    )
    listed = json.loads(write(given_segments, "json", duration))["segments"]
    assert [(float(r["start"]), float(r["end"]), r["text"]) for r in rows] == [
        (s["start"], s["end"], s["text"]) for s in listed
    ]
    for row, segment in zip(rows, listed, strict=True):
        for column in ("score", "confidence"):
            value = segment[column]
            assert row[column] == ("" if value is None else str(value))


@settings(max_examples=100, deadline=None)
@given(segments)
def test_no_text_is_lost(given_segments):
    # Compare characters, not words: where cues of a script without spaces are joined, two words
    # become one. Sort them: the cues are in order of time, the segments are not.
    cues = from_json(write(given_segments, "json"))
    written = [character for *_, text in cues for character in kept_characters(text)]
    given = [character for s in given_segments for character in kept_characters(s.text)]
    assert sorted(written) == sorted(given)


def test_cues_in_unspaced_scripts_are_joined_without_spaces():
    chinese = [Segment(0.0, 1.0, "今天"), Segment(0.0, 1.0, "很好。"), Segment(2.0, 3.0, "明天见")]
    assert json.loads(write(chinese, "json"))["text"] == "今天很好。明天见"
    assert write(chinese, "txt") == "今天很好。\n明天见\n"
    english = [Segment(0.0, 1.0, "good"), Segment(0.0, 1.0, "luck"), Segment(2.0, 3.0, "bye")]
    assert json.loads(write(english, "json"))["text"] == "good luck bye"


def test_times_are_written_with_hours_and_milliseconds():
    segments = [Segment(0.0004, 1.5, "first"), Segment(3725.0426, 3726.0, "second")]
    assert (
        write(segments, "srt")
        == "1\n00:00:00,000 --> 00:00:01,500\nfirst\n\n2\n01:02:05,043 --> 01:02:06,000\nsecond\n"
    )
    assert write(segments, "vtt") == (
        "WEBVTT\n\n00:00:00.000 --> 00:00:01.500\nfirst\n\n01:02:05.043 --> 01:02:06.000\nsecond\n"
    )
    assert write(segments, "txt") == "first\nsecond\n"
    assert (
        write(segments[:1], "tsv")
        == "start\tend\ttext\tscore\tconfidence\n0.000\t1.500\tfirst\t\t\n"
    )


def test_overlapping_cues_are_shortened_or_joined():
    segments = [
        Segment(2.0, 4.0, "c", score=-3.0, confidence=0.9),
        Segment(0.0, 3.0, "a", score=-1.0, confidence=0.5),  # ends where the next cue begins
        Segment(2.0, 5.0, "d", score=-2.0, confidence=None),  # joined: "c" begins at the same time
    ]
    listed = json.loads(write(segments, "json"))
    assert listed["text"] == "a c d"
    assert [
        (s["start"], s["end"], s["text"], s["score"], s["confidence"]) for s in listed["segments"]
    ] == [
        (0, 2, "a", -1, 0.5),
        (2, 5, "c d", -3, 0.9),
    ]


def test_a_cue_lasts_a_millisecond_or_more_and_ends_within_the_video():
    assert from_json(write([Segment(9.0, 12.0, "late")], "json", duration=10.0009)) == [
        (9000, 10000, "late")
    ]
    assert from_json(write([Segment(11.0, 12.0, "later")], "json", duration=10.0)) == [
        (9999, 10000, "later")
    ]
    assert from_json(write([Segment(3.0, 3.0, "instant")], "json", duration=10.0)) == [
        (3000, 3001, "instant")
    ]


# Without eaf: two .eaf files differ in the time of writing.
@pytest.mark.parametrize("format", [name for name in FORMATS if name != "eaf"])
def test_segments_without_text_give_no_cue(format):
    silent = [Segment(0.0, 1.0, ""), Segment(1.0, 2.0, " \n\t\x00")]
    assert write(silent, format) == write([], format)
    assert "-->" not in write(silent, format)


def test_vtt_escapes_markup():
    assert (
        write([Segment(0.0, 1.0, "R&D <i>a</i> --> b")], "vtt").splitlines()[-1]
        == "R&amp;D &lt;i&gt;a&lt;/i&gt; --&gt; b"
    )


def test_json_has_null_for_scores_that_are_not_finite():
    segment = Segment(0.0, 1.0, "a", score=-math.inf, confidence=math.nan)
    # Python's parser calls `parse_constant` for NaN and Infinity, which JSON does not allow.
    content = json.loads(write([segment], "json"), parse_constant=pytest.fail)
    (listed,) = content["segments"]
    assert listed["score"] is None and listed["confidence"] is None


def test_json_holds_words_and_alternatives():
    segment = Segment(
        0.0,
        1.0,
        "a b",
        words=(Word("a", 0.4), Word("b", 0.6)),
        alternatives=(Alternative("a c", score=-2.0, confidence=0.3),),
    )
    (listed,) = json.loads(write([segment], "json"))["segments"]
    assert listed["words"] == [{"text": "a", "confidence": 0.4}, {"text": "b", "confidence": 0.6}]
    assert listed["alternatives"] == [{"text": "a c", "score": -2.0, "confidence": 0.3}]


def test_an_unknown_format_is_a_subtitle_error():
    with pytest.raises(
        SubtitleError, match="'sub'; allowed: one of 'txt', 'json', 'tsv', 'srt', 'vtt', 'ass'"
    ):
        write([], "sub")


def test_an_invalid_time_is_a_subtitle_error():
    with pytest.raises(SubtitleError, match="nan"):
        write([Segment(math.nan, 1.0, "a")], "srt")
    with pytest.raises(SubtitleError, match="duration is -1"):
        write([], "srt", duration=-1.0)
