"""The page in Chromium, from a server with the packaged model."""

import json
import os
from pathlib import Path

import pysubs2
import pytest
from PIL import Image

from signvit_jax.demo.packaged import CLIPS, MODEL, demo_clips
from signvit_jax.inference.frame_sources import PushedFrames
from signvit_jax.inference.predictor import Hypothesis
from signvit_jax.inference.streaming import LiveCaptions, LiveSession, Reading
from signvit_jax.media.video import Sampling, open_video
from signvit_jax.text.words import Word
from tests.helpers.served import chromium, running_server, served, wait_until, write_camera
from tests.web.conftest import StubTranslator

# The servers are processes that compile optimized programs, unlike the test processes.
pytestmark = pytest.mark.xdist_group("served")
CLIP = demo_clips()[0]


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with running_server(f"--examples={tmp_path_factory.mktemp('examples')}") as running:
        yield running


class Page:
    """The open page, the addresses that the browser requested, and the errors of its scripts."""

    def __init__(self, browser, server, **options):
        self.context = browser.new_context(**options)
        self.page = self.context.new_page()
        self.requested: list[str] = []
        self.errors: list[str] = []
        self.server = server
        self.page.on("request", lambda request: self.requested.append(request.url))
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))
        self.page.goto(server.address)
        self.wait("#model", "trained on")

    def text(self, selector: str) -> str:
        return self.page.locator(selector).inner_text()

    def wait(self, selector: str, text: str, seconds: float = 60.0) -> str:
        try:
            return wait_until(lambda: text in (found := self.text(selector)) and found, seconds)
        except AssertionError as error:
            raise AssertionError(f"{selector} has {self.text(selector)!r}, not {text!r}") from error

    def texts(self) -> list[str]:
        return [area.input_value() for area in self.page.locator("#transcript textarea").all()]

    def check_requests(self) -> None:
        """Check that all requests went to the server itself, and that no script failed."""
        own = self.server.address.rstrip("/")
        foreign = [url for url in self.requested if not url.removeprefix("blob:").startswith(own)]
        assert foreign == [] and self.errors == []


def translated(video: Path) -> str:
    from signvit_jax import load_translator

    return load_translator(MODEL).translate(video).text


def test_captions_of_an_upload_have_the_text_of_translate(server, tmp_path):
    with chromium() as browser:
        page = Page(browser, server, viewport={"width": 320, "height": 700})
        page.page.set_input_files("#file", CLIP.video)
        page.wait("#state", "Done")
        assert page.texts() == [translated(CLIP.video)] == [CLIP.text]
        with page.page.expect_download() as download:
            page.page.get_by_role("button", name=".vtt").first.click()
        saved = tmp_path / "captions.vtt"
        download.value.save_as(saved)
        (event,) = pysubs2.load(str(saved)).events
        assert event.text == CLIP.text and event.end > event.start
        cues = "[...document.querySelector('track').track.cues].map((cue) => cue.text)"
        wait_until(lambda: page.page.evaluate(cues) == [CLIP.text])
        width = page.page.evaluate("document.documentElement.scrollWidth")
        assert width <= 320
        # Captions have the corrected text.
        page.page.locator("#transcript textarea").fill("corrected & <b>")
        page.page.locator("#transcript textarea").blur()
        wait_until(lambda: page.page.evaluate(cues) == ["corrected &amp; &lt;b&gt;"])
        page.page.set_input_files("#file", CLIPS / "clips.csv")
        assert "none of mp4" in page.wait("#video-error", "cannot be read")
        page.check_requests()


