"""The API of the server in this process: answers, errors, limits, and removal of uploads."""

import asyncio
import io
import json
import threading

import numpy as np
import pysubs2
import pytest
from PIL import Image
from starlette.testclient import WebSocketDenialResponse

from signvit_jax.captions.formats import FORMATS
from signvit_jax.web.openapi import openapi_document
from signvit_jax.web.settings import ServerSettings
from signvit_jax.web.uploads import receive_upload
from signvit_jax.web.work_queue import WorkQueue
from tests.web.conftest import ADDRESS, CLIP, open_uploads, until, video

EVENTS = {"Accept": "application/x-ndjson"}
PATHS = ("/v1/translate", "/v1/captions", "/v1/examples")


def lines(response) -> list[dict]:
    return [json.loads(line) for line in response.text.splitlines()]


def jpeg(size=(64, 48)) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.full((size[1], size[0], 3), 90, np.uint8)).save(buffer, "JPEG")
    return buffer.getvalue()


# ---- translations -------------------------------------------------------------------------------


@pytest.mark.parametrize("sent_as", ["body", "form"])
def test_an_uploaded_video_is_translated_to_texts_with_times(client, stub, sent_as):
    if sent_as == "body":
        answer = client.post("/v1/translate?decode=beam&min_confidence=0.25", content=video())
    else:
        fields = {"decode": "beam", "min_confidence": "0.25"}
        answer = client.post("/v1/translate", files={"video": ("a name.mp4", video())}, data=fields)
    assert answer.status_code == 200
    translation = answer.json()
    assert translation["text"] == "text 0 text 1" and translation["decoder"] == "beam"
    assert [segment["start"] for segment in translation["segments"]] == [0.0, 1.0]
    assert translation["seconds"] == pytest.approx(2.72, abs=0.2)
    assert stub.options == [{"decode": "beam", "min_confidence": 0.25}]
    assert open_uploads() == set()


def test_events_have_the_segments_in_order(client):
    events = lines(client.post("/v1/translate", content=video(), headers=EVENTS))
    kinds = [event["event"] for event in events]
    assert kinds == ["started", "segment", "progress", "segment", "progress", "done"]
    assert events[0]["seconds"] == pytest.approx(2.72)
    assert events[-1]["segments"][0]["text"] == events[1]["text"] == "text 0"


@pytest.mark.parametrize("caption_format", FORMATS)
def test_captions_of_a_video_and_of_segments_are_the_same_file(client, caption_format):
    answer = client.post(f"/v1/captions?format={caption_format}", content=video())
    assert answer.status_code == 200 and "text 1" in answer.text
    translated = client.post("/v1/translate", content=video()).json()
    from_segments = client.post(
        f"/v1/captions?format={caption_format}",
        json={"segments": translated["segments"], "seconds": translated["seconds"]},
    )
    if caption_format not in ("json", "tsv", "eaf"):
        assert from_segments.text == answer.text
    if caption_format in ("vtt", "srt"):
        events = pysubs2.SSAFile.from_string(answer.text, caption_format).events
        assert [event.text for event in events] == ["text 0", "text 1"]


def test_words_keep_their_times_unless_the_text_was_corrected(client):
    words = [
        {"text": "good", "confidence": 0.5, "start": 1.25, "end": 1.5, "timed_by": "ctc"},
        {"text": "day", "confidence": None, "start": 9.0, "end": 9.5, "timed_by": "length"},
    ]

    def words_of_answer(text: str) -> list[dict]:
        segment = {"start": 1.0, "end": 2.0, "text": text, "words": words}
        answer = client.post("/v1/captions?format=json", json={"segments": [segment]})
        return answer.json()["segments"][0]["words"]

    first, second = words_of_answer("good day")
    assert first == words[0]
    assert (second["text"], second["confidence"], second["timed_by"]) == ("day", None, "length")
    assert 1.25 < second["start"] < second["end"] == 2.0
    assert words_of_answer("good night") == []


def test_caption_files_state_the_language_of_the_texts(make_client):
    segments = {"segments": [{"start": 0, "end": 1, "text": "Guten Tag"}]}
    for language, tag in (("German", "de"), (None, ""), ("Klingon", "")):
        client, _ = make_client(text_language=language)
        answer = client.post("/v1/captions?format=ttml", json=segments)
        assert f'xml:lang="{tag}"' in answer.text
        assert answer.headers["Content-Type"].startswith("application/ttml+xml")


