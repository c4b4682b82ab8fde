"""Tests of reading ELAN files, damaged and hostile ones too: texts, glosses and times of tiers."""

import time
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.helpers.eaf import Eaf
from tfds_builders.annotation_files import eaf_document
from tfds_builders.annotation_files.elan import ElanFile, read_elan
from tfds_builders.annotation_files.tables import AnnotationError


def read(folder: Path, eaf: Eaf | str | bytes, *tiers: str | None) -> ElanFile:
    content = eaf if isinstance(eaf, bytes) else str(eaf).encode()
    (folder / "a.eaf").write_bytes(content)
    return read_elan(folder / "a.eaf", *tiers)


def segments_of(found: ElanFile) -> list[tuple[float, float, str, str]]:
    """Return (start, end, text, gloss) of each segment, times in milliseconds."""
    return [segment[:4] for segment in found.segments]


def test_annotations_have_times_texts_signer_and_line(tmp_path):
    eaf = Eaf("a.mp4")
    eaf.tier("Translation", [(3000, 4500, "Tom & <b>Ann</b>"), (0, 1200, "zwei\n Zeilen")], "Ann")
    found = read(tmp_path, eaf)
    assert [tuple(segment) for segment in found.segments] == [
        (0, 1200, "zwei Zeilen", "", "Ann", 15),
        (3000, 4500, "Tom & <b>Ann</b>", "", "Ann", 14),
    ]
    assert [link.url for link in found.links] == ["a.mp4", "file:///C:/corpus/a.mp4"]


def test_the_tier_named_text_or_the_only_tier_is_used(tmp_path):
    eaf = Eaf()
    eaf.tier("Notes", [(0, 900, "loud")])
    eaf.tier("Empty", [(0, 900, "")])
    assert segments_of(read(tmp_path, eaf)) == [(0, 900, "loud", "")]
    eaf.tier("Text", [(0, 1000, "Hello.")])
    eaf.tier("GLOSS", [(0, 400, "HELLO"), (400, 1000, "YOU")])
    assert segments_of(read(tmp_path, eaf)) == [(0, 1000, "Hello.", "HELLO YOU")]


def test_ambiguous_tiers_are_listed_with_counts(tmp_path):
    eaf = Eaf()
    eaf.tier("Deutsch", [(0, 900, "eins"), (900, 1000, "")])
    eaf.tier("English", [(0, 900, "one"), (900, 1000, "two")])
    with pytest.raises(
        AnnotationError,
        match=r"2 tiers have texts: 'Deutsch' \(1 texts, 1 empty\), 'English' \(2 texts\)",
    ):
        read(tmp_path, eaf)
    assert segments_of(read(tmp_path, eaf, "deutsch")) == [(0, 900, "eins", "")]
    with pytest.raises(AnnotationError, match=r"no tier 'Englsh' .* did you mean 'English'"):
        read(tmp_path, eaf, "Englsh")
    with pytest.raises(AnnotationError, match="both --text_tier and --gloss_tier"):
        read(tmp_path, eaf, "English", "English")


def test_annotations_without_text_are_counted(tmp_path):
    eaf = Eaf()
    eaf.tier("text", [(0, 500, "a"), (500, 600, ""), (600, 700, "  "), (700, 800, "b")])
    found = read(tmp_path, eaf)
    assert (len(found.segments), found.num_empty) == (2, 2)


def test_symbolic_children_have_the_times_of_their_parent(tmp_path):
    eaf = Eaf()
    one, two = eaf.tier("Sentence", [(0, 2000, "S1"), (2000, 3000, "S2")])
    eaf.children("Free", [(two, "Second."), (one, "First.")], parent="Sentence")
    glosses = eaf.children(
        "Signs", [(one, "GO"), (one, "GO"), (one, "HOME"), (two, "EAT")], parent="Sentence"
    )
    eaf.children("Meaning", [(glosses[3], "to eat")], parent="Signs")
    assert segments_of(read(tmp_path, eaf, "Free", "Signs")) == [
        (0, 2000, "First.", "GO GO HOME"),
        (2000, 3000, "Second.", "EAT"),
    ]
    assert segments_of(read(tmp_path, eaf, "Meaning")) == [(2000, 3000, "to eat", "")]
    # Symbolic children share the times of their parent, so they are joined to one text.
    assert segments_of(read(tmp_path, eaf, "Signs"))[0] == (0, 2000, "GO GO HOME", "")


