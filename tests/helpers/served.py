"""A running `signvit serve --demo`, headless Chromium, and a video file as Chromium's camera."""

import contextlib
import io
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import uvicorn
from PIL import Image

from signvit_jax.media.video import Sampling, open_video

ROOT = Path(__file__).parents[2]
CAMERA_RATE = 30  # frames per second at which Chromium plays an .mjpeg file
CHROMIUM_FLAGS = (
    "--no-sandbox",
    "--disable-gpu",
    "--no-proxy-server",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-domain-reliability",
    "--disable-sync",
    "--disable-default-apps",
    "--no-first-run",
    "--disable-features=OptimizationHints,MediaRouter,Translate",
    "--use-fake-device-for-media-stream",
    "--use-fake-ui-for-media-stream",
)


class Server:
    """A process that runs the server; `address` is the address of its page."""

    def __init__(self, *flags: str, port: int = 0, temporary: Path | None = None):
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        # The packaged model's programs are compiled with all optimizations, as for users.
        environment.pop("JAX_DISABLE_MOST_OPTIMIZATIONS", None)
        if temporary is not None:
            environment["TMPDIR"] = str(temporary)
        self.process = subprocess.Popen(
            [sys.executable, "-m", "signvit_jax.serve", "--demo", f"--port={port}", *flags],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=temporary or ROOT,
        )
        assert self.process.stdout is not None
        self.address = self.process.stdout.readline().strip()
        if not self.address.startswith("http://"):
            raise AssertionError(f"the server did not start: {self.process.communicate()}")
        self.port = int(self.address.partition("#")[0].rstrip("/").rpartition(":")[2])

    def stop(self, number: int = signal.SIGTERM, seconds: float = 60.0) -> tuple[int, str]:
        """Send a signal and wait for the end; return the exit code and the standard error."""
        self.process.send_signal(number)
        _, errors = self.process.communicate(timeout=seconds)
        return self.process.returncode, errors


@contextlib.contextmanager
def running_server(*flags: str, **options):
    """Yield a Server; kill it at the end."""
    server = Server(*flags, **options)
    try:
        yield server
    finally:
        if server.process.poll() is None:
            server.process.kill()
        server.process.communicate()


class ServedApp(NamedTuple):
    """An application that a thread of this process serves; `address` is the address of its page."""

    address: str


@contextlib.contextmanager
def served(app):
    """Serve an application from a thread, for tests of pages that need no model."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        config = uvicorn.Config(app, lifespan="off", log_level="error", ws="websockets-sansio")
        server = uvicorn.Server(config)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True)
        thread.start()
        try:
            yield ServedApp(f"http://127.0.0.1:{listening.getsockname()[1]}/")
        finally:
            server.should_exit = True
            thread.join(60)


@contextlib.contextmanager
def chromium(*flags: str):
    """Yield a browser; skip the test if there is none."""
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    executable = shutil.which("chromium") or shutil.which("chromium-browser")
    if executable is None:
        pytest.skip("chromium is not installed (apt-get install chromium)")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=executable, args=[*CHROMIUM_FLAGS, *flags]
        )
        try:
            yield browser
        finally:
            browser.close()


def write_camera(path: Path, clip: Path, rest_seconds: float) -> float:
    """Write a clip and `rest_seconds` of its last frame as a camera file; return the clip's length.

    Chromium plays the file in a loop. The length is in seconds.
    """
    with open_video(clip, Sampling(frame_rate=CAMERA_RATE)) as video:
        frames = [frame for _, frame in video.frames]
    rest = [frames[-1]] * round(rest_seconds * CAMERA_RATE)
    with path.open("wb") as file:
        for frame in [*frames, *rest]:
            file.write(_jpeg(frame))
    return len(frames) / CAMERA_RATE


def _jpeg(frame: np.ndarray) -> bytes:
    """Return a JPEG of 640 x 480 with the square frame in its middle; the model crops the sides."""
    image = Image.new("RGB", (640, 480), tuple(frame[0, 0].tolist()))
    image.paste(Image.fromarray(frame).resize((480, 480)), (80, 0))
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=92)
    return buffer.getvalue()


def wait_until(check, seconds: float = 30.0, every: float = 0.05):
    """Call `check` every `every` seconds; return its first true value, or fail after `seconds`."""
    end = time.monotonic() + seconds
    while not (found := check()):
        assert time.monotonic() < end, f"not true within {seconds} s"
        time.sleep(every)
    return found