@pytest.mark.long
def test_the_camera_text_is_final_within_three_seconds_after_the_clip(server, tmp_path):
    seconds = write_camera(tmp_path / "camera.mjpeg", CLIP.video, 6.0)
    flag = f"--use-file-for-fake-video-capture={tmp_path / 'camera.mjpeg'}"
    with chromium(flag) as browser:
        page = Page(browser, server, permissions=["camera"])
        updates = []

        def listen(socket) -> None:
            socket.on("framereceived", lambda text: updates.append(json.loads(text)))

        page.page.on("websocket", listen)
        page.page.click("#start")
        # The camera may start in the middle of the clip; then the text comes when the clip repeats.
        page.wait("#final", CLIP.text)
        delays = [
            update["seconds"] - (segment["start"] + seconds)
            for update in updates
            for segment in update.get("final", ())
            if segment["text"] == CLIP.text
        ]
        assert min(delays) <= 3.0
        page.page.click("#stop")
        page.wait("#camera-state", "Stopped")
        assert page.page.locator("#final").get_attribute("aria-live") == "polite"
        assert page.page.locator("#partial").get_attribute("aria-hidden") == "true"
        page.check_requests()


LEVELS = 240  # gray levels; each camera frame is one level brighter, then it starts again


class LevelReader(StubTranslator):
    """A translator whose live texts are the gray levels of their first and last frame."""

    def live(self, *, decode):
        def read(images, rate):
            text = " ".join(str(round(float(image.mean()))) for image in (images[0], images[-1]))
            return Reading(Hypothesis(text, (1,), -1.0, 0.5, (Word(text, 0.5),)), "")

        captions = LiveCaptions(read, 4.0, 0.25, 0.2, 3)
        return LiveSession(captions, PushedFrames(lambda image: image, 8.0))


def is_near(level: float, expected: float, tolerance: float) -> bool:
    """Compare gray levels that repeat after LEVELS."""
    difference = (level - expected + LEVELS / 2) % LEVELS - LEVELS / 2
    return abs(difference) <= tolerance


@pytest.mark.long
def test_a_part_of_the_camera_recording_is_saved_only_on_request(tmp_path, make_app):
    with (tmp_path / "camera.mjpeg").open("wb") as file:
        for level in range(LEVELS):
            Image.new("RGB", (640, 480), (level + 8,) * 3).save(file, "JPEG", quality=92)
    flag = f"--use-file-for-fake-video-capture={tmp_path / 'camera.mjpeg'}"
    folder = tmp_path / "examples"
    app = make_app(LevelReader(), examples=folder)
    with served(app) as server, chromium(flag) as browser:
        page = Page(browser, server, permissions=["camera"])
        page.page.click("#start")
        wait_until(lambda: page.text("#final"), 180)
        page.page.click("#stop")
        page.wait("#camera-state", "Stopped")
        # Without the tick nothing is recorded, and so nothing can be saved.
        assert not page.page.is_visible("#recorded-part")
        assert page.page.evaluate("recordings.length") == 0
        page.page.check("#keep")
        page.page.click("#start")
        texts = page.page.locator("#recorded textarea")
        wait_until(lambda: texts.count() > 1, 180)
        first, last = map(int, texts.nth(1).input_value().split())
        texts.nth(1).fill("corrected")
        page.page.locator("#recorded .example").nth(1).click()
        page.wait("#camera-save-state", "Saved corrected_01.mp4", 180)
        page.page.click("#stop")
        page.wait("#camera-state", "Stopped")
        assert page.page.evaluate("recordings[0].recorder.state") == "inactive"
        # The recording is kept after the camera has stopped.
        page.page.locator("#recorded .example").nth(0).click()
        page.wait("#camera-save-state", "Saved")
        wait_until(lambda: len(list(folder.glob("*.mp4"))) == 2, 180)
        page.check_requests()
    assert "corrected_01,corrected,,,train" in (folder / "clips.csv").read_text()
    with open_video(folder / "corrected_01.mp4", Sampling()) as video:
        levels = [float(frame.mean()) for _, frame in video.frames]
    # Margins, and clocks on a busy machine, may differ by a second, which is 30 levels.
    assert is_near(levels[0], first, 30) and is_near(levels[-1], last, 30), (levels, first, last)


@pytest.mark.long
def test_without_permission_the_page_says_what_to_do(server):
    with chromium("--deny-permission-prompts") as browser:
        page = Page(browser, server)
        page.page.evaluate(
            "() => { navigator.mediaDevices.getUserMedia = async () => {"
            " throw new DOMException('no', 'NotAllowedError'); }; }"
        )
        page.page.click("#start")
        assert "Allow it" in page.wait("#camera-error", "not permitted")
        assert page.page.is_enabled("#start")


