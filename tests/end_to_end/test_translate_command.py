"""The translate command: unreadable clips, output formats, and the files that it writes."""

import csv
import errno
import json
import shutil

import av
import numpy as np
import pysubs2
import pytest

from signvit_jax.commands import eval as eval_command
from signvit_jax.commands import translate
from signvit_jax.config.schema import TokenizerConfig
from signvit_jax.text.tokenizer import learn
from tests.helpers import tiny_run

pytestmark = pytest.mark.usefixtures("light_jax")


def run_translate(trained, *arguments) -> int:
    """Return the exit code of translate with the trained model."""
    return tiny_run.command(translate.main, *arguments, f"--workdir={trained.workdir}")


@pytest.fixture
def corrupt(tmp_path):
    path = tmp_path / "corrupt.mp4"
    path.write_bytes(b"this is no video" * 100)
    return path


def test_a_corrupt_clip_among_good_ones_is_exit_3(trained, corrupt, capfd):
    good = trained.video(0)
    assert run_translate(trained, good, corrupt, good) == 3
    shown = capfd.readouterr()
    assert [line.split("\t")[0] for line in shown.out.splitlines()] == [str(good)] * 2
    assert str(corrupt) in shown.err and "1 of 3 clips could not be read" in shown.err
    assert "Traceback" not in shown.err


def test_clips_without_text_are_counted(trained, tmp_path, capfd):
    still = np.zeros((12, 32, 32, 3), np.uint8)
    tiny_run.write_video(tmp_path / "still.mp4", still)
    clips = [trained.video(0), tmp_path / "still.mp4"]
    assert run_translate(trained, *clips) == 0
    shown = capfd.readouterr()
    assert shown.out.splitlines()[1] == f"{clips[1]}\t"
    assert "note: no text in 1 of 2 videos" in shown.err and "--rest_evidence=0" in shown.err


def test_only_unreadable_clips_are_exit_4(trained, corrupt, tmp_path, capfd):
    (tmp_path / "empty.mp4").touch()
    (tmp_path / "folder without videos").mkdir()
    clips = [
        corrupt,
        tmp_path / "empty.mp4",
        tmp_path / "missing.mp4",
        tmp_path / "folder without videos",
    ]
    assert run_translate(trained, *clips) == 4
    shown = capfd.readouterr()
    assert shown.out == ""
    assert [clip for clip in clips if str(clip) not in shown.err] == []
    assert "4 of 4" in shown.err and "Traceback" not in shown.err


def test_every_format_contains_the_text(trained, tmp_path, capfd):
    clip, output = trained.video(0), tmp_path / "captions"
    assert run_translate(trained, clip) == 0
    text = capfd.readouterr().out.strip().partition("\t")[2]
    assert text
    assert run_translate(trained, clip, "--format=all", f"--output_dir={output}") == 0
    files = {path.suffix: path.read_text(encoding="utf-8") for path in output.iterdir()}
    assert files.keys() == {".txt", ".json", ".tsv", ".srt", ".vtt"}
    assert all(text in content for content in files.values())
    assert files[".srt"].startswith("1\n00:00:00,000 --> 00:00:00,800\n")  # 8 frames at 10 a second
    assert files[".vtt"].startswith("WEBVTT\n")
    segment = json.loads(files[".json"])["segments"][0]
    assert (segment["text"], segment["start"], segment["end"]) == (text, 0.0, 0.8)
    assert 0 < segment["confidence"] <= 1
    for name in ("txt", "json", "tsv", "srt", "vtt"):
        assert run_translate(trained, clip, f"--format={name}") == 0
        assert text in capfd.readouterr().out


def test_clips_of_one_name_have_separate_files(trained, tmp_path):
    clips = []
    for number, name in enumerate(
        ("monday/clip.mp4", "tuesday/clip.mp4", "tuesday/clip.mov", "other.mp4")
    ):
        clips.append(tmp_path / "videos" / name)
        clips[-1].parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(trained.video(number), clips[-1])
    output = tmp_path / "captions"
    assert run_translate(trained, *clips, clips[-1], f"--output_dir={output}") == 0
    written = [path.relative_to(output).as_posix() for path in output.rglob("*.txt")]
    assert len(written) == 5  # a clip that is given twice has two files
    assert "monday/clip.txt" in written
    assert {path for path in output.rglob("*") if path.is_file()} == set(output.rglob("*.txt"))


@pytest.mark.parametrize("stem", ["lecture.part1", "2024.05.01"])
def test_dots_in_a_name_are_kept(trained, tmp_path, stem):
    shutil.copy(trained.video(0), tmp_path / f"{stem}.mp4")
    output = tmp_path / "out"
    assert run_translate(trained, tmp_path / f"{stem}.mp4", f"--output_dir={output}") == 0
    assert [path.name for path in output.iterdir()] == [f"{stem}.txt"]


