"""Tests of annotation tables and media folders: a row becomes a clip or a problem with its line."""

import csv
import os
import re
import unicodedata
from pathlib import Path

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from tfds_builders.annotation_files import rows
from tfds_builders.annotation_files.rows import clips_of, read_clip_table
from tfds_builders.annotation_files.tables import AnnotationError, read_table
from tfds_builders.media import MediaFolder

REAL_ANNOTATIONS = Path(__file__).parents[3].parent / "shared" / "annotations"


def table(folder: Path, content: str | bytes, **options):
    """Write `content` to clips.csv and read it as a table of clips."""
    path = folder / "clips.csv"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return read_table(
        path, ("uid", "text"), ("gloss", "signer", "video_id", "split", "start", "end"), **options
    )


def videos(folder: Path, *names: str) -> MediaFolder:
    """Write files of these names below `folder / "v"`; return that folder."""
    for name in names:
        (folder / "v" / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / "v" / name).write_bytes(b"x")
    (folder / "v").mkdir(exist_ok=True)
    return MediaFolder(folder / "v")


@pytest.mark.parametrize("newline", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("delimiter", [",", "\t", ";", "|"])
@pytest.mark.parametrize("mark", ["", "\ufeff"])
def test_delimiters_line_ends_and_byte_order_marks_are_read(tmp_path, newline, delimiter, mark):
    lines = ["UID,Text ,other", 'a-1,"one, two; | three",x', "b,four,y"]
    content = mark + newline.join(line.replace(",", delimiter) for line in lines)
    rows = table(tmp_path, content).rows
    expected = "one, two; | three".replace(",", delimiter)
    assert [(row.line, row.values) for row in rows] == [
        (2, {"uid": "a-1", "text": expected}),
        (3, {"uid": "b", "text": "four"}),
    ]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "the file is empty"),
        (b"uid;sentence\na;b\n", "no column 'text' in the first line; it has 'uid', 'sentence'"),
        (b"uid,texte\na,b\n", "rename 'texte'?"),
        (b"uid,text,text\na,b,c\n", "the column 'text' is 2 times"),
        ("uid,text\na,b\n".encode("utf-16-le"), "not a UTF-8 text file"),
        ("uid,text\na,b\n".encode("utf-16")[:-1], "the file is damaged"),
        (
            b"PK\x03\x04" + bytes(500),
            "a spreadsheet, not a text file; in Excel or LibreOffice save",
        ),
        (b"\xd0\xcf\x11\xe0\xa1\xb1" + bytes(500), "a spreadsheet, not a text file"),
        (b"\0\0\0\x18ftypmp42" + bytes(500), "not a UTF-8 text file"),
    ],
)
def test_an_unusable_table_is_an_error_with_the_reason(tmp_path, content, message):
    with pytest.raises(AnnotationError) as caught:
        table(tmp_path, content)
    assert message in str(caught.value)
    assert "clips.csv" in str(caught.value)


EXCEL = "uid;text;start;end\r\na;Grün;0,5;1,25\r\nb;two;00:01:02,5;1:03.75;;\r\n;;;\r\n"


@pytest.mark.parametrize(
    ("content", "encoding"),
    [
        (EXCEL.encode(), None),
        (EXCEL.encode("utf-8-sig"), None),
        (EXCEL.encode("utf-16"), None),
        (("\ufeff" + EXCEL).encode("utf-16-be"), None),
        (EXCEL.encode("utf-16-le"), "utf-16-le"),
        (EXCEL.encode("cp1252"), "cp1252"),
        (EXCEL.encode("utf-8-sig"), "cp1252"),  # the byte order mark wins over the option
        (EXCEL.replace(";", "\t").encode("utf-16"), None),
        (f"sep=;\r\n{EXCEL}".encode(), None),
        (f'"SEP=;"\r\n{EXCEL}'.encode("utf-16"), None),
        (f"sep=^\r\n{EXCEL.replace(';', '^')}".encode(), None),
    ],
)
def test_tables_that_excel_writes_are_read(tmp_path, content, encoding):
    found = clips_of(
        table(tmp_path, content, encoding=encoding), videos(tmp_path, "a.mp4", "b.mp4")
    )
    has_separator_line = b"sep" in content[:20].replace(b"\0", b"").lower()  # UTF-16 has NULs
    first_line = 3 if has_separator_line else 2
    assert [(clip.text, clip.start, clip.end, clip.line) for clip in found.clips] == [
        ("Grün", 0.5, 1.25, first_line),
        ("two", 62.5, 63.75, first_line + 1),
    ]
    assert found.problems == [] and found.notes == []


