"""A server that gets a signal while a video arrives, and while it is translated."""

import contextlib
import json
import os
import signal
import socket
import time
from pathlib import Path

import pytest

from signvit_jax.demo.packaged import demo_clips
from tests.helpers.served import Server, running_server, wait_until

pytestmark = [pytest.mark.long, pytest.mark.xdist_group("served")]
CLIP = demo_clips()[0]
CONTENT = CLIP.video.read_bytes()
HALF = len(CONTENT) // 2
HEAD = (
    "POST /v1/translate HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n"
    f"Accept: application/x-ndjson\r\nContent-Length: {len(CONTENT)}\r\n\r\n"
).encode()


def open_file_sizes(server: Server, folder: Path) -> list[int]:
    """Return the sizes of the files in `folder` that the server has open, even without a name."""
    sizes = []
    for number in Path(f"/proc/{server.process.pid}/fd").iterdir():
        with contextlib.suppress(OSError):
            if os.readlink(number).startswith(f"{folder}/"):
                sizes.append(number.stat().st_size)
    return sizes


def named_files(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


def events(client: socket.socket, answer: bytes = b"") -> list[dict]:
    """Return all events of an answer that begins with `answer`; [] if there is no answer."""
    with contextlib.suppress(ConnectionError):
        while data := client.recv(65536):
            answer += data
    lines = answer.decode().partition("\r\n\r\n")[2].splitlines()
    return [json.loads(line) for line in lines if line.startswith("{")]


@pytest.mark.parametrize("when", ["upload", "translation"])
def test_a_stopped_server_finishes_accepted_requests_and_leaves_no_file(tmp_path, when):
    with (
        running_server(temporary=tmp_path) as server,
        socket.create_connection(("127.0.0.1", server.port), timeout=120) as client,
    ):
        client.sendall(HEAD + CONTENT[:HALF])
        wait_until(lambda: open_file_sizes(server, tmp_path) == [HALF])
        answer = b""
        if when == "translation":
            client.sendall(CONTENT[HALF:])
            while b"started" not in answer:  # the server compiles first, which takes seconds
                answer += client.recv(65536)
        server.process.send_signal(signal.SIGTERM)
        wait_until(lambda: not accepts_requests(server))
        assert open_file_sizes(server, tmp_path) and named_files(tmp_path) == []
        if when == "upload":
            client.sendall(CONTENT[HALF:])
        received = events(client, answer)
        assert received[-1]["event"] == "done" and received[-1]["text"] == CLIP.text
        assert server.process.wait(60) == 128 + signal.SIGTERM
    assert named_files(tmp_path) == []


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL], ids=["twice", "killed"])
def test_a_server_that_ends_at_once_leaves_no_part_of_an_upload(tmp_path, number):
    with (
        running_server(temporary=tmp_path) as server,
        socket.create_connection(("127.0.0.1", server.port), timeout=120) as client,
    ):
        client.sendall(HEAD + CONTENT[:HALF])
        wait_until(lambda: open_file_sizes(server, tmp_path) == [HALF])
        if number == signal.SIGTERM:
            server.process.send_signal(number)
            wait_until(lambda: not accepts_requests(server))
            time.sleep(0.5)  # within 0.2 s the server would take it for the same signal
        server.process.send_signal(number)
        code = server.process.wait(20)
        assert code == (128 + number if number == signal.SIGTERM else -number)
        assert events(client) == []
    assert named_files(tmp_path) == []


def accepts_requests(server: Server) -> bool:
    """Return True if the server accepts new requests."""
    with socket.create_connection(("127.0.0.1", server.port), timeout=60) as client:
        client.sendall(b"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n")
        return b" 503 " not in client.recv(100)
