"""`signvit live`: sessions of a source, the terminal, and the caption file."""

import io
import json
import threading
import time

import numpy as np
import pytest
from rich.console import Console

from signvit_jax.captions.layout import CaptionLayout
from signvit_jax.captions.segments import Segment
from signvit_jax.inference.frame_sources import PushedFrames
from signvit_jax.inference.predictor import Hypothesis
from signvit_jax.inference.streaming import LiveCaptions, LiveSession, Reading, StreamUpdate
from signvit_jax.live import command, terminal_captions
from signvit_jax.live.session import updates_of
from signvit_jax.live.terminal_captions import CaptionFile, TerminalCaptions
from signvit_jax.media.cameras import SourceError
from signvit_jax.runtime.exit_codes import UsageError
from signvit_jax.runtime.signals import StopRequest
from signvit_jax.runtime.standard_streams import OutputError
from signvit_jax.text.words import TimedWord, Word
from tests.helpers import tiny_run

FRAME = np.zeros((8, 8, 3), np.uint8)


class Request(StopRequest):
    """A stop request that the test sets."""

    requested = False


def session():
    """Return a session whose text is "hello" for any frames."""

    def read(images, rate):
        return Reading(Hypothesis("hello", (), -1.0, 0.9, (Word("hello", 0.9),)), "he")

    return LiveSession(LiveCaptions(read, 2.0, 0.25, 0.05, 3), PushedFrames(lambda f: f, 2.0))


def frames(stop, count=10**9, pause=0.01):
    """Yield `count` frames with a pause in seconds before each, until `stop` is set."""
    for _ in range(count):
        if stop.wait(pause):
            return
        yield FRAME


def final_texts(updates):
    return [segment.text for update in updates for segment in update.final]


def test_all_text_of_a_source_that_ends_is_yielded():
    updates = list(updates_of(session(), lambda stop: frames(stop, 20), Request()))
    assert final_texts(updates)[-1] == "hello" and updates[-1].partial == "he"
    assert not any(thread.name == "signvit_jax_push" for thread in threading.enumerate())


def test_a_signal_ends_the_session_with_the_text_so_far():
    request = Request()
    updates = []
    for update in updates_of(session(), frames, request):
        updates.append(update)
        request.requested = True
    assert len(updates) < 40 and final_texts(updates)[-1] == "hello"


def test_a_signal_does_not_wait_for_a_camera_that_hangs():
    request, release = Request(), threading.Event()

    def stuck(stop):
        yield from frames(stop, 12)
        request.requested = True
        release.wait(30)

    start = time.monotonic()
    assert final_texts(updates_of(session(), stuck, request))[-1:] == ["hello"]
    assert time.monotonic() - start < 20
    release.set()


def test_a_source_that_fails_raises_after_its_text():
    def broken(stop):
        yield from frames(stop, 12)
        raise SourceError("the camera is gone")

    updates = []
    with pytest.raises(SourceError, match="the camera is gone"):
        for update in updates_of(session(), broken, Request()):
            updates.append(update)
    assert final_texts(updates)[-1] == "hello"


def test_the_session_ends_if_nobody_reads_its_output():
    assert len(list(updates_of(session(), frames, Request(), lambda: True))) == 1


def update(text="", *segments, partial=""):
    return StreamUpdate(1.0, partial, text, tuple(segments), 0.1, 0)


def test_the_terminal_shows_partial_text_in_gray_and_final_text_in_white():
    file = io.StringIO()
    console = Console(file=file, force_terminal=True, color_system="standard", width=60)
    with TerminalCaptions(console) as shown:
        shown.show(update("good da", partial="good"))
        shown.show(update("", partial="and"))
        shown.show(update("", Segment(61.2, 62.0, "good day\x1b[2J")))
    text = file.getvalue()
    assert "\x1b[90mgood da" in text and "\x1b[90mand" in text  # of decoder, else CTC
    assert "\x1b[1;97mgood day\\x1b[2J" in text and "1:01" in text  # with escapes
    assert text.index("good da") < text.index("1:01") and shown.num_final == 1


def test_a_pipe_gets_one_line_per_final_segment(capsys):
    with TerminalCaptions(Console(file=io.StringIO())) as shown:
        shown.show(update("partial text"))
        shown.show(update("", Segment(0.5, 2.25, "good day"), Segment(2.25, 3.0, "")))
    assert capsys.readouterr().out == "0.500\t2.250\tgood day\n"