@pytest.mark.parametrize(
    ("path", "content", "status", "code"),
    [
        ("/v1/translate", b"not a video", 422, "unreadable_video"),
        ("/v1/translate", b"", 400, "no_video"),
        ("/v1/translate?decode=bream", b"x", 400, "bad_option"),
        ("/v1/translate?min_confidence=nan", b"x", 400, "bad_option"),
        ("/v1/translate?tempo=1", b"x", 400, "unknown_option"),
        ("/v1/captions?format=doc", b"x", 400, "bad_option"),
        ("/v1/examples", b"x", 403, "no_examples"),
        ("/v1/nothing", b"x", 404, "no_such_path"),
        ("/healthz", b"x", 405, "no_such_method"),
    ],
)
def test_each_refusal_has_a_status_a_code_and_a_message(client, path, content, status, code):
    answer = client.post(path, content=content)
    assert answer.status_code == status
    error = answer.json()["error"]
    assert error["code"] == code and len(error["message"]) > 15
    assert "/proc" not in error["message"] and open_uploads() == set()


def test_an_unreadable_video_is_an_error_event_if_events_are_requested(client):
    events = lines(client.post("/v1/translate", content=b"not a video", headers=EVENTS))
    assert [event["event"] for event in events] == ["error"]
    assert events[0]["error"]["code"] == "unreadable_video"


@pytest.mark.parametrize(
    "body",
    [
        "no json",
        "[]",
        '{"segments": [{"start": 0, "end": 1}]}',
        '{"segments": [{"start": -1, "end": 1, "text": "a"}]}',
        '{"segments": [{"start": 1e400, "end": 1, "text": "a"}]}',
        '{"segments": [{"start": true, "end": 1, "text": "a"}]}',
        '{"segments": [], "seconds": "3"}',
        "[" * 100_000,
    ],
    ids=["text", "list", "no_text", "negative", "infinite", "true", "seconds", "deep"],
)
def test_invalid_segments_are_refused(client, body):
    answer = client.post("/v1/captions", content=body, headers={"Content-Type": "application/json"})
    assert answer.status_code == 400 and answer.json()["error"]["message"]


# ---- uploads ------------------------------------------------------------------------------------


class SlowRequest:
    """A request whose body is `head` and then `pieces` equal pieces.

    `num_read` is the number of pieces that were read.
    """

    def __init__(self, pieces: int, piece: bytes, headers=None, head: bytes = b""):
        self.headers = headers or {}
        self.num_read = 0
        self._pieces = pieces
        self._piece = piece
        self._head = head

    async def stream(self):
        if self._head:
            yield self._head
        for _ in range(self._pieces):
            self.num_read += 1
            yield self._piece


async def receive(request, max_bytes=10_000, idle_seconds=5.0):
    async with receive_upload(request, max_bytes, idle_seconds) as upload:
        return upload.size, upload.fields


def form(*parts: bytes, end: bytes = b"--xx--\r\n") -> bytes:
    return b"".join(b"--xx\r\n" + part + b"\r\n" for part in parts) + end


FORM = {"content-type": "multipart/form-data; boundary=xx"}
VIDEO_PART = b'Content-Disposition: form-data; name="video"; filename="a.mp4"\r\n\r\n'


@pytest.mark.parametrize("headers", [{}, FORM], ids=["body", "form"])
def test_a_large_upload_is_refused_while_it_arrives(headers):
    head = b"--xx\r\n" + VIDEO_PART if headers else b""
    request = SlowRequest(1000, b"x" * 1000, headers, head)
    with pytest.raises(Exception, match="at most") as caught:
        asyncio.run(receive(request))
    assert caught.value.status == 413 and request.num_read <= 11
    assert open_uploads() == set()


def test_a_declared_size_over_the_limit_is_refused_before_the_first_byte():
    request = SlowRequest(1, b"x", {"content-length": "99999999"})
    with pytest.raises(Exception, match="at most"):
        asyncio.run(receive(request))
    assert request.num_read == 0