@pytest.mark.long
def test_the_page_reconnects_after_the_server_was_killed(tmp_path):
    flag = f"--use-file-for-fake-video-capture={tmp_path / 'camera.mjpeg'}"
    write_camera(tmp_path / "camera.mjpeg", CLIP.video, 3.0)
    with chromium(flag) as browser:
        with running_server() as first:
            page = Page(browser, first, permissions=["camera"])
            page.page.click("#start")
            page.wait("#camera-state", "Live")
            first.process.kill()
            page.wait("#connection", "does not answer")
            page.wait("#camera-state", "tries again")
            port = first.port
        with running_server(port=port):
            wait_until(lambda: page.page.locator("#connection").text_content() == "", 60)
            page.wait("#camera-state", "Live")
            page.wait("#final", CLIP.text)


@pytest.mark.long
def test_a_too_large_upload_is_refused_by_page_and_server(tmp_path):
    large = tmp_path / "large.mp4"
    large.write_bytes(CLIP.video.read_bytes())
    os.truncate(large, 2 << 30)
    with running_server("--max_upload_mb=2") as server, chromium() as browser:
        page = Page(browser, server)
        page.page.set_input_files("#file", large)
        page.wait("#video-error", "too large")
        # The server refuses it too, if the page does not know the limit.
        page.page.evaluate("model.max_upload_bytes = 1e12")
        page.page.set_input_files("#file", CLIP.video)
        page.wait("#state", "Done")
        page.page.set_input_files("#file", large)
        assert "at most 2 MiB" in page.wait("#video-error", "too large")


@pytest.mark.long
def test_the_page_works_by_keyboard(server):
    with chromium() as browser:
        page = Page(browser, server)
        keyboard = page.page.keyboard
        focused = "document.activeElement.id || document.activeElement.textContent"

        def tab_to(name: str) -> None:
            for _ in range(60):
                keyboard.press("Tab")
                if page.page.evaluate(focused) == name:
                    return
            raise AssertionError(f"Tab never reaches {name}")

        tab_to("large")
        keyboard.press("Enter")
        assert page.page.get_attribute("#large", "aria-pressed") == "true"
        tab_to("file")
        with page.page.expect_file_chooser() as chooser:
            keyboard.press("Enter")
        chooser.value.set_files(CLIP.video)
        page.wait("#state", "Done")
        tab_to("0:00.0")
        keyboard.press("Enter")
        wait_until(lambda: page.page.evaluate("document.getElementById('player').currentTime") > 0)
        keyboard.press("Tab")
        keyboard.press("Control+A")
        keyboard.type("by hand")
        tab_to(".txt")
        with page.page.expect_download() as download:
            keyboard.press("Enter")
        assert Path(download.value.path()).read_text() == "by hand\n"
        tab_to("start")


def _axe() -> Path | None:
    """Return the script of axe-core, which checks accessibility, or None."""
    folders = [os.environ.get("AXE_CORE", ""), "node_modules/axe-core"]
    candidates = [Path(folder) / "axe.min.js" for folder in folders if folder]
    return next((path for path in candidates if path.is_file()), None)


@pytest.mark.long
@pytest.mark.parametrize("look", ["light", "dark", "forced", "large"])
def test_axe_finds_no_serious_violation(server, look):
    axe = _axe()
    if axe is None:
        pytest.skip("axe-core is not installed (npm install axe-core, or AXE_CORE=its folder)")
    with chromium() as browser:
        options = {"color_scheme": "dark" if look == "dark" else "light"}
        if look == "forced":
            options["forced_colors"] = "active"
        page = Page(browser, server, viewport={"width": 420, "height": 900}, **options)
        if look == "large":
            page.page.click("#large")
        page.page.set_input_files("#file", CLIP.video)
        page.wait("#state", "Done")
        page.page.evaluate(axe.read_text())
        run_axe = "axe.run().then((result) => JSON.stringify(result.violations))"
        violations = json.loads(page.page.evaluate(run_axe))
        serious = [v["id"] for v in violations if v["impact"] in ("serious", "critical")]
        assert serious == []
