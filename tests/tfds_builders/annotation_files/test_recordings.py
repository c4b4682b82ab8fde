"""Tests of long videos with ELAN or subtitle files, whose annotations become clips."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import tensorflow_datasets as tfds

from tests.helpers.clip_makers import encode, shades
from tests.helpers.eaf import Eaf
from tests.helpers.tiny_run import command
from tfds_builders import build
from tfds_builders.annotation_files.recordings import Videos, elan_clips, subtitle_clips
from tfds_builders.annotation_files.tables import AnnotationError
from tfds_builders.base import BuildError
from tfds_builders.clips import ClipTable
from tfds_builders.video_folder.video_folder_dataset_builder import Builder

# Options of libx264; "g" is the interval of key frames.
LOSSLESS = {"qp": "0", "g": "12", "preset": "ultrafast"}
TEXTS = {"clip-a": "one, two", "clip-b": "Grün & <blau>", "clip-c": "three words here"}


def make_video_files(folder: Path, *names: str) -> Path:
    """Write files of these names, without video content, into `folder / "v"`; return it."""
    for name in names:
        path = folder / "v" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")
    (folder / "v").mkdir(exist_ok=True)
    return folder / "v"


def write_eaf(path: Path, *links: str, texts: tuple[str, ...] = ("one",), **options) -> Path:
    """Write an ELAN file with links to videos, and with one text per second from 0 s on."""
    file = Eaf(*links, **options)
    file.tier("text", [(1000 * i, 1000 * i + 900, text) for i, text in enumerate(texts)])
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(str(file), encoding="utf-8")
    return path


def write_vtt(path: Path, *texts: str) -> Path:
    """Write a subtitle file with one text per second from 0 s on."""
    cues = [f"00:0{i}.000 --> 00:0{i}.900\n{text}\n" for i, text in enumerate(texts)]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("WEBVTT\n\n" + "\n".join(cues), encoding="utf-8")
    return path


def clips_of(table: ClipTable, root: Path) -> list[tuple[str, str, str]]:
    """Return (id, text, path below `root`) of each clip."""
    return [
        (clip.id, clip.text, str(Path(clip.path or "").relative_to(root))) for clip in table.clips
    ]


def reasons(table: ClipTable) -> list[str]:
    """Return why each annotation without a clip has none."""
    return [problem.reason for problem in table.problems]


def draw_videos(folder: Path) -> None:
    """Write three short videos with a table, and the same frames as one long video.

    The long video has a .eaf, a .vtt and a .srt file.
    """
    (folder / "single").mkdir()
    (folder / "long").mkdir()
    noise = np.random.default_rng(0)
    images, spans = [], []
    for number, (name, text) in enumerate(TEXTS.items()):
        frames = [
            (image + noise.integers(0, 9, image.shape)).astype(np.uint8)
            for image in shades(7 + 2 * number)
        ]
        encode(folder / "single" / f"{name}.mp4", frames, fps=10, options=LOSSLESS)
        start = 100 * len(images)  # milliseconds: 10 frames per second
        spans.append((start, start + 100 * len(frames), text))
        images += frames
    encode(folder / "long" / "talk.mp4", images, fps=10, options=LOSSLESS)
    rows = "".join(f'{name},"{text}"\n' for name, text in TEXTS.items())
    (folder / "clips.csv").write_text(f"uid,text\n{rows}", encoding="utf-8")
    file = Eaf("./talk.mp4")
    file.tier("Translation", spans)
    (folder / "long" / "talk.eaf").write_text(str(file), encoding="utf-8")
    cues = [
        f"00:0{start / 1000:.3f} --> 00:0{end / 1000:.3f}\n"
        + text.replace("&", "&amp;").replace("<", "&lt;")
        for start, end, text in spans
    ]
    (folder / "long" / "talk.en.vtt").write_text("WEBVTT\n\n" + "\n\n".join(cues))
    lines = [f"{number}\n{cue}\n" for number, cue in enumerate(cues, 1)]
    (folder / "talk.srt").write_text("\n".join(lines).replace(".", ","))


def test_annotations_of_a_long_video_give_the_same_clips_as_short_videos(tmp_path):
    draw_videos(tmp_path)
    long = tmp_path / "long"
    options_of = {
        "table": [f"--csv={tmp_path / 'clips.csv'}", f"--videos={tmp_path / 'single'}"],
        "eaf": [f"--eaf={long}", f"--videos={long}"],
        "vtt": [f"--subtitles={long}", f"--videos={long}"],
        "srt": [f"--subtitles={tmp_path / 'talk.srt'}", f"--videos={long / 'talk.mp4'}"],
    }
    stored = {}
    for kind, options in options_of.items():
        data_dir = tmp_path / "data" / kind
        split_options = ["--val_fraction=0", "--test_fraction=0", "--workers=1"]
        flags = [f"--data_dir={data_dir}", *split_options, *options]
        assert command(build.main, "video_folder", *flags) == 0
        source = tfds.builder_from_directory(data_dir / "video_folder" / "1.0.0").as_data_source()
        stored[kind] = [
            (r["text"].decode(), float(r["fps"]), list(r["video"])) for r in source["train"]
        ]
    assert [(text, fps, len(video)) for text, fps, video in stored["table"]] == [
        (text, 10.0, count) for text, count in zip(TEXTS.values(), (7, 9, 11))
    ]
    assert stored["eaf"] == stored["table"]
    assert stored["vtt"] == stored["table"]
    assert stored["srt"] == stored["table"]
    report = json.loads((tmp_path / "data/eaf/video_folder/1.0.0/build_report.json").read_text())
    assert report["sources"].keys() == {"eaf", "videos"}


def test_a_clip_is_named_by_its_video_and_its_times(tmp_path):
    root = make_video_files(tmp_path, "sub/talk.mp4")
    file = Eaf("talk.mp4")
    file.tier("A", [(0, 900, "a"), (1234, 5678, "b")], "Ann")
    file.tier("B", [(0, 900, "c")], "Ben")
    (root / "sub" / "talk.eaf").write_text(str(file))
    table = elan_clips(root, Videos(root), "A,B")
    assert clips_of(table, root) == [
        ("sub/talk-00000000-00000900", "a", "sub/talk.mp4"),
        ("sub/talk-00000000-00000900-2", "c", "sub/talk.mp4"),
        ("sub/talk-00001234-00005678", "b", "sub/talk.mp4"),
    ]
    last = table.clips[-1]
    assert (last.start, last.end, last.video_id, last.signer) == (1.234, 5.678, "sub/talk", "Ann")
    assert [clip.signer for clip in table.clips] == ["Ann", "Ben", "Ann"]


@pytest.mark.parametrize(
    ("links", "files", "expected"),
    [
        (["./front.mp4"], ["front.mp4", "talk.mp4"], "front.mp4"),
        (["C:\\data\\front.mp4"], ["front.webm"], "front.webm"),
        (["my%20film.mov"], ["my film.mov"], "my film.mov"),
        (["../media/front.mp4"], ["deep/down/front.mp4"], "deep/down/front.mp4"),
        (["../../../../etc/talk.mp4"], ["talk.mp4"], "talk.mp4"),
        (["gone.mp4"], ["talk.mp4"], "talk.mp4"),
        (["talk.wav", "side.mp4"], ["side.mp4", "talk.mp4"], "side.mp4"),
        (["old.mpg"], ["old.mp4"], "old.mp4"),
        ([], ["x/talk.mp4"], "x/talk.mp4"),
    ],
)
def test_the_video_of_an_elan_file_is_found(tmp_path, links, files, expected):
    root = make_video_files(tmp_path, *files)
    write_eaf(tmp_path / "talk.eaf", *links)
    table = elan_clips(tmp_path / "talk.eaf", Videos(root))
    assert [path for *_, path in clips_of(table, root)] == [expected]


def test_a_link_relative_to_the_elan_file_decides_between_equal_names(tmp_path):
    root = make_video_files(tmp_path, "media/front.mp4", "other/front.mp4")
    write_eaf(root / "eaf" / "talk.eaf", "../media/front.mp4")
    ((*_, path),) = clips_of(elan_clips(root, Videos(root)), root)
    assert path == "media/front.mp4"
    write_eaf(root / "eaf" / "talk.eaf", "front.mp4")
    (reason,) = reasons(elan_clips(root, Videos(root)))
    assert "two videos of that name" in reason and "talk.eaf names front.mp4" in reason


def test_the_time_origin_of_a_video_shifts_its_clips(tmp_path):
    root = make_video_files(tmp_path, "a.mp4")
    write_eaf(root / "a.eaf", "a.mp4", offset=2500, texts=("one", "two"))  # milliseconds
    clips = elan_clips(root, Videos(root)).clips
    # The ids have the times of the annotations, the clips those of the video.
    assert [(clip.id, clip.start, clip.end) for clip in clips] == [
        ("a-00000000-00000900", 2.5, 3.4),
        ("a-00001000-00001900", 3.5, 4.4),
    ]


def test_unused_cameras_and_annotations_are_reported(tmp_path):
    root = make_video_files(tmp_path, "front.mp4", "side.mp4")
    file = Eaf("front.mp4", "side.mp4")
    file.tier("text", [(0, 900, "a"), (900, 950, ""), (1000, 1000, "no length")])
    file.tier("gloss", [(0, 800, "A"), (2000, 2100, "LOST")])
    (root / "talk.eaf").write_text(str(file))
    table = elan_clips(root, Videos(root))
    notes = "\n".join(table.notes)
    assert "1 annotations without text are left out, as in" in notes
    assert "1 glosses overlap no text in time and are left out" in notes
    assert "1 ELAN files name several videos that are there; the first is taken" in notes
    assert reasons(table) == ["end is 1 s, start 1 s; the end must come after the start"]
    assert table.problems[0].line > 0 and table.problems[0].id == "front-00001000-00001000"


def test_a_damaged_file_is_a_problem_in_a_folder_and_an_error_alone(tmp_path):
    root = make_video_files(tmp_path, "a.mp4", "b.mp4")
    write_eaf(root / "a.eaf", "a.mp4")
    (root / "b.eaf").write_text("damaged")
    table = elan_clips(root, Videos(root))
    assert len(table.clips) == 1 and "not an ELAN file" in reasons(table)[0]
    with pytest.raises(AnnotationError, match="not an ELAN file"):
        elan_clips(root / "b.eaf", Videos(root))


def test_a_missing_video_is_a_problem_of_each_text(tmp_path):
    root = make_video_files(tmp_path, "a.mp4")
    write_eaf(root / "a.eaf", "a.mp4")
    write_eaf(root / "b.eaf", "b.mp4", texts=("one", "two"))
    table = elan_clips(root, Videos(root))
    assert len(table.clips) == 1 and len(table.problems) == 2
    for reason in reasons(table):
        assert reason.startswith("no video b{.mp4,") and "b.eaf names b.mp4" in reason


def test_two_annotation_files_for_one_video_are_reported(tmp_path):
    root = make_video_files(tmp_path, "a.mp4")
    for name in ("first", "second"):
        write_eaf(root / f"{name}.eaf", "a.mp4")
    table = elan_clips(root, Videos(root))
    assert [clip.id for clip in table.clips] == ["a-00000000-00000900", "a-00000000-00000900-2"]
    assert "1 annotation files are for a video that another one is for too" in table.notes[0]


def test_a_single_annotation_file_belongs_to_a_single_video(tmp_path):
    """Whatever their names and the links are."""
    root = make_video_files(tmp_path, "film.mp4")
    video = Videos(root / "film.mp4")
    expected = [("film-00000000-00000900", "one", "film.mp4")]
    eaf = write_eaf(tmp_path / "a.eaf", "somewhere/else.mp4")
    assert clips_of(elan_clips(eaf, video), root) == expected
    vtt = write_vtt(tmp_path / "x.vtt", "one")
    assert clips_of(subtitle_clips(vtt, video), root) == expected


def test_several_annotation_files_for_a_single_video_are_an_error(tmp_path):
    root = make_video_files(tmp_path, "film.mp4")
    for name in ("a", "b"):
        write_eaf(tmp_path / "e" / f"{name}.eaf")
    with pytest.raises(AnnotationError, match="--videos is one file, and there are 2 annotation"):
        elan_clips(tmp_path / "e", Videos(root / "film.mp4"))


@pytest.mark.parametrize(
    ("subtitles", "files", "expected"),
    [
        ("talk.vtt", ["talk.mp4"], "talk.mp4"),
        ("talk.en.vtt", ["talk.mp4"], "talk.mp4"),
        ("talk.en-US.srt", ["talk.mp4"], "talk.mp4"),
        ("talk.mp4.vtt", ["talk.mp4"], "talk.mp4"),
        ("talk.en.forced.srt", ["talk.mp4"], "talk.mp4"),
        ("talk.1.vtt", ["talk.mp4", "talk.1.mp4"], "talk.1.mp4"),
        ("x/talk.vtt", ["x/talk.mp4", "talk.mp4"], "x/talk.mp4"),
        ("subs/talk.VTT", ["media/talk.mp4"], "media/talk.mp4"),
    ],
)
def test_the_video_of_a_subtitle_file_is_found(tmp_path, subtitles, files, expected):
    root = make_video_files(tmp_path, *files)
    write_vtt(root / subtitles, "one")
    table = subtitle_clips(root, Videos(root))
    assert [path for *_, path in clips_of(table, root)] == [expected]


def test_an_option_chooses_the_language_and_others_are_reported(tmp_path):
    root = make_video_files(tmp_path, "a.mp4", "b.mp4")
    for name in ("a.en", "a.de", "b.en-GB"):
        write_vtt(root / f"{name}.vtt", name)
    shutil.copy(root / "a.en.vtt", root / "a.en.srt")
    table = subtitle_clips(root, Videos(root))
    assert [clip.text for clip in table.clips] == ["b.en-GB"]
    assert reasons(table) == [
        "3 subtitle files for one video: a.de.vtt, a.en.srt, a.en.vtt; --language=NAME says which, "
        "such as --language=en for a.en.vtt"
    ]
    table = subtitle_clips(root, Videos(root), "EN")
    assert [(clip.text, Path(clip.file).name) for clip in table.clips] == [
        ("a.en", "a.en.vtt"),
        ("b.en-GB", "b.en-GB.vtt"),
    ]
    assert "2 subtitle files in other languages or formats are left out, such as" in table.notes[0]
    table = subtitle_clips(root, Videos(root), "de")
    assert [clip.text for clip in table.clips] == ["a.de"]
    assert reasons(table) == ["no subtitles in the language 'de'; there is b.en-GB.vtt"]


def test_notes_on_cues_add_up_over_files(tmp_path):
    root = make_video_files(tmp_path, "a.mp4", "b.mp4")
    for name in ("a", "b"):
        (root / f"{name}.vtt").write_text(
            "WEBVTT\n\n00:00.000 --> 00:02.000\none\n\n00:01.000 --> 00:03.000\n[Music]\n\n"
            "00:01.000 --> 00:03.000\ntwo\n\n00:03.000 --> 00:04.000\n\n"
        )
    table = subtitle_clips(root, Videos(root))
    beginnings = ("2 annotations ", "2 cues begin ", "2 cues have ")
    for note, beginning in zip(table.notes, beginnings, strict=True):
        assert note.startswith(beginning)
    assert [clip.text for clip in table.clips] == ["one", "[Music] two"] * 2


def test_a_rest_gives_a_clip_without_text_and_null_is_a_text(tmp_path):
    root = make_video_files(tmp_path, "a.mp4")
    write_vtt(root / "a.vtt", "<rest>", "null")
    table = subtitle_clips(root, Videos(root))
    assert [clip.text for clip in table.clips] == ["", "null"]
    assert "1 clips have a text that programs write for missing values" in table.notes[0]


def test_texts_in_another_encoding_are_problems_with_advice(tmp_path):
    root = make_video_files(tmp_path, "a.mp4")
    content = write_vtt(root / "a.vtt", "Grün", "blau").read_text(encoding="utf-8").encode("cp1252")
    (root / "a.vtt").write_bytes(content)
    table = subtitle_clips(root, Videos(root))
    assert reasons(table) == ["text is not UTF-8"] and "--encoding=cp1252" in table.notes[0]
    assert len(subtitle_clips(root, Videos(root), encoding="cp1252").clips) == 2


def plan_splits(folder: Path, *options: str) -> dict[str, set[str]]:
    """Return the set of "video:signer" of the clips of each planned split, by the split's name.

    "notes" has the builder's notes. `options`: such as "split_by=video".
    """
    builder = Builder(
        data_dir=folder / "data",
        val_fraction=0.3,
        test_fraction=0.3,
        options={"videos": folder, "eaf": folder} | dict(option.split("=") for option in options),
    )
    return {
        name: {f"{clip.video_id}:{clip.signer}" for clip in clips}
        for name, clips in builder.plan().items()
    } | {"notes": set(builder.warnings)}


def test_splits_share_no_video_or_no_signer_as_split_by_says(tmp_path):
    for name in "abcdefgh":
        (tmp_path / f"{name}.mp4").write_bytes(b"x")
        file = Eaf(f"{name}.mp4")
        for signer in ("Ann", "Ben", "Cem", "Dua", "Eva"):
            file.tier(f"text {signer}", [(0, 900, "one"), (900, 1000, "two")], signer)
        (tmp_path / f"{name}.eaf").write_text(str(file))
    by_video = plan_splits(tmp_path, "text_tier=text *")
    assert plan_splits(tmp_path, "text_tier=text *", "split_by=video") == by_video  # the default
    by_signer = plan_splits(tmp_path, "text_tier=text *", "split_by=signer")
    by_clip = plan_splits(tmp_path, "text_tier=text *", "split_by=clip")
    for found, field in ((by_video, 0), (by_signer, 1)):  # of "video:signer"
        train = {clip.split(":")[field] for clip in found["train"]}
        test = {clip.split(":")[field] for clip in found["test"]}
        assert train and test and not train & test
    assert len(by_clip["train"] & by_clip["test"]) > 2  # signers of the same video are in both
    with pytest.raises(BuildError, match=r"--split_by is 'singer'; .* did you mean 'signer'"):
        plan_splits(tmp_path, "split_by=singer")


def test_one_long_video_is_split_only_by_clip_and_notes_say_so(tmp_path, capsys):
    draw_videos(tmp_path)
    long = tmp_path / "long"
    found = plan_splits(long)
    assert any(
        "they are of one source video, which no split shares with another; give a column 'split', "
        "--split_by=clip, or other fractions" in note
        for note in found["notes"]
    )
    notes = plan_splits(long, "split_by=signer")["notes"]
    assert any("3 clips have no signer" in note for note in notes)
    options = [f"--eaf={long}", f"--videos={long}", "--split_by=clip", "--test_fraction=0.5"]
    assert command(build.main, "video_folder", f"--data_dir={tmp_path / 'data'}", *options) == 0
    assert "1 source videos have clips in" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ([], "one of the arguments --csv --eaf --subtitles is required"),
        (["--csv=a", "--eaf=b"], "--eaf: not allowed with argument --csv"),
        (["--eaf={}"], "no .eaf file in this folder or those below it"),
        (["--subtitles={}"], "no .vtt or .srt file in this folder"),
        (["--subtitles={}/none.vtt"], "there is no such file or folder"),
        (["--eaf={}", "--uid_column=a"], "--uid_column is for --csv only; leave it out with --eaf"),
        (["--csv={}/a.csv", "--text_tier=a"], "--text_tier is for --eaf only"),
        (["--eaf={}", "--encoding=cp1252"], "--encoding is for --csv and --subtitles only"),
    ],
)
def test_conflicting_options_exit_with_2(tmp_path, capsys, options, message):
    (tmp_path / "a.csv").write_text("uid,text\na,b\n")
    given = [option.format(tmp_path) for option in options]
    base = ["video_folder", f"--data_dir={tmp_path / 'data'}", f"--videos={tmp_path}"]
    assert command(build.main, *base, *given) == 2
    assert message in capsys.readouterr().err