def test_an_upload_that_stalls_is_refused():
    class Stalled(SlowRequest):
        async def stream(self):
            yield b"x"
            await asyncio.sleep(60)
            yield b"x"

    with pytest.raises(Exception, match="nothing has arrived") as caught:
        asyncio.run(receive(Stalled(1, b"x"), idle_seconds=0.05))
    assert caught.value.status == 408 and open_uploads() == set()


def test_a_form_that_arrives_byte_by_byte_is_read():
    body = form(VIDEO_PART + b"content", b'Content-Disposition: form-data; name="text"\r\n\r\nhi')

    class Bytes(SlowRequest):
        async def stream(self):
            for byte in body:
                yield bytes([byte])

    assert asyncio.run(receive(Bytes(1, b"", FORM))) == (7, {"text": "hi"})


@pytest.mark.parametrize(
    "body",
    [
        form(VIDEO_PART + b"x", end=b""),
        b"nonsense",
        form(*[b'Content-Disposition: form-data; name="a"\r\n\r\nb'] * 30),
        form(b'Content-Disposition: form-data; name="a"\r\n\r\n' + b"b" * 20_000),
        form(b"X-Header: " + b"b" * 20_000 + b"\r\n\r\nb"),
    ],
    ids=["cut", "nonsense", "parts", "field", "header"],
)
def test_invalid_and_too_large_forms_are_refused(body):
    with pytest.raises(Exception, match="form") as caught:
        asyncio.run(receive(SlowRequest(1, body, FORM), max_bytes=1 << 20))
    assert caught.value.status == 400


# ---- the queue ----------------------------------------------------------------------------------


def test_a_full_queue_answers_429_with_the_place(make_client, stub):
    client, app = make_client(max_running=1, max_waiting=1)
    stub.gate.clear()
    answers = []
    threads = [
        threading.Thread(
            target=lambda: answers.append(
                client.post("/v1/translate", content=video(), headers=EVENTS)
            )
        )
        for _ in range(2)
    ]
    for number, thread in enumerate(threads, 1):
        thread.start()
        until(lambda number=number: app.queue.running + app.queue.waiting == number)
    until(lambda: stub.running == 1 and app.queue._waiting)
    refused = client.post("/v1/translate", content=video())
    assert refused.status_code == 429
    assert refused.json()["error"]["place"] == 2 and int(refused.headers["Retry-After"]) >= 1
    stub.gate.set()
    for thread in threads:
        thread.join(60)
    assert [answer.status_code for answer in answers] == [200, 200]
    assert {"event": "queued", "place": 1} in [
        event for answer in answers for event in lines(answer)
    ]
    assert client.post("/v1/translate", content=video()).status_code == 200


def test_translations_run_in_order_and_cancelled_ones_are_skipped():
    async def run() -> list[int]:
        queue = WorkQueue(1, 10)
        order = []
        finish = asyncio.Event()

        async def work(number: int) -> None:
            with queue.enter() as ticket:
                async with ticket.turn():
                    order.append(number)
                    await finish.wait()

        tasks = []
        for number in range(4):
            tasks.append(asyncio.create_task(work(number)))
            await asyncio.sleep(0)
        tasks[1].cancel()
        await asyncio.sleep(0)
        finish.set()
        await asyncio.gather(*tasks, return_exceptions=True)
        assert queue.running == queue.waiting == 0
        return order

    assert asyncio.run(run()) == [0, 2, 3]


@pytest.mark.parametrize("when", ["running", "waiting"])
def test_a_disconnected_client_ends_its_translation_and_leaves_no_file(make_client, stub, when):
    """This calls the ASGI application directly, because the test client cannot disconnect."""
    _, app = make_client(max_running=1, max_waiting=3)
    stub.gate.clear()

    async def request(disconnect: asyncio.Event):
        body = [{"type": "http.request", "body": video(), "more_body": False}]

        async def receive():
            if body:
                return body.pop()
            await disconnect.wait()
            return {"type": "http.disconnect"}

        async def send(message):
            pass

        scope = {
            "type": "http",
            "method": "POST",
            "path": "/v1/translate",
            "raw_path": b"/v1/translate",
            "query_string": b"",
            "headers": [(b"host", b"127.0.0.1:8000"), (b"accept", b"application/x-ndjson")],
            "client": ("127.0.0.1", 1),
            "server": ("127.0.0.1", 8000),
            "scheme": "http",
            "root_path": "",
            "http_version": "1.1",
        }
        await app(scope, receive, send)

    async def run():
        disconnect, never = asyncio.Event(), asyncio.Event()
        first = asyncio.create_task(request(disconnect if when == "running" else never))
        await asyncio.to_thread(until, lambda: stub.running == 1)
        if when == "running":
            disconnect.set()
            await first
        else:
            second = asyncio.create_task(request(disconnect))
            await asyncio.to_thread(until, lambda: app.queue.waiting == 1)
            disconnect.set()
            await second
            assert stub.running == 1
            stub.gate.set()
            await first

    asyncio.run(run())
    assert (app.queue.running, app.queue.waiting, stub.running) == (0, 0, 0)
    assert stub.finished == (0 if when == "running" else 1)
    assert open_uploads() == set()