def test_lines_below_a_separator_line_are_counted_from_the_top(tmp_path):
    found = table(tmp_path, 'sep=,\nuid,text\na,one\nb,\nc,"open\n')
    assert [(problem.line, problem.reason.split(" (")[0]) for problem in found.problems] == [
        (4, "no text"),
        (5, "line 5 cannot be parsed"),
    ]
    with pytest.raises(AnnotationError, match=r"lines 4 to 5: the quotation mark .* in line 4"):
        table(tmp_path, 'sep=,\nuid,text\na,one\nb,"two\nc,three"\nd,x\n')


def test_rows_in_another_encoding_come_with_advice(tmp_path):
    found = clips_of(
        table(tmp_path, "uid,text\na,Grün\nb,blau\n".encode("cp1252")),
        videos(tmp_path, "a.mp4", "b.mp4"),
    )
    assert [problem.reason for problem in found.problems] == ["text is not UTF-8"]
    assert "--encoding=cp1252 is that of Excel for Windows" in found.notes[0]
    with pytest.raises(
        AnnotationError, match="--encoding is 'base64'; allowed: the name of a text"
    ):
        table(tmp_path, "uid,text\na,b\n", encoding="base64")


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("1.5", 1.5),
        ("1,5", 1.5),
        ("0:01,5", 1.5),
        ("00:00:01.500", 1.5),
        ("2:03:04.25", 7384.25),
        ("90:00", 5400.0),
        ("1:60", None),
        ("1:60:00", None),
        ("1:2:3:4", None),
        ("-1:00", None),
        ("1,234.5", None),
        ("nan", None),
        ("1s", None),
    ],
)
def test_times_are_seconds_or_clock_times(text, seconds):
    if seconds is not None:
        assert rows.times(text, "1e6") == (seconds, 1e6)
        return
    with pytest.raises(LookupError, match=r"start is .*; allowed: seconds >= 0, or nothing"):
        rows.times(text, "1e6")


def test_a_time_beyond_every_recording_is_refused_with_the_limit():
    with pytest.raises(LookupError, match=r"end is '2e7'; allowed: less than 10,000,000 seconds"):
        rows.times("0", "2e7")


def test_missing_tables_and_folders_are_errors(tmp_path):
    with pytest.raises(AnnotationError, match="No such file"):
        read_table(tmp_path / "none.csv", ("uid",))
    with pytest.raises(AnnotationError, match="no such folder"):
        MediaFolder(tmp_path / "none")
    with pytest.raises(AnnotationError, match="no row below the header"):
        clips_of(table(tmp_path, "uid,text\n"), videos(tmp_path))


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b"a,", "no text"),
        (b"a", "no text"),
        (b",hello", "no uid"),
        (b"a,hello, world", "3 fields where the header has 2"),
        (b"a,he\0llo", "a NUL character in text"),
        (b"a,\xff\xfe", "text is not UTF-8"),
        (b"a," + b"x" * 10_000_000, "text has 10000000 characters"),
        (b'a,"one" two', "a quotation mark is not closed or not doubled"),
    ],
)
def test_a_bad_row_is_reported_and_the_others_are_read(tmp_path, line, reason):
    found = table(tmp_path, b"uid,text\nb,first\n" + line + b"\nc,last\n")
    assert [row.values["uid"] for row in found.rows] == ["b", "c"]
    assert [(problem.line, problem.file) for problem in found.problems] == [
        (3, str(tmp_path / "clips.csv"))
    ]
    assert reason in found.problems[0].reason