def test_children_are_ordered_by_their_previous_annotation(tmp_path):
    eaf = Eaf()
    (one,) = eaf.tier("text", [(0, 2000, "x")])
    eaf.children("gloss", [(one, "A"), (one, "B"), (one, "C")], reverse=True)
    assert segments_of(read(tmp_path, eaf))[0][3] == "A B C"


def test_subdivided_glosses_without_own_times_are_assigned_to_their_text(tmp_path):
    eaf = Eaf()
    start, a, b, middle, c, end = map(eaf.slot, (0, None, None, 3000, None, 4000))
    eaf.slotted_tier("text", [(start, middle, "one"), (middle, end, "two")])
    glosses = [(start, a, "A"), (a, b, "B"), (b, middle, "C"), (middle, c, "D"), (c, end, "E")]
    eaf.slotted_tier("gloss", glosses, parent="text")
    assert segments_of(read(tmp_path, eaf)) == [
        (0, 3000, "one", "A B C"),
        (3000, 4000, "two", "D E"),
    ]


def test_a_text_without_a_time_is_reported_and_the_time_is_not_guessed(tmp_path):
    eaf = Eaf()
    eaf.tier("text", [(0, 900, "a"), (None, 1200, "b"), (1200, 1500, "c")])
    found = read(tmp_path, eaf)
    assert [segment.text for segment in found.segments] == ["a", "c"]
    assert [reason for _, reason in found.problems] == [
        "its start or its end has no time; align the annotation in ELAN"
    ]


def test_tiers_of_both_hands_are_merged_and_a_two_handed_sign_appears_once(tmp_path):
    eaf = Eaf()
    eaf.tier("text", [(0, 4000, "x")])
    eaf.tier("Gloss R", [(0, 900, "BOOK"), (1000, 1900, "GIVE"), (3000, 3500, "BOOK")])
    eaf.tier("Gloss L", [(50, 880, "BOOK"), (2000, 2500, "YOU")])
    found = read(tmp_path, eaf, "text", "gloss *")
    assert segments_of(found)[0][3] == "BOOK GIVE YOU BOOK"
    assert found.num_loose == 0


def test_glosses_outside_of_every_text_are_counted(tmp_path):
    eaf = Eaf()
    eaf.tier("text", [(0, 1000, "a"), (2000, 3000, "b")])
    eaf.tier("gloss", [(100, 900, "A"), (1200, 1400, "LOST"), (2000, 2900, "B")])
    found = read(tmp_path, eaf)
    assert [gloss for *_, gloss in segments_of(found)] == ["A", "B"] and found.num_loose == 1