def test_a_stopping_server_finishes_accepted_requests_and_refuses_new_ones(make_client, stub):
    client, app = make_client()
    stub.gate.clear()
    answers = []
    thread = threading.Thread(
        target=lambda: answers.append(client.post("/v1/translate", content=video()))
    )
    thread.start()
    until(lambda: stub.running == 1)
    stopping = threading.Thread(target=lambda: client.portal.call(app.finish))
    stopping.start()
    until(lambda: app.queue.is_closed)
    assert client.get("/healthz").status_code == 503
    refused = client.post("/v1/translate", content=video())
    assert refused.status_code == 503 and refused.json()["error"]["code"] == "stopping"
    assert stopping.is_alive()
    stub.gate.set()
    stopping.join(60)
    thread.join(60)
    assert not stopping.is_alive() and answers[0].status_code == 200


# ---- access control -----------------------------------------------------------------------------


@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1.evil.example", "10.0.0.1", "[::2]"])
def test_a_foreign_host_is_refused(client, host):
    for path in ("/", "/v1/model", "/healthz"):
        answer = client.get(path, headers={"Host": host})
        assert (answer.status_code, answer.json()["error"]["code"]) == (421, "wrong_host")


@pytest.mark.parametrize("host", ["localhost:1234", "127.0.0.1:8000", "[::1]:80", "LOCALHOST"])
def test_requests_to_names_of_this_machine_are_answered(client, host):
    assert client.get("/healthz", headers={"Host": host}).status_code == 200


@pytest.mark.parametrize(
    "origin", ["http://evil.example", "null", "http://127.0.0.1:8001", "https://127.0.0.1", ""]
)
def test_requests_of_a_foreign_page_are_refused(client, stub, origin):
    for path in PATHS:
        answer = client.post(path, content=video(), headers={"Origin": origin})
        assert (answer.status_code, answer.json()["error"]["code"]) == (403, "wrong_origin")
    with (
        pytest.raises(WebSocketDenialResponse),
        client.websocket_connect("ws://127.0.0.1:8000/v1/live", headers={"Origin": origin}),
    ):
        pass
    assert stub.options == []
    own = client.post("/v1/translate", content=video(), headers={"Origin": ADDRESS})
    assert own.status_code == 200


def test_api_requests_need_the_token_of_the_server(make_client):
    client, _ = make_client(token="s3cret", host="0.0.0.0")
    for path in ("/v1/model", "/metrics", "/v1/openapi.json"):
        assert client.get(path).status_code == 401
        # Addresses are logged and shared, so they must not have the token.
        assert client.get(f"{path}?token=s3cret").status_code == 401
        wrong = client.get(path, headers={"Authorization": "Bearer s3cre"})
        assert wrong.json()["error"]["code"] == "wrong_token"
        assert client.get(path, headers={"Authorization": "Bearer s3cret"}).status_code == 200
    assert client.post("/v1/translate", content=video()).status_code == 401
    assert client.get("/").status_code == client.get("/healthz").status_code == 200
    with (
        pytest.raises(WebSocketDenialResponse),
        client.websocket_connect("ws://127.0.0.1:8000/v1/live"),
    ):
        pass
    with client.websocket_connect("ws://127.0.0.1:8000/v1/live?token=s3cret") as socket:
        assert socket.receive_json() == {"event": "ready"}
    assert client.get("/healthz", headers={"Host": "192.168.1.7:8000"}).status_code == 200
    assert client.get("/healthz", headers={"Host": "evil.example"}).status_code == 421