def test_folders_and_patterns_give_one_file_per_video(trained, tmp_path, capfd):
    for number, name in enumerate(("week/monday/clip.mp4", "week/tuesday/clip.mp4", "extra.mp4")):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(trained.video(number), tmp_path / name)
    (tmp_path / "week" / "notes.txt").write_text("not a video")
    output = tmp_path / "out"
    clips = [tmp_path / "week", f"{tmp_path}/ex*.mp4"]
    assert run_translate(trained, *clips, f"--output_dir={output}", "--format=srt") == 0
    written = {path.relative_to(output).as_posix() for path in output.rglob("*.*")}
    assert written == {"week/monday/clip.srt", "week/tuesday/clip.srt", "extra.srt"}
    shown = capfd.readouterr()
    assert dict(line.split("\t") for line in shown.out.splitlines()) == {
        str(tmp_path / f"{name}.mp4"): str(output / f"{name}.srt")
        for name in ("week/monday/clip", "week/tuesday/clip", "extra")
    }
    assert f"3 files written to {output}" in shown.err


def test_a_long_video_has_timed_segments_in_every_format(trained, tmp_path):
    video, output = tmp_path / "long.mp4", tmp_path / "out"
    frames = [tiny_run.frames_of(who, 3 - who, 15) for who in range(3)]
    tiny_run.write_video(video, np.concatenate(frames))  # 4.5 s
    windows = ["--max_clip_seconds=2", "--window_seconds=1.2", "--window_overlap=0.25"]
    flags = ["--format=all", f"--output_dir={output}", *windows]
    assert run_translate(trained, video, *flags) == 0
    expected = [
        (round(1000 * segment["start"]), round(1000 * segment["end"]), segment["text"])
        for segment in json.loads((output / "long.json").read_text())["segments"]
    ]
    assert len(expected) > 1 and expected[-1][1] <= 4500
    for name in ("srt", "vtt"):
        cues = pysubs2.load(str(output / f"long.{name}"))
        assert [(cue.start, cue.end, cue.plaintext) for cue in cues] == expected
    with (output / "long.tsv").open(newline="") as file:
        texts = [row["text"] for row in csv.DictReader(file, dialect="excel-tab")]
    assert texts == [text for *_, text in expected]


@pytest.mark.long
def test_an_ensemble_translates_and_is_evaluated(trained, tmp_path, capfd):
    ensemble = f"--workdir={trained.workdir},{trained.workdir}"
    assert run_translate(trained, trained.video(1)) == 0
    alone = capfd.readouterr().out
    assert tiny_run.command(translate.main, trained.video(1), ensemble) == 0
    assert capfd.readouterr().out == alone
    flags = ["--decode=greedy", "--batch_size=1", f"--output={tmp_path / 'test.json'}"]
    assert tiny_run.command(eval_command.main, ensemble, *flags) == 0
    results = json.loads((tmp_path / "test.json").read_text())
    assert len(results["predictions"]) == tiny_run.CLIPS["test"]


@pytest.mark.parametrize("main", [translate.main, eval_command.main])
def test_an_ensemble_of_different_vocabularies_is_exit_2(trained, tmp_path, capfd, main):
    other = shutil.copytree(trained.workdir, tmp_path / "other_vocabulary")
    (other / "tokenizer.json").write_text(
        learn(["other words than those"], TokenizerConfig(name="word")).to_json()
    )
    clips = [trained.video(0)] if main is translate.main else []
    assert tiny_run.command(main, *clips, f"--workdir={trained.workdir},{other}") == 2
    shown = capfd.readouterr().err
    assert "one vocabulary" in shown and str(other) in shown and "Traceback" not in shown


def test_no_text_is_written_below_the_minimum_confidence(trained, tmp_path, capfd):
    arguments = [trained.video(0), "--min_confidence=1"]
    assert run_translate(trained, *arguments) == 0
    assert capfd.readouterr().out == f"{trained.video(0)}\t\n"
    assert run_translate(trained, *arguments, "--format=vtt", f"--output_dir={tmp_path}") == 0
    assert (tmp_path / "clip00.vtt").read_text().strip() == "WEBVTT"


def test_json_of_several_clips_has_one_object_per_line(trained, capfd):
    clips = [trained.video(0), trained.video(1)]
    assert run_translate(trained, *clips, "--format=json") == 0
    entries = [json.loads(line) for line in capfd.readouterr().out.splitlines()]
    assert [entry["path"] for entry in entries] == list(map(str, clips))
    assert all(entry["text"] for entry in entries)
    assert all(entry["segments"][0]["text"] == entry["text"] for entry in entries)


