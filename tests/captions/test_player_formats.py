"""Tests of ASS, TTML, ELAN and WebVTT with a layout, read back by other programs."""

import html
import io
import itertools
import re
from fractions import Fraction

import av
import pympi
import pysubs2
import pytest
import ttconv.imsc.reader
import webvtt
from hypothesis import example, given, settings
from hypothesis import strategies as st
from lxml import etree
from ttconv.model import Br, P, Text

from signvit_jax.captions.formats import Captions
from signvit_jax.captions.layout import CaptionLayout
from signvit_jax.captions.segments import Segment
from signvit_jax.text.words import TimedWord, Word
from tests.captions.test_formats import segments as any_segments
from tfds_builders.annotation_files.elan import read_elan

TTML = "{http://www.w3.org/ns/ttml}"
texts = st.lists(
    st.text(st.sampled_from("ab1é明🤟.,?&<>{}\\\"'-:"), min_size=1, max_size=6), max_size=8
).map(" ".join) | st.sampled_from(
    ["שלום, עולם.", "مرحبا OpenAI بكم", "{\\b1}x", "a\\Nb", "x\ufffey"]
)
segments = st.lists(
    st.builds(Segment, st.floats(0, 50), st.floats(0, 50), texts), min_size=1, max_size=6
)
LAYOUT = CaptionLayout(max_line_width=8, max_line_count=2, max_reading_speed=20)
layouts = st.sampled_from([None, LAYOUT])


def cues_of(captions):
    """Return (start, end, text) of each cue, times in ms; line breaks separate the lines."""
    return [
        (cue.start, cue.end, "\n".join(line.strip("\u200f") for line in cue.shown))
        for cue in captions.shown
    ]


