"""Tests of all parsers on hostile annotations: a row becomes a clip or a problem with its line."""

import unicodedata
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from tfds_builders.annotation_files.tables import AnnotationError, read_table
from tfds_builders.clips import ClipTable
from tfds_builders.csl_daily import csl_daily_dataset_builder as csl_daily
from tfds_builders.how2sign import how2sign_dataset_builder as how2sign
from tfds_builders.include import include_dataset_builder as include
from tfds_builders.media import ImageFolders, MediaFolder
from tfds_builders.phoenix14t import phoenix14t_dataset_builder as phoenix14t

LABELS = {"good": csl_daily.Label("x", "X", "1"), "empty": csl_daily.Label("", "", "1")}


def parse(name: str, root: Path, content: bytes) -> tuple[ClipTable, int]:
    """Parse `content` below the header of builder `name`; also return the number of table rows."""
    header, arguments = {
        "phoenix14t": (
            b"name|orth|translation",
            {
                "required": ("name", "translation"),
                "optional": ("orth",),
                "delimiters": "|",
                "quoted": False,
            },
        ),
        "csl_daily": (b"name|split", {"required": ("name", "split"), "delimiters": "|"}),
        "how2sign": (
            "\t".join(how2sign.COLUMNS).encode(),
            {"required": how2sign.COLUMNS, "delimiters": "\t"},
        ),
        "include": (b"Word,FilePath", {"required": ("Word", "FilePath"), "delimiters": ","}),
    }[name]
    path = root / "table.csv"
    path.write_bytes(header + b"\n" + content)
    table = read_table(path, **arguments)
    parsers = {
        "phoenix14t": lambda: phoenix14t.parse({"dev": table}, ImageFolders(root / "media")),
        "csl_daily": lambda: csl_daily.parse(table, LABELS, ImageFolders(root / "media" / "dev")),
        "how2sign": lambda: how2sign.parse(
            {"test": table}, MediaFolder(root / "media", (".mp4",), by_name=True)
        ),
        "include": lambda: include.parse({"test": table}, MediaFolder(root / "media")),
    }
    return parsers[name](), len(table.rows) + len(table.problems)


BUILDER_NAMES = ("phoenix14t", "csl_daily", "how2sign", "include")


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("hostile")
    for folder in ("good", "empty", unicodedata.normalize("NFD", "é")):
        (root / "media" / "dev" / folder).mkdir(parents=True)
        (root / "media" / "dev" / folder / "1.png").write_bytes(b"x")
    (root / "outside").mkdir()
    (root / "outside" / "1.png").write_bytes(b"x")
    (root / "outside" / "secret.mp4").write_bytes(b"x")
    (root / "media" / "dev" / "link").symlink_to(root / "outside", target_is_directory=True)
    (root / "media" / "good.mp4").write_bytes(b"x")
    (root / "media" / "linked.mp4").symlink_to(root / "outside" / "secret.mp4")
    return root


ROWS = {
    "phoenix14t": "{name}|G|text",
    "csl_daily": "{name}|train",
    "how2sign": "{name}\ttext\t{name}\t1\t2",
    "include": "4. Word,{name}",
}


@pytest.mark.parametrize("name", BUILDER_NAMES)
@pytest.mark.parametrize(
    "bad",
    [
        "../outside",
        "/etc",
        "link",
        "linked",
        "..",
        "a/../../outside",
        "nowhere",
        "x" * 10_000_000,
        "%d",
        "-",
        "a\0b",
    ],
)
def test_a_name_that_leads_outside_is_a_problem(root, name, bad):
    rows = f"{ROWS[name].format(name='good')}\r\n{ROWS[name].format(name=bad)}\r\n"
    found, _ = parse(name, root, rows.encode())
    assert [clip.id for clip in found.clips] == ["good"]
    assert [(problem.line, problem.file) for problem in found.problems] == [
        (3, str(root / "table.csv"))
    ]


@pytest.mark.parametrize("name", BUILDER_NAMES)
def test_a_repeated_id_and_an_empty_label_are_problems(root, name):
    row = ROWS[name].format(name="good")
    empty = {
        "phoenix14t": "empty|G|",
        "csl_daily": "empty|train",
        "how2sign": "empty\t\tgood\t1\t2",
        "include": ",good.mp4",
    }[name]
    found, _ = parse(name, root, f"{row}\n{row}\n{empty}\n".encode())
    assert len(found.clips) == 1
    assert [problem.line for problem in found.problems] == [3, 4]
    assert "twice; first in line 2" in found.problems[0].reason


@pytest.mark.parametrize("form", ["NFC", "NFD"])
def test_names_are_found_in_either_normal_form(root, form):
    found, _ = parse("phoenix14t", root, unicodedata.normalize(form, "é|G|text\n").encode())
    assert len(found.clips) == 1


table_pieces = st.sampled_from(
    [
        "good",
        "|",
        "\t",
        ",",
        "\n",
        "\r\n",
        '"',
        "../",
        "/",
        "\0",
        "é",
        "1",
        "-1",
        "nan",
        "train",
        "dev",
        "link",
        " ",
        "4. Word",
        "\ufeff",
    ]
)
hostile_contents = st.one_of(
    st.binary(max_size=200),
    st.lists(table_pieces, max_size=40).map(lambda parts: "".join(parts).encode()),
)


# The two reasons to refuse a whole table: no row, or a quotation mark that swallows rows.
REFUSED = ("no row below the header", "would be part of one text")


@pytest.mark.parametrize("name", BUILDER_NAMES)
@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(content=hostile_contents)
@example(content=b'"\n\x00,\x00')
def test_no_row_is_dropped_and_no_clip_is_outside(root, name, content):
    try:
        found, rows = parse(name, root, content)
    except AnnotationError as error:
        assert any(reason in str(error) for reason in REFUSED)
        return
    assert len(found.clips) + len(found.problems) == rows
    assert all(problem.file and problem.line >= 2 and problem.reason for problem in found.problems)
    assert all(
        Path(clip.path).resolve().is_relative_to((root / "media").resolve()) for clip in found.clips
    )
    assert len({clip.id for clip in found.clips}) == len(found.clips)