def test_tsv_of_several_clips_is_one_table(trained, corrupt, capfd):
    clips = [trained.video(0), corrupt, trained.video(1)]
    assert run_translate(trained, *clips, "--format=tsv") == 3
    rows = list(csv.DictReader(capfd.readouterr().out.splitlines(), dialect="excel-tab"))
    assert [row["path"] for row in rows] == [str(clips[0]), str(clips[2])]
    assert all(row["text"] and float(row["end"]) > 0 for row in rows)


@pytest.mark.parametrize(("text_format", "num_clips"), [("srt", 2), ("vtt", 2), ("all", 1)])
def test_formats_that_cannot_be_joined_are_not_printed(trained, capfd, text_format, num_clips):
    clips = [trained.video(number) for number in range(num_clips)]
    flags = ["--workdir=/nowhere", f"--format={text_format}"]
    assert tiny_run.command(translate.main, *clips, *flags) == 2
    shown = capfd.readouterr()
    assert shown.out == "" and "--output_dir=FOLDER" in shown.err


def test_existing_files_are_replaced_only_with_overwrite(trained, tmp_path, capfd):
    output = tmp_path / "captions"
    arguments = [trained.video(0), trained.video(1), f"--output_dir={output}", "--format=srt"]
    output.mkdir()
    (output / "clip01.srt").write_text("corrected by hand")
    # The files are checked before a model is loaded from the workdir.
    assert tiny_run.command(translate.main, *arguments, "--workdir=/nowhere") == 2
    shown = capfd.readouterr().err
    assert str(output / "clip01.srt") in shown and "clip00" not in shown and "--overwrite" in shown
    assert [(path.name, path.read_text()) for path in output.iterdir()] == [
        ("clip01.srt", "corrected by hand")
    ]
    assert run_translate(trained, *arguments, "--overwrite") == 0
    assert sorted(path.name for path in output.iterdir()) == ["clip00.srt", "clip01.srt"]
    assert (output / "clip01.srt").read_text().startswith("1\n00:00:00,000")


def test_an_unwritable_folder_is_exit_2_before_the_model_loads(trained, tmp_path, capfd):
    (tmp_path / "file").touch()
    output = f"--output_dir={tmp_path / 'file'}"
    assert tiny_run.command(translate.main, trained.video(0), "--workdir=/nowhere", output) == 2
    assert f"{output} cannot be written" in capfd.readouterr().err


def test_a_full_disk_is_reported_in_one_line_with_the_count_of_files(
    trained, tmp_path, capfd, monkeypatch
):
    from signvit_jax.cli import caption_files

    write_atomically = caption_files.write_atomically

    def full_for_the_second_file(path, text):
        if path.name == "clip01.txt":
            raise OSError(errno.ENOSPC, "No space left on device", str(path))
        write_atomically(path, text)

    monkeypatch.setattr(caption_files, "write_atomically", full_for_the_second_file)
    clips = [trained.video(0), trained.video(1)]
    assert run_translate(trained, *clips, f"--output_dir={tmp_path}") == 1
    shown = capfd.readouterr().err
    message = "cannot be written: No space left on device; 1 files were"
    assert f"{tmp_path / 'clip01.txt'} {message}" in shown
    assert "Traceback" not in shown


def test_a_video_that_exceeds_the_time_limit_is_given_up(trained, tmp_path, capfd):
    video = tmp_path / "long.mp4"
    tiny_run.write_video(video, np.concatenate([tiny_run.frames_of(0, 1, 15)] * 20))
    assert run_translate(trained, video, trained.video(0), "--time_limit=0.0001") == 4
    assert "longer than 0.0001 s" in capfd.readouterr().err
    assert run_translate(trained, trained.video(0), "--time_limit=60") == 0


@pytest.mark.parametrize(
    "flag",
    [
        "--time_limit=0",
        "--time_limit=nan",
        "--time_limit=inf",
        "--time_limit=soon",
        f"--seed={2**70}",
        "--seed=-1",
    ],
)
def test_impossible_limits_and_seeds_are_exit_2(trained, capfd, flag):
    assert run_translate(trained, trained.video(0), "--decode=sample", flag) == 2
    shown = capfd.readouterr().err
    assert flag.partition("=")[2] in shown and "allowed" in shown and "Traceback" not in shown