# Name -> content (with commas), first and last line of the long text, number of swallowed rows.
SWALLOWED = {
    "closed by a mark within a later text": (
        'uid,text\nc1,"Hello\nc2,Good morning\nc3,He is 5 feet 11"\nc4,Good night\n',
        2,
        4,
        2,
    ),
    "one row": ('uid,text\nc1,"Hello\nc2,Good morning"\nc4,Good night\n', 2, 3, 1),
    "never closed": ('uid,text\na,one\nb,"two\nc,three\nd,four\n', 3, 5, 2),
    "not closed before the next mark": (
        'uid,text\na,one\nb,"two\nc,"three, or so"\nd,four\n',
        3,
        4,
        1,
    ),
    "blank lines between the rows": ('uid,text\nc1,"Hello\n\nc2,Good\n\nc3,feet 11"\n', 2, 6, 2),
    "in the middle of more columns": (
        'uid,text,gloss\nc1,"Hello,HI\nc2,Good,GOOD\nc3,5 feet 11",FEET\n',
        2,
        4,
        2,
    ),
    "the text before the name": ('text,uid\n"Hello,c1\nGood,c2\nfive feet 11",c3\n', 2, 4, 2),
    "600 rows and a bad one": (
        'uid,text\nc1,"Hello\n'
        + "".join(f"x{i},number {i}{',' * (i == 7)}\n" for i in range(600))
        + 'x600,end"\n',
        2,
        603,
        600,
    ),
    "rows without the last column": (
        'uid,text,gloss\nc1,"Hello\n' + "".join(f"x{i},no {i}\n" for i in range(9)) + 'x9,end"\n',
        2,
        12,
        10,
    ),
}


@pytest.mark.parametrize("delimiter", [",", "\t", ";"])
@pytest.mark.parametrize("name", SWALLOWED)
def test_a_quotation_mark_that_swallows_rows_is_an_error(tmp_path, name, delimiter):
    content, first, last, count = SWALLOWED[name]
    with pytest.raises(AnnotationError) as caught:
        table(tmp_path, content.replace(",", delimiter))
    assert (
        f"clips.csv, lines {first} to {last}: the quotation mark that opens in line {first}"
        in str(caught.value)
    )
    assert f"{count} rows after it" in str(caught.value)


QUOTED_TEXTS = [
    'c1,"line one\nline two",x\n',
    'c1,"Well, yes.\nGood, thanks.\nAnd you, my friend?",x\n',
    'c1,"Twinkle, twinkle, little star,\nHow I wonder what you are,\n'
    'Up above the world so high,\nLike a diamond in the sky.",x\n',
    'c1,"first\n\nsecond, with ""marks"" in it\n",x\n',
    'c1,"1. one\n2. two\n3. three\n4. four\n5. five",x\n',
]


@pytest.mark.parametrize("row", QUOTED_TEXTS)
@pytest.mark.parametrize("columns", ["uid,text,signer", "uid,text", "text,uid"])
def test_a_quoted_text_may_have_several_lines(tmp_path, row, columns):
    uid, after_uid = row.split(",", 1)
    text = after_uid.rpartition(",")[0]
    lines = {"uid,text,signer": row, "uid,text": f"{uid},{text}\n", "text,uid": f"{text},{uid}\n"}
    line = lines[columns]
    found = table(tmp_path, f"{columns}\n{line}" + (line.replace("c1", "c2")))
    assert [r.values["uid"] for r in found.rows] == ["c1", "c2"]
    assert found.rows[0].values["text"] == text[1:-1].replace('""', '"').strip()
    assert not found.problems


