"""Tests of subtitle files, read back by FFmpeg, pysubs2, and the json and csv modules."""

import csv
import html
import io
import itertools
import json
import math

import av
import pysubs2
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from signvit_jax.captions.formats import FORMATS, write
from signvit_jax.captions.segments import Alternative, Segment, SubtitleError
from signvit_jax.text.words import Word

times = st.floats(-5, 20_000, allow_nan=False)
texts = (
    st.text(st.sampled_from("ab1 \n\r\t\u2028\x00\x0b&<>-\"';{}\\éआ明🤟"), max_size=12)
    | st.text(max_size=8)
    | st.sampled_from(["-->", "a --> b", "--->", "\n\n", "WEBVTT"])
)
segments = st.lists(
    st.builds(
        Segment, times, times, texts, st.none() | st.floats(-50, 0), st.none() | st.floats(0, 1)
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
    return (
        [(start, end, html.unescape(line)) for start, end, line in cues]
        if format == "vtt"
        else cues
    )


def from_json(text):
    """Return (start, end, text) of each segment of a JSON file, times in milliseconds."""
    return [
        (round(s["start"] * 1000), round(s["end"] * 1000), s["text"])
        for s in json.loads(text)["segments"]
    ]


def words(text):
    """Return the words of a text without its invisible characters."""
    return "".join(
        c for c in text if c.isspace() or c.isprintable() or c in "\u200b\ufeff\xad"
    ).split()


@settings(max_examples=150, deadline=None)
@given(segments, durations)
def test_cues_are_in_order_without_overlap_and_in_the_video(given_segments, duration):
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
    # A cue has a line of times and one line of text, so no text can look like a new cue.
    assert sum("-->" in line for line in text.split("\n")) == len(expected)
    if expected and all(line.isprintable() for *_, line in expected):
        if format == "srt":
            expected = [(start, end, shorten_arrows(line)) for start, end, line in expected]
        assert read_back(text, format) == expected


# pysubs2 takes some characters for markup even in formats without it; these texts have none.
plain_texts = st.text(st.sampled_from("ab1 é明🤟.,?!'-:;()"), max_size=12)
plain_segments = st.lists(st.builds(Segment, times, times, plain_texts), max_size=6)


@settings(max_examples=60, deadline=None)
@given(plain_segments, durations)
@pytest.mark.parametrize("format", ["srt", "vtt"])
def test_srt_and_vtt_read_by_pysubs2_are_the_json_segments(format, given_segments, duration):
    expected = from_json(write(given_segments, "json", duration))
    events = (
        pysubs2.SSAFile.from_string(write(given_segments, format, duration), format_=format).events
        if expected
        else []
    )
    assert [(event.start, event.end, event.plaintext) for event in events] == expected
    assert all(before.end <= after.start for before, after in itertools.pairwise(events))


def shorten_arrows(line):
    """Return the line with "->" in place of "-->", which would mark a line of times."""
    while "-->" in line:
        line = line.replace("-->", "->")
    return line


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
    assert [(r["score"], r["confidence"]) for r in rows] == [
        tuple("" if s[k] is None else str(s[k]) for k in ("score", "confidence")) for s in listed
    ]


@settings(max_examples=100, deadline=None)
@given(segments)
def test_no_text_is_lost(given_segments):
    # Characters are compared: joined cues of an unspaced script have no space between words.
    written = sorted(
        character
        for *_, text in from_json(write(given_segments, "json"))
        for word in words(text)
        for character in word
    )
    assert written == sorted(
        character for s in given_segments for word in written_words(s.text) for character in word
    )


def test_cues_in_unspaced_scripts_are_joined_without_spaces():
    together = [Segment(0.0, 1.0, "今天"), Segment(0.0, 1.0, "很好。"), Segment(2.0, 3.0, "明天见")]
    assert json.loads(write(together, "json"))["text"] == "今天很好。明天见"
    assert write(together, "txt") == "今天很好。\n明天见\n"
    apart = [Segment(0.0, 1.0, "good"), Segment(0.0, 1.0, "luck"), Segment(2.0, 3.0, "bye")]
    assert json.loads(write(apart, "json"))["text"] == "good luck bye"


def written_words(text):
    """Return the words of a text without control characters and lone surrogates."""
    kept = "".join(
        c
        for c in text
        if c.isspace() or not (ord(c) < 32 or 127 <= ord(c) < 160 or 0xD800 <= ord(c) < 0xE000)
    )
    return words(kept)


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


def test_overlapping_cues_end_or_join_at_the_next_beginning():
    segments = [
        Segment(2.0, 4.0, "c", -3.0, 0.9),
        Segment(0.0, 3.0, "a", -1.0, 0.5),
        Segment(2.0, 5.0, "d", -2.0, None),
    ]
    listed = json.loads(write(segments, "json"))
    assert listed["text"] == "a c d"
    assert [
        (s["start"], s["end"], s["text"], s["score"], s["confidence"]) for s in listed["segments"]
    ] == [
        (0, 2, "a", -1, 0.5),
        (2, 5, "c d", -3, 0.9),
    ]


def test_a_segment_beyond_the_end_is_moved_into_the_video():
    assert from_json(write([Segment(9.0, 12.0, "late")], "json", duration=10.0009)) == [
        (9000, 10000, "late")
    ]
    assert from_json(write([Segment(11.0, 12.0, "later")], "json", duration=10.0)) == [
        (9999, 10000, "later")
    ]
    assert from_json(write([Segment(3.0, 3.0, "instant")], "json", duration=10.0)) == [
        (3000, 3001, "instant")
    ]


@pytest.mark.parametrize("format", [name for name in FORMATS if name != "eaf"])  # .eaf has the date
def test_segments_without_text_give_no_cue(format):
    silent = [Segment(0.0, 1.0, ""), Segment(1.0, 2.0, " \n\t\x00")]
    assert write(silent, format) == write([], format)
    assert "-->" not in write(silent, format)


def test_vtt_escapes_markup():
    assert (
        write([Segment(0.0, 1.0, "R&D <i>a</i> --> b")], "vtt").splitlines()[-1]
        == "R&amp;D &lt;i&gt;a&lt;/i&gt; --&gt; b"
    )


def test_json_is_valid_if_scores_are_not_numbers():
    listed = json.loads(
        write([Segment(0.0, 1.0, "a", -math.inf, math.nan)], "json"),
        parse_constant=lambda name: pytest.fail(name),
    )
    assert listed["segments"][0]["score"] is None and listed["segments"][0]["confidence"] is None


def test_json_holds_words_and_alternatives():
    segment = Segment(
        0.0,
        1.0,
        "a b",
        -1.0,
        0.5,
        (Word("a", 0.4), Word("b", 0.6)),
        (Alternative("a c", -2.0, 0.3),),
    )
    (listed,) = json.loads(write([segment], "json"))["segments"]
    assert listed["words"] == [{"text": "a", "confidence": 0.4}, {"text": "b", "confidence": 0.6}]
    assert listed["alternatives"] == [{"text": "a c", "score": -2.0, "confidence": 0.3}]


def test_unknown_formats_and_invalid_times_are_subtitle_errors():
    with pytest.raises(
        SubtitleError, match="'sub'; allowed: one of 'txt', 'json', 'tsv', 'srt', 'vtt', 'ass'"
    ):
        write([], "sub")
    with pytest.raises(SubtitleError, match="nan"):
        write([Segment(math.nan, 1.0, "a")], "srt")
    with pytest.raises(SubtitleError, match="duration is -1"):
        write([], "srt", duration=-1.0)
