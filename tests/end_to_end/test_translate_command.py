"""The translate command: what it does with clips that cannot be read, formats, and the names of its files."""

import json
import shutil

import pytest
import tiny_run

from signvit_jax import translate

pytestmark = pytest.mark.usefixtures("light_jax")


@pytest.fixture
def corrupt(tmp_path):
    path = tmp_path / "corrupt.mp4"
    path.write_bytes(b"this is no video" * 100)
    return path


def test_a_corrupt_clip_among_good_ones_is_exit_3_and_the_good_ones_are_translated(trained, corrupt, capfd):
    good = trained.video(0)
    assert tiny_run.command(translate.main, good, corrupt, good, f"--workdir={trained.workdir}") == 3
    said = capfd.readouterr()
    assert [line.split("\t")[0] for line in said.out.splitlines()] == [str(good)] * 2
    assert str(corrupt) in said.err and "1 of 3 clips could not be read" in said.err and "Traceback" not in said.err


def test_nothing_but_unreadable_clips_is_exit_4(trained, corrupt, tmp_path, capfd):
    (tmp_path / "empty.mp4").touch()
    (tmp_path / "folder without videos").mkdir()
    clips = [corrupt, tmp_path / "empty.mp4", tmp_path / "missing.mp4", tmp_path / "folder without videos"]
    assert tiny_run.command(translate.main, *clips, f"--workdir={trained.workdir}") == 4
    said = capfd.readouterr()
    assert said.out == ""
    assert [clip for clip in clips if str(clip) not in said.err] == [] and "4 of 4" in said.err and "Traceback" not in said.err


def test_every_format_holds_the_text(trained, tmp_path, capfd):
    arguments = [trained.video(0), f"--workdir={trained.workdir}"]
    assert tiny_run.command(translate.main, *arguments) == 0
    text = capfd.readouterr().out.strip().partition("\t")[2]
    assert text
    assert tiny_run.command(translate.main, *arguments, "--format=all", f"--output_dir={tmp_path / 'captions'}") == 0
    files = {path.suffix: path.read_text(encoding="utf-8") for path in (tmp_path / "captions").iterdir()}
    assert files.keys() == {".txt", ".json", ".tsv", ".srt", ".vtt"}
    assert all(text in content for content in files.values())
    assert files[".srt"].startswith("1\n00:00:00,000 --> 00:00:00,800\n")  # 8 frames at 10 a second
    assert files[".vtt"].startswith("WEBVTT\n")
    segment = json.loads(files[".json"])["segments"][0]
    assert segment["text"] == text and (segment["start"], segment["end"]) == (0.0, 0.8) and 0 < segment["confidence"] <= 1
    for name in ("txt", "json", "tsv", "srt", "vtt"):
        assert tiny_run.command(translate.main, *arguments, f"--format={name}") == 0
        assert text in capfd.readouterr().out


def test_clips_of_one_name_keep_their_own_files(trained, tmp_path):
    clips = []
    for number, name in enumerate(("monday/clip.mp4", "tuesday/clip.mp4", "tuesday/clip.mov", "other.mp4")):
        clips.append(tmp_path / "videos" / name)
        clips[-1].parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(trained.video(number), clips[-1])
    output = tmp_path / "captions"
    assert tiny_run.command(translate.main, *clips, clips[-1], f"--workdir={trained.workdir}", f"--output_dir={output}") == 0
    written = [path.relative_to(output).as_posix() for path in output.rglob("*.txt")]
    assert len(written) == 5  # one a clip, the one that was given twice included
    assert "monday/clip.txt" in written
    assert {path for path in output.rglob("*") if path.is_file()} == set(output.rglob("*.txt"))


@pytest.mark.parametrize("stem", ["lecture.part1", "2024.05.01"])
def test_dots_in_a_name_are_kept(trained, tmp_path, stem):
    shutil.copy(trained.video(0), tmp_path / f"{stem}.mp4")
    assert tiny_run.command(translate.main, tmp_path / f"{stem}.mp4", f"--workdir={trained.workdir}", f"--output_dir={tmp_path / 'out'}") == 0
    assert [path.name for path in (tmp_path / "out").iterdir()] == [f"{stem}.txt"]