def test_a_quoted_text_in_another_script_may_have_several_lines(tmp_path):
    found = table(tmp_path, 'uid,text\nc1,"你好\n我叫小明,很高兴\n再见,朋友"\n')
    assert [row.values["text"] for row in found.rows] == ["你好\n我叫小明,很高兴\n再见,朋友"]


def test_lines_are_counted_through_quoted_line_breaks(tmp_path):
    found = table(tmp_path, 'uid,text\na,"one\ntwo"\n\nb,\nc,three\n')
    assert [(row.line, row.values["uid"]) for row in found.rows] == [(2, "a"), (6, "c")]
    assert [problem.line for problem in found.problems] == [5]


def test_columns_can_have_other_names(tmp_path):
    path = tmp_path / "clips.csv"
    path.write_text("Satz;gloss;Name;text\nGuten Tag;x;a;GUTEN TAG\n", encoding="utf-8")
    column_names = {
        "uid": "name",
        "text": "SATZ",
        "gloss": "text",
        "video_id": "Name",
        "signer": None,
    }
    (row,) = read_clip_table(path, column_names=column_names).rows
    assert row.values == {"uid": "a", "text": "Guten Tag", "gloss": "GUTEN TAG", "video_id": "a"}
    assert read_clip_table(path, column_names={"uid": "Name", "text": "gloss"}).rows[0].values == {
        "uid": "a",
        "text": "x",
    }


@pytest.mark.parametrize(
    ("column_names", "message"),
    [
        (
            {},
            "no column 'uid' in the first line; it has 'Name', 'Satz', 'Glosse'. "
            "--uid_column=NAME says which of them is the uid",
        ),
        ({"uid": "Name"}, "--text_column=NAME says which of them is the text"),
        ({"uid": "Name", "text": "Sats"}, "--text_column is 'Sats'; did you mean 'Satz'?"),
        ({"uid": "Name", "text": "xyz"}, "--text_column is 'xyz'; allowed: one of those"),
        ({"uid": "Name", "text": "Satz", "gloss": "glos"}, "no column 'glos' in the first line"),
        ({"uid": "Name", "text": "Satz", "signer": "who"}, "--signer_column is 'who'"),
    ],
)
def test_the_error_of_a_missing_column_lists_the_others(tmp_path, column_names, message):
    (tmp_path / "clips.csv").write_text("Name,Satz,Glosse\na,b,c\n")
    with pytest.raises(AnnotationError) as caught:
        read_clip_table(tmp_path / "clips.csv", column_names=column_names)
    assert message in str(caught.value)


def test_a_clip_of_rest_is_marked_and_an_empty_text_is_not(tmp_path):
    path = tmp_path / "clips.csv"
    path.write_text("uid,text,gloss\na,<rest>,\nb,<REST>,<rest>\nc,,\nd,I rest <rest> here.,X\n")
    found = clips_of(read_clip_table(path), videos(tmp_path, "a.mp4", "b.mp4", "c.mp4", "d.mp4"))
    assert [(clip.id, clip.text, clip.gloss) for clip in found.clips] == [
        ("a", "", ""),
        ("b", "", ""),
        ("d", "I rest <rest> here.", "X"),
    ]
    assert [(p.line, p.reason) for p in found.problems] == [
        (4, "no text; a clip in which nobody signs has the text <rest>")
    ]


def test_placeholders_of_missing_values_are_kept_and_noted(tmp_path):
    found = clips_of(
        table(tmp_path, "uid,text\na,nan\nb,N/A\nc,Nanna\n"),
        videos(tmp_path, "a.mp4", "b.mp4", "c.mp4"),
    )
    assert [clip.text for clip in found.clips] == ["nan", "N/A", "Nanna"]
    (note,) = found.notes
    assert note.startswith(
        "2 clips have a text that programs write for missing values, such as 'nan' in line 2"
    )