def test_caption_files_have_the_layout_and_the_words(trained, tmp_path, capfd):
    output = tmp_path / "captions"
    flags = ["--format=srt,ass,ttml,eaf,json", "--max_line_width=5", "--word_times"]
    assert run_translate(trained, trained.video(0), f"--output_dir={output}", *flags) == 0
    assert {path.suffix for path in output.iterdir()} == {".srt", ".ass", ".ttml", ".eaf", ".json"}
    segment = json.loads((output / "clip00.json").read_text())["segments"][0]
    assert len(segment["text"]) > 5  # so the text must be broken into lines
    lines = [line for cue in pysubs2.load(output / "clip00.srt") for line in cue.text.split("\\N")]
    assert max(map(len, lines)) <= 5 and " ".join(lines) == segment["text"]
    assert all(0 <= word["start"] <= word["end"] <= 0.8 for word in segment["words"])
    # After a few training steps, CTC finds no signs in this clip. In tests/demo it does.
    assert {word["timed_by"] for word in segment["words"]} == {"length"}
    assert "RELATIVE_MEDIA_URL" in (output / "clip00.eaf").read_text()
    assert "Traceback" not in capfd.readouterr().err


def test_videos_with_captions_are_written_and_not_read_again(trained, tmp_path, capfd):
    shutil.copy(trained.video(0), tmp_path / "clip.mp4")
    flags = [f"--workdir={trained.workdir}", f"--output_dir={tmp_path}", "--skip_existing"]
    flags += ["--burn_in", "--soft_subtitles", f"--summary={tmp_path / 'summary.jsonl'}"]
    flags.append("--language=de-CH")
    assert tiny_run.command(translate.main, tmp_path, *flags) == 0
    names = {path.name for path in tmp_path.iterdir()}
    videos = {"clip.captioned.mp4", "clip.subtitled.mp4"}
    assert names == {"clip.mp4", "clip.txt", "summary.jsonl", *videos}
    with av.open(tmp_path / "clip.subtitled.mp4") as video:
        assert video.streams.subtitles[0].language == "deu"
    (tmp_path / "clip.txt").write_text("corrected by hand")
    (tmp_path / "clip.subtitled.mp4").unlink()
    # The second run writes the missing video; the third has nothing to do and loads no model.
    assert tiny_run.command(translate.main, tmp_path, *flags) == 0
    assert tiny_run.command(translate.main, tmp_path, *flags, "--workdir=/nowhere") == 0
    shown = capfd.readouterr().err
    assert "2 videos are outputs of this command" in shown
    assert "1 of 1 videos skipped: their files exist" in shown
    assert (tmp_path / "clip.txt").read_text() == "corrected by hand"
    entries = [json.loads(line) for line in (tmp_path / "summary.jsonl").read_text().splitlines()]
    assert [(entry["status"], len(entry["files"])) for entry in entries] == [
        ("written", 3),
        ("written", 1),
        ("skipped", 0),
    ]
    assert {entry["path"] for entry in entries} == {str(tmp_path / "clip.mp4")}


def test_a_video_that_cannot_be_copied_fails_and_its_text_stays(trained, corrupt, tmp_path, capfd):
    from tests.helpers.clip_makers import encode

    video = encode(tmp_path / "old.avi", tiny_run.frames_of(0, 1, 8), codec="ffv1")
    output, summary = tmp_path / "out", tmp_path / "summary.jsonl"
    clips = [video, corrupt, trained.video(0)]
    flags = [f"--output_dir={output}", "--soft_subtitles", f"--summary={summary}"]
    assert run_translate(trained, *clips, *flags) == 3
    shown = capfd.readouterr().err
    assert "codec ffv1 cannot be in mp4" in shown and "2 of 3 videos failed" in shown
    assert (output / "old.txt").exists() and not (output / "old.subtitled.mp4").exists()
    entries = [json.loads(line) for line in summary.read_text().splitlines()]
    assert [entry["status"] for entry in entries] == ["failed", "failed", "written"]
    assert "ffv1" in entries[0]["errors"][0] and len(entries[0]["files"]) == 1
    assert "not a video" in entries[1]["errors"][0]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--format=sbv"], "'sbv'; allowed: txt, json, tsv, srt"),
        (["--format=srt,json"], "2 formats on standard output"),
        (["--format=txt", "--max_line_width=42"], "--max_line_width changes nothing in txt"),
        (["--format=srt", "--max_line_count=2"], "give max_line_width too"),
        (["--format=srt", "--word_times"], "--word_times changes nothing in srt"),
        (["--burn_in"], "--burn_in writes files; say where with --output_dir"),
        (["--skip_existing"], "--output_dir"),
        (["--font=x.ttf", "--output_dir=o"], "--font is the font of --burn_in"),
        (["--font=x.ttf", "--burn_in", "--output_dir=o"], "x.ttf cannot be read as a font"),
        (["--overwrite", "--skip_existing", "--output_dir=o"], "not allowed with"),
    ],
)
def test_caption_flags_that_cannot_work_are_exit_2(trained, capfd, flags, message):
    assert tiny_run.command(translate.main, trained.video(0), "--workdir=/nowhere", *flags) == 2
    shown = capfd.readouterr()
    assert message in shown.err and shown.out == ""