def test_each_signer_gets_the_glosses_of_that_signer(tmp_path):
    eaf = Eaf()
    for signer in ("A", "B"):
        eaf.tier(f"Text_{signer}", [(0, 1000, f"of {signer}")], participant=signer)
        eaf.tier(f"Gloss_{signer}", [(100, 900, f"G-{signer}")], participant=signer)
    found = read(tmp_path, eaf, "Text_*", "Gloss_A,Gloss_B")
    assert [tuple(segment)[2:5] for segment in found.segments] == [
        ("of A", "G-A", "A"),
        ("of B", "G-B", "B"),
    ]
    eaf.tier("Gloss_C", [(100, 900, "?")])
    with pytest.raises(
        AnnotationError, match=r"not clear to which of the tiers 'Text_A', 'Text_B'"
    ):
        read(tmp_path, eaf, "Text_*", "Gloss_*")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "not an ELAN file: it is not XML"),
        (b"hello", "not an ELAN file: it is not XML"),
        (b"<html><body/></html>", "its first element is not ANNOTATION_DOCUMENT"),
        (str(Eaf()).encode()[:-30], "not an ELAN file: it is not XML, or it is damaged"),
        (b'<?xml version="1.0" encoding="nonsense"?><a/>', "not an ELAN file"),
        (str(Eaf(units="PAL-frames")).encode(), "its times are in PAL-frames; allowed: milli"),
        (str(Eaf()).encode(), "no annotation with a text in it"),
        (
            b'<!DOCTYPE a [<!ENTITY b "bb"><!ENTITY c "&b;&b;">]><ANNOTATION_DOCUMENT>&c;'
            b"</ANNOTATION_DOCUMENT>",
            "it has a document type declaration, which no ELAN file has",
        ),
        (
            b'<!DOCTYPE a SYSTEM "file:///etc/passwd"><ANNOTATION_DOCUMENT/>',
            "it has a document type declaration",
        ),
    ],
)
def test_a_file_that_is_no_elan_file_is_refused(tmp_path, content, message):
    with pytest.raises(AnnotationError) as caught:
        read(tmp_path, content)
    assert message in str(caught.value) and "a.eaf" in str(caught.value)


def test_a_file_that_is_too_large_is_not_parsed(tmp_path, monkeypatch):
    monkeypatch.setattr(eaf_document, "MAX_BYTES", 100)
    with pytest.raises(AnnotationError, match=r"allowed: at most 100 for an \.eaf file"):
        read(tmp_path, Eaf())


def test_references_in_a_circle_end_in_a_problem(tmp_path):
    eaf = Eaf()
    ids = eaf.children("text", [("a2", "one"), ("a1", "two"), ("a9", "three")])
    assert ids == ["a1", "a2", "a3"]
    found = read(tmp_path, eaf)
    assert found.segments == [] and len(found.problems) == 3


def test_long_chains_and_many_signs_take_seconds(tmp_path):
    eaf = Eaf()
    count = 10_000
    first = eaf.tier("text", [(100 * i, 100 * i + 90, "x") for i in range(count)])[0]
    eaf.tier("gloss", [(100 * i, 100 * i + 80, "G") for i in range(count)])
    eaf.children("chain", [(first, "a"), *((f"a{2 * count + i + 1}", "a") for i in range(count))])
    started = time.process_time()
    found = read(tmp_path, eaf)
    assert [segment.gloss for segment in found.segments] == ["G"] * count
    assert read(tmp_path, eaf, "chain").segments[0].text.count("a") == count + 1
    assert time.process_time() - started < 12


def test_more_tiers_than_allowed_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(eaf_document, "MAX_TIERS", 1)
    eaf = Eaf()
    eaf.tier("a", [(0, 1, "x")])
    eaf.tier("b", [(0, 1, "x")])
    with pytest.raises(AnnotationError, match="more than 1 tiers"):
        read(tmp_path, eaf)


def test_deep_nesting_does_not_end_the_process(tmp_path):
    depth = 200_000
    content = b"<ANNOTATION_DOCUMENT>" + b"<a>" * depth + b"</a>" * depth
    with pytest.raises(AnnotationError, match="no annotation with a text"):
        read(tmp_path, content + b"</ANNOTATION_DOCUMENT>")


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_any_damage_gives_segments_or_an_error(tmp_path, data):
    eaf = Eaf("a.mp4", offset=40)
    (one, two) = eaf.tier("text", [(0, 2000, "x"), (2000, 2500, "y")])
    eaf.children("gloss", [(one, "A"), (two, "B"), (two, "C")])
    content = bytearray(str(eaf).encode())
    for _ in range(data.draw(st.integers(1, 4))):
        place = data.draw(st.integers(0, len(content) - 1))
        content[place : place + data.draw(st.integers(0, 3))] = data.draw(st.binary(max_size=3))
    try:
        found = read(tmp_path, bytes(content))
    except AnnotationError:
        return
    assert all(segment.text for segment in found.segments)