def test_only_the_case_of_an_extension_is_ignored(tmp_path):
    media = videos(
        tmp_path, "CAM001.MP4", "deep/take.mp4", "aBc.mp4", "abc.mp4", "old.mpg", "._CAM001.MP4"
    )
    assert media.find("CAM001.mp4") == media.find("CAM001") == str(tmp_path / "v" / "CAM001.MP4")
    # Ids may differ only in case.
    assert media.find("aBc.MP4").endswith("aBc.mp4") and media.find("abc").endswith("abc.mp4")
    for name, hint in [
        (
            "cam001",
            "; there is CAM001.MP4, which differs in upper and lower case: "
            "write the name as the file has it",
        ),
        ("cam001.mp4", "; there is CAM001.MP4, which differs"),
        ("take", "; there is deep/take.mp4: write the folder too"),
        ("old", "; there is old.mpg, in a format that is not read: convert it"),
        ("old.mp4", "; there is old.mpg, in a format that is not read"),
        ("other", "v"),
    ]:
        with pytest.raises(LookupError) as caught:
            media.find(name)
        assert hint in str(caught.value) and str(caught.value).startswith(f"no video {name}")
    assert len(media) == 4
    (note,) = media.notes
    assert note.startswith("1 files named ._* in ")


def test_clips_have_all_values_of_the_table(tmp_path):
    content = (
        "uid,text,gloss,signer,video_id,split,start,end\na-1,Hi.,HI  YOU,ann,rec,dev,1.5,2\n"
        "b,Yo.,,,,TEST,,\nrec-x,Cut.,,,rec,train,0.25,\n"
    )
    clips = clips_of(
        table(tmp_path, content), videos(tmp_path, "a-1.mp4", "b.MOV", "rec.webm")
    ).clips
    first, second, third = clips
    assert (first.id, first.text, first.gloss, first.signer, first.source_video, first.split) == (
        "a-1",
        "Hi.",
        "HI YOU",
        "ann",
        "rec",
        "validation",
    )
    assert (first.start, first.end, first.line) == (1.5, 2.0, 2)
    assert (
        second.split,
        second.source_video,
        second.start,
        second.end,
        Path(second.path).name,
    ) == ("test", "b", -1, -1, "b.MOV")
    assert (Path(third.path).name, third.start, third.end) == ("rec.webm", 0.25, -1)


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ("none,x,train,,", "no video none"),
        ("../out,x,train,,", "leaves the folder"),
        ("/etc/passwd,x,train,,", "leaves the folder"),
        ("sub/../../out,x,train,,", "leaves the folder"),
        ("link,x,train,,", "symbolic link that leaves the folder"),
        ("linked/out,x,train,,", "symbolic link that leaves the folder"),
        ("good,x,train,,", "twice; first in line 2"),
        ("good.mp4,x,train,,", "twice; first in line 2"),
        ("other,x,nowhere,,", "split is 'nowhere'; allowed: train"),
        ("other,x,,,", "split is ''"),
        ("other,x,train,2,1", "the end must come after the start"),
        ("other,x,train,nan,1", "start is 'nan'"),
        ("other,x,train,-3,1", "start is '-3'"),
        ("other,x,train,one,1", "start is 'one'"),
    ],
)
def test_an_unusable_row_is_a_problem_with_file_and_line(tmp_path, row, reason):
    (tmp_path / "out.mp4").write_bytes(b"x")
    media = videos(tmp_path, "good.mp4", "other.mp4")
    (tmp_path / "v" / "link.mp4").symlink_to(tmp_path / "out.mp4")
    (tmp_path / "v" / "linked").symlink_to(tmp_path, target_is_directory=True)
    found = clips_of(table(tmp_path, f"uid,text,split,start,end\ngood,x,train,,\n{row}\n"), media)
    assert [clip.id for clip in found.clips] == ["good"]
    assert [(problem.line, Path(problem.file).name) for problem in found.problems] == [
        (3, "clips.csv")
    ]
    assert reason in found.problems[0].reason