@settings(max_examples=60, deadline=None)
@given(segments, layouts)
@example([Segment(0.0, 1.0, "a\\Nb {\\b1} c")], None)
def test_ass_read_by_ffmpeg_shows_the_text(given_segments, layout):
    captions = Captions(given_segments, 60.0, layout=layout)
    expected = [(start // 10 * 10, end // 10 * 10, text) for start, end, text in cues_of(captions)]
    with av.open(io.BytesIO(captions.as_format("ass").encode()), format="ass") as file:
        found = []
        for packet in file.demux():
            if packet.pts is None:
                continue
            # FFmpeg writes 8 fields before the text: order, layer, style, name, margins, effect.
            text = bytes(packet).decode().split(",", 8)[8]
            text = re.sub(r"\\([{}])", r"\1", text.replace("\\N", "\n")).replace("\u2060", "")
            start = packet.pts * packet.time_base * 1000
            found.append(
                (
                    start,
                    start + packet.duration * packet.time_base * 1000,
                    text.replace("\u200f", ""),
                )
            )
    # ASS counts hundredths of a second, so FFmpeg drops shorter cues; nobody could see them.
    long_enough = [cue for cue in expected if cue[1] > cue[0]]
    assert [cue for cue in found if cue[1] > cue[0]] == long_enough


def test_ass_read_by_pysubs2():
    given_segments = [Segment(0.5, 2.0, "Good day, all of you"), Segment(3725.04, 3726.0, "bye")]
    text = Captions(given_segments, None, layout=LAYOUT).as_format("ass")
    events = pysubs2.SSAFile.from_string(text, format_="ass").events
    assert [(e.start, e.end, e.plaintext) for e in events[:1]] == [(500, 1210, "Good\nday,")]
    assert events[-1].start == 3_725_040 and events[-1].plaintext == "bye"
    assert all(event.end <= after.start for event, after in itertools.pairwise(events))


def lines_of(element):
    """Return the text of an element of ttconv's model, with a line break for each Br."""
    if isinstance(element, Text):
        return element.get_text()
    if isinstance(element, Br):
        return "\n"
    return "".join(map(lines_of, element))


@settings(max_examples=25, deadline=None)
@given(segments, layouts)
def test_ttml_read_by_ttconv_has_the_cues(given_segments, layout):
    captions = Captions(given_segments, 60.0, layout=layout)
    tree = etree.ElementTree(etree.fromstring(captions.as_format("ttml").encode()))
    model = ttconv.imsc.reader.to_model(tree)
    found = [
        ((p.get_begin() or 0) * 1000, p.get_end() * 1000, lines_of(p))
        for p in model.get_body().dfs_iterator()
        if isinstance(p, P)
    ]
    expected = [(s, e, text.replace("\ufffe", "\ufffd")) for s, e, text in cues_of(captions)]
    assert found == expected
    assert all(isinstance(begin, Fraction | int) for begin, *_ in found)  # not floats


def test_ttml_has_the_direction_of_the_text():
    both = [Segment(0.0, 1.0, "שלום OpenAI"), Segment(1.0, 2.0, "hello")]
    text = Captions(both, 2.0, layout=LAYOUT).as_format("ttml")
    right, left = etree.fromstring(text.encode()).iter(f"{TTML}p")
    styling = "{http://www.w3.org/ns/ttml#styling}"
    assert right.get(f"{styling}direction") == "rtl" and left.get(f"{styling}direction") is None
    assert "\u200f" not in text


@settings(max_examples=30, deadline=None)
@given(any_segments)
def test_ttml_and_eaf_are_xml_whatever_the_text(given_segments):
    captions = Captions(given_segments, None, word_times=True, video='a&b\'s "clip".mp4')
    for name in ("ttml", "eaf"):
        etree.fromstring(captions.as_format(name).encode())


@settings(max_examples=30, deadline=None)
@given(segments)
def test_vtt_read_by_webvtt_py_has_the_lines(given_segments):
    captions = Captions(given_segments, 60.0, layout=LAYOUT)
    found = webvtt.from_string(captions.as_format("vtt")).captions
    assert [
        (round(c.start_in_seconds * 1000) // 1000, html.unescape(c.raw_text).replace("\u200f", ""))
        for c in found
    ] == [(start // 1000, text) for start, _, text in cues_of(captions)]


def read_by_pympi(text, path):
    """Write `text` to `path`; return pympi's object and the (start, end, text) of each tier."""
    path.write_text(text, encoding="utf-8")
    eaf = pympi.Elan.Eaf(str(path))
    return eaf, {
        tier: sorted(eaf.get_annotation_data_for_tier(tier)) for tier in eaf.get_tier_names()
    }


def test_eaf_read_by_pympi_and_by_our_builder(tmp_path):
    words = (TimedWord("good", 1.0, True, 0.2, 0.4), TimedWord("<day>", 1.0, True, 0.9, 1.1))
    given_segments = [
        Segment(0.0, 1.5, "good <day>", words=words),
        Segment(1.5, 3.0, "明天见", words=tuple(Word(c, 1.0, False) for c in "明天见")),
    ]
    captions = Captions(given_segments, 3.0, word_times=True, video="../videos/my clip.mp4")
    text = captions.as_format("eaf")
    eaf, tiers = read_by_pympi(text, tmp_path / "clip.eaf")
    assert tiers == {
        "text": [(0, 1500, "good <day>"), (1500, 3000, "明天见")],
        "words": [
            (0, 900, "good"),
            (900, 1500, "<day>"),
            (1500, 2000, "明"),
            (2000, 2500, "天"),
            (2500, 3000, "见"),
        ],
    }
    (linked,) = eaf.get_linked_files()
    assert linked["RELATIVE_MEDIA_URL"] == "../videos/my%20clip.mp4"
    ours = read_elan(tmp_path / "clip.eaf")
    assert [(part.start, part.end, part.text) for part in ours.segments] == tiers["text"]
    assert ours.links[0].url == "../videos/my%20clip.mp4"


@settings(max_examples=20, deadline=None)
@given(any_segments)
@pytest.mark.parametrize("word_times", [False, True])
def test_eaf_annotations_are_the_cues(tmp_path_factory, word_times, given_segments):
    timed = [
        Segment(s.start, s.end, s.text, words=tuple(Word(w, 1.0) for w in s.text.split()))
        for s in given_segments
    ]
    captions = Captions(timed, None, word_times=word_times)
    path = tmp_path_factory.getbasetemp() / "some.eaf"
    _, tiers = read_by_pympi(captions.as_format("eaf"), path)
    unwritable = re.compile("[\ufffe\uffff]")
    expected = [(c.start, c.end, unwritable.sub("\ufffd", c.text)) for c in captions.cues]
    assert [(s, e, text) for s, e, text, *_ in tiers["text"]] == expected
    for word, next_word in itertools.pairwise(tiers.get("words", [])):
        assert word[0] < word[1] <= next_word[0]