def test_every_answer_has_security_headers(client):
    for answer in (
        client.get("/"),
        client.get("/app.js"),
        client.get("/nothing"),
        client.post("/v1/translate", content=b"x"),
        client.get("/", headers={"Host": "evil.example"}),
    ):
        policy = answer.headers["Content-Security-Policy"]
        assert "default-src 'none'" in policy and "unsafe" not in policy and "http" not in policy
        assert answer.headers["Referrer-Policy"] == "no-referrer"
        assert answer.headers["Cache-Control"] == "no-store"
        assert "set-cookie" not in answer.headers
        assert "access-control-allow-origin" not in answer.headers


def test_the_page_names_no_other_server_and_has_no_inline_script(client):
    page = client.get("/").text
    for name in ("/", "/app.js", "/camera.js", "/style.css", "/icon.svg"):
        text = client.get(name).text.replace("http://www.w3.org/2000/svg", "")
        text = text.replace("http://localhost as", "").replace("as http://localhost", "")
        assert "https://" not in text and "http://" not in text, name
    assert "<script>" not in page and " style=" not in page and " on" + "click" not in page
    assert 'dir="auto"' in page and 'aria-live="polite"' in page


# ---- live ---------------------------------------------------------------------------------------


def receive_all(socket) -> list[dict]:
    events = []
    while not events or events[-1]["event"] != "ended":
        events.append(socket.receive_json())
    return events


def test_camera_frames_give_partial_and_final_texts(client):
    with client.websocket_connect(
        "ws://127.0.0.1:8000/v1/live", headers={"Origin": ADDRESS}
    ) as socket:
        assert socket.receive_json() == {"event": "ready"}
        for _ in range(6):
            socket.send_bytes(jpeg())
        socket.send_json({"event": "end"})
        events = receive_all(socket)
    updates = [event for event in events if event["event"] == "update"]
    assert updates and updates[-1]["final"][0]["text"].endswith("frames")
    assert updates[-1]["partial"] == "partial" and updates[-1]["dropped"] == 0


@pytest.mark.parametrize(
    ("message", "code"),
    [
        (b"not a jpeg", "unreadable_frame"),
        (jpeg((2000, 1500)), "unreadable_frame"),
        ("text", "bad_message"),
        ('{"event": "start"}', "bad_message"),
    ],
    ids=["bytes", "large", "text", "event"],
)
def test_an_invalid_message_is_answered_with_an_error_and_ends_the_session(
    make_client, message, code
):
    client, app = make_client()
    with client.websocket_connect("ws://127.0.0.1:8000/v1/live") as socket:
        socket.receive_json()
        if isinstance(message, bytes):
            socket.send_bytes(message)
        else:
            socket.send_text(message)
        events = receive_all(socket)
    assert [event["error"]["code"] for event in events if event["event"] == "error"] == [code]
    assert app.live.count == 0


def test_sessions_are_limited_and_end_when_idle_or_disconnected(make_client):
    client, app = make_client(max_live=1, idle_seconds=0.3)
    with client.websocket_connect("ws://127.0.0.1:8000/v1/live") as socket:
        assert socket.receive_json()["event"] == "ready"
        with client.websocket_connect("ws://127.0.0.1:8000/v1/live") as other:
            assert other.receive_json()["error"]["code"] == "too_many_sessions"
        events = receive_all(socket)
    assert events[0]["error"]["code"] == "idle"
    with client.websocket_connect("ws://127.0.0.1:8000/v1/live") as socket:
        assert socket.receive_json()["event"] == "ready"
        socket.send_bytes(jpeg())
        socket.close()
    until(lambda: app.live.count == 0)
    until(lambda: not [t for t in threading.enumerate() if t.name == "signvit_live"])


def test_a_stopping_server_sends_live_sessions_their_last_text(make_client):
    client, app = make_client()
    with client.websocket_connect("ws://127.0.0.1:8000/v1/live") as socket:
        assert socket.receive_json()["event"] == "ready"
        for _ in range(3):
            socket.send_bytes(jpeg())
        until(lambda: "live_frames_total 3" in client.get("/metrics").text)
        client.portal.call(app.finish)
        events = receive_all(socket)
    assert any(event.get("final") for event in events) and app.live.count == 0


# ---- examples, facts, metrics -------------------------------------------------------------------


