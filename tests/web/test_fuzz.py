"""Fuzzing of every endpoint and of the websocket: no status 500, and no growth of memory."""

import gc
import json

import hypothesis
import pytest
from hypothesis import strategies as st
from starlette.websockets import WebSocketDisconnect

from signvit_jax.telemetry.prometheus import resident_bytes
from tests.web.conftest import CLIP, open_uploads, until

PATHS = (
    "/",
    "/app.js",
    "/v1/translate",
    "/v1/captions",
    "/v1/examples",
    "/v1/model",
    "/v1/openapi.json",
    "/v1/live",
    "/healthz",
    "/metrics",
    "/../etc/passwd",
    "/%00",
)
_text = st.text(max_size=30)
_latin = st.text(st.characters(codec="latin-1", exclude_categories=["Cc"]), max_size=30)
_video = CLIP.read_bytes()
_bodies = st.one_of(
    st.binary(max_size=300),
    st.builds(lambda cut, tail: _video[:cut] + tail, st.integers(0, 400), st.binary(max_size=20)),
    st.recursive(
        st.none() | st.booleans() | st.floats() | _text,
        lambda inner: (
            st.lists(inner, max_size=4)
            | st.dictionaries(
                st.sampled_from(["segments", "seconds", "start", "end", "text", "confidence"]),
                inner,
            )
        ),
        max_leaves=12,
    ).map(lambda value: json.dumps(value).encode()),
    st.builds(
        lambda name, value: (
            (b'--xx\r\nContent-Disposition: form-data; name="' + name + b'"\r\n\r\n' + value)
            + b"\r\n--xx--\r\n"
        ),
        st.sampled_from([b"video", b"text", b"start", b"", b"\xff"]) | st.binary(max_size=9),
        st.binary(max_size=50),
    ),
)
_requests = st.fixed_dictionaries(
    {
        "method": st.sampled_from(["GET", "POST", "PUT", "DELETE", "HEAD", "OPTIONS", "PATCH"]),
        "url": st.sampled_from(PATHS),
        "params": st.dictionaries(
            st.sampled_from(["decode", "format", "min_confidence", "token"]) | _text,
            st.sampled_from(["beam", "vtt", "0.5", "nan"]) | _text,
            max_size=3,
        ),
        "headers": st.dictionaries(
            st.sampled_from(
                ["Host", "Origin", "Content-Type", "Accept", "Authorization", "Content-Length"]
            ),
            st.sampled_from(
                [
                    "application/json",
                    "multipart/form-data; boundary=xx",
                    "multipart/form-data",
                    "application/x-ndjson",
                    "127.0.0.1:8000",
                    "http://127.0.0.1:8000",
                    "99999999999999999999",
                    "[",
                ]
            )
            | _latin,
            max_size=3,
        ),
        "content": _bodies,
    }
)
_messages = st.lists(
    st.one_of(
        st.binary(max_size=200),
        _text,
        st.just(b"\xff\xd8\xff\xe0" + bytes(40)),
        st.just('{"event": "end"}'),
    ),
    max_size=4,
)


def send(client, request) -> int:
    headers = {name: value.encode("latin-1") for name, value in request["headers"].items()}
    answer = client.request(**{**request, "headers": headers})
    assert answer.status_code < 500 or answer.status_code in (503, 507), (request, answer.text)
    return answer.status_code


def send_live(client, messages) -> None:
    try:
        with client.websocket_connect("ws://127.0.0.1:8000/v1/live") as socket:
            assert socket.receive_json()["event"] == "ready"
            for message in messages:
                if isinstance(message, bytes):
                    socket.send_bytes(message)
                else:
                    socket.send_text(message)
    except WebSocketDisconnect:
        pass


def fuzz(client, app, requests: int, sessions: int, *, is_random: bool) -> set[int]:
    """Send random requests, then live sessions of random messages; return the HTTP statuses."""
    statuses = set()
    settings = hypothesis.settings(
        max_examples=requests,
        database=None,
        derandomize=not is_random,
        suppress_health_check=list(hypothesis.HealthCheck),
    )

    @settings
    @hypothesis.given(_requests)
    def odd_requests(request):
        statuses.add(send(client, request))

    @hypothesis.settings(settings, max_examples=sessions)
    @hypothesis.given(_messages)
    def odd_sessions(messages):
        send_live(client, messages)

    odd_requests()
    odd_sessions()
    until(lambda: app.live.count == 0)
    assert (app.queue.running, app.queue.waiting) == (0, 0)
    assert open_uploads() == set()
    return statuses


def test_odd_requests_are_answered(make_client, tmp_path):
    client, app = make_client(examples=tmp_path / "examples", max_upload_bytes=100_000)
    # So few requests do not get every status.
    assert len(fuzz(client, app, 60, 2, is_random=False)) >= 4


@pytest.mark.long
@pytest.mark.timeout(1200)
def test_ten_thousand_odd_requests_leave_no_file_and_no_memory(make_client, tmp_path):
    client, app = make_client(examples=tmp_path / "examples", max_upload_bytes=100_000)
    statuses, resident_mib = set(), []
    for _ in range(10):  # Hypothesis keeps the requests of a call of `fuzz` in memory until it ends
        statuses |= fuzz(client, app, 1000, 20, is_random=True)
        gc.collect()
        resident_mib.append(resident_bytes() / 2**20)
    assert {200, 400, 403, 404, 405, 421} <= statuses
    assert resident_mib[-1] - resident_mib[1] < 8, resident_mib
