"""Fixtures: the web application with a stub translator, which needs no model."""

import contextlib
import os
import threading
import time
from pathlib import Path

import pytest
from starlette.testclient import TestClient

from signvit_jax.captions.segments import Segment
from signvit_jax.demo.packaged import CLIPS
from signvit_jax.inference.frame_sources import PushedFrames
from signvit_jax.inference.predictor import Hypothesis
from signvit_jax.inference.streaming import LiveCaptions, LiveSession, Reading
from signvit_jax.inference.translator import Translation
from signvit_jax.media.video import Sampling, open_video
from signvit_jax.text.words import Word
from signvit_jax.web.app import ModelFacts, WebApp
from signvit_jax.web.settings import ServerSettings

CLIP = CLIPS / "test_000001.mp4"
ADDRESS = "http://127.0.0.1:8000"


class StubTranslator:
    """A translator without a model: each second of a video is a segment.

    While `gate` is cleared, translations wait after their first segment.
    """

    def __init__(self):
        self.gate = threading.Event()
        self.gate.set()
        self.running = 0
        self.finished = 0
        self.paths: list[str] = []
        self.options: list[dict] = []

    def translate(self, clip, *, decode, on_segment, on_progress, **inference):
        self.options.append({"decode": decode, **inference})
        self.paths.append(clip)
        self.running += 1
        try:
            with open_video(clip, Sampling(frame_rate=5.0)) as video:
                count = sum(1 for _ in video.frames)
            segments = []
            for number in range(max(count // 5, 1)):
                segment = Segment(number, number + 0.8, f"text {number}", -0.5, 0.9 - 0.2 * number)
                segments.append(segment)
                on_segment(segment)
                on_progress(number + 1.0)
                while not self.gate.wait(0.02):
                    on_progress(number + 1.0)
            self.finished += 1
            return Translation(
                text=" ".join(segment.text for segment in segments),
                tokens=(),
                score=-0.5,
                confidence=0.7,
                seconds=count / 5,
                decoder=decode,
                segments=tuple(segments),
            )
        finally:
            self.running -= 1

    def live(self, *, decode):
        def read(images, rate):
            text = f"{len(images)} frames"
            return Reading(Hypothesis(text, (1, 2), -1.0, 0.5, (Word(text, 0.5),)), "partial")

        captions = LiveCaptions(read, 6.0, 0.5, 0.1, 3)
        return LiveSession(captions, PushedFrames(lambda image: image, 6.0))


@pytest.fixture
def stub() -> StubTranslator:
    return StubTranslator()


@pytest.fixture
def make_app():
    """Return a function that makes the application of a translator with given settings."""

    def make(translator, *, text_language=None, **settings) -> WebApp:
        facts = ModelFacts(
            name="stub",
            step=3,
            data_set="mine",
            sign_language=None,
            text_language=text_language,
            version="0",
            is_demo=False,
        )
        return WebApp(translator, facts, ServerSettings(**settings))

    return make


@pytest.fixture
def make_client(stub, make_app):
    """Return a function that starts an application and returns its client and itself."""
    with contextlib.ExitStack() as stack:

        def make(**settings) -> tuple[TestClient, WebApp]:
            app = make_app(stub, **settings)
            client = TestClient(app, base_url=ADDRESS)
            return stack.enter_context(client), app

        yield make


@pytest.fixture
def client(make_client) -> TestClient:
    return make_client()[0]


def video(path: Path = CLIP) -> bytes:
    return path.read_bytes()


def _files_without_names() -> set[str]:
    """Return links to all files without a name that this process has open."""
    links = set()
    for number in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):
            links.add(os.readlink(f"/proc/self/fd/{number}"))
    return {name for name in links if name.endswith(" (deleted)")}


_opened_before: set[str] = set()  # files without a name that were open before the test


@pytest.fixture(autouse=True)
def _find_files_opened_before():
    """Find the files that pytest and earlier tests have open."""
    _opened_before.clear()
    _opened_before.update(_files_without_names())


def open_uploads() -> set[str]:
    """Return the uploaded files that were opened during this test and are still open."""
    return _files_without_names() - _opened_before


def until(check, seconds: float = 20.0):
    """Return the first true value of `check()`. Fails after `seconds`."""
    end = time.monotonic() + seconds
    while not (value := check()):
        assert time.monotonic() < end
        time.sleep(0.01)
    return value