def test_files_are_found_with_and_without_extension(tmp_path):
    composed, decomposed = unicodedata.normalize("NFC", "é"), unicodedata.normalize("NFD", "é")
    media = videos(
        tmp_path,
        "a.webm",
        "a.mp4",
        "sub/b.mkv",
        "v1.2.mp4",
        f"{decomposed}.mp4",
        "%d.gif",
        "-x.mp4",
        "notes.txt",
    )
    (tmp_path / "v" / "inside.mp4").symlink_to(tmp_path / "v" / "a.mp4")
    for name, file in [
        ("a", "a.mp4"),
        ("a.webm", "a.webm"),
        ("sub/b", "sub/b.mkv"),
        ("./sub//b", "sub/b.mkv"),
        ("v1.2", "v1.2.mp4"),
        ("%d", "%d.gif"),
        ("-x", "-x.mp4"),
    ]:
        assert media.find(name) == str(tmp_path / "v" / file)
    assert media.find(composed) == media.find(decomposed)
    assert MediaFolder(tmp_path / "v").find("inside")
    assert len(media) == 7
    with pytest.raises(LookupError):
        media.find("notes.txt")


def test_a_cyclic_link_is_not_followed(tmp_path):
    videos(tmp_path, "a.mp4")
    (tmp_path / "v" / "again").symlink_to(tmp_path / "v", target_is_directory=True)
    assert len(MediaFolder(tmp_path / "v")) == 1


words = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=20)


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.lists(st.tuples(words, words), max_size=8), st.sampled_from([",", "\t", ";"]))
def test_every_row_of_the_csv_module_is_read_or_reported(tmp_path, rows, delimiter):
    path = tmp_path / "clips.csv"
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, delimiter=delimiter)
        writer.writerows([("uid", "text"), *rows])
    # A line break and a delimiter in one text look like a forgotten quotation mark: refused.
    assume(not any(delimiter in text and re.search("[\r\n]", text) for row in rows for text in row))
    found = read_table(path, ("uid", "text"))
    complete = [(uid.strip(), text.strip()) for uid, text in rows if uid.strip() and text.strip()]
    blank = sum(not uid.strip() and not text.strip() for uid, text in rows)
    assert [(row.values["uid"], row.values["text"]) for row in found.rows] == complete
    assert len(found.problems) == len(rows) - len(complete) - blank


@settings(
    max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.binary(max_size=300))
def test_any_bytes_below_a_header_give_rows_or_problems(tmp_path, content):
    try:
        found = table(tmp_path, b"uid,text\n" + content)
    except AnnotationError as error:
        assert "quotation mark" in str(error)
        return
    listed = clips_of(found, videos(tmp_path)) if found.rows or found.problems else None
    assert listed is None or not listed.clips
    assert listed is None or len(listed.problems) == len(found.rows) + len(found.problems)


@pytest.mark.skipif(
    not REAL_ANNOTATIONS.is_dir(), reason="there are no real annotation files in ../shared"
)
@pytest.mark.parametrize(
    ("name", "columns", "count"),
    [
        ("isign_v1.1_head.csv", ("uid", "text"), 15),
        (
            "how2sign_realigned_test.csv",
            ("SENTENCE_NAME", "SENTENCE", "VIDEO_NAME", "START_REALIGNED", "END_REALIGNED"),
            2357,
        ),
        ("PHOENIX-2014-T.dev.corpus.csv", ("name", "translation"), 519),
        ("csl_daily_split_1.txt", ("name", "split"), 20654),
        ("include50_test.csv", ("Word", "FilePath"), 192),
    ],
)
def test_real_tables_are_read_without_loss(name, columns, count):
    found = read_table(REAL_ANNOTATIONS / name, columns)
    assert len(found.rows) == count
    assert not found.problems


def test_a_folder_of_many_files_is_listed_fast(tmp_path):
    root = tmp_path / "v"
    root.mkdir()
    for i in range(2000):
        os.close(os.open(root / f"v{i // 10}-{i % 10}.mp4", os.O_CREAT))
    media = MediaFolder(root)
    assert len(media) == 2000
    assert media.find("v7-3").endswith("v7-3.mp4")