def test_the_file_is_complete_after_each_caption(tmp_path, monkeypatch):
    path = tmp_path / "new" / "captions.vtt"
    file = CaptionFile(path, CaptionLayout(8), overwrite=False)
    assert path.read_text() == "WEBVTT\n"
    file.add([Segment(0.0, 1.0, "good day to you")])
    first = path.read_text()
    assert first.endswith("00:00:00.000 --> 00:00:01.000\ngood day\nto you\n")

    def full(path, text):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(terminal_captions, "write_atomically", full)
        with pytest.raises(OutputError, match="No space left on device; it keeps"):
            file.add([Segment(1.0, 2.0, "more")])
    assert path.read_text() == first
    file.add([Segment(2.0, 3.0, "again")])  # the text that could not be written before is not lost
    assert "more" in path.read_text() and "again" in path.read_text()


def test_caption_files_have_word_times_and_the_language(tmp_path):
    words = (TimedWord("good", 0.5, start=0.25, end=0.5), Word("day", 0.5))
    layout = CaptionLayout()
    plain = CaptionFile(tmp_path / "a.json", layout, overwrite=False)
    timed = CaptionFile(tmp_path / "b.json", layout, overwrite=False, word_times=True)
    ttml = CaptionFile(tmp_path / "c.ttml", layout, overwrite=False)
    ttml.language = "de-CH"
    for file in (plain, timed, ttml):
        file.add([Segment(0.0, 1.0, "good day", words=words)])
    (segment,) = json.loads((tmp_path / "b.json").read_text())["segments"]
    assert segment["words"][0] == {
        "text": "good",
        "confidence": 0.5,
        "start": 0.25,
        "end": 0.5,
        "timed_by": "ctc",
    }
    assert "timed_by" not in (tmp_path / "a.json").read_text()
    assert 'xml:lang="de-CH"' in (tmp_path / "c.ttml").read_text()


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--output=captions.doc"], "ends in '.doc'; allowed: .txt, .json"),
        (["--output={}/there.srt"], "there.srt already exists; give --overwrite"),
        (["--max_line_width=40"], "a layout changes nothing without --output"),
        (["--word_times"], "--word_times changes nothing without --output"),
        (["--output=a.srt", "--word_times"], "allowed with the formats json, eaf"),
        (["--output=a.srt", "--language=de"], "allowed with the format ttml"),
        (["--output=a.ttml", "--language=German"], "allowed: a tag of two or three small letters"),
        (["--every=0"], "allowed: seconds > 0"),
        (["https://host/a.mp4"], "is an address"),
    ],
)
def test_wrong_usage_is_exit_2_before_anything_is_loaded(tmp_path, capfd, flags, message):
    (tmp_path / "there.srt").write_text("corrected by hand")
    flags = [flag.format(tmp_path) for flag in flags]
    assert tiny_run.command(command.main, *flags, "--workdir=/nowhere") == 2
    assert message in capfd.readouterr().err
    assert (tmp_path / "there.srt").read_text() == "corrected by hand"


def test_a_file_in_a_folder_that_cannot_be_written_is_refused(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UsageError, match="cannot be written"):
        CaptionFile(tmp_path / "file" / "a.vtt", CaptionLayout(), overwrite=False)


@pytest.mark.long
def test_the_command_captions_a_packaged_clip(tmp_path, capfd):
    from signvit_jax.demo.packaged import MODEL, demo_clips

    video, output = demo_clips()[0].video, tmp_path / "live.json"
    flags = [f"--workdir={MODEL}", f"--output={output}", "--word_times"]
    assert tiny_run.command(command.main, video, *flags) == 0
    shown = capfd.readouterr()
    lines = [line.split("\t") for line in shown.out.splitlines()]
    segments = json.loads(output.read_text())["segments"]
    assert lines and [text for *_, text in lines] == [segment["text"] for segment in segments]
    for segment in segments:
        timed = [word for word in segment["words"] if word["timed_by"] == "ctc"]
        assert len(timed) >= len(segment["words"]) / 2
        assert all(segment["start"] <= word["start"] < word["end"] for word in timed)
    assert tiny_run.command(command.main, "none.mp4", f"--workdir={MODEL}") == 4
    assert "none.mp4: there is no such file" in capfd.readouterr().err