def test_an_example_is_written_as_signvit_record_writes_it(make_client, tmp_path):
    from signvit_jax.media.video import Sampling, read_jpegs

    client, _ = make_client(examples=tmp_path / "own")
    fields = {"text": " the\nteacher ", "start": "0.5", "end": "2.0", "signer": "ana"}
    answer = client.post("/v1/examples", files={"video": ("x.mp4", video())}, data=fields)
    assert answer.status_code == 201 and answer.json()["saved"] == "the-teacher_01.mp4"
    table = (tmp_path / "own" / "clips.csv").read_text()
    assert table.splitlines() == [
        "uid,text,gloss,signer,split",
        "the-teacher_01,the teacher,,ana,train",
    ]
    written = read_jpegs(tmp_path / "own" / "the-teacher_01.mp4", Sampling())
    assert len(written.frames) / written.fps == pytest.approx(1.5, abs=0.1)
    assert sorted(path.name for path in (tmp_path / "own").iterdir()) == [
        "clips.csv",
        "the-teacher_01.mp4",
    ]


@pytest.mark.parametrize(
    ("fields", "content", "status"),
    [
        ({}, video(), 400),
        ({"text": "a", "start": "2", "end": "1"}, video(), 400),
        ({"text": "a", "start": "-1"}, video(), 400),
        ({"text": "a", "folder": "/etc"}, video(), 400),
        ({"text": "a"}, b"no video", 422),
        ({"text": "a", "start": "50", "end": "60"}, video(), 422),
    ],
    ids=["no_text", "order", "negative", "folder", "no_video", "beyond"],
)
def test_an_example_that_cannot_be_saved_leaves_no_file(
    make_client, tmp_path, fields, content, status
):
    client, _ = make_client(examples=tmp_path)
    answer = client.post("/v1/examples", files={"video": ("x.mp4", content)}, data=fields)
    assert answer.status_code == status and list(tmp_path.iterdir()) == []


def test_the_server_connects_to_no_other_machine(client, monkeypatch):
    import socket

    real_connect, connected = socket.socket.connect, []

    def connect(self, address):
        if self.family in (socket.AF_INET, socket.AF_INET6):
            connected.append(address)
        return real_connect(self, address)

    monkeypatch.setattr(socket.socket, "connect", connect)
    client.post("/v1/translate", content=video())
    client.get("/")
    client.get("/v1/model")
    assert connected == []


def test_metrics_are_prometheus_text_with_counts(client):
    import re

    client.post("/v1/translate", content=video())
    client.post("/v1/translate?decode=%22%0A", content=b"x")
    text = client.get("/metrics").text
    sample = re.compile(r'[a-z_]+(\{[a-z]+="[^"\n]*"(,[a-z]+="[^"\n]*")*\})? [0-9.e+-]+')
    assert all(line.startswith("# ") or sample.fullmatch(line) for line in text.splitlines())
    assert 'signvit_requests_total{path="/v1/translate",status="200"} 1' in text
    assert 'signvit_requests_total{path="/v1/translate",status="400"} 1' in text
    assert "signvit_translation_seconds_count 2" in text
    assert float(re.search(r"\nprocess_resident_memory_bytes (\S+)", text)[1]) > 1e7


def test_every_path_is_in_the_openapi_document(client):
    document = client.get("/v1/openapi.json").json()
    assert document == json.loads(json.dumps(openapi_document()))
    routes = {
        route.path
        for route in client.app._application._app.routes
        if route.path.startswith("/v1") or route.path in ("/healthz", "/metrics")
    }
    assert set(document["paths"]) == routes
    for path, methods in document["paths"].items():
        for method in methods:
            if path != "/v1/live":
                assert client.request(method.upper(), path).status_code != 405
    fields = document["components"]["schemas"]["Translation"]["required"]
    assert set(client.post("/v1/translate", content=video()).json()) == set(fields)


def test_limits_of_uploads_are_lower_than_those_of_local_files():
    from signvit_jax.inference.windowing import RECORDING
    from signvit_jax.web.settings import FRAME_LIMITS

    upload, frame = ServerSettings().video_limits, FRAME_LIMITS
    for name in ("max_bytes", "max_pixels", "max_seconds", "max_frames", "max_memory"):
        assert getattr(upload, name) < getattr(RECORDING, name)
    assert frame.max_bytes <= 1 << 20 and frame.wall_seconds <= 5 and CLIP.exists()
